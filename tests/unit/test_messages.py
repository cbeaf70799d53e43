"""The messages that an on-call person reads at night."""

from __future__ import annotations

from typing import Final

import pytest

from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.policy import downgrade_messages
from medplum_agent_operator.core.policy.approval import judge
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.report import failure_messages, rollout_messages
from tests.support.builders import NOW, SERVER, parsed, spec_of, v

SERVED: Final = Availability(("5.1.14",), earlier_serves=True)


def refusal(
    target: str = "4.2.3",
    annotation: str | None = None,
    *,
    serving: tuple[str, ...] = ("5.1.15",),
    under_way: str | None = None,
    hold_seconds: int = 0,
) -> Message:
    """The refusal of a downgrade from 5.1.15."""
    now = downgrade_messages.Situation(
        Availability(tuple(sorted(set(serving))), hold_seconds), under_way, stops_first=not v(target).hands_over
    )
    approval = judge(annotation, target=v(target), spent=())
    return downgrade_messages.refusal(parsed(target), baseline="5.1.15", target=v(target), approval=approval, now=now)


BELOW = [
    pytest.param("Downgrade from 5.1.15 to 4.2.3 is refused", id="what was asked, from and to"),
    pytest.param("until a cluster admin approves it.", id="why it is refused"),
    pytest.param("5.1.15 keeps serving devices.", id="the version that serves"),
    pytest.param("Impact: None so far;", id="nothing was changed"),
    pytest.param("Other edits of the spec wait too, except spec.maintenanceWindows.", id="other edits wait"),
    pytest.param("agents older than 4.2.4 cannot run beside another", id="the threshold"),
    pytest.param("both would compete for identity, PID file and ports.", id="what two agents would do"),
    pytest.param("1. 5.1.15 stops before 4.2.3 starts; devices cannot deliver messages until 4.2.3 has opened its ports.", id="the gap, and its end"),
    pytest.param("2. Messages that 5.1.15 has acknowledged and not forwarded yet can be lost with its pod", id="what can be lost"),
    pytest.param(f"GET Agent/{SERVER['agentId']}/$stats shows the number; wait for 0.", id="how to see it"),
    pytest.param("3. Every later upgrade from 4.2.3 has such an outage too", id="the way back costs downtime too"),
    pytest.param("Consider a newer version that fixes your problem, or a change of configuration in Medplum.", id="before: alternatives"),
    pytest.param("Run the command in an off-peak hour, or set spec.maintenanceWindows first: the downgrade then waits for a window.", id="before: when"),
    pytest.param("Save the JSON of the Agent and its Endpoints from Medplum to a file", id="before: backup"),
    pytest.param("the operator backs up only the MedplumAgent and its pod template.", id="before: the operator's own backup"),
    pytest.param("Afterwards, check on every channel that messages arrive.", id="after: check"),
    pytest.param(
        'Command: kubectl annotate medplumagent lab -n clinic --overwrite agents.medplum.com/force-downgrade="4.2.3"',
        id="the exact command",
    ),
    pytest.param('A change ticket may follow the version: "4.2.3 CHG-1042".', id="a ticket may follow"),
    pytest.param('To stay, set spec.version back to "5.1.15".', id="the way to stay"),
]  # fmt: skip


@pytest.mark.parametrize("words", BELOW)
def test_the_refusal_below_4_2_4_says(words: str) -> None:
    """Each of these is part of it."""
    assert words in str(refusal())


def test_the_refusal_from_4_2_4_on_promises_no_downtime_and_threatens_none() -> None:
    """Two such agents hand over; at risk is what the older one may not understand."""
    text = str(refusal("5.1.14"))
    assert "No outage expected: 5.1.14 starts before 5.1.15 stops." in text
    assert "The server, the channels or the bots may need 5.1.15." in text
    assert "Messages that 5.1.15 has acknowledged and not forwarded yet can be lost with its pod" in text
    assert "the downgrade then starts at once." in text
    for words in ("stops before", "such an outage", "devices cannot deliver"):
        assert words not in text
    assert 'agents.medplum.com/force-downgrade="5.1.14"' in text


def test_the_command_that_is_shown_would_approve() -> None:
    """Copied as it stands, the value approves exactly this downgrade."""
    value = downgrade_messages.annotate_command(parsed("4.2.3"), v("4.2.3")).partition('="')[2].rstrip('"')
    assert judge(value, target=v("4.2.3"), spent=()).granted


def test_without_a_serving_agent_the_refusal_does_not_say_that_one_serves() -> None:
    """It says that devices are without service."""
    impact = refusal(serving=()).impact
    assert "No agent serves; devices cannot deliver messages." in impact
    assert "keeps serving" not in impact


