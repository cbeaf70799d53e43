"""The programs of the local cluster, from pinned Go modules: `python -m tests.cluster.toolchain` builds them."""

from __future__ import annotations

from tests.cluster.toolchain.build import Tools, cache_folder, ensure_tools
from tests.cluster.toolchain.errors import ToolchainError

__all__ = ["ToolchainError", "Tools", "cache_folder", "ensure_tools"]
