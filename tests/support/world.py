"""The vocabulary of the behaviour tests: one agent in its own namespace, changed and read as a user does it."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.cluster import Behaviour, simulate, wait_for
from tests.support.operator_process import NAMESPACE, SERVICE_ACCOUNT, OperatorProcess, start_operator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.recorder import Recorder

FORCE = "agents.medplum.com/force-downgrade"
SEEN_LATE = 0.5
"""By how many seconds two watches may see the same event apart, on a busy machine. Without load it is some milliseconds."""
QUICK = simulate(ready_after="300ms", terminate_after="700ms")
REGISTRY_AWAY = {"annotations": simulate(Behaviour.IMAGE_PULL_FAILS, message="the registry is out of reach")}
"""For a pod template. A registry that does not answer is not a refusal, so the operator waits for it."""

GATE_IMAGE = "registry.test/medplum-agent-operator:dev"
"""Nothing runs it here: pods are simulated."""


def child(kind: str, name: str = "front-desk") -> str:
    """The name of an agent's child. `kind`: as kubectl names it."""
    return f"{name}-moves-by-handoff" if kind == "pdb" else name


def agent_manifest(name: str = "front-desk", version: str = "5.1.14", **spec: Any) -> dict[str, Any]:
    """Build a MedplumAgent whose handoffs are quick."""
    return {
        "apiVersion": "agents.medplum.com/v1alpha1",
        "kind": "MedplumAgent",
        "metadata": {"name": name},
        "spec": {
            "version": version,
            "image": {"repository": "registry.example.org/medplum-agent"},
            "server": {
                "baseUrl": "https://api.medplum.com/",
                "agentId": f"id-of-{name}",
                "credentialsSecretRef": {"name": name},
            },
            "channels": [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}],
            "gate": {"enabled": False},
            "handoff": {"minReadySeconds": 1, "drainSeconds": 1, "progressDeadlineSeconds": 60},
            "podTemplate": {"annotations": dict(QUICK)},
        }
        | spec,
    }


@dataclass
class World:
    """A namespace with an operator that watches only this namespace."""

    cluster: Cluster
    namespace: str
    folder: Path
    recorder: Recorder
    operators: list[OperatorProcess] = field(default_factory=list)

    # The operator.

    def start_operator(
        self, *arguments: str, kubeconfig: Path | None = None, source: Path | None = None
    ) -> OperatorProcess:
        """Start an operator as its ServiceAccount, and wait until it is ready. `source`: the folder of another release."""
        kubeconfig = kubeconfig or self.cluster.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
        log = self.folder / f"operator-{len(self.operators)}.log"
        operator = start_operator(
            kubeconfig, log, "--namespaces", self.namespace, "--gate-image", GATE_IMAGE, *arguments, source=source
        )
        self.operators.append(operator)
        operator.wait_until_ready()
        return operator

    @property
    def log(self) -> str:
        """The logs of all operators of this test."""
        return "".join(operator.log.read_text() for operator in self.operators)

    # What a user does.

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """Run kubectl in this namespace."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, **options).stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Run `kubectl apply`, client-side as most users do."""
        bundle = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", input=json.dumps(bundle))

    def patch(self, spec: dict[str, Any], name: str = "front-desk") -> None:
        """Change the spec."""
        self.kubectl("patch", "mpa", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def set_version(self, version: str, name: str = "front-desk") -> None:
        """Change the version."""
        self.patch({"version": version}, name)

    def approve(self, text: str, name: str = "front-desk") -> None:
        """Approve a downgrade as the message of the refusal says."""
        self.kubectl("annotate", "mpa", name, "--overwrite", f"{FORCE}={text}")

    def make_ready(self, selected: str) -> None:
        """Let the pods with this label become ready, despite their template."""
        self.wait(lambda: self.read("pods", "-l", selected)["items"], f"pods with {selected}")
        self.kubectl("annotate", "pods", "-l", selected, "--overwrite", "sim.medplum.com/behaviour=ready")

    # What is there.

    def read(self, *arguments: str) -> Any:
        """Run `kubectl get` and parse the answer."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def backups(self) -> list[dict[str, Any]]:
        """The backups before approved downgrades; the operator's revisions are the other ControllerRevisions."""
        found: list[dict[str, Any]] = self.read("controllerrevisions", "-l", "!agents.medplum.com/revision")["items"]
        return found

    def agent(self, name: str = "front-desk") -> dict[str, Any]:
        """The MedplumAgent."""
        found: dict[str, Any] = self.read("mpa", name)
        return found

    def status(self, name: str = "front-desk") -> dict[str, Any]:
        """Its status."""
        found: dict[str, Any] = self.agent(name).get("status", {})
        return found

    def condition(self, kind: str, name: str = "front-desk") -> dict[str, Any]:
        """One of its conditions."""
        return next(c for c in self.status(name)["conditions"] if c["type"] == kind)

    def deployment(self, name: str = "front-desk") -> dict[str, Any]:
        """Its Deployment."""
        found: dict[str, Any] = self.read("deployment", name)
        return found

    def pods(self, name: str = "front-desk") -> list[dict[str, Any]]:
        """Its pods."""
        found: list[dict[str, Any]] = self.read("pods", "-l", f"agents.medplum.com/agent={name}")["items"]
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """The Jobs in the namespace."""
        found: list[dict[str, Any]] = self.read("jobs")["items"]
        return found

    def events(self, reason: str, name: str = "front-desk") -> list[dict[str, Any]]:
        """The Events about it with this reason."""
        found = self.read("events")["items"]
        return [e for e in found if e["reason"] == reason and e["involvedObject"]["name"] == name]

    def gaps(self) -> list[float]:
        """The seconds between the end of each pod's service and the start of the next one's, as the recorder's own watch saw them."""
        seen = self.recorder
        self.wait(lambda: len(seen.served_until) + 1 == len(seen.served_from), "the recorder sees the old pod's end")
        starts = sorted(seen.served_from.items(), key=lambda item: item[1])
        following = itertools.pairwise(starts)
        return [(begun - seen.served_until[uid]).total_seconds() for (uid, _), (_, begun) in following]

    # Waiting.

    def wait(self, question: Callable[[], Any], what: str, seconds: float = 40) -> Any:
        """Wait until `question` returns something true. Shows status and log if it does not in time."""
        try:
            return wait_for(question, what=what, seconds=seconds)
        except TimeoutError as late:
            status = json.dumps(self.read("mpa", "-o", "json")["items"], indent=1)[-6000:]
            raise AssertionError(f"{late}\n{status}\n{self.log[-6000:]}") from late

    def wait_for_phase(
        self, phase: str, version: str | None = None, name: str = "front-desk", **at_least: Any
    ) -> dict[str, Any]:
        """Wait until the status of the current spec has this phase (and this active version). Returns the status."""

        def reached() -> dict[str, Any] | None:
            agent = self.agent(name)
            status: dict[str, Any] = agent.get("status", {})
            current = status.get("observedGeneration") == agent["metadata"]["generation"]
            if current and status.get("phase") == phase and (version is None or status.get("activeVersion") == version):
                return status
            return None

        found: dict[str, Any] = self.wait(reached, f"{name} in phase {phase} with {version}", **at_least)
        return found

    def install(self, version: str = "5.1.14", **spec: Any) -> dict[str, Any]:
        """Create the agent and wait until it serves."""
        self.apply(agent_manifest(version=version, **spec))
        return self.wait_for_phase("Running", version)
