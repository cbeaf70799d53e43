"""Observes one agent: gathers the raw objects that belong to it, from the watches or live.

Called by `reconcile`. It never writes and decides nothing.
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
from medplum_agent_operator.core.observed.resource_version import age, number
from medplum_agent_operator.core.observed.revision import number_of
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.errors import ConflictError
from medplum_agent_operator.kinds import DEPLOYMENT, JOB, NODE, POD, REDUCED, REVISION
from medplum_agent_operator.ports import Cluster, Gates, Object, Seen


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The raw objects of one agent.

    Attributes:
        agent: the MedplumAgent.
        deployment: its Deployment.
        children: its other children, by part (`core.objects.children`).
        pods: its agent pods.
        nodes: the nodes of these pods.
        fetching: the Jobs that fetch an image, and their pods.
        traffic: the reports of its gates.
        claims: the claims on its identity.
        revisions: its ControllerRevisions.
    """

    agent: Object
    deployment: Object | None
    children: Mapping[str, Object | None]
    pods: Sequence[Object]
    nodes: Sequence[Object] = ()
    fetching: Sequence[Object] = ()
    traffic: Traffic | None = None
    claims: tuple[Claim, ...] = ()
    revisions: Sequence[Object] = ()

    @property
    def key(self) -> Key:
        """The agent's key."""
        return _key_of(self.agent)


