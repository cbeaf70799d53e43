"""The agent's two logs: JSON lines on standard output and, from 4.3.14 on, in daily files. Used by every part of the shell.

The channels' log holds whole messages at INFO, as upstream's does: that is what `logger.channel.logLevel` is for.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from tests.support.doubles.agent.properties import is_logged

if TYPE_CHECKING:
    from tests.support.doubles.agent.properties import AgentSettings, LogSettings

_FILE_NAMES: Final = {"main": "medplum-agent-main", "channel": "medplum-agent-channels"}


class Log:
    """One logger."""

    def __init__(self, name: str, settings: LogSettings) -> None:
        """Open the file; OSError if its folder cannot be written."""
        self._level = settings.level
        self._file: IO[str] | None = None
        if settings.folder is not None:
            folder = Path(settings.folder)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{_FILE_NAMES[name]}-{datetime.now(UTC):%Y-%m-%d}.log"
            self._file = path.open("a", encoding="utf-8", buffering=1)
            _audit(folder, name, path)

    def debug(self, message: str) -> None:
        """Write a line of level DEBUG."""
        self._write("DEBUG", message)

    def info(self, message: str) -> None:
        """Write a line of level INFO."""
        self._write("INFO", message)

    def warn(self, message: str) -> None:
        """Write a line of level WARN."""
        self._write("WARN", message)

    def error(self, message: str) -> None:
        """Write a line of level ERROR."""
        self._write("ERROR", message)

    def _write(self, level: str, message: str) -> None:
        if not is_logged(level, at=self._level):
            return
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"level": level, "msg": message.replace("\r", "\n"), "timestamp": stamp}) + "\n"
        sys.stdout.write(line)
        sys.stdout.flush()
        if self._file is not None:
            self._file.write(line)


def _audit(folder: Path, name: str, path: Path) -> None:
    """Write the hidden book of daily files that upstream's logger keeps beside each log."""
    book = folder / f".{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()}-audit.json"
    entry = {"date": int(time.time() * 1000), "name": str(path), "hash": hashlib.sha256(str(path).encode()).hexdigest()}
    keep = {"days": False, "amount": 10}
    book.write_text(json.dumps({"keep": keep, "auditLog": str(book), "files": [entry], "hashType": "sha256"}), "utf-8")


class Logs:
    """Both of them."""

    def __init__(self, settings: AgentSettings) -> None:
        """Open both; OSError if a folder cannot be written."""
        self.main = Log("main", settings.main_log)
        self.channel = Log("channel", settings.channel_log)
