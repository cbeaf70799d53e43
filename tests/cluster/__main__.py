"""A cluster to look at: `python -m tests.cluster` runs one until Ctrl-C."""

from __future__ import annotations

import signal
import sys

from tests.cluster import ClusterStartError, local_cluster
from tests.cluster.progress import say
from tests.cluster.toolchain import ToolchainError


def main() -> int:
    """Start a cluster, say how to use it, wait, and remove it."""
    try:
        with local_cluster() as cluster:
            sys.stdout.write(f"export KUBECONFIG={cluster.kubeconfig}\n")
            sys.stdout.flush()
            say(
                f"The cluster runs at {cluster.server}. Paste the line above into another terminal and try\n"
                f"  {cluster.kubectl_program} get nodes\n"
                "Ctrl-C here ends it and removes all of it."
            )
            signal.pause()
    except KeyboardInterrupt:
        say("\nThe cluster is gone.")
    except (ClusterStartError, ToolchainError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
