"""`python -m tests.support.cluster` runs a cluster until Ctrl-C; with `--nodes N`, one with real nodes."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.support.cluster import ClusterStartError, local_cluster
from tests.support.cluster.progress import say
from tests.support.cluster.real import cluster_with_nodes
from tests.support.cluster.toolchain import ToolchainError


def main() -> int:
    """Start a cluster, print how to use it, wait, and delete it."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.cluster", description="Run a cluster until Ctrl-C.")
    parser.add_argument("--nodes", type=int, default=0, help="number of real nodes (default 0: two simulated ones)")
    parser.add_argument("--image", type=Path, action="append", default=[], help="an OCI archive for the real nodes")
    options = parser.parse_args()
    kind = cluster_with_nodes(options.nodes, images=options.image) if options.nodes else local_cluster()
    try:
        with kind as cluster:
            sys.stdout.write(f"export KUBECONFIG={cluster.kubeconfig}\n")
            sys.stdout.flush()
            say(
                f"The cluster runs at {cluster.server}. Paste the line above into another terminal and try\n"
                f"  {cluster.kubectl_program} get nodes\n"
                "Press Ctrl-C here to delete all of it."
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
