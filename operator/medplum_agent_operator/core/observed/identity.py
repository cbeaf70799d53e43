"""An agent's identity on its Medplum server, and which of several MedplumAgents may use it.

Called by `cache`, which indexes objects by identity, by `observe` and `reconcile`, and through `Observed.holder` by
`policy.checks` and `policy.verdict`. Pure. Objects are read leniently: one without a readable identity claims none.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, ENDED

Name = tuple[str, str]
"""Namespace and name of a MedplumAgent, which may not exist."""

_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}


class Identity(NamedTuple):
    """The server's URL, normalised, and the id of the Agent resource there. No two agents may share both."""

    server: str
    agent_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A MedplumAgent's claim on an identity.

    Attributes:
        namespace: its namespace.
        name: its name.
        uid: its uid; empty if the MedplumAgent was deleted.
        created: when it was created, as an RFC 3339 timestamp; empty if the MedplumAgent was deleted.
        runs: whether its Deployment was applied with the identity, or one of its pods that have not ended has it.
    """

    namespace: str
    name: str
    uid: str = ""
    created: str = ""
    runs: bool = False

    @property
    def is_leftover(self) -> bool:
        """Whether the MedplumAgent was deleted and only objects that it owned are left."""
        return not self.uid

    @property
    def precedence(self) -> tuple[bool, bool, str, str, Name]:
        """The sort key: the smallest claim has the identity.

        An agent that runs comes before one that does not, even if it is younger: an edit never takes an identity over.
        Leftovers of a deleted MedplumAgent block agents that do not run yet, but not one that already runs.
        """
        return not self.runs, self.is_leftover, self.created, self.uid, (self.namespace, self.name)


def other_holder(claims: Iterable[Claim], own: Name) -> Claim | None:
    """The claim that has the identity, if it is not the one of `own`; None if `own` may have the identity.

    >>> old, young = Claim("a", "old", "1", "2026-01-01T00:00:00Z"), Claim("b", "young", "2", "2026-02-01T00:00:00Z")
    >>> other_holder([young, old], ("b", "young")).name
    'old'
    >>> other_holder([young, old], ("a", "old")) is None
    True
    """
    first = min(claims, key=lambda claim: claim.precedence, default=None)
    return None if first is None or (first.namespace, first.name) == own else first


def claims_on(identity: Identity, agents: Iterable[Mapping[str, Any]], running: Collection[Name]) -> tuple[Claim, ...]:
    """The claims on an identity, sorted by name.

    Args:
        identity: the identity.
        agents: raw MedplumAgents: at least all that request the identity, and those in `running` that exist.
        running: the names of those whose Deployment or pods have the identity.
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
    """The MedplumAgent that an object belongs to and the identity that it claims; None if it claims none."""
    if kind == KIND:
        name, identity = raw["metadata"]["name"], wanted(raw)
    elif kind in _READERS:
        name, identity = (raw["metadata"].get("labels") or {}).get(names.AGENT_LABEL), _READERS[kind](raw)
    else:
        return None
    return ((raw["metadata"]["namespace"], name), identity) if name and identity else None


def wanted(agent: Mapping[str, Any]) -> Identity | None:
    """The identity that a MedplumAgent's spec requests; None if the spec is invalid there."""
    return _of_server((agent.get("spec") or {}).get("server"))


def applied(deployment: Mapping[str, Any]) -> Identity | None:
    """The identity of the agent that a Deployment starts, from its pod template; None for other Deployments."""
    return _configured(((deployment.get("spec") or {}).get("template") or {}).get("spec"))


def running_as(pod: Mapping[str, Any]) -> Identity | None:
    """The identity that a pod runs with or will run with; None once the pod has ended.

    Only the pod shows this if it was started before a change of `spec.server`, or if all its owners were deleted.
    """
    return None if (pod.get("status") or {}).get("phase") in ENDED else _configured(pod.get("spec"))


def _configured(pod_spec: Mapping[str, Any] | None) -> Identity | None:
    """The identity in the agent's own configuration: lines of agent.properties (`objects.agent_start`) in an argument of its container."""
    containers = (pod_spec or {}).get("containers") or ()
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
    """A server's URL in a normal form: host in lower case, no default port, no trailing slash.

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
