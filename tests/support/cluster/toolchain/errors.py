"""The one exception of the toolchain."""

from __future__ import annotations


class ToolchainError(Exception):
    """The cluster programs cannot be built; the message says why and how to fix it."""
