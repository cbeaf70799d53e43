"""The programs of the local cluster, from pinned Go modules: `python -m tests.support.cluster.toolchain` builds them."""

from __future__ import annotations

from tests.support.cluster.toolchain.build import Tools, cache_faults, cache_folder, ensure_tools
from tests.support.cluster.toolchain.errors import ToolchainError

__all__ = ["ToolchainError", "Tools", "cache_faults", "cache_folder", "ensure_tools"]
