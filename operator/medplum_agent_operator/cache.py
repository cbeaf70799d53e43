"""What the watches have seen, reduced to the fields that are read. Filled by `handlers` and `resync`; read by `reconcile`.

The cache answers "is there anything to do?" without a request. Before a pass writes, it decides again on live objects,
so a stale entry can cost a pass but never a wrong write. After a broken watch, Kopf lists again but reports no deletions from that time.
The resync finds them: it replaces all objects of a kind by a LIST.

A pod that had ended before it was deleted stays in the cache, as an ended pod, until the next LIST. Its final state arrives
only with DELETED. `status` reports when its agent ended, and the pass that reads it may run after the deletion.

Besides the objects, the cache has an index of which MedplumAgents claim which identity (`core.observed.identity`), so that no pass
searches all objects. It also records whose claims have changed since the last question: other agents may wait for that.
"""

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.core.observed.identity import Claim, Identity, Name, claimant, claims_on
from medplum_agent_operator.core.observed.nodes import HARD_EFFECTS
from medplum_agent_operator.core.observed.pods import ENDED
from medplum_agent_operator.core.observed.resource_version import age, number
from medplum_agent_operator.kinds import KINDS, POD, Cached

_SHORT, _MOST_STRINGS = 64, 8192
"""The longest string that is interned, in characters; the most strings that are interned."""
_DELETED = 1000
"""How many deleted uids are remembered: enough for the seconds that a LIST takes."""

Object = Mapping[str, Any]


