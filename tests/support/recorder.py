"""Watches a namespace during a test and records every violation of I1 and I2.

It does not use the operator's code. It watches pods, ReplicaSets, Deployments and MedplumAgents and judges their state at each event,
so every test checks both invariants.

I1: no two agents of one MedplumAgent run at the same time if one of them is before 4.2.4.
I2: the Deployment never goes to an older version than the active one, unless the annotation approves it.
"""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster

AGENT = "agents.medplum.com/agent"
VERSION = "agents.medplum.com/version"
FORCE = "agents.medplum.com/force-downgrade"
ZERO_DOWNTIME = Version("4.2.4")


def release(text: str) -> Version:
    """The X.Y.Z of an agent version."""
    return Version(text.partition("-")[0])


def documents(stream: Any) -> Iterator[dict[str, Any]]:
    """Yield the JSON documents of an endless stream."""
    decoder, text = json.JSONDecoder(), ""
    while chunk := stream.read1(65536):
        text += chunk.decode()
        while text := text.lstrip():
            try:
                found, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                break
            yield found
            text = text[end:]


@dataclass
class Recorder:
    """What the watches reported, and which of it is a violation."""

    violations: list[str] = field(default_factory=list)
    most_running: dict[str, int] = field(default_factory=dict)
    served_from: dict[str, datetime] = field(default_factory=dict)
    """When each pod first served, by uid: it is ready and its agent runs."""
    served_until: dict[str, datetime] = field(default_factory=dict)
    """When each pod first stopped serving, by uid."""
    events: int = 0
    _running: dict[str, dict[str, str]] = field(default_factory=dict)
    _active: dict[str, str] = field(default_factory=dict)
    _applied: dict[str, str] = field(default_factory=dict)
    _approvals: dict[str, set[str]] = field(default_factory=dict)
    _replicas: dict[str, int] = field(default_factory=dict)
    _policies: dict[str, str] = field(default_factory=dict)
    _owners: dict[str, str | None] = field(default_factory=dict)
    _deployments: dict[str, str | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, stream: BinaryIO) -> None:
        """Read the watch events of a stream until it ends."""
        with stream:
            for event in documents(stream):
                self.see(event)

    def see(self, event: dict[str, Any]) -> None:
        """Record one watch event."""
        with self._lock:
            self.events += 1
            raw = event["object"]
            match raw["kind"]:
                case "Pod":
                    self._see_pod(event["type"], raw)
                case "Deployment":
                    self._see_deployment(event["type"], raw)
                case "ReplicaSet":
                    self._see_replica_set(raw)
                case "MedplumAgent":
                    self._see_agent(raw)

    def _see_agent(self, raw: dict[str, Any]) -> None:
        name = raw["metadata"]["name"]
        approval = (raw["metadata"].get("annotations") or {}).get(FORCE)
        if approval:
            self._approvals.setdefault(name, set()).add(approval.split()[0])
        self._policies[name] = raw["spec"]["downgradePolicy"]["approval"]

    def _see_pod(self, kind: str, raw: dict[str, Any]) -> None:
        labels = raw["metadata"].get("labels") or {}
        if AGENT not in labels:
            return
        status = raw.get("status") or {}
        statuses = status.get("containerStatuses") or ()
        agent: dict[str, Any] = next((one for one in statuses if one["name"] == "agent"), {})
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
        self._see_service(raw["metadata"]["uid"], serves=ready and "running" in agent.get("state", {}))
        running = self._running.setdefault(labels[AGENT], {})
        # A crash-looping container counts as started: it may restart at any moment.
        started = "running" in agent.get("state", {}) or agent.get("restartCount", 0) > 0
        ended = status.get("phase") in {"Succeeded", "Failed"}
        if kind == "DELETED" or ended or not started:
            running.pop(raw["metadata"]["uid"], None)
            return
        running[raw["metadata"]["uid"]] = labels[VERSION]
        self.most_running[labels[AGENT]] = max(self.most_running.get(labels[AGENT], 0), len(running))
        if len(running) > 1 and any(release(version) < ZERO_DOWNTIME for version in running.values()):
            self.violations.append(f"I1: {labels[AGENT]}: {sorted(running.values())} ran at the same time")

    def _see_service(self, uid: str, *, serves: bool) -> None:
        now = datetime.now(UTC)
        if serves:
            self.served_from.setdefault(uid, now)
        elif uid in self.served_from:
            self.served_until.setdefault(uid, now)

    def _may_not_go_down(self, name: str, version: str) -> bool:
        active = self._active.get(name)
        if active is None or release(version) >= release(active):
            return False
        free = self._policies.get(name) == "BelowZeroDowntime" and release(version) >= ZERO_DOWNTIME
        return not free and version not in self._approvals.get(name, set())

    def _see_replica_set(self, raw: dict[str, Any]) -> None:
        """Scaling up the ReplicaSet of an older version is a downgrade too, even without a change of the Deployment."""
        labels = raw["spec"]["template"]["metadata"].get("labels") or {}
        if AGENT not in labels:
            return
        uid, wanted = raw["metadata"]["uid"], raw["spec"]["replicas"]
        # A Deployment whose watch event has not arrived yet is judged when it does.
        known = _owner(raw) == self._deployments.get(labels[AGENT])
        if known and wanted > self._replicas.get(uid, 0) and self._may_not_go_down(labels[AGENT], labels[VERSION]):
            self.violations.append(
                f"I2: {labels[AGENT]}: a ReplicaSet of {labels[VERSION]} was scaled up without an approval"
            )
        self._replicas[uid] = wanted

    def _see_deployment(self, kind: str, raw: dict[str, Any]) -> None:
        metadata, template = raw["metadata"], raw["spec"]["template"]["metadata"].get("labels") or {}
        name = metadata["name"]
        if VERSION not in template or kind == "DELETED":
            return
        if self._owners.get(name, _owner(raw)) != _owner(raw):  # another MedplumAgent: it has no active version yet
            self._active.pop(name, None)
            self._applied.pop(name, None)
        self._owners[name], self._deployments[name] = _owner(raw), metadata.get("uid")
        version, before = template[VERSION], self._applied.get(name)
        active = self._active.get(name)
        if before != version and self._may_not_go_down(name, version):
            self.violations.append(f"I2: {name}: the Deployment went from {active} to {version} without an approval")
        self._applied[name] = version
        status = raw.get("status") or {}
        counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
        if status.get("observedGeneration") == metadata["generation"] and counts == [1, 1, 1]:
            self._active[name] = version


def _owner(raw: dict[str, Any]) -> str | None:
    """The uid of the owner."""
    return next((owner["uid"] for owner in raw["metadata"].get("ownerReferences", ()) if owner.get("controller")), None)


@contextmanager
def recording(cluster: Cluster, namespace: str) -> Iterator[Recorder]:
    """Watch a namespace until the end of the block. By then every event that the API server sent has been judged."""
    recorder = Recorder()
    watches = []
    for kind in ("pods", "replicasets.apps", "deployments.apps", "medplumagents.agents.medplum.com"):
        process = subprocess.Popen(
            [
                str(cluster.kubectl_program),
                f"--kubeconfig={cluster.kubeconfig}",
                f"--namespace={namespace}",
                *("get", kind, "--watch", "--output-watch-events", "--output=json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        reader = threading.Thread(target=recorder.read, args=(process.stdout,), daemon=True)
        reader.start()
        watches.append((process, reader))
    try:
        yield recorder
    finally:
        for process, reader in watches:
            process.kill()
            process.wait()
            reader.join()
