"""Which spec is in force while the one that the user wrote is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.findings import Severity
from medplum_agent_operator.core.observed.rollout_record import Change
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy.verdict import Allowed, Refused, decide, last_applied_spec
from tests.support.builders import ABSENT, CONFIG, NOW, agent, approving, observed, refusal_of
from tests.support.simulated_cluster import SimulatedCluster, installed
from tests.support.simulated_cluster.situations import changing

if TYPE_CHECKING:
    from medplum_agent_operator.core.policy.verdict import Verdict


def refused(**spec: Any) -> SimulatedCluster:
    """5.1.15 serves; 4.2.3 is asked for together with other changes, and nobody has approved it."""
    return installed("5.1.15").edit(version="4.2.3", **spec)


def verdict(cluster: SimulatedCluster) -> Verdict:
    """What may be done now."""
    return decide(cluster.observe(), CONFIG)


def test_a_change_that_needs_nobody_is_in_force() -> None:
    """The user's spec counts, with the operator's default repository."""
    found = verdict(installed("5.1.14").edit(version="5.1.15"))
    assert (Change.UPGRADE, None, None) == (found.change, found.approval, refusal_of(found))
    assert found.spec is not None
    assert "5.1.15" == found.spec.version


def test_while_a_downgrade_is_refused_the_spec_that_was_applied_last_is_in_force() -> None:
    """All of it: nothing of the refused spec counts, not even what would be harmless alone."""
    found = verdict(refused(service={"type": "NodePort"}, channels=[{"name": "lab", "port": 7000}]))
    assert isinstance(found, Refused)
    assert Reason.DOWNGRADE_NOT_APPROVED is found.refusal.reason
    assert found.spec is not None
    assert ("5.1.15", "ClusterIP", 2575) == (
        found.spec.version,
        found.spec.service.type,
        found.spec.channels[0].port,
    )


def test_without_an_image_repository_only_what_is_recorded_can_be_applied() -> None:
    """The operator was given a default before, and is not any more: refused. The template that was applied needs none."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    found = decide(cluster.observe(), Config())
    assert isinstance(found, Refused)
    assert (Change.UPGRADE, "5.1.14") == (found.change, found.spec and found.spec.version)
    cluster.as_before_revisions()
    found = decide(cluster.observe(), Config())
    assert isinstance(found, Refused)
    assert found.spec is None


def test_a_change_that_has_failed_is_refused_as_what_it_is() -> None:
    """A Warning, with what it was; what serves is in force."""
    cluster = changing("5.1.14", "5.1.15").wait_for_deadline()
    found = verdict(cluster)
    assert isinstance(found, Refused)
    assert (Severity.WARNING, True, Change.UPGRADE) == (found.refusal.severity, found.latched, found.change)
    assert found.spec is not None
    assert "5.1.14" == found.spec.version


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("true", Reason.APPROVAL_MALFORMED, id="malformed"),
        pytest.param("4.2.2 CHG-1", Reason.APPROVAL_FOR_OTHER_TARGET, id="for another target"),
    ],
)
def test_an_approval_that_does_not_count_says_why_in_the_refusal(text: str, reason: Reason) -> None:
    """The reason of the wrong approval becomes the reason of the refusal, and its correction stands in the message."""
    found = verdict(refused().annotate(text))
    assert isinstance(found, Refused)
    assert found.approval is not None
    assert reason is found.refusal.reason
    assert found.approval.correction in str(found.refusal.message)


def test_a_granted_approval_puts_the_users_spec_in_force() -> None:
    """The right text, and everything that the user wrote counts."""
    found = verdict(refused(service={"type": "NodePort"}).annotate("4.2.3 CHG-1042"))
    assert isinstance(found, Allowed)
    assert found.spec is not None
    assert ("4.2.3", "NodePort") == (found.spec.version, found.spec.service.type)
    assert found.approval is not None
    assert "4.2.3 CHG-1042" == found.approval.text


def test_the_policy_of_the_refused_spec_itself_counts() -> None:
    """A policy is no part of the agent: whoever may write the spec may loosen it, except below 4.2.4."""
    loose = {"approval": "BelowZeroDowntime"}
    assert refusal_of(verdict(installed("5.1.15").edit(version="5.1.14", downgradePolicy=loose))) is None
    assert refusal_of(verdict(installed("5.1.15").edit(version="4.2.3", downgradePolicy=loose))) is not None


def test_without_an_image_repository_nothing_can_be_installed() -> None:
    """The finding names the field and the setting."""
    found = decide(observed(agent()), Config())
    assert isinstance(found, Refused)
    assert (Reason.IMAGE_REPOSITORY_MISSING, Severity.WARNING) == (found.refusal.reason, found.refusal.severity)
    assert "There is no image to run" in found.refusal.message.summary
    assert "spec.image.repository" in str(found.refusal.message)
    assert "MEDPLUM_AGENT_OPERATOR_IMAGE_REPOSITORY" in str(found.refusal.message)
    assert found.spec is None


