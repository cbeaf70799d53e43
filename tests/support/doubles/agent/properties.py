"""The agent's configuration: four or five positional arguments, or `agent.properties` in the working directory. Pure.

Asked once by `__main__`. Environment variables are never read for it, as upstream does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.doubles.agent.version import AgentTraits

FILE: Final = "agent.properties"
_REQUIRED: Final = ("baseUrl", "clientId", "clientSecret", "agentId")
_LEVELS: Final = ("NONE", "ERROR", "WARN", "INFO", "DEBUG")


class MissingArgumentsError(Exception):
    """Neither the arguments nor the file say who the agent is and where its server is."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """One of the two loggers. No folder: no files."""

    level: str
    folder: str | None


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """An agent's settings at its start."""

    base_url: str
    client_id: str
    client_secret: str
    agent_id: str
    main_log: LogSettings
    channel_log: LogSettings


def parse_properties(text: str) -> dict[str, str]:
    r"""Read `key=value` lines. A value is cut at its first `=`: `secret=abc==` gives `abc`.

    >>> parse_properties("a = 1 \nb=x=y\nnothing")
    {'a': '1', 'b': 'x'}
    """
    found = {}
    for line in text.split("\n"):
        key, *values = (part.strip() for part in line.split("="))
        if values:
            found[key] = values[0]
    return found


def read_settings(
    arguments: Sequence[str], read_file: Callable[[], str | None], *, traits: AgentTraits, program_folder: str
) -> AgentSettings:
    """Arguments if there are four, and then the file is ignored whole; else the file, if there is one."""
    if len(arguments) >= 4:
        values = dict(zip((*_REQUIRED, "logLevel"), arguments, strict=False))
    else:
        text = read_file()
        if text is None:
            raise MissingArgumentsError("no arguments and no agent.properties")
        values = parse_properties(text)
    missing = [key for key in _REQUIRED if not values.get(key)]
    if missing:
        raise MissingArgumentsError(", ".join(missing))
    return AgentSettings(
        base_url=values["baseUrl"].rstrip("/"),
        client_id=values["clientId"],
        client_secret=values["clientSecret"],
        agent_id=values["agentId"],
        main_log=_log(values, "main", traits, program_folder),
        channel_log=_log(values, "channel", traits, program_folder),
    )


def _log(values: Mapping[str, str], name: str, traits: AgentTraits, program_folder: str) -> LogSettings:
    """One logger's settings. A top-level `logLevel` replaces both loggers' own levels, as upstream's agent-main.ts does.

    Before 4.3.14 there is nothing but the top-level one, and no files.
    """
    level = values.get("logLevel")
    if not traits.has_log_files:
        return LogSettings(_known(level), None)
    own = values.get(f"logger.{name}.logLevel")
    return LogSettings(_known(level or own), values.get(f"logger.{name}.logDir") or program_folder)


def _known(level: str | None) -> str:
    wanted = (level or "INFO").upper()
    return wanted if wanted in _LEVELS else "INFO"


def is_logged(level: str, *, at: str) -> bool:
    """Whether a line of this level is written by a logger that is set to `at`."""
    return _LEVELS.index(level) <= _LEVELS.index(at)
