"""The model of the property tests, compared with the real controllers: the same steps must lead to the same state.

A state machine draws the steps, as for the model alone (`tests/property/test_machine.py`), but fewer: after each step the test waits until
the real cluster is at rest. This keeps the model realistic, and checks the invariants on the real API server too: the recorder judges I1
after the test. `MODEL_STORIES=20 python -m pytest tests/behaviour/test_model.py` plays more of them.
"""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.builders import agent
from tests.support.cluster import Behaviour, simulate, wait_for
from tests.support.simulated_cluster import SimulatedCluster
from tests.support.world import FORCE, agent_manifest

if TYPE_CHECKING:
    from tests.support.world import World

STORIES = int(os.environ.get("MODEL_STORIES", "0"))
VERSIONS = ("4.2.3", "5.1.14", "5.1.15")
APPROVALS = ("4.2.3 A", "4.2.3 B", "5.1.14 A", "true")
NEVER = {"minReadySeconds": 1, "drainSeconds": 1, "progressDeadlineSeconds": 5}
SECRET = simulate(Behaviour.CONFIG_ERROR)
"""A pod that can never be started: its Secret is missing."""


class Both(RuleBasedStateMachine):
    """One agent in the real cluster, and its twin in the model."""

    world: World
    numbers = itertools.count()
    steps = 0

    @initialize(version=st.sampled_from(VERSIONS), on_failure=st.sampled_from(["Rollback", "Rollback", "Hold"]))
    def install(self, version: str, on_failure: str) -> None:
        """Install the first version, which serves."""
        self.name = f"twin-{next(self.numbers)}"
        spec: dict[str, Any] = {"handoff": {**NEVER, "onFailure": on_failure}, "podTemplate": {}}
        self.model = SimulatedCluster(agent(version, **spec))
        self.world.apply(agent_manifest(self.name, version, **spec))
        self.history: list[str] = [f"install {version}, {on_failure}"]
        self.compare()

    @rule(version=st.sampled_from(VERSIONS), broken=st.sampled_from([False, False, True]))
    def change(self, version: str, *, broken: bool) -> None:
        """Ask for another version, whose agent may never start."""
        notes = SECRET if broken else {}
        self.edit(f"{version}{' broken' if broken else ''}", version=version, podTemplate={"annotations": notes})

    @rule(text=st.sampled_from([None, *APPROVALS]))
    def approve(self, text: str | None) -> None:
        """Set or remove the approval."""
        self.model.annotate(text)
        value = f"{FORCE}-" if text is None else f"{FORCE}={text}"
        self.world.kubectl("annotate", "mpa", self.name, "--overwrite", value)
        self.history.append(f"approve {text}")
        self.compare()

    @rule(text=st.sampled_from(["one", "two", "three"]))
    def retry(self, text: str) -> None:
        """Ask for a retry."""
        name = "agents.medplum.com/retry"
        self.model.mark(name, text)
        self.world.kubectl("annotate", "mpa", self.name, "--overwrite", f"{name}={text}")
        self.history.append(f"retry {text}")
        self.compare()

    @rule(paused=st.booleans())
    def pause(self, *, paused: bool) -> None:
        """Pause or resume."""
        self.edit(f"paused {paused}", paused=paused)

    @rule()
    def operator_dies(self) -> None:
        """Send SIGKILL, and start a new operator."""
        self.world.operators[-1].kill()
        self.world.start_operator()
        self.history.append("operator killed")
        self.compare()

    @rule(policy=st.sampled_from(["Always", "BelowZeroDowntime"]))
    def policy(self, policy: str) -> None:
        """Choose which downgrades need an approval."""
        self.edit(policy, downgradePolicy={"approval": policy})

    def edit(self, what: str, **spec: Any) -> None:
        """Edit both agents alike."""
        self.model.edit(**spec)
        # Replace whole fields, as in the model: first remove what a merge would leave.
        changes = [{"op": "add", "path": f"/spec/{key}", "value": value} for key, value in spec.items()]
        self.world.kubectl("patch", "mpa", self.name, "--type=json", "-p", json.dumps(changes))
        self.history.append(what)
        self.compare()

    def compare(self) -> None:
        """Wait until both are at rest, and compare them."""
        Both.steps += 1
        self._rest()
        wanted = digest(self.model.agent, self.model.status.model_dump(by_alias=True, exclude_none=True, mode="json"))

        def same() -> bool:
            raw = self.world.agent(self.name)
            current = (raw.get("status") or {}).get("observedGeneration") == raw["metadata"]["generation"]
            return current and digest(raw, raw.get("status") or {}) == wanted

        try:
            wait_for(same, what="the real cluster in the state of the model", seconds=60)
        except TimeoutError:
            raw = self.world.agent(self.name)
            real = digest(raw, raw.get("status") or {})
            assert wanted == real, f"the model differs after {self.history}"

    def _rest(self) -> None:
        """Let the model rest, long enough for the deadline of its rollout."""
        for _ in range(3):
            self.model.settle(seconds=300)
            self.model.tick(NEVER["progressDeadlineSeconds"] + 1)
        self.model.settle(seconds=300)

    def teardown(self) -> None:
        """Remove the agent, so that the next run has the operator alone."""
        if hasattr(self, "name"):
            self.world.kubectl("delete", "mpa", self.name, "--wait=true")


def digest(raw: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """What two clusters can have in common: all that a user sees, without times, pod names and field managers."""
    ready: dict[str, Any] = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    return {
        "spec.version": raw["spec"]["version"],
        **{
            name: status.get(name)
            for name in ("phase", "activeVersion", "targetVersion", "lastGoodVersion", "strategy")
        },
        "ready": (ready.get("status"), ready.get("reason")),
        "spentApprovals": status.get("spentApprovals", []),
        "history": [
            {name: entry.get(name) for name in ("from", "to", "strategy", "outcome", "rolledBackFrom")}
            for entry in status.get("history", ())
        ],
    }


def test_the_model_and_the_real_controllers_come_to_rest_in_the_same_state(world: World) -> None:
    """Version changes, broken versions, approvals, retries, pauses, dying operators: the same phase, versions and history after each step."""
    Both.world, Both.steps = world, 0
    chosen = settings(
        max_examples=STORIES or 3,
        stateful_step_count=8,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Both if STORIES else seed(7)(Both), settings=chosen)
    assert Both.steps > 10
