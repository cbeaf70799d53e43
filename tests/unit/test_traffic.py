"""What of the gates' reports gets into `status`, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api.gate import GateSpec
from medplum_agent_operator.api.reasons import ConditionType, Reason
from medplum_agent_operator.api.status import Condition, ConditionStatus, GateFigures, MedplumAgentStatus, parse_status
from medplum_agent_operator.core.objects.children import CHILDREN, kind_of, name_of
from medplum_agent_operator.core.observed.deployment import LiveDeployment
from medplum_agent_operator.core.observed.gate_reports import Channel, Takeover, Traffic
from medplum_agent_operator.core.observed.revision import Memory
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.report.traffic import channels
from medplum_agent_operator.core.status import project
from tests.support.builders import NOW, REPOSITORY, agent, observed, stamp
from tests.support.simulated_cluster import installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medplum_agent_operator.core.observed.model import Observed
    from medplum_agent_operator.core.plan import Plan

CONFIG = Config(image_repository=REPOSITORY, gate_image="registry.example.org/operator:1")
EARLIER = NOW - timedelta(hours=1)
MANY = tuple(f"c{n}" for n in range(32))
INSTALLED = installed("5.1.15", gate={"enabled": True}).observe()
(POD,) = (pod.name for pod in INSTALLED.current_pods)
STARTED = INSTALLED.deployment.record.started_at.isoformat()  # type: ignore[union-attr] # it was just installed
OWNER = {"kind": "MedplumAgent", "name": INSTALLED.agent.name, "uid": INSTALLED.agent.uid, "controller": True}
SERVES = {
    "GateDeployment": {
        "metadata": {"name": "lab-gate", "resourceVersion": "1", "ownerReferences": [OWNER]},
        "status": {"availableReplicas": 2},
    }
}


def seen(
    traffic: Traffic | None,
    *,
    enabled: bool = True,
    status: Mapping[str, Any] | None = None,
    children: Mapping[str, Any] | None = None,
    converged: bool = False,
) -> Observed:
    """An agent that serves, and what its gates tell. `converged`: with every object as the operator renders it."""
    spec = INSTALLED.agent.spec.model_copy(update={"gate": GateSpec(enabled=enabled)})
    own = replace(INSTALLED.agent, spec=spec, status=parse_status(status or {}))
    found = replace(
        INSTALLED,
        agent=own,
        children={**INSTALLED.children, **(SERVES if children is None else children)},
        traffic=traffic,
    )
    return with_what_it_applies(found) if converged else found


def with_what_it_applies(found: Observed) -> Observed:
    """The same after the writes of a pass."""
    children, live, revisions = dict(found.children), found.deployment, []
    assert live is not None
    for action in make_plan(found, config=CONFIG, now=NOW).actions:
        if action.kind == "ControllerRevision":
            revisions.append(action.body)
            continue
        if (action.kind, action.name) == ("Deployment", "lab"):
            live = LiveDeployment({**live.raw, **action.body})
            continue
        part = next(each for each in CHILDREN if (action.kind, action.name) == (kind_of(each), name_of(each, "lab")))
        about = {**action.body["metadata"], "resourceVersion": "1"}
        children[part] = {**children.get(part, {}), **action.body, "metadata": about}
    raw = agent("5.1.15")
    memory = Memory.of(raw, found.agent.status, deployment=live.raw, revisions=revisions)
    return replace(found, children=children, deployment=live).with_memory(memory)


def told(traffic: Traffic | None, **more: Any) -> MedplumAgentStatus:
    """The status that follows."""
    found = seen(traffic, **more)
    return project(found, plan(traffic, **more), now=NOW)


def plan(traffic: Traffic | None, **more: Any) -> Plan:
    """The plan that follows."""
    return make_plan(seen(traffic, **more), config=CONFIG, now=NOW)


def condition(status: MedplumAgentStatus) -> tuple[str, str] | None:
    """What `Forwarding` says: status and reason."""
    found = next((each for each in status.conditions if each.type == ConditionType.FORWARDING), None)
    return None if found is None else (str(found.status), found.reason)


def one(**fields: Any) -> Traffic:
    """One gate that tells of the channel `adt`."""
    return Traffic(1, {"adt": Channel("adt", **fields)})


FORWARDS = {
    "type": "Forwarding",
    "status": "True",
    "reason": "Forwarding",
    "message": "",
    "lastTransitionTime": stamp(EARLIER),
}


@pytest.mark.parametrize(
    ("traffic", "more", "expected"),
    [
        pytest.param(one(), {}, ("True", "Forwarding"), id="all is well"),
        pytest.param(one(silent_since=EARLIER), {}, ("False", "AgentSilent"), id="messages and no answers"),
        pytest.param(Traffic(), {}, ("Unknown", "GatesUnreachable"), id="no gate answers the operator"),
        pytest.param(None, {"children": {}}, ("Unknown", "GateNotServing"), id="there is none"),
        pytest.param(None, {}, None, id="not asked yet"),
        pytest.param(
            None, {"status": {"conditions": [FORWARDS]}}, ("True", "Forwarding"), id="not asked since a start"
        ),
        pytest.param(
            one(silent_since=EARLIER),
            {"enabled": False, "status": {"conditions": [FORWARDS]}},
            None,
            id="no gate is wanted any more",
        ),
        pytest.param(
            Traffic(1, {"old": Channel("old", silent_since=EARLIER)}),
            {},
            ("True", "Forwarding"),
            id="a channel that is no more",
        ),
    ],
)
def test_the_condition(traffic: Traffic | None, more: dict[str, Any], expected: tuple[str, str] | None) -> None:
    """`Forwarding`: it stays as it is where nothing is known anew."""
    assert expected == condition(told(traffic, **more))


def test_while_no_agent_serves_nothing_is_known_of_its_answers() -> None:
    """Gates hold what comes, and `Available` tells of it."""
    found = replace(seen(one()), pods=())
    status = project(found, make_plan(found, config=CONFIG, now=NOW), now=NOW)
    assert ("Unknown", "NotServing") == condition(status)


def test_a_silent_agent_is_a_warning_that_says_what_to_do() -> None:
    """In `status.plan` and as an Event; the agent is left alone."""
    made = plan(one(silent_since=EARLIER))
    (found,) = [finding for finding in made.findings if finding.reason is Reason.AGENT_SILENT]
    assert "No answer on channel adt (since 2026-09-01T11:00:00Z)." in found.message.cause
    assert "kubectl -n clinic rollout restart deployment/lab" == found.message.command
    assert replace(found.message, rollout="5.1.15 is active; no changes are pending.") == made.message
    assert str(made.message) == made.text
    assert [action.kind for action in plan(one()).actions] == [action.kind for action in made.actions]


def test_that_devices_are_led_to_a_gate_is_no_drift() -> None:
    """The gate takes connections now; nobody has changed anything."""
    made = plan(one(), status={"observedGeneration": INSTALLED.agent.generation})
    assert any(each.kind == "Service" and each.difference.startswith("spec.selector") for each in made.actions)
    assert "Service (spec.selector" not in " ".join(str(finding.message) for finding in made.findings)


def test_channels_are_told_and_then_left_alone_for_five_minutes() -> None:
    """A message more is no write; a channel that is no more is."""
    first = told(one(devices=3, last_message_at=EARLIER)).channels
    assert [("adt", 3, EARLIER, NOW)] == [
        (each.name, each.connected_devices, each.last_message_at, each.observed_at) for each in first
    ]
    status = {"channels": [each.model_dump(by_alias=True, mode="json") for each in first]}

    def after(minutes: float, traffic: Traffic | None) -> Any:
        later = NOW + timedelta(minutes=minutes)
        found = seen(traffic, status=status)
        return project(found, make_plan(found, config=CONFIG, now=later), now=later).channels

    busy = one(devices=9, last_message_at=NOW)
    assert first == after(4.9, busy)
    assert [(9, NOW)] == [(each.connected_devices, each.last_message_at) for each in after(5, busy)]
    assert first == after(60, one(devices=3, last_message_at=EARLIER)), "the same again is no write"
    assert first == after(60, one(devices=3)), "a gate that was started anew has forgotten"
    assert first == after(60, None)
    assert first == after(60, Traffic())


def test_without_a_gate_there_are_no_channels() -> None:
    """Nobody would keep them true."""
    before = {"channels": [{"name": "adt", "connectedDevices": 3}]}
    assert () == told(None, enabled=False, status=before).channels


def entry(**fields: Any) -> dict[str, Any]:
    """A change that was completed a minute ago."""
    return {
        "from": "5.1.14",
        "to": "5.1.15",
        "outcome": "Completed",
        "startedAt": STARTED,
        "completedAt": stamp(NOW - timedelta(minutes=1)),
        "gapSeconds": 0.4,
        **fields,
    }


TAKEN_OVER = Traffic(2, {}, {POD: Takeover(moved=4, held=2, longest_hold_seconds=2.345, repeated=1)})


def history(traffic: Traffic | None, *entries: dict[str, Any], **more: Any) -> tuple[GateFigures | None, float | None]:
    """Of the latest entry: what gates told, and the gap."""
    latest = told(traffic, status={"history": list(entries)}, **more).history[0]
    return latest.gate, latest.gap_seconds


def test_a_change_has_the_figures_of_its_devices() -> None:
    """The gap is the longest that a message waited."""
    figures = GateFigures(connections_moved=4, messages_held=2, messages_repeated=1)
    assert (figures, 2.35) == history(TAKEN_OVER, entry(), entry(to="5.1.14", startedAt=None))


def test_where_no_message_waited_the_gap_stays_the_agent_s() -> None:
    """Nobody has measured it better."""
    idle = Traffic(1, {}, {POD: Takeover(moved=4), "another": Takeover(held=7, longest_hold_seconds=9)})
    assert (GateFigures(connections_moved=4), 0.4) == history(idle, entry())
    assert (GateFigures(), 0.4) == history(Traffic(1), entry())


@pytest.mark.parametrize(
    ("traffic", "latest", "more"),
    [
        pytest.param(TAKEN_OVER, entry(completedAt=stamp(NOW - timedelta(seconds=14))), {}, id="too soon"),
        pytest.param(TAKEN_OVER, entry(completedAt=stamp(NOW - timedelta(minutes=11))), {}, id="too late"),
        pytest.param(TAKEN_OVER, entry(outcome="Failed"), {}, id="not completed"),
        pytest.param(TAKEN_OVER, {**entry(), "from": None}, {}, id="an installation"),
        pytest.param(TAKEN_OVER, entry(), {"enabled": False}, id="no gate"),
        pytest.param(Traffic(), entry(), {}, id="no gate could be asked"),
        pytest.param(None, entry(), {}, id="not asked"),
    ],
)
def test_figures_that_would_not_be_true_are_not_told(
    traffic: Traffic | None, latest: dict[str, Any], more: dict[str, Any]
) -> None:
    """They are absent then."""
    assert None is history(traffic, latest, **more)[0]


def test_figures_are_taken_once() -> None:
    """What gates tell later is of other things too."""
    known = entry(gate={"connectionsMoved": 1, "messagesHeld": 0, "messagesRepeated": 0})
    assert (GateFigures(connections_moved=1), 0.4) == history(TAKEN_OVER, known)


SILENT = one(silent_since=EARLIER)


@pytest.mark.parametrize("before", [one(), SILENT, Traffic()], ids=["all is well", "a silent agent", "no gate answers"])
def test_a_restarted_operator_writes_nothing_before_and_after_it_asked_the_gates(before: Traffic) -> None:
    """It knows nothing newer than status, which keeps what gates told the last operator, in the same order."""

    def written(status: MedplumAgentStatus) -> dict[str, Any]:
        return status.model_dump(by_alias=True, exclude_none=True, mode="json")

    converged = written(told(before, status=written(told(before)), converged=True))
    for traffic in (None, before):
        waits = plan(traffic, status=converged, converged=True).defer_reporting
        assert waits or converged == written(told(traffic, status=converged, converged=True)), traffic
        assert not waits or traffic is None


def test_only_silence_that_was_told_is_waited_for() -> None:
    """Nothing else of a plan depends on the gates, so a new plan is told at once."""
    for status in ({}, {"conditions": [FORWARDS]}):
        assert not plan(None, status=status, converged=True).defer_reporting
    silent = {**FORWARDS, "status": "False", "reason": "AgentSilent"}
    assert not plan(None, status={"conditions": [silent]}, converged=True, children={}).defer_reporting
    assert not plan(None, status={"conditions": [silent]}, converged=True, enabled=False).defer_reporting
    assert not plan(None, status={"conditions": [silent]}).defer_reporting, "there is something to write"


def test_conditions_stay_in_their_order() -> None:
    """Whichever of them a pass says something about; foreign ones too."""
    foreign = {**FORWARDS, "type": "Foreign"}
    first = told(one(), status={"conditions": [foreign]})
    order = [each.type for each in first.conditions]
    assert ("Foreign", "Forwarding") == (order[0], order[-1])
    for traffic in (None, Traffic(), SILENT):
        status = {"conditions": [each.model_dump(by_alias=True, mode="json") for each in first.conditions]}
        assert order == [each.type for each in told(traffic, status=status).conditions]


def test_what_is_said_where_all_is_well() -> None:
    """A whole sentence."""
    assert "No channel waits for an agent that does not answer." in {each.message for each in told(one()).conditions}


def test_a_transition_is_dated() -> None:
    """As with every other condition."""
    status = told(one(silent_since=EARLIER), status={"conditions": [FORWARDS]})
    found: Condition = next(each for each in status.conditions if each.type == ConditionType.FORWARDING)
    assert (ConditionStatus.FALSE, NOW) == (found.status, found.last_transition_time)


def test_many_channels_are_one_write_in_five_minutes() -> None:
    """Each has a message now and then, at times of its own: none of them has a clock of its own."""
    status: dict[str, Any] = {"channels": []}
    writes = 0
    for minute in range(60):
        now = NOW + timedelta(minutes=minute)
        told = {name: Channel(name, 1, now - timedelta(minutes=minute % (5 + n))) for n, name in enumerate(MANY)}
        raw = agent(
            "5.1.15",
            channels=[{"name": name, "port": 3000 + n} for n, name in enumerate(MANY)],
            gate={"enabled": True},
            status=status,
        )
        found = replace(observed(raw), traffic=Traffic(1, told))
        after = [one.model_dump(by_alias=True, mode="json") for one in channels(found, now=now)]
        writes += after != status["channels"]
        status = {"channels": after}
    assert 1 < writes <= 12
