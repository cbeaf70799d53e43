"""The sentences that an on-call person reads at night."""

from __future__ import annotations

from typing import Any

import pytest

from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.policy import messages
from medplum_agent_operator.core.policy.approval import judge
from medplum_agent_operator.core.report import rollout_messages
from tests.support.builders import NOW, parsed, spec_of, v


def refusal(
    target: str = "4.2.3",
    annotation: str | None = None,
    *,
    serving: tuple[str, ...] = ("5.1.15",),
    under_way: str | None = None,
) -> str:
    """The refusal of going down from 5.1.15."""
    approval = judge(annotation, target=v(target), spent=())
    return messages.refusal(
        parsed(target), baseline="5.1.15", target=v(target), approval=approval, serving=serving, under_way=under_way
    )


BELOW = [
    pytest.param("Refused: spec.version asks to go down from 5.1.15 to 4.2.3", id="what was asked, from and to"),
    pytest.param("that is not approved", id="why it is not done"),
    pytest.param("; 5.1.15 goes on serving.", id="what serves"),
    pytest.param("Nothing was changed", id="that nothing was changed"),
    pytest.param("agents from 4.2.4 on hand over side by side", id="the threshold"),
    pytest.param("fight over the agent's identity, its PID file and its ports", id="what two agents would do"),
    pytest.param("(1) 5.1.15 is stopped before 4.2.3 starts, and messages are not accepted in between", id="the gap"),
    pytest.param("(2) each later upgrade from 4.2.3 costs downtime again", id="the way back costs downtime too"),
    pytest.param("(3) what 5.1.15 still holds in its durable queue", id="the durable queue"),
    pytest.param("see whether another way will do", id="before: another way"),
    pytest.param("off-peak hour or a maintenance window", id="before: when"),
    pytest.param("back up the agent's configuration and data", id="before: backup"),
    pytest.param("of these the operator keeps only the spec and the pod template", id="before: what is kept"),
    pytest.param("After: check on every channel that messages arrive.", id="after: check"),
    pytest.param(
        'kubectl annotate medplumagent lab -n clinic --overwrite agents.medplum.com/force-downgrade="4.2.3"',
        id="the exact command",
    ),
    pytest.param('To stay, set spec.version back to "5.1.15".', id="the way to stay"),
]


@pytest.mark.parametrize("words", BELOW)
def test_the_refusal_below_4_2_4_says(words: str) -> None:
    """Each of these stands in it, in whole sentences."""
    assert words in refusal()


def test_the_refusal_from_4_2_4_on_promises_no_downtime_and_threatens_none() -> None:
    """Two such agents hand over; what is at risk is what the older one may not understand."""
    text = refusal("5.1.14")
    assert "hand over without downtime" in text
    assert "5.1.14 may not be able to read" in text
    assert "stopped before" not in text
    assert 'agents.medplum.com/force-downgrade="5.1.14"' in text


def test_the_command_that_is_shown_would_approve() -> None:
    """Copied as it stands, the value approves exactly this downgrade."""
    value = messages.annotate_command(parsed("4.2.3"), v("4.2.3")).partition('="')[2].rstrip('"')
    assert judge(value, target=v("4.2.3"), spent=()).granted


def test_where_nothing_serves_the_refusal_does_not_say_that_something_does() -> None:
    """The truth at night."""
    text = refusal(serving=())
    assert "; no agent was stopped for it." in text
    assert "goes on serving" not in text


def test_the_refusal_says_what_goes_on_in_the_middle_of_another_change() -> None:
    """What serves need not be what was active last, and what is under way is not stopped."""
    assert "; 4.2.3 goes on serving, and the rollout of 4.2.3 that is under way goes on. Other" in refusal(
        "5.0.3", serving=("4.2.3", "4.2.3"), under_way="4.2.3"
    )
    assert "; 5.1.15 and 5.1.16 go on serving, and the rollout of 5.1.16 that is under way goes on. Other" in refusal(
        serving=("5.1.16", "5.1.15"), under_way="5.1.16"
    )
    assert "; no agent was stopped for it, and the rollout of 4.2.3 that is under way goes on. Other" in refusal(
        "5.0.3", serving=(), under_way="4.2.3"
    )


def test_a_wrong_annotation_is_answered_within_the_refusal() -> None:
    """Whoever set "true" reads what is right instead."""
    assert (
        "The annotation says 'true', which approves nothing: it must begin with the version to go down to, 4.2.3."
        in refusal(annotation="true")
    )


WAYS = [
    pytest.param(Change.INSTALL, None, Strategy.ROLLING_HANDOFF, "Installing 5.1.15: the agent counts as active once", id="the first install"),
    pytest.param(Change.INSTALL, "5.1.15", Strategy.ROLLING_HANDOFF, "Installing 5.1.15 again by a rolling handoff", id="a lost Deployment"),
    pytest.param(Change.UPGRADE, "5.1.14", Strategy.ROLLING_HANDOFF, "Going from 5.1.14 to 5.1.15 by a rolling handoff, because both can: the new agent starts beside", id="a handoff"),
    pytest.param(Change.DOWNGRADE, "5.1.16", Strategy.RECREATE, "Going from 5.1.16 to 5.1.15 by stopping first, because both can: the old agent drains for 5 seconds", id="a recreate"),
    pytest.param(Change.ABORT, "5.1.15", Strategy.ROLLING_HANDOFF, "Going back to 5.1.15, which was active last, from a target that never became active. Its agent, which still runs, stays", id="an abort"),
    pytest.param(Change.NONE, "5.1.15", Strategy.ROLLING_HANDOFF, "Replacing the agent's pod, 5.1.15, by one with other settings", id="other settings"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "before", "how", "words"), WAYS)
