"""The recorder of the behaviour tests must report every violation of I1 and I2, and nothing else; the witness every moment without a serving agent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.crash_points.witness import Witness
from tests.support.recorder import AGENT, FORCE, VERSION, Recorder


def pod(uid: str, version: str, *, running: bool = True, kind: str = "MODIFIED") -> dict[str, Any]:
    """A watch event about an agent's pod."""
    state: dict[str, Any] = {"running": {}} if running else {"waiting": {}}
    metadata = {"uid": uid, "labels": {AGENT: "front-desk", VERSION: version}}
    status = {"containerStatuses": [{"name": "agent", "state": state}]}
    return {"type": kind, "object": {"kind": "Pod", "metadata": metadata, "status": status}}


def deployment(version: str, *, complete: bool, of: str = "agent-1") -> dict[str, Any]:
    """A watch event about its Deployment. `of`: the uid of the MedplumAgent that owns it."""
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1 if complete else 0)
    raw = {
        "kind": "Deployment",
        "metadata": {
            "name": "front-desk",
            "uid": f"deployment of {of}",
            "generation": 1,
            "ownerReferences": [{"uid": of, "controller": True}],
        },
        "spec": {"template": {"metadata": {"labels": {VERSION: version}}}},
        "status": {"observedGeneration": 1, **counts},
    }
    return {"type": "MODIFIED", "object": raw}


def agent(*, approval: str | None = None, policy: str = "Always") -> dict[str, Any]:
    """A watch event about the MedplumAgent."""
    metadata = {"name": "front-desk", "annotations": {FORCE: approval} if approval else {}}
    spec = {"downgradePolicy": {"approval": policy}}
    return {"type": "MODIFIED", "object": {"kind": "MedplumAgent", "metadata": metadata, "spec": spec}}


def replica_set(version: str, replicas: int, *, of: str = "agent-1") -> dict[str, Any]:
    """A watch event about a ReplicaSet of the agent. `of`: the uid of the MedplumAgent that owns its Deployment."""
    template = {"metadata": {"labels": {AGENT: "front-desk", VERSION: version}}}
    metadata = {"uid": version, "ownerReferences": [{"uid": f"deployment of {of}", "controller": True}]}
    raw = {"kind": "ReplicaSet", "metadata": metadata, "spec": {"replicas": replicas, "template": template}}
    return {"type": "MODIFIED", "object": raw}


DOWN = [deployment("5.1.15", complete=True), deployment("4.2.3", complete=False)]


@pytest.mark.parametrize(
    ("events", "violations"),
    [
        ([pod("a", "5.1.14"), pod("b", "5.1.15")], 0),
        ([pod("a", "4.2.3"), pod("b", "5.1.15")], 1),
        ([pod("a", "5.1.15"), pod("b", "4.2.3")], 1),
        ([pod("a", "4.2.3"), pod("b", "4.2.3", running=False)], 0),
        ([pod("a", "4.2.3"), pod("a", "4.2.3", kind="DELETED"), pod("b", "5.1.15")], 0),
        ([agent(), *DOWN], 1),
        ([agent(approval="4.2.3 CHG-1"), *DOWN], 0),
        ([agent(approval="4.2.2"), *DOWN], 1),
        ([agent(policy="BelowZeroDowntime"), *DOWN], 1),
        ([agent(policy="BelowZeroDowntime"), DOWN[0], deployment("5.1.14", complete=False)], 0),
        ([agent(), deployment("5.1.15", complete=False), deployment("4.2.3", complete=False)], 0),
        ([agent(), DOWN[0], deployment("4.2.3", complete=False, of="agent-2")], 0),
        (
            [agent(), DOWN[0], replica_set("4.2.3", 1, of="agent-2"), deployment("4.2.3", complete=True, of="agent-2")],
            0,
        ),
        ([agent(), *DOWN[:1], *(deployment(v, complete=True, of="agent-2") for v in ("5.1.15", "4.2.3"))], 1),
        ([agent(), replica_set("4.2.3", 0), DOWN[0], replica_set("4.2.3", 1)], 1),
        ([agent(), replica_set("5.1.14", 1), DOWN[0], replica_set("5.1.14", 0)], 0),
    ],
    ids=[
        "two new agents may meet",
        "an old one may not be joined",
        "an old one may not join",
        "waiting is not running",
        "gone before the next starts",
        "no approval",
        "approved",
        "approved something else",
        "the policy frees small steps only",
        "a small step under that policy",
        "what never became active is no baseline",
        "a namesake of a deleted agent may be older",
        "its ReplicaSet may be seen first",
        "no approval for the new agent of that name",
        "an older ReplicaSet is scaled up",
        "an older ReplicaSet is scaled down",
    ],
)
def test_recorder_reports_every_violation(events: list[dict[str, Any]], violations: int) -> None:
    """Each row is a sequence of watch events with its number of violations."""
    recorder = Recorder()
    for event in events:
        recorder.see(event)
    assert violations == len(recorder.violations)


def readiness(uid: str, said: str) -> dict[str, Any]:
    """A watch event about a pod whose agent runs: `ready`, `not ready`, or the same while it terminates (`ends`)."""
    event = pod(uid, "5.1.15")
    event["object"]["metadata"]["name"] = uid
    if "ends" in said:
        event["object"]["metadata"]["deletionTimestamp"] = "2026-11-26T06:00:00Z"
    event["object"]["status"]["conditions"] = [{"type": "Ready", "status": str("not" not in said)}]
    return event


@pytest.mark.parametrize(
    ("events", "left_nobody"),
    [
        ("a ready, b ready, a ends not ready", []),
        ("a ready, a ends ready, a ends not ready, b ready", ["a"]),
        ("a ready, a ends not ready, a ends ready, a ends not ready, b ready", ["a"]),
        ("a ready, a ends not ready, b ready, b not ready, b ready", ["a"]),
        ("a ready, a ends not ready, b ready, b ends not ready, c ready", ["a", "b"]),
    ],
    ids=["handoff", "one gap", "one gap that is reported twice", "a probe that is taken back", "two gaps"],
)
def test_the_witness_names_the_agents_whose_end_left_no_serving_agent(events: str, left_nobody: list[str]) -> None:
    """Each agent is named once, and none whose end another agent bridged."""
    witness = Witness()
    for event in events.split(", "):
        uid, said = event.split(" ", 1)
        witness.see(readiness(uid, said))
    assert left_nobody == witness.left_nobody
