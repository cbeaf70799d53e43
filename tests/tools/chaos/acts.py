"""Carry out each event of a plan, as an admin, a user or a fault would. `run` calls `carry_out`.

The API server may be away at any moment, so each call is tried again for a while. Never waits for what an event leads to.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster import KubectlError
from tests.support.operator_process import NAMESPACE as OPERATOR
from tests.support.real_nodes.clinic import AGENT
from tests.tools.chaos.plan import HIGHEST, Event, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.cluster.node import Machine
    from tests.support.real_nodes.clinic import Clinic

PATIENCE_SECONDS: Final = 30.0
GATE: Final = f"agents.medplum.com/gate-of={AGENT}"
STAYS: Final = "app notin (medplum,devices)"
"""Selects what a drain evicts: all pods except server and devices, which no controller would recreate."""
NOWHERE: Final = "nowhere"


@dataclass
class Acts:
    """The events of a plan, applied to one clinic."""

    clinic: Clinic
    counts: dict[Kind, int] = field(default_factory=dict)
    """The events that took effect: a pod that did not exist could not be killed."""
    drains_finished: int = 0
    _texts: int = 0
    _drain: subprocess.Popen[bytes] | None = None
    _cordoned: str = ""

    def carry_out(self, event: Event) -> bool:
        """Carry out one event; return whether it had an effect."""
        done = self._do(event)
        if done:
            self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        return done

    def _do(self, event: Event) -> bool:  # noqa: C901, PLR0911, PLR0912 - one line for each kind
        match event.kind:
            case Kind.VERSION | Kind.MIND | Kind.NEVER_READY:
                return self.ask_for(event.version, approved=event.approved)
            case Kind.NO_SECRET:
                return self.ask_for(event.version, server=_credentials(NOWHERE))
            case Kind.FIX_SECRET:
                return self.ask_for(event.version, server=_credentials(AGENT))
            case Kind.SETTINGS:
                return self.patch(_settings(event.number))
            case Kind.PAUSE | Kind.RESUME:
                return self.patch({"paused": event.kind is Kind.PAUSE})
            case Kind.APPROVE:
                return self.approve(event.version)
            case Kind.RESTART:
                return self._kubectl("rollout", "restart", f"deployment/{AGENT}")
            case Kind.KILL_AGENT:
                return self._kill("agent", f"agents.medplum.com/agent={AGENT}", self.clinic.namespace, event.number)
            case Kind.DELETE_GATE | Kind.FORCE_GATE:
                return self._delete_gate(event)
            case Kind.KILL_OPERATOR:
                return self._kill("operator", "", OPERATOR, event.number)
            case Kind.DELETE_OPERATOR:
                return self._kubectl("delete", "pod", "--all", "--grace-period=0", "--force", "-n", OPERATOR)
            case Kind.API_SERVER:
                return self._restart_api_server(event.number)
            case Kind.DRAIN:
                return self._begin_drain(event.number)
            case Kind.UNCORDON:
                return self.end_drain()

    # The spec.

    def ask_for(self, version: str, *, approved: bool = True, **spec: Any) -> bool:
        """Set spec.version; approve it first if it may be a downgrade."""
        if approved and version != HIGHEST:
            self.approve(version)
        return self.patch({"version": version, **spec})

    def approve(self, version: str) -> bool:
        """Approve a downgrade with a text that is new."""
        self._texts += 1
        return patiently(lambda: self.clinic.approve(f"{version} CHG-{self._texts}"))

    def patch(self, spec: dict[str, Any]) -> bool:
        """Change the spec."""
        return patiently(lambda: self.clinic.patch(spec))

    # Pods and processes.

    def _kill(self, container: str, selector: str, namespace: str, number: int) -> bool:
        """Let the container runtime send SIGKILL to a running process."""
        found: list[tuple[Machine, str]] = []

        def look() -> None:
            pods = self.clinic.cluster.read("pods", "--namespace", namespace, f"--selector={selector}")["items"]
            nodes = {machine.name: machine for machine in self.clinic.cluster.machines}
            found[:] = [
                (nodes[pod["spec"]["nodeName"]], status["containerID"].removeprefix("containerd://"))
                for pod in pods
                for status in pod["status"].get("containerStatuses", ())
                if status["name"] == container and "running" in status["state"]
            ]

        patiently(look)
        if not found:
            return False
        machine, identifier = found[number % len(found)]
        try:
            machine.ctr("tasks", "kill", "--signal", "SIGKILL", identifier)
        except RuntimeError:  # it has ended in the meantime
            return False
        return True

    def _delete_gate(self, event: Event) -> bool:
        names: list[str] = []

        def look() -> None:
            names[:] = [pod["metadata"]["name"] for pod in self.clinic.read("pods", "-l", GATE)["items"]]

        patiently(look)
        if not names:
            return False
        force = ("--grace-period=0", "--force") if event.kind is Kind.FORCE_GATE else ()
        return self._kubectl("delete", "pod", names[event.number % len(names)], *force)

    def _restart_api_server(self, away_seconds: float) -> bool:
        plane = self.clinic.cluster.plane
        if plane is None:
            raise RuntimeError("only the API server of our own cluster can be restarted")
        plane.restart_api_server(away_seconds=away_seconds)
        return True

    # Nodes.

    def _begin_drain(self, number: int) -> bool:
        """Start `kubectl drain` in the background, for the agent's node or, in one case of three, another node."""
        where: list[str] = []

        def look() -> None:
            where[:] = [pod["spec"]["nodeName"] for pod in self.clinic.pods() if pod["spec"].get("nodeName")]

        patiently(look)
        names = [machine.name for machine in self.clinic.cluster.machines]
        aside = [name for name in names if name not in where]
        self._cordoned = aside[0] if aside and (number % 3 == 0 or not where) else [*where, *names][0]
        cluster = self.clinic.cluster
        self._drain = subprocess.Popen(
            [
                *(str(cluster.kubectl_program), f"--kubeconfig={cluster.kubeconfig}", "drain", self._cordoned),
                *("--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={STAYS}"),
            ],
            env=os.environ | {"KUBECACHEDIR": str(cluster.folder / "kubectl-cache"), "KUBERC": "off"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return True

    def end_drain(self) -> bool:
        """Uncordon the node, whether the drain has finished or not."""
        if self._drain is None:
            return False
        self.drains_finished += self._drain.poll() == 0
        self._drain.kill()
        self._drain.wait()
        self._drain = None
        return self._kubectl("uncordon", self._cordoned)

    def _kubectl(self, *arguments: str) -> bool:
        waiting = ("--wait=false", "--ignore-not-found") if arguments[0] == "delete" else ()
        return patiently(lambda: self.clinic.kubectl(*arguments, *waiting))


def patiently(act: Callable[[], object]) -> bool:
    """Retry until it works, as the API server may be down. Return True; raise KubectlError after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            act()
        except KubectlError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return True


def _credentials(secret: str) -> dict[str, Any]:
    return {"credentialsSecretRef": {"name": secret}}


def _settings(number: int) -> dict[str, Any]:
    """Return a change that replaces no pod, the agent's pod, or the gate pods."""
    return (
        {"handoff": {"minReadySeconds": 1 + number % 2}},
        {"podTemplate": {"annotations": {"chaos.test/number": str(number)}}},
        {"gate": {"holdSeconds": 20 + number % 10}},
    )[number % 3]
