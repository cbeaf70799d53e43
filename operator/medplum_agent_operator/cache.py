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
from typing import Any

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.annotations import AGENT_LABEL, FETCH_LABEL, GATE_LABEL
from medplum_agent_operator.core.objects.children import CHILDREN
from medplum_agent_operator.core.observed.identity import Claim, Identity, Name, claimant, claims_on
from medplum_agent_operator.core.observed.pods import ENDED
from medplum_agent_operator.core.observed.resource_version import age, number
from medplum_agent_operator.kinds import DEPLOYMENT, KINDS, POD, REDUCED, REVISION, Cached
from medplum_agent_operator.slim import StringPool, nameplate, slim

_DELETED = 1000
"""How many deleted uids are remembered: enough for the seconds that a LIST takes."""

_OF_ONE_AGENT = frozenset({AGENT_LABEL, FETCH_LABEL, GATE_LABEL})

_CHILDREN = frozenset({DEPLOYMENT, REVISION, *(kind for kind, _ in CHILDREN.values())})

Object = Mapping[str, Any]


class Cache:
    """Live objects by kind, namespace and name."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._labelled: dict[tuple[str, str, str, str], dict[str, Object]] = {}
        """The objects by kind, namespace, label and value: of those labels alone that belong to one agent each."""
        self._strings = StringPool()
        self._claimed: dict[tuple[str, str, str], tuple[Name, Identity, str]] = {}
        """By kind, namespace and name of an object: its MedplumAgent, the identity that it claims, and its uid."""
        self._claimants: dict[Identity, dict[Name, set[tuple[str, str, str]]]] = {}
        """The same by identity: which MedplumAgents claim it, through which objects."""
        self._moved: set[tuple[Identity, Name]] = set()
        self._doubt = False
        self._deleted: dict[str, None] = {}
        """Uids of objects that were deleted lately: a LIST that began before may still contain them."""

    def put(self, kind: str, raw: Object) -> bool:
        """Store an object, unless the cache has this state or a newer one. Returns whether the object needs a pass."""
        known = self.get(kind, *_name(raw))
        if known is not None and known["metadata"].get("uid") == raw["metadata"].get("uid"):
            newer = age(raw) > age(known) or age(raw) == 0
            if not newer and not (known.get(REDUCED) and self._is_owned(raw)):
                return False
        foreign = kind in _CHILDREN and not self._is_owned(raw)
        stored = self._strings.intern(nameplate(raw) if foreign else slim(kind, raw))
        if known is not None:
            self._index_labels(kind, known, present=False)
        self._objects.setdefault(kind, {})[_name(raw)] = stored
        self._index_labels(kind, stored, present=True)
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
        self,
        kind: str,
        namespace: str | None,
        found: Iterable[Object],
        *,
        as_of: str,
        ended: bool = True,
        restored: bool = False,
    ) -> list[Object]:
        """Replace all objects of a kind, in one namespace or in all, by a complete LIST.

        Args:
            kind: the kind that was listed.
            namespace: the namespace that was listed; None for all.
            found: all objects in it.
            as_of: the resource version of the LIST; newer objects stay.
            ended: whether to remove also the pods that had ended before they were deleted.
            restored: whether the cluster was restored from a backup: then the LIST wins, however old its versions seem.

        Returns:
            The objects that no longer exist.
        """
        if restored:
            self._deleted.clear()  # the backup may have them
        fresh = {_name(raw): raw for raw in found if raw["metadata"].get("uid") not in self._deleted}
        gone = [
            raw
            for name, raw in self._objects.get(kind, {}).items()
            if name not in fresh
            and namespace in {None, name[0]}
            and (restored or number(as_of) >= age(raw))
            and (ended or (raw.get("status") or {}).get("phase") not in ENDED)
        ]
        for raw in gone:
            self._forget(kind, _name(raw))
        for raw in fresh.values():
            if restored and self.get(kind, *_name(raw)) is not None:
                self._forget(kind, _name(raw))
            self.put(kind, raw)
        return gone

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None if the cache does not have it."""
        return self._objects.get(kind, {}).get((namespace, name))

    def doubt_if_older(self, kind: str, raw: Object) -> None:
        """Compare an object of a LIST with the known one. If it is older, the cluster may have been restored from a backup."""
        known = self.get(kind, *_name(raw))
        self._doubt |= known is not None and 0 < age(raw) < age(known)

    def take_doubt(self) -> bool:
        """Whether a LIST has had an older object since the last call."""
        doubt, self._doubt = self._doubt, False
        return doubt

    def newest(self, kind: str, namespace: str | None) -> int:
        """The newest resource version among the objects of a kind, in one namespace or in all; 0 without any."""
        return max(
            (age(raw) for name, raw in self._objects.get(kind, {}).items() if namespace in {None, name[0]}), default=0
        )

    def labelled(self, kind: str, namespace: str, key: str, value: str) -> list[Object]:
        """The objects in a namespace that have a label with this value. The label is one of those that belong to an agent."""
        return list(self._labelled.get((kind, namespace, key, value), {}).values())

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
        self._index_labels(kind, gone, present=False)
        self._index(kind, gone, present=False)

    def _is_owned(self, raw: Object) -> bool:
        """Whether the MedplumAgent that its label names is here and controls it. One that is not kept whole is read live before any write."""
        name = (raw["metadata"].get("labels") or {}).get(AGENT_LABEL, "")
        agent = self.get(KIND, raw["metadata"].get("namespace", ""), name)
        owners = raw["metadata"].get("ownerReferences") or ()
        uid = None if agent is None else agent["metadata"].get("uid")
        return uid is not None and any(owner.get("controller") and owner.get("uid") == uid for owner in owners)

    def _index_labels(self, kind: str, raw: Object, *, present: bool) -> None:
        namespace, name = _name(raw)
        for label in _OF_ONE_AGENT & (raw["metadata"].get("labels") or {}).keys():
            where = (kind, namespace, label, raw["metadata"]["labels"][label])
            if present:
                self._labelled.setdefault(where, {})[name] = raw
            else:
                self._labelled[where].pop(name)
                if not self._labelled[where]:
                    del self._labelled[where]

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


def _same_but_for_version(one: Object, other: Object) -> bool:
    def rest(raw: Object) -> dict[str, Any]:
        metadata = {key: value for key, value in raw["metadata"].items() if key != "resourceVersion"}
        return {**raw, "metadata": metadata}

    return rest(one) == rest(other)


def _name(raw: Object) -> tuple[str, str]:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]
