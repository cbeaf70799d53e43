"""Shared by tests with a gate on real nodes: install such an agent, break it, and check that no device noticed anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.real_nodes.clinic import Clinic, TrafficRun

NOTICED = ("lost", "unacknowledged", "refused", "reset", "closed", "unreachable", "timeouts")
NO_SECRET = {"name": "nowhere"}
"""A missing Secret: the new agent's container can never be created."""


def install_behind_a_gate(clinic: Clinic, version: str, **spec: Any) -> None:
    """Install an agent whose devices connect through a gate."""
    clinic.install(version, gate={"enabled": True, **spec.pop("gate", {})}, **spec)
    clinic.wait_for_the_gate()


def broken(clinic: Clinic, version: str, **spec: Any) -> None:
    """Set a version whose agent never starts, without the pull in advance that would find this out before the old agent stops."""
    server = clinic.agent()["spec"]["server"]
    lacking = {"server": {**server, "credentialsSecretRef": NO_SECRET}, "handoff": {"prePull": False}}
    clinic.patch({"version": version, **(spec or lacking)})


def unnoticed(traffic: TrafficRun, *, repeated: int = 0) -> dict[str, Any]:
    """Check that devices noticed nothing except slow answers."""
    overall: dict[str, Any] = traffic.report["overall"]
    assert overall["sent"] > 100, traffic.text
    assert dict.fromkeys(NOTICED, 0) == {name: overall[name] for name in NOTICED}, traffic.text
    assert overall["repeated"] <= repeated, traffic.text
    return overall
