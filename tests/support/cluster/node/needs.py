"""Whether this machine can run real nodes. Called by fixtures before a test and by `cluster_with_nodes`."""

from __future__ import annotations

import sys

from tests.support.cluster.images.packages import NODE_PROGRAMS, what_is_missing


def missing() -> str | None:
    """Return why no real node can run here and how to fix that, in one sentence; None if one can."""
    if sys.platform != "linux":
        return "real nodes need Linux"
    return what_is_missing(NODE_PROGRAMS)
