"""`make cluster`, or `python -m tests.tools.playground`: a local cluster, the operator and a sample agent until Ctrl-C.

For trying things by hand. It never uses an existing cluster, and deletes its own at the end.
Exits with 0 on Ctrl-C or SIGTERM, 1 if something does not start or the operator ends.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

from tests.support.cluster import ClusterStartError, KubectlError, local_cluster
from tests.support.cluster.local import EXISTING
from tests.support.cluster.toolchain import ToolchainError
from tests.support.operator_process import ROOT, install, running_operator
from tests.tools.demo.simulated import GATE_IMAGE
from tests.tools.demo.terminal import screen

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from tests.support.cluster import Cluster

SAMPLE = ROOT / "manifests" / "samples" / "agent.yaml"
AGENT = "front-desk"
LOG_LINES = 20

HOW_TO = """\
The cluster and the operator are running, and the agent {agent} is installed in namespace default. In another terminal:

  export KUBECONFIG={kubeconfig}
  export PATH={programs}:$PATH

  kubectl get mpa --watch
  kubectl patch mpa {agent} --type=merge -p '{{"spec":{{"version":"5.1.16"}}}}'      # a handoff
  kubectl patch mpa {agent} --type=merge -p '{{"spec":{{"version":"4.2.3"}}}}'       # refused
  kubectl get mpa {agent} -o jsonpath='{{.status.plan}}'                          # why, and the command that approves it
  kubectl annotate mpa {agent} --overwrite agents.medplum.com/force-downgrade="4.2.3 just trying"
  kubectl get pods --watch -L agents.medplum.com/version
  kubectl explain mpa.spec.handoff
  tail -f {log}

Pods are simulated by kwok: they start, become ready and end like real pods, but run no program. Everything else is real.
Press Ctrl-C here to delete all of it.
"""


def main() -> int:
    """Start everything, print how to use it, and wait."""
    console = screen()
    if EXISTING in os.environ:
        console.print(f"make cluster starts its own cluster: unset {EXISTING}.", style="red")
        return 1
    try:
        console.print("Starting a cluster and the operator …", style="dim")
        with local_cluster() as cluster:
            return _play(cluster, console)
    except KeyboardInterrupt:
        console.print("\nThe cluster is gone.")
        return 0
    except (ClusterStartError, ToolchainError, KubectlError, TimeoutError) as error:
        console.print(str(error), style="red", markup=False)
        return 1


def _play(cluster: Cluster, console: Console) -> int:
    log = cluster.folder / "operator.log"
    install(cluster)
    with running_operator(cluster, log, "--log-format", "console", "--gate-image", GATE_IMAGE) as operator:
        credentials = ("--from-literal=clientId=playground", "--from-literal=clientSecret=playground")
        cluster.kubectl("create", "secret", "generic", AGENT, *credentials)
        cluster.kubectl("apply", "-f", str(SAMPLE))
        cluster.kubectl("wait", f"mpa/{AGENT}", "--for=condition=Ready", "--timeout=60s")
        console.print(_how_to(cluster, log), soft_wrap=True, markup=False)
        code = operator.process.wait()
    console.print(f"The operator ended with exit code {code}. The end of its log:", style="red")
    tail = log.read_text(encoding="utf-8").splitlines()[-LOG_LINES:]
    console.print("\n".join(tail), soft_wrap=True, markup=False)
    return 1


def _how_to(cluster: Cluster, log: Path) -> str:
    return HOW_TO.format(
        agent=AGENT,
        kubeconfig=shlex.quote(str(cluster.kubeconfig)),
        programs=shlex.quote(str(cluster.kubectl_program.parent)),
        log=shlex.quote(str(log)),
    )


if __name__ == "__main__":
    sys.exit(main())