def test_the_refusal_names_the_rollout_that_continues() -> None:
    """The serving version may not be the last active one, and a rollout that is under way is not stopped."""
    for expected, found in (
        ("The rollout of 4.2.3 continues, and the refusal does not delay it. 4.2.3 keeps serving devices.", refusal("5.0.3", serving=("4.2.3", "4.2.3"), under_way="4.2.3")),
        ("The rollout of 5.1.16 continues, and the refusal does not delay it. 5.1.15 and 5.1.16 keep serving devices.", refusal(serving=("5.1.16", "5.1.15"), under_way="5.1.16")),
        ("The rollout of 4.2.3 continues, and the refusal does not delay it. No agent serves; devices cannot deliver messages until 4.2.3 has opened its ports.", refusal("5.0.3", serving=(), under_way="4.2.3")),
    ):  # fmt: skip
        assert expected == found.impact
        assert "To keep the change to " in found.fix


def test_a_wrong_annotation_is_corrected_in_the_refusal() -> None:
    """Somebody who set "true" reads the right value instead."""
    assert (
        "Annotation agents.medplum.com/force-downgrade says 'true', which approves nothing. It must begin with the target version, 4.2.3."
        == refusal(annotation="true").cause
    )


BOTH: Final = "Rolling handoff, because both can."
BESIDE: Final = "No outage expected; the new agent starts beside the old one."
WAYS = [
    pytest.param(Change.INSTALL, None, Strategy.ROLLING_HANDOFF, "Installing 5.1.15.", "", "No agent serves yet;", id="the first install"),
    pytest.param(Change.INSTALL, "5.1.15", Strategy.ROLLING_HANDOFF, "Installing 5.1.15 again in a rolling handoff.", BOTH, BESIDE, id="a lost Deployment"),
    pytest.param(Change.UPGRADE, "5.1.14", Strategy.ROLLING_HANDOFF, "Upgrading from 5.1.14 to 5.1.15 in a rolling handoff.", BOTH, f"{BESIDE} Once every channel port has been open for 5 seconds, the old one gets no new connections, drains for 5 seconds and stops; its devices reconnect.", id="a handoff"),
    pytest.param(Change.DOWNGRADE, "5.1.16", Strategy.RECREATE, "Downgrading from 5.1.16 to 5.1.15 by recreate.", "Recreate, because both can.", "5.1.16 drains for 5 seconds. Then it stops before 5.1.15 starts;", id="a recreate"),
    pytest.param(Change.ABORT, "5.1.15", Strategy.ROLLING_HANDOFF, "The change was withdrawn; returning to 5.1.15 in a rolling handoff.", BOTH, "No outage expected; 5.1.15 keeps serving devices. The agent of the withdrawn change drains for 5 seconds and stops;", id="an abort"),
    pytest.param(Change.NONE, "5.1.15", Strategy.ROLLING_HANDOFF, "Applying changed settings to 5.1.15 in a rolling handoff.", BOTH, BESIDE, id="other settings"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "before", "how", "summary", "rollout", "impact"), WAYS)
def test_a_rollout_under_way_says_what_it_does_and_why(
    change: Change, before: str | None, how: Strategy, summary: str, rollout: str, impact: str
) -> None:
    """The change and its strategy, why this strategy, and the next steps with their seconds."""
    record = RolloutRecord(
        change=change, from_version=before, to="5.1.15", strategy=how, why="both can", started_at=NOW
    )
    message = rollout_messages.under_way(record, spec_of(), SERVED)
    assert (summary, rollout) == (message.summary, message.rollout)
    assert message.impact.startswith(impact)


def test_a_first_installation_says_when_the_agent_counts_as_active() -> None:
    """A pod serves as soon as its ports are open; it counts as active after `minReadySeconds`."""
    record = RolloutRecord(
        change=Change.INSTALL, from_version=None, to="5.1.15", strategy=Strategy.ROLLING_HANDOFF, started_at=NOW
    )
    impact = rollout_messages.under_way(record, spec_of(), Availability()).impact
    assert "counts as active once every channel port has been open for 5 seconds." in impact


@pytest.mark.parametrize(
    ("serves", "impact"),
    [
        pytest.param(Availability(("4.2.3",), earlier_serves=True), "4.2.3 drains for 5 seconds. Then it stops before 5.1.15 starts; devices cannot deliver messages until 5.1.15 has opened its ports.", id="the old agent serves, without a gate"),
        pytest.param(Availability(("4.2.3",), 30, earlier_serves=True), "4.2.3 drains for up to 5 seconds. Then it stops before 5.1.15 starts; until 5.1.15 has opened its ports, the gate holds messages for up to 30 seconds; after that, devices must resend.", id="the old agent serves, behind a gate"),
        pytest.param(Availability(), "No agent serves; devices cannot deliver messages until 5.1.15 has opened its ports.", id="in between"),
        pytest.param(Availability(("5.1.15",)), "5.1.15 serves; it counts as active once every port has been open for 5 seconds.", id="the new agent serves"),
    ],
)  # fmt: skip
def test_a_recreate_says_who_serves_and_what_happens_to_messages(serves: Availability, impact: str) -> None:
    """Before, between and after."""
    record = RolloutRecord(
        change=Change.UPGRADE,
        from_version="4.2.3",
        to="5.1.15",
        strategy=Strategy.RECREATE,
        why="it must",
        started_at=NOW,
    )
    assert impact == rollout_messages.under_way(record, spec_of(), serves).impact