class Cache:
    """Live objects by kind, namespace and name."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._strings = StringPool()
        self._claimed: dict[tuple[str, str, str], tuple[Name, Identity, str]] = {}
        """By kind, namespace and name of an object: its MedplumAgent, the identity that it claims, and its uid."""
        self._claimants: dict[Identity, dict[Name, set[tuple[str, str, str]]]] = {}
        """The same by identity: which MedplumAgents claim it, through which objects."""
        self._moved: set[tuple[Identity, Name]] = set()
        self._deleted: dict[str, None] = {}
        """Uids of objects that were deleted lately: a LIST that began before may still contain them."""

    def put(self, kind: str, raw: Object) -> bool:
        """Store an object, unless the cache has this state or a newer one. Returns whether the object needs a pass."""
        known = self.get(kind, *_name(raw))
        if known is not None and known["metadata"].get("uid") == raw["metadata"].get("uid"):
            newer = age(raw) > age(known) or age(raw) == 0
            if not newer:
                return False
        stored = self._strings.intern(slim(kind, raw))
        self._objects.setdefault(kind, {})[_name(raw)] = stored
        self._index(kind, raw, present=True)
        # A kubelet updates its node all the time: a node needs a pass only when one of the cached fields changed.
        return KINDS[kind].cached is not Cached.CORDON or known is None or not _same_but_for_version(stored, known)

    def drop(self, kind: str, raw: Object) -> bool:
        """Remove a deleted object, unless a new one has its name by now. Returns whether the object needs a pass."""
        self._deleted[raw["metadata"].get("uid", "")] = None
        while len(self._deleted) > _DELETED:
            del self._deleted[next(iter(self._deleted))]
        known = self.get(kind, *_name(raw))
        if known is None or known["metadata"].get("uid") != raw["metadata"].get("uid"):
            return False
        if kind == POD and (raw.get("status") or {}).get("phase") in ENDED:
            self.put(kind, raw)
        else:
            self._forget(kind, _name(raw))
        return True

    def replace(
        self, kind: str, namespace: str | None, found: Iterable[Object], *, as_of: str, ended: bool = True
    ) -> list[Object]:
        """Replace all objects of a kind, in one namespace or in all, by a complete LIST.

        Args:
            kind: the kind that was listed.
            namespace: the namespace that was listed; None for all.
            found: all objects in it.
            as_of: the resource version of the LIST; newer objects stay.
            ended: whether to remove also the pods that had ended before they were deleted.

        Returns:
            The objects that no longer exist.
        """
        fresh = {_name(raw): raw for raw in found if raw["metadata"].get("uid") not in self._deleted}
        gone = [
            raw
            for name, raw in self._objects.get(kind, {}).items()
            if name not in fresh
            and namespace in {None, name[0]}
            and number(as_of) >= age(raw)
            and (ended or (raw.get("status") or {}).get("phase") not in ENDED)
        ]
        for raw in gone:
            self._forget(kind, _name(raw))
        for raw in fresh.values():
            self.put(kind, raw)
        return gone

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None if the cache does not have it."""
        return self._objects.get(kind, {}).get((namespace, name))

    def labelled(self, kind: str, namespace: str, key: str, value: str) -> list[Object]:
        """The objects in a namespace that have a label with this value."""
        return [
            raw
            for (where, _), raw in self._objects.get(kind, {}).items()
            if where == namespace and (raw["metadata"].get("labels") or {}).get(key) == value
        ]

    def with_label(self, kind: str, key: str) -> list[Object]:
        """The objects in all namespaces that have a label with any value."""
        return [raw for raw in self._objects.get(kind, {}).values() if (raw["metadata"].get("labels") or {}).get(key)]

    def on_node(self, node: str) -> list[Object]:
        """The pods on a node, in all namespaces."""
        return [raw for raw in self._objects.get(POD, {}).values() if raw["spec"].get("nodeName") == node]

    def names(self, kind: str) -> list[tuple[str, str]]:
        """Namespace and name of every object of a kind."""
        return list(self._objects.get(kind, {}))

    def claims(self, identity: Identity) -> tuple[Claim, ...]:
        """The MedplumAgents that claim an identity, and those that run with it."""
        objects = self._claimants.get(identity, {})
        agents = (raw for name in objects if (raw := self.get(KIND, *name)) is not None)
        running = {name for name, of in objects.items() if any(kind != KIND for kind, *_ in of)}
        return claims_on(identity, agents, running)

    def take_competing_agents(self) -> set[Name]:
        """The MedplumAgents with a competing claim that changed since the last call. Returns each change once."""
        found = {name for identity, mover in self._moved for name in self._claimants.get(identity, {}) if name != mover}
        self._moved.clear()
        return found

    def _forget(self, kind: str, name: tuple[str, str]) -> None:
        gone = self._objects[kind].pop(name)
        self._index(kind, gone, present=False)

    def _index(self, kind: str, raw: Object, *, present: bool) -> None:
        """Update the index of claims for one object. `raw` is the whole object if it is present."""
        where = (kind, *_name(raw))
        claim = claimant(kind, raw) if present else None
        after = None if claim is None else (*claim, raw["metadata"].get("uid", ""))
        before = self._claimed.pop(where, None)
        if after is not None:
            self._claimed[where] = after
        if before == after:
            return
        if before is not None:
            whose, identity, _ = before
            claimants = self._claimants[identity]
            claimants[whose].discard(where)
            if not claimants[whose]:
                del claimants[whose]
            if not claimants:
                del self._claimants[identity]
            self._moved.add((identity, whose))
        if after is not None:
            whose, identity, _ = after
            self._claimants.setdefault(identity, {}).setdefault(whose, set()).add(where)
            self._moved.add((identity, whose))


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
        case Cached.STATUS:
            return {**_without_managed_fields(raw), "spec": {}}
        case Cached.POD:
            return {**_without_managed_fields(raw), "spec": _slim_pod_spec(raw.get("spec") or {})}
        case Cached.OBJECT:
            return _without_managed_fields(raw)
    assert_never(cached)


def _without_managed_fields(raw: Object) -> Object:
    return {**raw, "metadata": {key: value for key, value in raw["metadata"].items() if key != "managedFields"}}


def _slim_pod_spec(spec: Object) -> Object:
    containers = [{key: c[key] for key in ("name", "image") if key in c} for c in spec.get("containers") or ()]
    return {"nodeName": spec.get("nodeName", ""), "containers": containers}


def _slim_agent(raw: Object) -> Object:
    """A MedplumAgent with the managed fields of its metadata only. Those of spec and status are larger than spec and status."""
    metadata = dict(raw["metadata"])
    entries = metadata.pop("managedFields", None) or ()
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


def _same_but_for_version(one: Object, other: Object) -> bool:
    def rest(raw: Object) -> dict[str, Any]:
        metadata = {key: value for key, value in raw["metadata"].items() if key != "resourceVersion"}
        return {**raw, "metadata": metadata}

    return rest(one) == rest(other)


def _name(raw: Object) -> tuple[str, str]:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]
