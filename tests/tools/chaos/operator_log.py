"""The operators' logs, read from files on the nodes: most operators are killed and their pods deleted. Used by `run`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.support.operator_process import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.cluster.node import Machine

BUG: Final = "a pass failed by a bug"


@dataclass
class OperatorLog:
    """The logs of all operators up to the latest `read`."""

    machines: Sequence[Machine]
    _texts: dict[Path, str] = field(default_factory=dict)

    def read(self) -> None:
        """Read the files that exist now; a kubelet deletes them with the pod."""
        for machine in self.machines:
            for file in (machine.folder / "var-log" / "pods").glob(f"{NAMESPACE}_*/operator/*.log"):
                try:
                    self._texts[file] = file.read_text(encoding="utf-8", errors="replace")
                except FileNotFoundError:
                    continue

    @property
    def text(self) -> str:
        """Return all logs, one operator after the other."""
        return "".join(f"# {file.parent.parent.name} {file.name}\n{text}" for file, text in self._texts.items())

    @property
    def bugs(self) -> int:
        """Return the number of reconciles that failed because of a bug."""
        return self.text.count(BUG)
