"""The stand-in's own switches: faults that a test asks for, and times that a test may shorten. Pure.

Given as a JSON object, or `@` and the path of a file that holds one: in `MEDPLUM_AGENT_DOUBLE_SWITCHES` (baked into an image),
or behind `--switches` (which replaces it whole). An unknown name is refused, so that a test cannot ask in vain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.doubles.agent.version import AgentTraits


class SwitchError(ValueError):
    """The switches are not what they should be."""


@dataclass(frozen=True, slots=True)
class Switches:
    """All of them; the defaults are an agent without faults, with upstream's times."""

    never_ready: bool = False
    """Log in and connect, but bind no port, ever."""
    zombie: bool = False
    """Ports open, socket connected, heartbeats answered, and nothing forwarded. Only where upstream has it: before 5.1.18."""
    start_delay_ms: int = 0
    """Do nothing at all for so long, PID file included."""
    exit_after_ms: int = -1
    """End so long after the ports were opened (or were to be opened); -1: never."""
    exit_code: int = 1
    """With this code."""
    memory_ms: int = 20
    """How long an acknowledged message stays in memory before it is sent on, in the enhanced modes. Measured with the real
    agent: about 4 messages lost with each kill at 190 a second, which is what 20 ms hold."""
    retry_ms: int = 10_000
    """Between two tries to log in."""
    reconnect_ms: int = -1
    """Before the WebSocket is opened again; grows by 1.3 with each failure, up to 10 s. -1: 1,000 to 5,000, by chance, once for
    each process, as upstream's."""
    heartbeat_ms: int = 10_000
    """Between two heartbeats; a connection to a device that was idle for as long is closed."""
    token_grace_ms: int = 300_000
    """So long before its end a token is renewed. One that lives no longer makes the agent hang at its start."""

    @classmethod
    def parse(cls, text: str, read_file: Callable[[str], str], traits: AgentTraits) -> Self:
        """Read them; empty text is none."""
        if text.startswith("@"):
            text = read_file(text[1:])
        try:
            given = json.loads(text or "{}")
        except json.JSONDecodeError as error:
            raise SwitchError(f"switches are not JSON: {error}") from error
        if not isinstance(given, dict):
            raise SwitchError("switches must be a JSON object")
        known = {each.name: type(each.default) for each in fields(cls)}
        for name, value in given.items():
            if name not in known:
                raise SwitchError(f"there is no switch {name!r}; there are {', '.join(known)}")
            if type(value) is not known[name]:
                raise SwitchError(f"switch {name!r} must be of type {known[name].__name__}")
        switches = cls(**given)
        if switches.zombie and not traits.stays_a_zombie:
            raise SwitchError("there are no zombies from 5.1.18 on")
        return switches
