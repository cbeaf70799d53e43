"""What the cache keeps of an object, and its strings. Called by `cache`; pure."""

from collections.abc import Mapping
from typing import Any, assert_never

from medplum_agent_operator.api.annotations import AGENT_LABEL, DOMAIN, MANAGED_BY_LABEL
from medplum_agent_operator.core.observed import revision
from medplum_agent_operator.core.observed.foreign_fields import with_foreign_fields_only
from medplum_agent_operator.core.observed.nodes import HARD_EFFECTS
from medplum_agent_operator.kinds import DEPLOYMENT, KINDS, REDUCED, Cached

_SHORT, _MOST_STRINGS = 64, 8192
"""The longest string that is interned, in characters; the most strings that are interned."""

_READ = frozenset({DOMAIN, MANAGED_BY_LABEL.partition("/")[0], "batch.kubernetes.io", "job-name"})
"""The domains of the labels and annotations of agents, pods and Jobs that are read."""

Object = Mapping[str, Any]


class StringPool:
    """Interned short strings: most keys and values of one agent are also those of the next (docs/internals/benchmarks.md)."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __len__(self) -> int:
        """How many strings are interned."""
        return len(self._known)

    def intern(self, value: Any) -> Any:
        """Return an equal value that shares its short strings with all earlier values."""
        match value:
            case str() if len(value) <= _SHORT:
                if len(self._known) >= _MOST_STRINGS:  # uids and times come and go
                    self._known.clear()
                return self._known.setdefault(value, value)
            case dict():
                return {self.intern(key): self.intern(item) for key, item in value.items()}
            case list():
                return [self.intern(item) for item in value]
            case _:
                return value


def slim(kind: str, raw: Object) -> Object:
    """An object without the fields that the operator never reads."""
    cached = KINDS[kind].cached
    match cached:
        case Cached.AGENT:
            return _slim_agent(raw)
        case Cached.CORDON:
            return _slim_node(raw)
        case Cached.STATUS | Cached.POD:
            spec = _slim_pod_spec(raw.get("spec") or {}) if cached is Cached.POD else {}
            return {**raw, "metadata": _own_marks(raw["metadata"]), "spec": spec}
        case Cached.PACKED:
            return _packed_revision(raw)
        case Cached.OBJECT if kind == DEPLOYMENT:
            return with_foreign_fields_only(raw)
        case Cached.OBJECT:
            return _without_managed_fields(raw)
    assert_never(cached)


def nameplate(raw: Object) -> Object:
    """Whose an object is, and nothing else: of one with our label that no MedplumAgent owns. Any user can make it, as large as objects may be."""
    metadata = {
        key: raw["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion") if key in raw["metadata"]
    }
    controllers = [owner for owner in raw["metadata"].get("ownerReferences") or () if owner.get("controller")]
    labels = raw["metadata"].get("labels") or {}
    metadata["labels"] = {key: labels[key] for key in (AGENT_LABEL,) if key in labels}
    metadata["ownerReferences"] = controllers[:1]
    return {
        **{key: raw[key] for key in ("apiVersion", "kind") if key in raw},
        "metadata": metadata,
        REDUCED: True,
        "spec": {"template": {"metadata": {}, "spec": {"containers": []}}},
    }


def _own_marks(metadata: Object) -> Object:
    """Metadata with the labels and annotations that are read. Users may add others, as large as objects may be."""
    kept = {key: value for key, value in metadata.items() if key != "managedFields"}
    for part in ("labels", "annotations"):
        if kept.get(part):
            kept[part] = {key: value for key, value in kept[part].items() if key.partition("/")[0] in _READ}
    return kept


def _without_managed_fields(raw: Object) -> Object:
    return {**raw, "metadata": {key: value for key, value in raw["metadata"].items() if key != "managedFields"}}


def _packed_revision(raw: Object) -> Object:
    """A revision with its data compressed. The data of a backup is for people."""
    data = raw.get("data")
    kept = (
        {}
        if revision.Revision.read(raw) is None
        else {"data": data if isinstance(data, bytes) else revision.packed(data)}
    )
    return {**{key: value for key, value in _without_managed_fields(raw).items() if key != "data"}, **kept}


def _slim_pod_spec(spec: Object) -> Object:
    containers = [{key: c[key] for key in ("name", "image") if key in c} for c in spec.get("containers") or ()]
    return {"nodeName": spec.get("nodeName", ""), "containers": containers}


def _slim_agent(raw: Object) -> Object:
    """A MedplumAgent with the managed fields of its metadata only. Those of spec and status are larger than spec and status."""
    metadata, entries = dict(_own_marks(raw["metadata"])), raw["metadata"].get("managedFields") or ()
    owned = [(entry, (entry.get("fieldsV1") or {}).get("f:metadata")) for entry in entries]
    metadata["managedFields"] = [{**entry, "fieldsV1": {"f:metadata": fields}} for entry, fields in owned if fields]
    return {**raw, "metadata": metadata}


def _slim_node(raw: Object) -> Object:
    """A node with only what `core.observed.nodes` reads. A whole node is large: images, addresses, capacities."""
    metadata = {key: raw["metadata"][key] for key in ("name", "uid", "resourceVersion") if key in raw["metadata"]}
    whole = raw.get("spec") or {}
    taints = [
        {key: taint[key] for key in ("key", "value", "effect") if key in taint}
        for taint in whole.get("taints") or ()
        if taint.get("effect") in HARD_EFFECTS
    ]
    spec = ({"unschedulable": True} if whole.get("unschedulable") else {}) | ({"taints": taints} if taints else {})
    # Whether the kubelet stopped reporting, and since when. While it reports, the time of its last report does not matter.
    conditions = (raw.get("status") or {}).get("conditions") or ()
    lost = [c for c in conditions if c.get("type") == "Ready" and c.get("status") == "Unknown"]
    cached = [{key: c.get(key) for key in ("type", "status", "lastTransitionTime")} for c in lost]
    return {"metadata": metadata, "spec": spec, "status": {"conditions": cached}}
