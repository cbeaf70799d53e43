"""The table of scenarios: what users do while operators die. A new kind of change needs only a new row here.

Read by `test_crash_points` and `test_faults`. Each scenario has a beginning without faults, which ends at rest, and an act in which
any fault may happen. The steps of an act wait for what a user would see, never for a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.support.cluster import Behaviour, simulate
from tests.support.crash_points.access import CORE
from tests.support.crash_points.witness import serves
from tests.support.operator_process import ROOT
from tests.support.world import QUICK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.crash_points.clinic import Clinic
    from tests.support.crash_points.witness import Witness

    Step = Callable[[Clinic], Awaitable[None]]
    Question = Callable[[Witness], object]

APPROVAL: Final = "4.2.3 CHG-1042"
GATE: Final = {"enabled": True}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario, and what must be true of it however often the operator dies.

    Attributes:
        name: its name.
        act: what the user does and waits for.
        ends: what must be true at the end.
        history: the outcome of each rollout, the latest first.
        before: the version that the beginning installs; None for no installation.
        serves_throughout: whether an agent serves all the time, from the first moment that one does until the end of the act.
        spec: the rest of the spec of that installation.
        pool: whether the agent runs on two nodes of its own.
    """

    name: str
    act: Step
    ends: Question
    history: tuple[str, ...]
    before: str | None = None
    serves_throughout: bool = True
    spec: Any = None
    pool: bool = False

    async def begin(self, clinic: Clinic) -> None:
        """Install the version before the act, and wait until it serves."""
        spec = dict(self.spec or {})
        if self.pool:
            spec["podTemplate"] = {**(spec.get("podTemplate") or {"annotations": dict(QUICK)}), **await _nodes(clinic)}
        if self.before is not None:
            version = self.before
            await clinic.apply(version, **spec)
            await clinic.until(lambda seen: seen.at_rest(version), f"{version} installed")


async def _nodes(clinic: Clinic) -> dict[str, Any]:
    """Create two nodes for this run only. Returns the fields that bind a pod to them."""
    template = next(iter(yaml.safe_load_all((ROOT / "tests/support/cluster/nodes.yaml").read_text())))
    for letter in "ab":
        name = f"{clinic.namespace}-{letter}"
        labels = {**template["metadata"]["labels"], "kubernetes.io/hostname": name, "pool": clinic.namespace}
        taint = {"key": "pool", "value": clinic.namespace, "effect": "NoSchedule"}
        metadata = {**template["metadata"], "name": name, "labels": labels}
        await clinic.access.create(f"{CORE}/nodes", {**template, "metadata": metadata, "spec": {"taints": [taint]}})
        clinic.nodes.append(name)
    return {
        "nodeSelector": {"pool": clinic.namespace},
        "tolerations": [{"key": "pool", "operator": "Exists"}],
    }


async def _install(clinic: Clinic) -> None:
    await clinic.apply("5.1.14")


async def _install_with_gate(clinic: Clinic) -> None:
    await clinic.apply("5.1.14", gate=GATE)


async def _hand_over(clinic: Clinic) -> None:
    await clinic.patch(version="5.1.15")


async def _force_down(clinic: Clinic) -> None:
    await clinic.patch(version="4.2.3")
    await clinic.until(lambda seen: seen.has_phase("AwaitingApproval"), "the downgrade refused")
    await clinic.approve(APPROVAL)


async def _abort(clinic: Clinic) -> None:
    stuck = {"annotations": simulate(Behaviour.NEVER_READY, terminate_after="700ms")}
    await clinic.patch(version="5.1.15", podTemplate=stuck)
    await clinic.until(lambda seen: len(seen.pods) == 2 and seen.has_phase("HandingOff"), "both pods")
    ready = {"sim.medplum.com/behaviour": None, "sim.medplum.com/ready-after": "300ms"}
    await clinic.patch(version="5.1.14", podTemplate={"annotations": ready})


async def _cordon(clinic: Clinic) -> None:
    [pod] = clinic.witness.pods
    await clinic.cordon(pod["spec"]["nodeName"])
    await clinic.until(lambda seen: len(seen.recorder.served_from) == 2, "the agent elsewhere")


async def _switch_gate_on(clinic: Clinic) -> None:
    await clinic.patch(gate=GATE)
    await clinic.until(lambda seen: len(seen.recorder.served_from) == 2, "the agent with another drain")


async def _delete_in_the_middle(clinic: Clinic) -> None:
    slow = {"annotations": simulate(ready_after="10s", terminate_after="700ms")}  # long enough to start an operator
    await clinic.patch(version="5.1.15", podTemplate=slow)
    await clinic.until(lambda seen: len(seen.pods) == 2 and seen.has_phase("HandingOff"), "both pods")
    await clinic.delete()


async def _fail_to_hand_over(clinic: Clinic) -> None:
    await clinic.patch(version="5.1.15", podTemplate={"annotations": simulate(Behaviour.CONFIG_ERROR)})


async def _fail_to_go_down(clinic: Clinic) -> None:
    broken = simulate(Behaviour.CRASH_LOOP, terminate_after="700ms")
    await clinic.patch(version="4.2.3", podTemplate={"annotations": broken})
    await clinic.until(lambda seen: seen.has_phase("AwaitingApproval"), "the downgrade refused")
    await clinic.approve(APPROVAL)


def _back_on(version: str, wanted: str) -> Question:
    """The active version serves, alone, and the plan reports the failure."""

    def rolled_back(seen: Witness) -> bool:
        serving = [pod for pod in seen.pods if serves(pod)]
        return (
            seen.has_phase("Failed", version) and len(seen.pods) == len(serving) == 1 and wanted in seen.status["plan"]
        )

    return rolled_back


def _runs(version: str) -> Question:
    return lambda seen: seen.at_rest(version)


def _runs_behind_gates(seen: Witness) -> bool:
    """Simulated gates do not answer; the status reports that last."""
    reasons = {condition["type"]: condition["reason"] for condition in seen.status.get("conditions", ())}
    return seen.at_rest("5.1.14") and reasons.get("Forwarding") == "GatesUnreachable"


def _gone(seen: Witness) -> bool:
    return not seen.latest


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("install", _install, _runs("5.1.14"), ("Completed",)),
        Scenario("install with a gate", _install_with_gate, _runs_behind_gates, ("Completed",)),
        Scenario("handoff", _hand_over, _runs("5.1.15"), ("Completed", "Completed"), "5.1.14"),
        Scenario(
            "forced downgrade",
            _force_down,
            _runs("4.2.3"),
            ("Completed", "Completed"),
            "5.1.15",
            serves_throughout=False,
        ),
        Scenario(
            "failed handoff",
            _fail_to_hand_over,
            _back_on("5.1.14", "The change from 5.1.14 to 5.1.15 failed"),
            ("Completed", "Failed", "Completed"),
            "5.1.14",
        ),
        Scenario(
            "failed downgrade",
            _fail_to_go_down,
            _back_on("5.1.15", "The change from 5.1.15 to 4.2.3 failed"),
            ("Completed", "Failed", "Completed"),
            "5.1.15",
            serves_throughout=False,
        ),
        Scenario("abort", _abort, _runs("5.1.14"), ("Completed", "Aborted", "Completed"), "5.1.14"),
        Scenario("node cordoned", _cordon, _runs("5.1.15"), ("Completed", "Completed"), "5.1.15", pool=True),
        Scenario("gate switched on", _switch_gate_on, _runs_behind_gates, ("Completed", "Completed"), "5.1.14"),
        Scenario("deleted in a handoff", _delete_in_the_middle, _gone, (), "5.1.14", serves_throughout=False),
    )
}