def test_a_rollout_under_way_says_what_is_done_and_why_so(
    change: Change, before: str | None, how: Strategy, words: str
) -> None:
    """What, by which way, because of what, and what comes next with its seconds."""
    record = RolloutRecord(
        change=change, from_version=before, to="5.1.15", strategy=how, why="both can", started_at=NOW
    )
    assert rollout_messages.under_way(record, spec_of()).startswith(words)


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"enabled": False}, "the old agent drains for 5 seconds and stops, and the new one starts when it is gone; messages are not accepted in between."),
        ({"holdSeconds": 30}, "drains for 5 seconds at most and stops, and the new one starts when it is gone; messages wait in the gate in between, for 30 seconds at most."),
    ],
)  # fmt: skip
def test_what_becomes_of_messages_in_between(gate: dict[str, Any], words: str) -> None:
    """Behind a gate they wait; and so says a refusal."""
    record = RolloutRecord(
        change=Change.UPGRADE,
        from_version="4.2.3",
        to="5.1.15",
        strategy=Strategy.RECREATE,
        why="it must",
        started_at=NOW,
    )
    assert rollout_messages.under_way(record, spec_of(gate=gate)).endswith(words)
    below = v("4.2.3")
    refused = messages.refusal(
        parsed("4.2.3", gate=gate),
        baseline="5.1.15",
        target=below,
        approval=judge(None, target=below, spent=()),
        serving=(),
        under_way=None,
    )
    assert words.partition("; ")[2].rstrip(".") in refused


def test_a_rollout_under_way_names_its_approval() -> None:
    """The text of the ticket stands in the sentence."""
    record = RolloutRecord(
        change=Change.DOWNGRADE,
        from_version="5.1.15",
        to="4.2.3",
        strategy=Strategy.RECREATE,
        started_at=NOW,
        approval="4.2.3 CHG-1042",
    )
    assert 'approved by "4.2.3 CHG-1042" by stopping first' in rollout_messages.under_way(record, spec_of("4.2.3"))


def test_a_downgrade_names_its_backup_or_says_that_there_is_none() -> None:
    """In the plan and in the Event of the approval."""
    record = RolloutRecord(
        change=Change.DOWNGRADE,
        from_version="5.1.15",
        to="4.2.3",
        strategy=Strategy.RECREATE,
        why="it must",
        started_at=NOW,
        approval="4.2.3 CHG-1",
        approved_by="kubectl-annotate",
    )
    kept = record.model_copy(update={"backup": "lab-backup-0123456789"})
    assert rollout_messages.under_way(kept, spec_of("4.2.3")).startswith(
        'Going from 5.1.15 to 4.2.3, approved by "4.2.3 CHG-1", with a backup in ControllerRevision lab-backup-0123456789, by stopping first, because'
    )
    assert (
        'The downgrade from 5.1.15 to 4.2.3 is approved by "4.2.3 CHG-1" (set with kubectl-annotate). What was active before is kept in '
        "ControllerRevision lab-backup-0123456789."
    ) == rollout_messages.approved(kept)
    assert rollout_messages.approved(record).endswith(
        "There is no backup: the cluster does not tell what was active before."
    )


def test_a_failure_says_what_serves_and_the_ways_out() -> None:
    """What was not done, the cause, what serves, and both ways on."""
    record = RolloutRecord(
        change=Change.UPGRADE, from_version="5.1.14", to="5.1.15", strategy=Strategy.ROLLING_HANDOFF, started_at=NOW
    )
    text = rollout_messages.failed(
        record, trouble="No image.", serving=["5.1.14"], deadline_seconds=300, held="", was_active=False
    )
    for words in (
        "from 5.1.14 to 5.1.15 was not done within 300 seconds. No image. 5.1.14 goes on serving",
        "Mend the cause",
        'set spec.version back to "5.1.14", which needs no approval',
    ):
        assert words in text
    active = rollout_messages.failed(
        record, trouble="No image.", serving=[], deadline_seconds=None, held="It is held.", was_active=True
    )
    assert active.endswith(
        'or set spec.version back to "5.1.14", which is judged as a change from 5.1.15: a downgrade needs an approval.'
    )
    installing = record.model_copy(update={"from_version": None})
    first = rollout_messages.failed(
        installing, trouble="No image.", serving=[], deadline_seconds=1, held="", was_active=False
    )
    assert "The installation of 5.1.15 was not done within 1 second. No image. No agent serves right now" in first
    assert "set spec.version back" not in first


def test_a_rollout_that_ended_well_says_how() -> None:
    """Installed, or taken over from whom and by which way."""
    record = RolloutRecord(
        change=Change.UPGRADE, from_version="4.2.3", to="5.1.15", strategy=Strategy.RECREATE, started_at=NOW
    )
    assert "5.1.15 serves; it took over from 4.2.3 by stopping first." == rollout_messages.completed(record)
    assert "5.1.15 is installed and serves." == rollout_messages.completed(
        record.model_copy(update={"from_version": None})
    )
