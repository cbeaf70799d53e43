"""What is seen of one namespace from outside, event by event, while its operators die: judged when the run is over.

Fed by `clinic` from watches of all namespaces. Besides what the `Recorder` judges (I1, I2) it keeps which pods there ever were,
whether there was a moment without a serving agent, and the latest state of each object, which is what scenarios wait by.
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
    """Whether its agent runs and is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return _runs(pod) and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def ends(pod: Mapping[str, Any]) -> bool:
    """Whether its agent has ended or is about to. A kubelet may tell of one that has just begun, for a moment, that it is not ready after all."""
    return "deletionTimestamp" in pod["metadata"] or not _runs(pod)


def _runs(pod: Mapping[str, Any]) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    agent: dict[str, Any] = next((c for c in containers if c["name"] == "agent"), {})
    return "running" in agent.get("state", {})


def role(pod: Mapping[str, Any]) -> str:
    """What a pod is for: an agent of a version, a gate, the fetching of an image."""
    labels = pod["metadata"].get("labels") or {}
    if AGENT in labels:
        return f"agent {labels.get(VERSION, '?')}"
    return "gate" if GATE in labels else "fetch" if FETCH in labels else "other"


@dataclass
class Witness:
    """One namespace."""

    recorder: Recorder = field(default_factory=Recorder)
    pods_ever: dict[str, str] = field(default_factory=dict)
    """What each pod was for, by uid."""
    serving: set[str] = field(default_factory=set)
    left_nobody: list[str] = field(default_factory=list)
    """The uid of each agent whose end left nobody who serves, once: a kubelet may tell of one that ends that it is ready once more."""
    latest: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def see(self, event: dict[str, Any]) -> None:
        """Take one watch event."""
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
        """The MedplumAgent; empty where there is none."""
        return self.latest.get(("MedplumAgent", NAME), {})

    @property
    def status(self) -> dict[str, Any]:
        """Its status."""
        found: dict[str, Any] = self.agent.get("status") or {}
        return found

    @property
    def deployment(self) -> dict[str, Any]:
        """Its Deployment; empty where there is none."""
        return self.latest.get(("Deployment", NAME), {})

    @property
    def pods(self) -> list[dict[str, Any]]:
        """The agent's pods."""
        return [
            raw
            for (kind, _), raw in self.latest.items()
            if kind == "Pod" and AGENT in (raw["metadata"].get("labels") or {})
        ]

    def told(self, phase: str, version: str | None = None) -> bool:
        """Whether status tells this phase of the current spec, and this active version."""
        current = self.status.get("observedGeneration") == (self.agent.get("metadata") or {}).get("generation")
        right = version is None or self.status.get("activeVersion") == version
        return bool(self.agent) and current and right and self.status.get("phase") == phase

    def at_rest(self, version: str) -> bool:
        """Whether the agent runs this version, alone, and status says so."""
        return self.told("Running", version) and len(self.pods) == 1 == len(self.serving)