def test_a_repository_of_its_own_is_enough_and_wins() -> None:
    """`spec.image.repository` comes before the operator's default."""
    raw = agent(image={"repository": "mine/agent"})
    for config in (CONFIG, Config()):
        (deployment,) = (
            action.body
            for action in make_plan(observed(raw), config=config, now=NOW).actions
            if action.kind == "Deployment"
        )
        assert "mine/agent:5.1.15" == deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def test_a_repository_that_is_taken_away_leaves_the_applied_spec_in_force() -> None:
    """A running agent is not touched: the spec before named its repository itself."""
    cluster = installed("5.1.15", image={"repository": "mine/agent"})
    found = decide(cluster.edit(version="5.1.16", image=ABSENT).observe(), Config())
    assert isinstance(found, Refused)
    assert found.spec is not None
    assert ("5.1.15", "mine/agent") == (found.spec.version, found.spec.image.repository)


def test_a_refused_downgrade_from_another_repository_keeps_the_repository_that_ran() -> None:
    """The refused spec's image settings do not leak into what is in force."""
    cluster = installed("5.1.15", image={"repository": "mine/agent"})
    found = verdict(cluster.edit(version="4.2.3", image={"repository": "other/agent"}))
    assert found.spec is not None
    assert "mine/agent" == found.spec.image.repository


def test_a_deployment_that_was_deleted_while_refused_comes_back_on_the_version_that_ran() -> None:
    """Status knows which version became active last; the rest of the user's spec serves with it."""
    cluster = refused(service={"type": "NodePort"}).settle().delete("Deployment")
    found = verdict(cluster)
    assert isinstance(found, Refused)
    assert found.spec is not None
    assert ("5.1.15", "NodePort") == (found.spec.version, found.spec.service.type)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param({"tag": "4.2.3-debian"}, id="a tag"),
        pytest.param({"digest": "sha256:" + "0" * 64}, id="a digest"),
    ],
)
def test_a_deleted_deployment_is_not_guessed_at_if_the_refused_spec_pins_an_image(image: dict[str, str]) -> None:
    """The pinned image is the refused version's: running it under the old version's name would be the downgrade."""
    cluster = refused(image=image).settle().delete("Deployment")
    assert last_applied_spec(cluster.observe()) is None
    found = verdict(cluster)
    assert isinstance(found, Refused)
    assert found.spec is None


def test_a_broken_note_of_the_applied_spec_is_not_guessed_at() -> None:
    """Somebody broke the annotation before the upgrade to revisions: then what ran before is not known."""
    cluster = refused().as_before_revisions()
    cluster.deployment["metadata"]["annotations"][names.APPLIED_SPEC] = "{"
    assert verdict(cluster).spec is None


def test_a_refusal_names_what_was_active_and_whether_it_serves() -> None:
    """What was active counts, whatever serves at that moment."""
    found = refusal_of(verdict(refused()))
    assert found is not None
    assert "Downgrade from 5.1.15 to 4.2.3" in str(found.message)
    assert "5.1.15 keeps serving" in str(found.message)
    cluster = installed("5.1.15")
    cluster.never_ready.add("5.1.15")
    cluster.evict().settle()
    found = refusal_of(verdict(cluster.edit(version="4.2.3")))
    assert found is not None
    assert "Downgrade from 5.1.15 to 4.2.3" in str(found.message)
    assert "No agent serves; devices cannot deliver messages." in str(found.message)


def test_a_refusal_in_the_middle_of_a_change_says_what_goes_on() -> None:
    """5.1.15 has been stopped for an approved 4.2.3, and 5.0.3 is asked for; where nothing is under way, nothing is said of it."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1", seconds=5).edit(version="5.0.3")
    found = refusal_of(verdict(cluster))
    assert found is not None
    assert "The rollout of 4.2.3 continues, and the refusal does not delay it. No agent serves; devices cannot" in str(
        found.message
    )
    settled = refusal_of(verdict(refused()))
    assert settled is not None
    assert "; 5.1.15 keeps serving devices. Other edits" in str(settled.message)
    cluster.remember(record=None)
    unknown = refusal_of(verdict(cluster))
    assert unknown is not None
    assert "No agent serves; devices cannot deliver messages. Other edits" in str(unknown.message)


def test_an_approval_for_an_upgrade_is_neither_needed_nor_used() -> None:
    """An annotation that is there for no downgrade stays unspent."""
    cluster = installed("5.1.14").annotate("5.1.15 no need").edit(version="5.1.15").settle()
    assert () == cluster.status.spent_approvals
    assert cluster.record.approval is None
    assert approving("5.1.15 no need") == cluster.agent["metadata"]["annotations"]
