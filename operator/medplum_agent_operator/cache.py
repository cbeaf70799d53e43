"""What the watches have seen, slim. Filled by `handlers` and by the resync; read by `reconcile`.

It answers "is there anything to do?" without a request. What is then done is decided anew on what is read live, so a stale
entry costs a look, never a wrong write. Kopf does not tell of objects that were deleted while a watch was broken
(no DELETED after a re-list): the resync replaces everything of a kind by a LIST, and so finds them.

A pod that was deleted after its containers had ended stays as what it was, an ended pod, until the next LIST. Its last words
come with DELETED; when its agent ended is told in `status`, and the pass that reads it may come after the deletion.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from medplum_agent_operator.core.pods import ENDED

_NOISE = ("managedFields",)

Object = Mapping[str, Any]


class Cache:
    """Live objects by kind, namespace and name."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}

    def put(self, kind: str, raw: Object) -> bool:
        """Keep an object, unless this state of it or a newer one is known already. Returns whether it was news."""
        known = self.get(kind, *_name(raw))
        if known is not None and known["metadata"].get("uid") == raw["metadata"].get("uid"):
            newer = _age(raw) > _age(known) or _age(raw) == 0
            if not newer:
                return False
        kept = slim(kind, raw)
        self._objects.setdefault(kind, {})[_name(raw)] = kept
        # A kubelet reports its node again and again: news is only what is kept of it.
        return kind != "Node" or known is None or not _same_but_for_age(kept, known)

    def drop(self, kind: str, raw: Object) -> bool:
        """Forget an object that was deleted, unless a new one of that name has taken its place. Returns whether it was news."""
        known = self.get(kind, *_name(raw))
        if known is None or known["metadata"].get("uid") != raw["metadata"].get("uid"):
            return False
        if kind == "Pod" and (raw.get("status") or {}).get("phase") in ENDED:
            self.put(kind, raw)
        else:
            del self._objects[kind][_name(raw)]
        return True

    def replace(self, kind: str, namespace: str | None, found: Iterable[Object], *, as_of: str) -> list[Object]:
        """Take a complete LIST of a kind (in one namespace, or in all) as the truth of its moment.

        Args:
            kind: the kind that was listed.
            namespace: the namespace that was listed; None for all.
            found: everything in it.
            as_of: the LIST's resource version: what is known to be newer stays.

        Returns:
            What is thereby known to have gone.
        """
        fresh = {_name(raw): raw for raw in found}
        gone = [
            raw
            for name, raw in self._objects.get(kind, {}).items()
            if name not in fresh and namespace in {None, name[0]} and _number(as_of) >= _age(raw)
        ]
        for raw in gone:
            del self._objects[kind][_name(raw)]
        for raw in fresh.values():
            self.put(kind, raw)
        return gone

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None where there is none."""
        return self._objects.get(kind, {}).get((namespace, name))

    def labelled(self, kind: str, namespace: str, key: str, value: str) -> list[Object]:
        """Objects of a namespace with a label."""
        return [
            raw
            for (where, _), raw in self._objects.get(kind, {}).items()
            if where == namespace and (raw["metadata"].get("labels") or {}).get(key) == value
        ]

    def with_label(self, kind: str, key: str) -> list[Object]:
        """Objects of every namespace that have a label, whatever its value."""
        return [raw for raw in self._objects.get(kind, {}).values() if (raw["metadata"].get("labels") or {}).get(key)]

    def on_node(self, node: str) -> list[Object]:
        """Pods, of every namespace, on a node."""
        return [raw for raw in self._objects.get("Pod", {}).values() if raw["spec"].get("nodeName") == node]

    def names(self, kind: str) -> list[tuple[str, str]]:
        """Namespace and name of every object of a kind."""
        return list(self._objects.get(kind, {}))


def slim(kind: str, raw: Object) -> Object:
    """An object without what nothing reads; managed fields are kept where they tell who set an approval."""
    if kind == "MedplumAgent":
        return raw
    if kind == "Node":
        return _slim_node(raw)
    kept = {**raw, "metadata": {key: value for key, value in raw["metadata"].items() if key not in _NOISE}}
    if kind == "Job":
        kept["spec"] = {}
    if kind == "Pod":
        spec = raw.get("spec") or {}
        containers = [{key: c[key] for key in ("name", "image") if key in c} for c in spec.get("containers") or ()]
        kept["spec"] = {"nodeName": spec.get("nodeName", ""), "containers": containers}
    return kept


def _slim_node(raw: Object) -> Object:
    """A whole node is large (images, addresses, capacities): of it only what `core.nodes` reads is kept."""
    metadata = {key: raw["metadata"][key] for key in ("name", "uid", "resourceVersion") if key in raw["metadata"]}
    spec = {"unschedulable": True} if (raw.get("spec") or {}).get("unschedulable") else {}
    # That its kubelet is not heard of, and since when; while it is, when it last reported is no news.
    conditions = (raw.get("status") or {}).get("conditions") or ()
    lost = [c for c in conditions if c.get("type") == "Ready" and c.get("status") == "Unknown"]
    told = [{key: c.get(key) for key in ("type", "status", "lastTransitionTime")} for c in lost]
    return {"metadata": metadata, "spec": spec, "status": {"conditions": told}}


def _same_but_for_age(one: Object, other: Object) -> bool:
    def rest(raw: Object) -> dict[str, Any]:
        metadata = {key: value for key, value in raw["metadata"].items() if key != "resourceVersion"}
        return {**raw, "metadata": metadata}

    return rest(one) == rest(other)


def _name(raw: Object) -> tuple[str, str]:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _age(raw: Object) -> int:
    """The resource version, for ordering two states of one object.

    Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions (comparable since 1.35, and
    numbers in every API server backed by etcd).
    """
    return _number(raw["metadata"].get("resourceVersion", ""))


def _number(resource_version: str) -> int:
    return int(resource_version) if resource_version.isdecimal() else 0
