"""Who an agent is on its Medplum server, and which of several MedplumAgents may be that.

Called by `cache`, which keeps an index by it, by `observe`, and through `Observed.holder` by `checks` and `verdict`. Objects are read
leniently: one whose identity cannot be told claims none. Pure.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, ENDED

Name = tuple[str, str]
"""Namespace and name of a MedplumAgent, whether it is there or not."""

_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}


class Identity(NamedTuple):
    """What must be no two agents': the server, in one way of writing it, and the id of the Agent resource there."""

    server: str
    agent_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """How a MedplumAgent stands to an identity.

    Attributes:
        namespace: its namespace.
        name: its name.
        uid: its uid; empty where it has gone.
        created: when it was created, as the API server writes it; empty where it has gone.
        runs: whether its Deployment was applied with the identity, or a pod of it that has not ended runs with it.
    """

    namespace: str
    name: str
    uid: str = ""
    created: str = ""
    runs: bool = False

    @property
    def remains(self) -> bool:
        """Whether the MedplumAgent has gone, and only what it owned is left."""
        return not self.uid

    @property
    def precedence(self) -> tuple[bool, bool, str, str, Name]:
        """The least comes first.

        What runs is never put off for what does not, whatever their ages: an edit takes nothing over. What is left of a deleted
        one keeps others waiting, and is no reason to hold up one that runs already.
        """
        return not self.runs, self.remains, self.created, self.uid, (self.namespace, self.name)


def foremost_other(claims: Iterable[Claim], own: Name) -> Claim | None:
    """Who holds the identity, where that is another than `own`; None where `own` may have it.

    >>> old, young = Claim("a", "old", "1", "2026-01-01T00:00:00Z"), Claim("b", "young", "2", "2026-02-01T00:00:00Z")
    >>> foremost_other([young, old], ("b", "young")).name
    'old'
    >>> foremost_other([young, old], ("a", "old")) is None
    True
    """
    first = min(claims, key=lambda claim: claim.precedence, default=None)
    return None if first is None or (first.namespace, first.name) == own else first


def claims_on(identity: Identity, agents: Iterable[Mapping[str, Any]], running: Collection[Name]) -> tuple[Claim, ...]:
    """The claims on an identity.

    Args:
        identity: which.
        agents: MedplumAgents, at least those that want it and those in `running` that are there.
        running: whose Deployment or pods have it.
    """
    found = {_name_of(raw): raw for raw in agents}
    concerned = {name for name, raw in found.items() if wanted(raw) == identity} | set(running)
    return tuple(
        Claim(
            *name,
            uid=found[name]["metadata"]["uid"] if name in found else "",
            created=found[name]["metadata"].get("creationTimestamp", "") if name in found else "",
            runs=name in running,
        )
        for name in sorted(concerned)
    )


def _name_of(raw: Mapping[str, Any]) -> Name:
    return raw["metadata"]["namespace"], raw["metadata"]["name"]


def claimant(kind: str, raw: Mapping[str, Any]) -> tuple[Name, Identity] | None:
    """Whose object this is and which identity it stands for; None where it stands for none."""
    if kind == KIND:
        name, identity = raw["metadata"]["name"], wanted(raw)
    elif kind in _READERS:
        name, identity = (raw["metadata"].get("labels") or {}).get(names.AGENT_LABEL), _READERS[kind](raw)
    else:
        return None
    return ((raw["metadata"]["namespace"], name), identity) if name and identity else None


def wanted(agent: Mapping[str, Any]) -> Identity | None:
    """The identity that a MedplumAgent's spec asks for."""
    return _of_server((agent.get("spec") or {}).get("server"))


def applied(deployment: Mapping[str, Any]) -> Identity | None:
    """The identity that a Deployment was rendered with, from the operator's own note on it; None for other Deployments."""
    text = (deployment["metadata"].get("annotations") or {}).get(names.APPLIED_SPEC)
    try:
        spec = json.loads(text) if text else None
    except (ValueError, RecursionError):  # anybody who may edit Deployments may have written it, in any depth
        return None
    return _of_server(spec.get("server")) if isinstance(spec, Mapping) else None


def running_as(pod: Mapping[str, Any]) -> Identity | None:
    """The identity that a pod runs with, or is about to, from its own configuration; None once it has ended.

    It tells what neither spec nor Deployment does: as whom the pods before a change of server run, and those of which everything
    else has been deleted. The lines are those of agent.properties (`pod_template`).
    """
    if (pod.get("status") or {}).get("phase") in ENDED:
        return None
    containers = (pod.get("spec") or {}).get("containers") or ()
    arguments = next((c.get("args") or () for c in containers if c.get("name") == AGENT_CONTAINER), ())
    text = next((one for one in arguments if one.startswith("baseUrl=")), "").replace("$$", "$")
    lines = dict(line.partition("=")[::2] for line in text.splitlines())
    return _of_server(lines)


def _of_server(server: object) -> Identity | None:
    base_url, agent_id = (server.get("baseUrl"), server.get("agentId")) if isinstance(server, Mapping) else (None, None)
    if not isinstance(base_url, str) or not isinstance(agent_id, str):
        return None
    return Identity(normalised(base_url), agent_id)


def normalised(base_url: str) -> str:
    """A server's URL in one way of writing it: host in lower case, no default port, no slash at the end.

    >>> normalised("https://API.Medplum.com:443/")
    'https://api.medplum.com'
    >>> normalised("http://10.0.0.5:8103/fhir-Server/")
    'http://10.0.0.5:8103/fhir-Server'
    """
    scheme, _, rest = base_url.partition("://")
    authority, _, path = rest.partition("/")
    host = authority.lower().removesuffix(_DEFAULT_PORT.get(scheme, "")).removesuffix(":")
    return f"{scheme}://{host}/{path}".rstrip("/")


_READERS: Final = {"Deployment": applied, "Pod": running_as}
