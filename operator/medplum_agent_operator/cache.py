"""What the watches have seen, slim. Filled by `handlers` and by the resync; read by `reconcile`.

It answers "is there anything to do?" without a request. What is then done is decided anew on what is read live, so a stale
entry costs a look, never a wrong write. Kopf does not tell of objects that were deleted while a watch was broken
(no DELETED after a re-list): the resync replaces everything of a kind by a LIST, and so finds them.

A pod that was deleted after its containers had ended stays as what it was, an ended pod, until the next LIST. Its last words
come with DELETED; when its agent ended is told in `status`, and the pass that reads it may come after the deletion.

Beside the objects it keeps an index of who claims which identity (`core.identity`), so that no pass has to look through all of
them, and knows whose claims have changed since it was last asked: others may have been waiting for that.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.core.observed.identity import Claim, Identity, Name, claimant, claims_on
from medplum_agent_operator.core.observed.pods import ENDED
from medplum_agent_operator.core.observed.resource_version import age, number

_NOISE = ("managedFields",)
_SHORT, _MOST_STRINGS = 64, 8192
"""Characters of a string that is worth looking up, and how many of those are remembered at most."""
_DELETED = 1000
"""How many of the deleted are remembered: those of the seconds that a LIST takes."""

Object = Mapping[str, Any]


class Cache:
    """Live objects by kind, namespace and name."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._strings = Strings()
        self._claimed: dict[tuple[str, str, str], tuple[Name, Identity, str]] = {}
        """By kind, namespace and name of an object: whose it is, for which identity it stands, and its uid."""
        self._claimants: dict[Identity, dict[Name, set[tuple[str, str, str]]]] = {}
        """The same by identity: who claims it, by which objects."""
        self._moved: set[tuple[Identity, Name]] = set()
        self._deleted: dict[str, None] = {}
        """Uids of objects that were deleted lately: a LIST that began before may still tell of them."""

    def put(self, kind: str, raw: Object) -> bool:
        """Keep an object, unless this state of it or a newer one is known already. Returns whether it was news."""
        known = self.get(kind, *_name(raw))
        if known is not None and known["metadata"].get("uid") == raw["metadata"].get("uid"):
            newer = age(raw) > age(known) or age(raw) == 0
            if not newer:
                return False
        kept = self._strings.once(slim(kind, raw))
        self._objects.setdefault(kind, {})[_name(raw)] = kept
        self._index(kind, raw, there=True)
        # A kubelet reports its node again and again: news is only what is kept of it.
        return kind != "Node" or known is None or not _same_but_for_age(kept, known)

    def drop(self, kind: str, raw: Object) -> bool:
        """Forget an object that was deleted, unless a new one of that name has taken its place. Returns whether it was news."""
        self._deleted[raw["metadata"].get("uid", "")] = None
        while len(self._deleted) > _DELETED:
            del self._deleted[next(iter(self._deleted))]
        known = self.get(kind, *_name(raw))
        if known is None or known["metadata"].get("uid") != raw["metadata"].get("uid"):
            return False
        if kind == "Pod" and (raw.get("status") or {}).get("phase") in ENDED:
            self.put(kind, raw)
        else:
            self._forget(kind, _name(raw))
        return True

    def replace(
        self, kind: str, namespace: str | None, found: Iterable[Object], *, as_of: str, ended: bool = True
    ) -> list[Object]:
        """Take a complete LIST of a kind (in one namespace, or in all) as the truth of its moment.

        Args:
            kind: the kind that was listed.
            namespace: the namespace that was listed; None for all.
            found: everything in it.
            as_of: the LIST's resource version: what is known to be newer stays.
            ended: whether pods that had ended before they were deleted, and are kept for their last words, are forgotten too.

        Returns:
            What is thereby known to have gone.
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

    def claims(self, identity: Identity) -> tuple[Claim, ...]:
        """Who claims an identity, and who runs with it."""
        objects = self._claimants.get(identity, {})
        agents = (raw for name in objects if (raw := self.get(KIND, *name)) is not None)
        running = {name for name, of in objects.items() if any(kind != KIND for kind, *_ in of)}
        return claims_on(identity, agents, running)

    def take_rivals(self) -> set[Name]:
        """Who claims an identity with which something of somebody else's has changed, since this was last asked."""
        found = {name for identity, mover in self._moved for name in self._claimants.get(identity, {}) if name != mover}
        self._moved.clear()
        return found

    def _forget(self, kind: str, name: tuple[str, str]) -> None:
        gone = self._objects[kind].pop(name)
        self._index(kind, gone, there=False)

    def _index(self, kind: str, raw: Object, *, there: bool) -> None:
        """Keep the index: what an object stands for from now on. `raw` is whole where it is there."""
        where = (kind, *_name(raw))
        claim = claimant(kind, raw) if there else None
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


class Strings:
    """Equal short strings, kept once: most keys and values of one agent are those of the next as well.

    docs/benchmarks.md has what a hundred agents take.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)

    def once(self, value: Any) -> Any:
        """The same, made of strings that are shared with what was seen before."""
        match value:
            case str() if len(value) <= _SHORT:
                if len(self._known) >= _MOST_STRINGS:  # uids and times come and go
                    self._known.clear()
                return self._known.setdefault(value, value)
            case dict():
                return {self.once(key): self.once(item) for key, item in value.items()}
            case list():
                return [self.once(item) for item in value]
            case _:
                return value


def slim(kind: str, raw: Object) -> Object:
    """An object without what nothing reads; managed fields are kept where they tell who set an approval."""
    if kind == KIND:
        return _slim_agent(raw)
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


def _slim_agent(raw: Object) -> Object:
    """Of managed fields, what metadata tell: spec and status are named there field by field, and are larger so than they are."""
    metadata = dict(raw["metadata"])
    entries = metadata.pop("managedFields", None) or ()
    told = [(entry, (entry.get("fieldsV1") or {}).get("f:metadata")) for entry in entries]
    metadata["managedFields"] = [{**entry, "fieldsV1": {"f:metadata": fields}} for entry, fields in told if fields]
    return {**raw, "metadata": metadata}


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
