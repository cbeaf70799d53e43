"""The invariants, asserted from records that do not depend on the operator's decisions. Written by `cluster`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE, VERSION_LABEL
from medplum_agent_operator.core.observed.drift import first_difference
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.approval import stored_form
from tests.support.simulated_cluster.apply import copied

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
    from tests.support.builders import Raw
    from tests.support.simulated_cluster.pods import SimulatedPod


class Books:
    """Which versions became active and which approvals were used, as the cluster itself records it.

    Attributes:
        active: the active version.
        used: approvals that a downgrade has used since the annotation was last removed.
        rollouts: when each rollout began, in order.
        active_template: the pod template of the rollout that completed last.
        before: the template before it; None if this is the first.
        in_doubt: a template whose pods were restarted before the operator saw its rollout complete; None if there was no such restart. The operator
            cannot know then whether the template was ever active. So it may roll back to it, or to `before` unless that is older.
    """

    def __init__(self) -> None:
        self.active: AgentVersion | None = None
        self.used: set[str] = set()
        self.rollouts: list[datetime] = []
        self.active_template: Raw | None = None
        self.before: Raw | None = None
        self.in_doubt: Raw | None = None

    def completed(self, version: AgentVersion, template: Raw) -> None:
        """Record that a rollout is complete. Called at every step for as long as it is."""
        self.in_doubt = None
        if template != self.active_template:
            if self.active_template is not None and _differ(template, self.active_template):
                self.before = self.active_template
            self.active_template = copied(template)
        self.active = version

    def began(self, record: RolloutRecord) -> None:
        """Record a write of the Deployment. Several writes may belong to one rollout."""
        if not self.rollouts or self.rollouts[-1] != record.started_at:
            self.rollouts.append(record.started_at)

    def assert_one_agent_at_a_time_where_it_must_be(self, pods: Iterable[SimulatedPod]) -> None:
        """I1: no two agents run at the same time if one is before 4.2.4."""
        running = [pod.version for pod in pods if pod.running]
        apart = len(running) < 2 or all(version.hands_over for version in running)
        assert apart, f"I1 is broken: {', '.join(map(str, running))}"

    def assert_back_to_what_was_active(self, template: Raw) -> None:
        """I3: a failed change is rolled back to exactly the active pod template."""
        if self.in_doubt is not None and not _differ(template, self.in_doubt):
            return
        assert self.active_template is not None, "I3 is broken: no template was active"
        found = self._other_than_active(template)
        assert found is None, f"I3 is broken: {found} is not the active template"

    def _other_than_active(self, template: Raw) -> str | None:
        assert self.active_template is not None
        known = [self.active_template]
        if self.in_doubt is not None:
            known.append(self.in_doubt)
            if self.before is not None and not _version(self.before) < _version(self.active_template):
                known.append(self.before)
        return None if any(not _differ(template, each) for each in known) else _differ(template, self.active_template)

    def assert_backed_up(self, backup: Raw | None, record: RolloutRecord) -> None:
        """A backup has the active spec and template before an approved downgrade changes anything."""
        assert backup is not None, f"no backup before {record.from_version} to {record.to}"
        version = backup["data"]["agent"]["spec"]["version"]
        assert record.from_version == version, f"{version} is in the backup: {record}"
        # The downgrade may start from a newer version that serves alone although its rollout has not completed.
        if self.active is not None and self.active.text == version and self.active_template is not None:
            found = self._other_than_active(backup["data"]["podTemplate"])
            assert found is None, f"{found} of the backup is not what was active: {record}"

    def assert_no_unapproved_downgrade(
        self, agent: Raw, record: RolloutRecord, *, target: AgentVersion, applied: AgentVersion | None
    ) -> None:
        """I2: no write goes below the active version without an unused approval."""
        same = applied is not None and applied.same_release(target)
        if self.active is None or same or not target < self.active:
            return
        policy = (agent["spec"].get("downgradePolicy") or {}).get("approval", "Always")
        if policy == "BelowZeroDowntime" and target.hands_over:
            return
        text = approval_of(agent)
        assert text.split()[:1] == [target.text], f"I2 is broken: {self.active} to {target} with {text!r}"
        assert text not in self.used, f"I2 is broken: {text!r} approves twice"
        assert stored_form(text) == record.approval
        self.used.add(text)


def _differ(template: Raw, active: Raw) -> str | None:
    return first_difference(template, active) or first_difference(template["metadata"], active["metadata"])


def _version(template: Raw) -> AgentVersion:
    return AgentVersion.parse(template["metadata"]["labels"][VERSION_LABEL])


def approval_of(agent: Mapping[str, Raw]) -> str:
    """The approval annotation; empty if it is not set."""
    return str(agent["metadata"]["annotations"].get(FORCE_DOWNGRADE, ""))