def test_a_refusal_says_what_a_gate_would_hold() -> None:
    """Only where a gate serves."""
    assert "the gate holds messages for up to 20 seconds" in refusal(hold_seconds=20).before_you_approve
    assert "gate" not in refusal().before_you_approve


def test_a_rollout_under_way_names_its_approval() -> None:
    """With the text of the annotation."""
    record = RolloutRecord(
        change=Change.DOWNGRADE,
        from_version="5.1.15",
        to="4.2.3",
        strategy=Strategy.RECREATE,
        started_at=NOW,
        approval="4.2.3 CHG-1042",
    )
    message = rollout_messages.under_way(record, spec_of("4.2.3"), SERVED)
    assert "Downgrading from 5.1.15 to 4.2.3 by recreate." == message.summary
    assert 'The downgrade is approved by "4.2.3 CHG-1042".' == message.rollout


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
    message = rollout_messages.under_way(kept, spec_of("4.2.3"), SERVED)
    assert "Downgrading from 5.1.15 to 4.2.3 by recreate." == message.summary
    assert (
        'Recreate, because it must. The downgrade is approved by "4.2.3 CHG-1". The backup is ControllerRevision lab-backup-0123456789.'
        == message.rollout
    )
    approved = 'The downgrade from 5.1.15 to 4.2.3 is approved by "4.2.3 CHG-1" (kubectl-annotate).'
    assert f"{approved} Backup: lab-backup-0123456789." == str(rollout_messages.approved(kept))
    assert f"{approved} There is no backup: the cluster has no previous state." == str(
        rollout_messages.approved(record)
    )


def test_a_failure_says_what_serves_and_the_ways_out() -> None:
    """The change that failed, the cause, the serving version, and both ways out."""
    record = RolloutRecord(
        change=Change.UPGRADE, from_version="5.1.14", to="5.1.15", strategy=Strategy.ROLLING_HANDOFF, started_at=NOW
    )
    trouble = Message("No image.", cause="Not found.", fix="Check the registry.", command="kubectl describe pod")
    late = failure_messages.failed(
        record,
        trouble=trouble,
        available=Availability(("5.1.14",)),
        deadline_seconds=300,
        not_rolled_back="",
        was_active=False,
    )
    assert (
        "The change from 5.1.14 to 5.1.15 did not complete within 300 seconds.\n"
        "Cause: No image. Not found.\n"
        "Impact: 5.1.14 keeps serving devices. No step below interrupts that.\n"
        "Fix: Check the registry. The rollout then resumes automatically; "
        'or set spec.version back to "5.1.14", which needs no approval.\n'
        "Command: kubectl describe pod"
    ) == str(late)
    active = failure_messages.failed(
        record,
        trouble=trouble,
        available=Availability(),
        deadline_seconds=None,
        not_rolled_back="It is not rolled back.",
        was_active=True,
    )
    assert "The change from 5.1.14 to 5.1.15 failed." == active.summary
    assert ("No image. Not found. It is not rolled back.", "No agent serves; devices cannot deliver messages.") == (
        active.cause,
        active.impact,
    )
    assert active.fix.endswith(
        'or set spec.version back to "5.1.14", which counts as a change from 5.1.15: a downgrade needs an approval.'
    )
    installing = record.model_copy(update={"from_version": None})
    first = failure_messages.failed(
        installing, trouble=trouble, available=Availability(), deadline_seconds=1, not_rolled_back="", was_active=False
    )
    assert "The installation of 5.1.15 did not complete within 1 second." == first.summary
    assert ("No image. Not found.", "No agent serves; devices cannot deliver messages.") == (first.cause, first.impact)
    assert "set spec.version back" not in str(first)


def test_a_rollout_that_completed_says_how() -> None:
    """Installed, or which version it replaced and by which strategy."""
    record = RolloutRecord(
        change=Change.UPGRADE, from_version="4.2.3", to="5.1.15", strategy=Strategy.RECREATE, started_at=NOW
    )
    assert "5.1.15 serves; it replaced 4.2.3 by recreate." == str(rollout_messages.completed(record))
    assert "5.1.15 is installed and serves." == str(
        rollout_messages.completed(record.model_copy(update={"from_version": None}))
    )
