"""Log lines, structured: JSON for machines, one line for people. Set up once by `__main__`; used by everything in the shell.

A line about an agent carries `agent` (namespace/name) and, where there is one, `reason`: the same word as in its conditions
and Events. No line ever carries an agent's log, a secret or a message body.
"""

import logging
import sys
from typing import Final

from pythonjsonlogger.json import JsonFormatter

log: Final = logging.getLogger("medplum_agent_operator")

_QUIET: Final = ("kopf.objects", "kopf", "aiohttp.access", "kubernetes", "asyncio")


class ConsoleFormatter(logging.Formatter):
    """One line for people: time, level, agent, reason, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Put the agent and the reason in front of the message."""
        marks = [str(getattr(record, name)) for name in ("agent", "reason") if getattr(record, name, None)]
        head = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {' '.join(marks)}"
        text = f"{head.rstrip()}  {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logging(*, as_json: bool, level: str) -> None:
    """Send all log lines to stderr in the chosen form; libraries speak from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "timestamp", "levelname": "severity", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
        if as_json
        else ConsoleFormatter()
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if level != "debug":
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
