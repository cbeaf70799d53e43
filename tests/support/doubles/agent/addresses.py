"""From the server's Agent and Endpoints to the channels that are to listen. Pure; `program` asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Scheme = Literal["mllp", "tcp", "dicom", "other"]


class AgentConfigError(ValueError):
    """The server's configuration cannot be used: at its start the agent ends with exit code 1."""


@dataclass(frozen=True, slots=True)
class ChannelAddress:
    """One channel: only the scheme, the port and the parameters of its Endpoint's address count."""

    name: str
    url: str
    scheme: Scheme
    port: int
    parameters: Mapping[str, str]


def channel_addresses(agent: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]) -> tuple[ChannelAddress, ...]:
    """Read them; `endpoints` in the order of the Agent's channels. An agent or Endpoint that is off has none.

    A channel of an unknown scheme is left out by the caller; two channels of one port, or a channel without one, are an error.
    """
    if agent.get("status") != "active":
        return ()
    found = [
        _address(str(channel["name"]), str(endpoint.get("address", "")))
        for channel, endpoint in zip(agent.get("channel", ()), endpoints, strict=True)
        if endpoint.get("status") != "off"
    ]
    ports = [each.port for each in found]
    if len(set(ports)) < len(ports):
        raise AgentConfigError("Invalid agent config: two channels have the same port")
    return tuple(found)


def _address(name: str, url: str) -> ChannelAddress:
    parts = urlsplit(url)
    match parts.scheme:
        case "mllp" | "tcp" | "dicom" as known:
            scheme: Scheme = known
        case _:
            scheme = "other"
    if not parts.port:
        raise AgentConfigError(f"Invalid agent config: no port in {url}")
    return ChannelAddress(name, url, scheme, parts.port, dict(parse_qsl(parts.query)))
