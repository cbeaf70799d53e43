"""What a pass looks at: one agent and all that belongs to it, as the watches saw it or as it was just read.

Called by `reconcile`. It never writes, and decides nothing.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.core.objects.children import CHILDREN, kind_of, name_of
from medplum_agent_operator.core.observed.gate_reports import Traffic
from medplum_agent_operator.core.observed.identity import Claim, Identity, applied, claims_on, running_as, wanted
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.core.observed.resource_version import age, number
from medplum_agent_operator.errors import ConflictError
from medplum_agent_operator.ports import Cluster, Gates, Object, Seen


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The raw objects."""

    agent: Object
    deployment: Object | None
    children: Mapping[str, Object | None]
    pods: Sequence[Object]
    nodes: Sequence[Object] = ()
    fetching: Sequence[Object] = ()
    traffic: Traffic | None = None
    claims: tuple[Claim, ...] = ()


class LiveAgents:
    """Every MedplumAgent in the watched namespaces, by a LIST that is begun after it was asked for.

    Passes that ask at the same time share one, so that a hundred installations at once are not a hundred LISTs.
    """

    def __init__(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        """`namespaces`: those that are watched; none means all."""
        self._cluster = cluster
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._moments = count(1)
        self._turn = asyncio.Lock()
        self._begun = 0
        self._found: Mapping[Key, Object] = {}

    async def listed(self) -> Mapping[Key, Object]:
        """Of each what tells its identity and its age."""
        asked = next(self._moments)
        async with self._turn:
            if self._begun < asked:
                begun = next(self._moments)
                parts = await asyncio.gather(*(self._cluster.list(KIND, namespace) for namespace in self._namespaces))
                self._found = {_key_of(raw): _slim(raw) for found, _ in parts for raw in found}
                self._begun = begun
            return self._found


def _key_of(agent: Object) -> Key:
    """Which MedplumAgent it is."""
    return Key(agent["metadata"]["namespace"], agent["metadata"]["name"])


def _slim(agent: Object) -> Object:
    metadata = {key: agent["metadata"].get(key, "") for key in ("namespace", "name", "uid", "creationTimestamp")}
    return {"metadata": metadata, "spec": {"server": (agent.get("spec") or {}).get("server")}}


def _assert_not_older(seen: Snapshot, *, agent: Object, deployment: Object | None, pods_as_of: str) -> None:
    """An API server that has fallen behind must not talk anybody into a decision: nobody may seem to serve who does."""
    behind = (
        age(agent) < age(seen.agent)
        or (deployment is not None and seen.deployment is not None and age(deployment) < age(seen.deployment))
        or number(pods_as_of) < max(map(age, seen.pods), default=0)
    )
    if behind:
        raise ConflictError("The API server tells of an older state than its watches have told of.", status=409)


class Observer:
    """Gathers snapshots."""

    def __init__(self, cluster: Cluster, seen: Seen, gates: Gates, *, namespaces: Sequence[str]) -> None:
        """`namespaces`: those that are watched; none means all."""
        self._cluster = cluster
        self._live = LiveAgents(cluster, namespaces)
        self._seen = seen
        self._gates = gates

    def from_watches(self, key: Key, raw: Object) -> Snapshot:
        """Gather what the watches have seen of an agent, and what its gates told last; costs no request."""
        pods = self._seen.labelled("Pod", key.namespace, names.AGENT_LABEL, key.name)
        return Snapshot(
            raw,
            self._seen.get("Deployment", *key),
            {part: self._seen.get(kind_of(part), key.namespace, name_of(part, key.name)) for part in CHILDREN},
            pods,
            self._nodes_of(pods),
            [
                *self._seen.labelled("Job", key.namespace, names.FETCH_LABEL, key.name),
                *self._seen.labelled("Pod", key.namespace, names.FETCH_LABEL, key.name),
            ],
            self._gates.traffic(key),
            self._claims_seen(key, raw),
        )

    def _claims_seen(self, key: Key, raw: Object) -> tuple[Claim, ...]:
        """The claims on an agent's identity, as far as the watches know of its own: else they are read live before it is acted on."""
        identity = wanted(raw)
        claims = () if identity is None else self._seen.claims(identity)
        return claims if key in {(claim.namespace, claim.name) for claim in claims} else ()

    def _nodes_of(self, pods: Sequence[Object]) -> list[Object]:
        """The nodes that these pods are on, as far as the watches have seen them."""
        on = sorted({(pod.get("spec") or {}).get("nodeName") or "" for pod in pods} - {""})
        return [node for name in on if (node := self._seen.get("Node", "", name)) is not None]

    async def from_cluster(self, key: Key, seen: Snapshot, to_write: Collection[tuple[str, str]]) -> Snapshot | None:
        """Read live whatever a decision rests on: the agent, its Deployment and pods, and each object that is to be written.

        `to_write`: kind and name of each.

        The others stay as the watches saw them: should they have to be written after all, that write is bound to the
        version that was seen, and is refused if it is not the live one.

        Raises:
            ConflictError: when the API server tells of a state that is older than what the watches have seen.
        """
        supporting = [part for part in CHILDREN if (kind_of(part), name_of(part, key.name)) in to_write]
        raw, deployment, found, (pods, as_of) = await asyncio.gather(
            self._cluster.get(KIND, *key),
            self._cluster.get("Deployment", *key),
            asyncio.gather(
                *(self._cluster.get(kind_of(part), key.namespace, name_of(part, key.name)) for part in supporting)
            ),
            self._cluster.list("Pod", key.namespace, selector=f"{names.AGENT_LABEL}={key.name}"),
        )
        if raw is None:
            return None
        _assert_not_older(seen, agent=raw, deployment=deployment, pods_as_of=as_of)
        nodes = await self._look_at(self._nodes_of(pods))
        children = {**seen.children, **dict(zip(supporting, found, strict=True))}
        # A Job that fetches an image is looked at as the watches saw it: it can only have got further since.
        claims = self._claims_seen(key, raw)
        return replace(seen, agent=raw, deployment=deployment, children=children, pods=pods, nodes=nodes, claims=claims)

    async def with_live_claims(self, key: Key, live: Snapshot, identity: Identity) -> Snapshot | None:
        """The same with everything read live that decides who may have an identity; None where the agent has gone meanwhile.

        MedplumAgents are listed: one that no watch has told of yet may be the older. Deployment and pods are read of those that want
        the identity, or are known to run with it, as a rule of nobody.

        Raises:
            ConflictError: when the agent's own server was changed meanwhile.
        """
        agents = await self._live.listed()
        own = await self._cluster.get(KIND, *key)
        if own is None:
            return None
        if wanted(own) != wanted(live.agent):
            raise ConflictError(f"the server of MedplumAgent {key} was changed meanwhile", status=409)
        agents = {**agents, key: own}
        others = {Key(claim.namespace, claim.name) for claim in self._seen.claims(identity)}
        others |= {name for name, raw in agents.items() if wanted(raw) == identity}
        others.discard(key)
        running = await asyncio.gather(*(self._runs_as(other, identity) for other in others))
        having = {other for other, runs in zip(others, running, strict=True) if runs}
        if _runs(live.deployment, live.pods, identity):
            having.add(key)
        return replace(live, agent=own, claims=claims_on(identity, agents.values(), having))

    async def _runs_as(self, key: Key, identity: Identity) -> bool:
        deployment, (pods, _) = await asyncio.gather(
            self._cluster.get("Deployment", *key),
            self._cluster.list("Pod", key.namespace, selector=f"{names.AGENT_LABEL}={key.name}"),
        )
        return _runs(deployment, pods, identity)

    async def _look_at(self, nodes: Sequence[Object]) -> list[Object]:
        """Cordoned nodes are read live, as an agent is moved off them; of the others what the watches saw will do."""
        cordoned = [node["metadata"]["name"] for node in nodes if (node.get("spec") or {}).get("unschedulable")]
        live = await asyncio.gather(*(self._cluster.get("Node", None, name) for name in cordoned))
        others = [node for node in nodes if node["metadata"]["name"] not in cordoned]
        return [*others, *(node for node in live if node is not None)]


def _runs(deployment: Object | None, pods: Sequence[Object], identity: Identity) -> bool:
    """Whether an agent runs with an identity, as its Deployment and its pods tell."""
    return (deployment is not None and applied(deployment) == identity) or any(
        running_as(pod) == identity for pod in pods
    )
