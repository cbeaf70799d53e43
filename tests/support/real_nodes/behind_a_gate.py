"""What tests on real nodes share where devices go through a gate: installing such an agent, breaking it, and that no device noticed anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.real_nodes.clinic import Clinic, TrafficRun

NOTICED = ("lost", "unacknowledged", "refused", "reset", "closed", "unreachable", "timeouts")
NO_SECRET = {"name": "nowhere"}
"""A Secret that is not there: the new agent's container can never be made."""


def install_behind_a_gate(clinic: Clinic, version: str, **spec: Any) -> None:
    """An agent whose devices go through a gate."""
    clinic.install(version, gate={"enabled": True, **spec.pop("gate", {})}, **spec)
    clinic.wait_for_the_gate()


def broken(clinic: Clinic, version: str, **spec: Any) -> None:
    """Ask for a version whose agent never starts: what would be found out before an old one is stopped is not looked for."""
    server = clinic.agent()["spec"]["server"]
    lacking = {"server": {**server, "credentialsSecretRef": NO_SECRET}, "handoff": {"prePull": False}}
    clinic.patch({"version": version, **(spec or lacking)})


def unnoticed(traffic: TrafficRun, *, repeated: int = 0) -> dict[str, Any]:
    """No device noticed anything but that answers took longer."""
    overall: dict[str, Any] = traffic.report["overall"]
    assert overall["sent"] > 100, traffic.text
    assert dict.fromkeys(NOTICED, 0) == {name: overall[name] for name in NOTICED}, traffic.text
    assert overall["repeated"] <= repeated, traffic.text
    return overall
