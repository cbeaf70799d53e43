"""Whether this machine can run real nodes. Asked by the fixtures before a test and by `cluster_with_nodes` at its start."""

from __future__ import annotations

import sys

from tests.support.cluster.images.packages import NODE_PROGRAMS, what_is_missing


def missing() -> str | None:
    """Say in one sentence why no real node can run here, and what to do about it; None where one can."""
    if sys.platform != "linux":
        return "real nodes need Linux"
    return what_is_missing(NODE_PROGRAMS)
