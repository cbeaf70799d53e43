"""Structured logs: JSON for machines, or one line for people. `__main__` sets them up once; every module with I/O uses `log`.

A line about a MedplumAgent has the field `agent` (namespace/name) and, where one applies, `reason`: the same word as in its
conditions and Events. No line may contain an agent's log, a secret or the body of a message.
"""

import logging
import sys
from typing import Final

from pythonjsonlogger.json import JsonFormatter

log: Final = logging.getLogger("medplum_agent_operator")

_LIBRARIES: Final = ("kopf.objects", "kopf", "aiohttp.access", "kubernetes", "asyncio")


class ConsoleFormatter(logging.Formatter):
    """Formats one line for people: time, level, agent, reason, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Put agent and reason before the message."""
        marks = [str(getattr(record, name)) for name in ("agent", "reason") if getattr(record, name, None)]
        head = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {' '.join(marks)}"
        text = f"{head.rstrip()}  {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logging(*, as_json: bool, level: str) -> None:
    """Send all log lines to stderr. Libraries log from WARNING on, unless `level` is debug."""
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
        for name in _LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
