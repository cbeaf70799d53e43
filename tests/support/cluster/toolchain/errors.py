"""The one exception of the toolchain."""

from __future__ import annotations


class ToolchainError(Exception):
    """The programs of the cluster could not be had; the message says why and what would help."""
