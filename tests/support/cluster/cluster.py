"""A cluster as tests see it: kubectl, namespaces, identities, and the audit log.

`local_cluster` makes these; a `Cluster` owns nothing that outlives its folder.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from tests.support.cluster.errors import KubectlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.cluster.kwok import ControlPlane
    from tests.support.cluster.node import Machine

T = TypeVar("T")

KUBECTL_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster, ours or the one that E2E_KUBECONFIG names."""

    name: str
    folder: Path
    """A temporary folder for all files of this cluster, deleted with it."""
    kubeconfig: Path
    """The administrator's."""
    kubectl_program: Path
    server: str
    audit_log: Path | None
    """None on an existing cluster."""
    simulated: bool
    """Whether kwok simulates the pods, so that `simulate` has an effect."""
    machines: tuple[Machine, ...] = ()
    """The real nodes that the tests started; empty if nodes are simulated or on an existing cluster."""
    plane: ControlPlane | None = None
    """The control plane, for tests that stop a part of it; None on an existing cluster."""

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - subprocess calls it so
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; with `check`, raise KubectlError if it fails."""
        result = subprocess.run(
            [str(self.kubectl_program), "--kubeconfig", str(self.kubeconfig), *arguments],
            # kubectl's cache in the user's home may be from an older cluster on the same port.
            env=os.environ | {"KUBECACHEDIR": str(self.folder / "kubectl-cache"), "KUBERC": "off"},
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=KUBECTL_SECONDS,
        )
        if check and result.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {result.stderr.strip() or result.stdout.strip()}")
        return result

    def read(self, *arguments: str) -> Any:
        """Return `kubectl get ... -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def apply(self, *objects: dict[str, Any], namespace: str | None = None) -> None:
        """Apply objects server-side; those without a namespace go into this one."""
        place = () if namespace is None else ("--namespace", namespace)
        bundle = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", *place, "--filename", "-", input=json.dumps(bundle))

    def audit_events(self, since: datetime | None = None) -> Iterator[dict[str, Any]]:
        """Yield the audited calls that were received at `since` or later, oldest first, as the API server logged them.

        Reads and writes are there with user, userAgent, verb, objectRef, responseStatus, requestReceivedTimestamp and
        stageTimestamp, never with bodies. A watch is there twice: when it started and when it ended.
        """
        if self.audit_log is None:
            raise LookupError("this cluster's audit log cannot be read: the tests did not start it")
        with self.audit_log.open(encoding="utf-8") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return  # being written just now
                event: dict[str, Any] = json.loads(line)
                if since is None or datetime.fromisoformat(event["requestReceivedTimestamp"]) >= since.astimezone(UTC):
                    yield event

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Write a kubeconfig whose user is exactly this ServiceAccount, by a token good for 24 hours."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration=24h").stdout.strip()
        admin = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output", "json").stdout)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": admin["clusters"][0]["cluster"]}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": "cluster", "user": name, "namespace": namespace}}],
            "current-context": name,
        }
        path = self.folder / f"kubeconfig-{namespace}-{name}-{secrets.token_hex(3)}"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")
        return path

    @contextmanager
    def namespace(self, prefix: str = "e2e") -> Iterator[str]:
        """Create a namespace with a new name, ready for pods; delete it at the end without waiting."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.kubectl("create", "namespace", name)
        try:
            # The API server refuses pods until the controller-manager has created this account.
            self.kubectl("wait", "serviceaccount/default", "--namespace", name, "--for=create", "--timeout=30s")
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false", check=False)


def wait_for(question: Callable[[], T], *, what: str, seconds: float = 30) -> T:
    """Poll until the answer is truthy and return it; raise TimeoutError with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)
    return answer