class LiveAgents:
    """Every MedplumAgent in the watched namespaces, from a LIST that begins after the call.

    Concurrent passes share one LIST, so that a hundred installations at once are not a hundred LISTs.
    """

    def __init__(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        """`namespaces`: the watched ones; empty means all."""
        self._cluster = cluster
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._moments = count(1)
        self._turn = asyncio.Lock()
        self._begun = 0
        self._found: Mapping[Key, Object] = {}

    async def listed(self) -> Mapping[Key, Object]:
        """List them. Each is reduced to its identity and its age."""
        asked = next(self._moments)
        async with self._turn:
            if self._begun < asked:
                begun = next(self._moments)
                parts = await asyncio.gather(*(self._cluster.list(KIND, namespace) for namespace in self._namespaces))
                self._found = {_key_of(raw): _slim(raw) for found, _ in parts for raw in found}
                self._begun = begun
            return self._found


def _key_of(agent: Object) -> Key:
    return Key(agent["metadata"]["namespace"], agent["metadata"]["name"])


def _slim(agent: Object) -> Object:
    metadata = {key: agent["metadata"].get(key, "") for key in ("namespace", "name", "uid", "creationTimestamp")}
    return {"metadata": metadata, "spec": {"server": (agent.get("spec") or {}).get("server")}}


def _assert_not_older(seen: Snapshot, *, agent: Object, deployment: Object | None, pods_as_of: str) -> None:
    """Refuse reads from an API server that lags behind its watches: a pod that serves must not seem absent."""
    behind = (
        age(agent) < age(seen.agent)
        or (deployment is not None and seen.deployment is not None and age(deployment) < age(seen.deployment))
        or number(pods_as_of) < max(map(age, seen.pods), default=0)
    )
    if behind:
        raise ConflictError("The API server returned an older state than its watches have reported.", status=409)


class Observer:
    """Gathers snapshots."""

    def __init__(self, cluster: Cluster, seen: Seen, gates: Gates, *, namespaces: Sequence[str]) -> None:
        """`namespaces`: the watched ones; empty means all."""
        self._cluster = cluster
        self._live = LiveAgents(cluster, namespaces)
        self._seen = seen
        self._gates = gates

    def from_watches(self, key: Key, raw: Object) -> Snapshot:
        """Gather what the watches have seen of an agent, and the latest reports of its gates. Sends no request."""
        pods = self._seen.labelled(POD, key.namespace, names.AGENT_LABEL, key.name)
        return Snapshot(
            raw,
            self._seen.get(DEPLOYMENT, *key),
            {part: self._seen.get(kind_of(part), key.namespace, name_of(part, key.name)) for part in CHILDREN},
            pods,
            self._nodes_of(pods),
            [
                *self._seen.labelled(JOB, key.namespace, names.FETCH_LABEL, key.name),
                *self._seen.labelled(POD, key.namespace, names.FETCH_LABEL, key.name),
            ],
            self._gates.traffic(key),
            self._claims_seen(key, raw),
            self._seen.labelled(REVISION, key.namespace, names.AGENT_LABEL, key.name),
        )

    def _claims_seen(self, key: Key, raw: Object) -> tuple[Claim, ...]:
        """The claims on an agent's identity; none if the watches have not seen its own claim. Before a write they are read live."""
        identity = wanted(raw)
        claims = () if identity is None else self._seen.claims(identity)
        return claims if key in {(claim.namespace, claim.name) for claim in claims} else ()

    def _nodes_of(self, pods: Sequence[Object]) -> list[Object]:
        """The nodes of these pods that the watches have seen."""
        on = sorted({(pod.get("spec") or {}).get("nodeName") or "" for pod in pods} - {""})
        return [node for name in on if (node := self._seen.get(NODE, "", name)) is not None]

    async def from_cluster(self, key: Key, seen: Snapshot, to_write: Collection[tuple[str, str]]) -> Snapshot | None:
        """Read live what a decision depends on: the agent, its Deployment and pods, and each object to write.

        The other objects stay as the watches saw them. If the second decision writes one of those, the write is bound to
        the resource version that was seen, and fails if that is not the live one.

        Args:
            key: the agent.
            seen: its snapshot from the watches.
            to_write: kind and name of each object to write.

        Returns:
            The new snapshot; None if the agent no longer exists.

        Raises:
            ConflictError: when the API server returns an older state than the watches have seen.
        """
        supporting = [part for part in CHILDREN if (kind_of(part), name_of(part, key.name)) in to_write]
        raw, deployment, found, (pods, as_of) = await asyncio.gather(
            self._cluster.get(KIND, *key),
            self._cluster.get(DEPLOYMENT, *key),
            asyncio.gather(
                *(self._cluster.get(kind_of(part), key.namespace, name_of(part, key.name)) for part in supporting)
            ),
            self._cluster.list(POD, key.namespace, selector=f"{names.AGENT_LABEL}={key.name}"),
        )
        if raw is None:
            return None
        _assert_not_older(seen, agent=raw, deployment=deployment, pods_as_of=as_of)
        nodes = await self._with_live_departures(self._nodes_of(pods))
        children = {**seen.children, **dict(zip(supporting, found, strict=True))}
        # A Job that fetches an image stays as the watches saw it: since then it can only have progressed.
        claims = self._claims_seen(key, raw)
        revisions = await self._with_named_revisions(key, raw, deployment)
        return replace(
            seen,
            agent=raw,
            deployment=deployment,
            children=children,
            pods=pods,
            nodes=nodes,
            claims=claims,
            revisions=revisions,
        )

    async def _with_named_revisions(self, key: Key, raw: Object, deployment: Object | None) -> list[Object]:
        """The revisions that the watches have seen, and those that the Deployment and `status` name: another operator may have made these.

        A revision never changes, so one that was seen is not read again.
        """
        seen = self._seen.labelled(REVISION, key.namespace, names.AGENT_LABEL, key.name)
        annotations = {} if deployment is None else deployment["metadata"].get("annotations") or {}
        named: set[str | None] = {annotations.get(names.REVISION), (raw.get("status") or {}).get("revision")}
        seen = [one for one in seen if not one.get(REDUCED)]
        known = {one["metadata"]["name"] for one in seen}
        unseen = sorted(name for name in named - known if name and number_of(name) is not None)
        read = await asyncio.gather(*(self._cluster.get(REVISION, key.namespace, name) for name in unseen))
        return [*seen, *(found for found in read if found is not None)]

    async def with_live_claims(self, key: Key, live: Snapshot, identity: Identity) -> Snapshot | None:
        """Read live what decides which MedplumAgent may have an identity. None if the agent no longer exists.

        MedplumAgents are listed, because an older one may exist that no watch has reported yet. Deployment and pods are read for each agent
        that wants the identity, or that the cache knows to run with it. Usually no other agent does.

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
            self._cluster.get(DEPLOYMENT, *key),
            self._cluster.list(POD, key.namespace, selector=f"{names.AGENT_LABEL}={key.name}"),
        )
        return _runs(deployment, pods, identity)

    async def _with_live_departures(self, nodes: Sequence[Object]) -> list[Object]:
        """Read cordoned and tainted nodes live, because an agent is moved off them. The others stay as the watches saw them."""
        closed = [node["metadata"]["name"] for node in nodes if _is_closed(node.get("spec") or {})]
        live = await asyncio.gather(*(self._cluster.get(NODE, None, name) for name in closed))
        others = [node for node in nodes if node["metadata"]["name"] not in closed]
        return [*others, *(node for node in live if node is not None)]


def _is_closed(node: Object) -> bool:
    """Whether a node keeps pods away. `node`: its spec."""
    return bool(node.get("unschedulable") or node.get("taints"))


def _runs(deployment: Object | None, pods: Sequence[Object], identity: Identity) -> bool:
    """Whether an agent's Deployment or one of its pods has an identity."""
    return (deployment is not None and applied(deployment) == identity) or any(
        running_as(pod) == identity for pod in pods
    )
