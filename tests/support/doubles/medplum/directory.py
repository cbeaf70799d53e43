"""Clients, agents, and the server's behaviour. Pure; used by `server`, `sockets`, `control`."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Answer = Literal["ack", "silence", "400", "500", "agent-error", "garbage"]
_CONNECTION_TYPES: Final = {"mllp": "hl7-mllp", "dicom": "dicom-wado-uri", "tcp": "direct-project"}


class SettingError(ValueError):
    """A setting or an agent that cannot be."""


@dataclass(slots=True)
class Behaviour:
    """What the server does; each field is a setting of the control API. The defaults are a healthy server."""

    answerDelayMs: int = 30  # noqa: N815 - the names of the JSON
    answer: str = "ack"
    tokenSeconds: int = 3600  # noqa: N815
    refuseTokens: bool = False  # noqa: N815
    refuseConnects: bool = False  # noqa: N815
    readStatus: int = 200  # noqa: N815
    heartbeatMs: int = 10_000  # noqa: N815
    maxMessageBytes: int = 1_048_576  # noqa: N815
    keepBodies: bool = False  # noqa: N815

    def change(self, wanted: Mapping[str, Any]) -> None:
        """Change what is named; SettingError, and nothing is changed, if something is wrong."""
        known = {each.name: type(each.default) for each in fields(self)}
        for name, value in wanted.items():
            if name not in known or type(value) is not known[name]:
                raise SettingError(f"no setting {name!r} of type {type(value).__name__}; there are {known}")
        if wanted.get("answer", self.answer) not in get_args(Answer):
            raise SettingError(f"answer must be one of {get_args(Answer)}")
        for name, value in wanted.items():
            setattr(self, name, value)


@dataclass(slots=True)
class AgentRecord:
    """An Agent, and its `$status`: the last write counts."""

    id: str
    resource: dict[str, Any]
    endpoints: dict[str, dict[str, Any]]
    status: str = "unknown"
    version: str | None = None
    last_updated: str | None = None

    def note(self, status: str, *, at: str, version: str | None = None) -> None:
        """Write the status. A new connection does not change the version: the next heartbeat does."""
        self.status = status
        self.version = version or self.version
        self.last_updated = at

    def status_parameters(self) -> dict[str, Any]:
        """The answer to `$status`."""
        parameter: list[dict[str, Any]] = [{"name": "status", "valueCode": self.status}]
        parameter.append({"name": "version", "valueString": self.version or "unknown"})
        if self.last_updated is not None:
            parameter.append({"name": "lastUpdated", "valueInstant": self.last_updated})
        return {"resourceType": "Parameters", "parameter": parameter}


@dataclass(slots=True)
class Directory:
    """Clients, agents, and the tokens that were given out."""

    clients: dict[str, str] = field(default_factory=dict)
    agents: dict[str, AgentRecord] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)

    def put_agent(self, agent_id: str, wanted: Mapping[str, Any]) -> AgentRecord:
        """Make or change an agent: `{"channels": [{"name", "address", "status"?}], "status"?, "settings"?}`."""
        channels, endpoints = [], {}
        for channel in wanted.get("channels", ()):
            if not isinstance(channel, dict) or not {"name", "address"} <= set(channel):
                raise SettingError("a channel needs a name and an address, such as mllp://0.0.0.0:2575")
            endpoint_id = f"{agent_id}-{channel['name']}"
            reference = {"reference": f"Endpoint/{endpoint_id}"}
            channels.append(
                {"name": channel["name"], "endpoint": reference, "targetReference": {"reference": "Bot/stand-in"}}
            )
            endpoints[endpoint_id] = {
                "resourceType": "Endpoint",
                "id": endpoint_id,
                "status": channel.get("status", "active"),
                "connectionType": {"code": _CONNECTION_TYPES.get(str(channel["address"]).partition(":")[0], "other")},
                "address": channel["address"],
            }
        resource = {
            "resourceType": "Agent",
            "id": agent_id,
            "name": agent_id,
            "status": wanted.get("status", "active"),
            "setting": wanted.get("settings", []),
            "channel": channels,
        }
        known = self.agents.get(agent_id)
        if known is None:
            known = self.agents[agent_id] = AgentRecord(agent_id, resource, endpoints)
        known.resource, known.endpoints = resource, endpoints
        return known

    def endpoint(self, endpoint_id: str) -> dict[str, Any] | None:
        """Find an Endpoint among those of all agents."""
        return next(
            (agent.endpoints[endpoint_id] for agent in self.agents.values() if endpoint_id in agent.endpoints), None
        )

    def give_token(self, client_id: str, *, now: int, seconds: int, login: str) -> dict[str, Any]:
        """Return the answer of `/oauth2/token`. The token has no signature, as this server checks none."""
        payload = {"client_id": client_id, "login_id": login, "sub": client_id, "iat": now, "exp": now + seconds}
        token = ".".join([_base64({"alg": "none", "typ": "JWT"}), _base64(payload), "stand-in"])
        self.tokens.add(token)
        return {
            "token_type": "Bearer",
            "expires_in": seconds,
            "scope": "openid",
            "access_token": token,
            "project": {"reference": "Project/stand-in"},
            "profile": {"reference": f"ClientApplication/{client_id}"},
        }


def _base64(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
