"""Records the watch events of one namespace while its operators die; judged at the end of the run.

Fed by `clinic` from watches of all namespaces. Besides I1 and I2, which the `Recorder` judges, it records all pods,
every moment without a serving agent, and the latest state of each object, which scenarios wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.recorder import AGENT, VERSION, Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping

FETCH = "agents.medplum.com/fetches-for"
GATE = "agents.medplum.com/gate-of"
NAME = "front-desk"


def serves(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's agent runs and is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return _runs(pod) and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def ends(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's agent has ended or is terminating. A pod that is only unready does not count: a kubelet may report that briefly after a start."""
    return "deletionTimestamp" in pod["metadata"] or not _runs(pod)


def _runs(pod: Mapping[str, Any]) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    agent: dict[str, Any] = next((c for c in containers if c["name"] == "agent"), {})
    return "running" in agent.get("state", {})


def role(pod: Mapping[str, Any]) -> str:
    """The role of a pod: agent with its version, gate, or fetch."""
    labels = pod["metadata"].get("labels") or {}
    if AGENT in labels:
        return f"agent {labels.get(VERSION, '?')}"
    return "gate" if GATE in labels else "fetch" if FETCH in labels else "other"


@dataclass
class Witness:
    """The events of one namespace."""

    recorder: Recorder = field(default_factory=Recorder)
    pods_ever: dict[str, str] = field(default_factory=dict)
    """The role of each pod, by uid."""
    serving: set[str] = field(default_factory=set)
    left_nobody: list[str] = field(default_factory=list)
    """The uid of each pod whose end left no serving agent. Each is listed once, because a kubelet may report a terminating pod as ready again."""
    latest: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def see(self, event: dict[str, Any]) -> None:
        """Record one watch event."""
        self.recorder.see(event)
        raw = event["object"]
        key = (raw["kind"], raw["metadata"]["name"])
        if event["type"] == "DELETED":
            self.latest.pop(key, None)
        else:
            self.latest[key] = raw
        if raw["kind"] == "Pod":
            self._see_pod(event["type"], raw)

    def _see_pod(self, kind: str, raw: dict[str, Any]) -> None:
        uid = raw["metadata"]["uid"]
        self.pods_ever[uid] = role(raw)
        if AGENT not in (raw["metadata"].get("labels") or {}):
            return
        if kind != "DELETED" and serves(raw):
            self.serving.add(uid)
        elif uid in self.serving and (kind == "DELETED" or ends(raw)):
            self.serving.discard(uid)
            if not self.serving and uid not in self.left_nobody:
                self.left_nobody.append(uid)

    @property
    def agent(self) -> dict[str, Any]:
        """The MedplumAgent; empty if it does not exist."""
        return self.latest.get(("MedplumAgent", NAME), {})

    @property
    def status(self) -> dict[str, Any]:
        """Its status."""
        found: dict[str, Any] = self.agent.get("status") or {}
        return found

    @property
    def deployment(self) -> dict[str, Any]:
        """Its Deployment; empty if it does not exist."""
        return self.latest.get(("Deployment", NAME), {})

    @property
    def pods(self) -> list[dict[str, Any]]:
        """The agent's pods."""
        return [
            raw
            for (kind, _), raw in self.latest.items()
            if kind == "Pod" and AGENT in (raw["metadata"].get("labels") or {})
        ]

    def has_phase(self, phase: str, version: str | None = None) -> bool:
        """Whether the status of the current spec has this phase (and this active version)."""
        current = self.status.get("observedGeneration") == (self.agent.get("metadata") or {}).get("generation")
        right = version is None or self.status.get("activeVersion") == version
        return bool(self.agent) and current and right and self.status.get("phase") == phase

    def at_rest(self, version: str) -> bool:
        """Whether this version runs alone, and status reports it as running."""
        return self.has_phase("Running", version) and len(self.pods) == 1 == len(self.serving)
