"""The baseline for forced downgrades: the same agent in a handwritten Deployment, without the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.real_nodes.clinic import AGENT, HL7_PORT, REPOSITORY, RESTRICTED

if TYPE_CHECKING:
    from tests.support.real_nodes.clinic import Clinic

NAME: Final = "bare"
AGENT_ID: Final = "0b1c8a52-7f0e-4a53-8f0a-5f2f7c1f9d10"
_FOLDERS: Final = ("TMPDIR", "MEDPLUM_AGENT_DOUBLE_PROGRAM_FOLDER")
"""With positional arguments an agent writes logs beside its program, which only root may do: so its folder is set to /tmp."""


@dataclass(frozen=True, slots=True)
class BareDeployment:
    """A Deployment of one agent with strategy Recreate, started with the four positional arguments."""

    clinic: Clinic

    def install(self, version: str) -> None:
        """Create it, its Service, and its identity on the server; wait until it serves."""
        channels = [{"name": "adt", "address": f"mllp://0.0.0.0:{HL7_PORT}"}]
        self.clinic.put(f"agents/{AGENT_ID}", channels=channels)
        self.clinic.apply(self._service(), self._deployment(version))
        self._wait()

    def change(self, version: str) -> None:
        """Change the image, and wait until the new agent serves."""
        self.clinic.kubectl("set", "image", f"deployment/{NAME}", f"{NAME}={REPOSITORY}:{version}")
        self._wait()

    def _wait(self) -> None:
        self.clinic.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=90s")

    def _service(self) -> dict[str, Any]:
        ports = [{"name": "adt", "port": HL7_PORT}]
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": ports},
        }

    def _deployment(self, version: str) -> dict[str, Any]:
        container = {
            "name": NAME,
            "image": f"{REPOSITORY}:{version}",
            "args": [self.clinic.server_url, "$(CLIENT_ID)", "$(CLIENT_SECRET)", AGENT_ID],
            "workingDir": "/tmp",  # noqa: S108 - in its pod
            "env": [
                {"name": "CLIENT_ID", "valueFrom": {"secretKeyRef": {"name": AGENT, "key": "clientId"}}},
                {"name": "CLIENT_SECRET", "valueFrom": {"secretKeyRef": {"name": AGENT, "key": "clientSecret"}}},
                *({"name": name, "value": "/tmp"} for name in _FOLDERS),  # noqa: S108 - in its pod
            ],
            "ports": [{"name": "adt", "containerPort": HL7_PORT}],
            "readinessProbe": {"tcpSocket": {"port": "adt"}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
            "securityContext": RESTRICTED,
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in its pod
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": {"app": NAME}},
                "template": {
                    "metadata": {"labels": {"app": NAME}},
                    "spec": {
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "containers": [container],
                        "volumes": [{"name": "tmp", "emptyDir": {}}],
                    },
                },
            },
        }
