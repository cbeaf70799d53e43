"""Errors of the cluster itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class ClusterStartError(Exception):
    """The cluster did not start. Names the component at fault and shows the end of its log."""

    def __init__(self, component: str, fault: str, log: Sequence[str]) -> None:
        self.component = component
        self.log = list(log)
        lines = "\n".join(f"  {line}" for line in self.log) or "  (empty)"
        super().__init__(f"{component} {fault}; the end of its log:\n{lines}")


class KubectlError(Exception):
    """A kubectl call failed; the message is kubectl's."""
