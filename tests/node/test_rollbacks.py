"""A change that fails, under traffic: what was active before serves on, or serves again, and no message is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.real_nodes.behind_a_gate import NO_SECRET, broken, install_behind_a_gate, unnoticed

if TYPE_CHECKING:
    from tests.support.real_nodes.clinic import Clinic

pytestmark = pytest.mark.timeout(300)

ENDS = {"command": ["sh", "-c", "exit 3"]}
"""A program that ends at once."""


def outcomes(clinic: Clinic) -> list[tuple[str, str]]:
    """To which version, and how it ended, the latest first."""
    return [(entry["to"], entry["outcome"]) for entry in clinic.status()["history"]]


@pytest.mark.parametrize("spec", [{}, {"image": {"command": ENDS["command"]}}], ids=["no Secret", "ends at once"])
def test_nobody_notices_a_handoff_that_fails(clinic: Clinic, spec: dict[str, Any]) -> None:
    """The old agent is the same process all along: no restart, no connection broken, nothing lost."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.14")
    [old] = clinic.pods()
    with clinic.traffic() as traffic:
        wanted = {"image": {**clinic.agent()["spec"]["image"], **spec["image"]}} if spec else {}
        broken(clinic, "5.1.15", **wanted)
        status = clinic.wait_for_phase("Failed", "5.1.14", seconds=120)
        time.sleep(2)
    unnoticed(traffic)
    clinic.wait(lambda: len(clinic.pods()) == 1, "the old pod alone")
    [still] = clinic.pods()
    assert old["metadata"]["uid"] == still["metadata"]["uid"]
    assert 0 == sum(container["restartCount"] for container in still["status"]["containerStatuses"])
    assert [("5.1.14", "Completed"), ("5.1.15", "Failed")] == outcomes(clinic)[:2]
    assert "5.1.14" in status["plan"]
    assert status["activeVersion"] == "5.1.14"


def test_no_agent_is_stopped_for_one_whose_secret_is_missing(clinic: Clinic) -> None:
    """The kubelet checks the Secret first: the old agent stays the same process, and nothing of the downgrade begins."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    [old] = clinic.pods()
    server = clinic.agent()["spec"]["server"]
    with clinic.traffic() as traffic:
        broken(clinic, "4.2.3", server={**server, "credentialsSecretRef": NO_SECRET})
        clinic.wait_for_phase("AwaitingApproval")
        clinic.approve("4.2.3 CHG-8")
        status = clinic.wait_for_phase("Failed", "5.1.15", seconds=120)
        time.sleep(2)
    unnoticed(traffic)
    [still] = clinic.pods()
    assert old["metadata"]["uid"] == still["metadata"]["uid"]
    assert 0 == sum(container["restartCount"] for container in still["status"]["containerStatuses"])
    assert 'secret "nowhere" not found' in status["plan"]
    assert ([("5.1.15", "Completed")], []) == (outcomes(clinic), status.get("spentApprovals", []))


def test_a_forced_downgrade_that_fails_is_one_slow_answer(clinic: Clinic) -> None:
    """5.1.15 is stopped for a 4.2.3 that never starts, and is rolled back automatically: held messages go to it, and none is lost."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    with clinic.traffic() as traffic:
        broken(clinic, "4.2.3")
        clinic.wait_for_phase("AwaitingApproval")
        clinic.approve("4.2.3 CHG-7")
        clinic.wait_for_phase("Failed", "5.1.15", seconds=120)
        time.sleep(2)
    overall = unnoticed(traffic)
    assert overall["longest_pause_seconds"] > 0.5, "no device waited, so an agent was always there"
    assert [("5.1.15", "Completed"), ("4.2.3", "Failed")] == outcomes(clinic)[:2]
    assert ["4.2.3 CHG-7"] == clinic.status()["spentApprovals"]
