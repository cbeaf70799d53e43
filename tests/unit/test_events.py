"""Kubernetes Events: created once, and again only for something new."""

from __future__ import annotations

from datetime import timedelta

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.objects.events import render_event
from medplum_agent_operator.core.observed.findings import Finding, Message, Severity
from tests.support.builders import NOW, Raw, agent

SUMMARY = "Changing from 5.1.14 to 5.1.15 in a rolling handoff."
FINDING = Finding(Reason.HANDING_OFF, Severity.NORMAL, Message(SUMMARY, cause="Both sides can.", fix="None needed."))


def event(raw: Raw | None = None, finding: Finding = FINDING, *, later: int = 0, instance: str = "pod-a") -> Raw:
    """The Event for a finding."""
    return render_event(raw or agent(), finding, now=NOW + timedelta(seconds=later), instance=instance)


def test_an_event_is_about_the_object_and_carries_the_summary() -> None:
    """Type and reason of the finding and the first line of its message, about this object, from the operator."""
    found = event()
    assert ("Normal", "HandingOff", SUMMARY) == (
        found["type"],
        found["reason"],
        found["message"],
    )
    assert {
        "apiVersion": "agents.medplum.com/v1alpha1",
        "kind": "MedplumAgent",
        "name": "lab",
        "namespace": "clinic",
        "uid": "agent-1",
    } == found["involvedObject"]
    assert ("clinic", "2026-09-01T12:00:00Z", 1) == (
        found["metadata"]["namespace"],
        found["firstTimestamp"],
        found["count"],
    )
    assert ("medplum-agent-operator", "pod-a") == (found["source"]["component"], found["reportingInstance"])


def test_the_same_summary_has_the_same_name() -> None:
    """Later, from another instance after a restart, or with another cause: the API server answers "exists"."""
    assert event()["metadata"]["name"] == event(later=60, instance="pod-b")["metadata"]["name"]
    other = Finding(FINDING.reason, FINDING.severity, Message(SUMMARY, cause="Another cause."))
    assert event()["metadata"]["name"] == event(finding=other)["metadata"]["name"]
    assert event()["metadata"]["name"].startswith("lab.")


@pytest.mark.parametrize(
    ("raw", "finding"),
    [
        pytest.param(agent(generation=2), FINDING, id="another generation of the spec"),
        pytest.param(agent(), Finding(Reason.HANDING_OFF, Severity.NORMAL, Message("Other.")), id="another summary"),
        pytest.param(agent(), Finding(Reason.RECREATING, Severity.NORMAL, FINDING.message), id="another reason"),
        pytest.param(
            {**agent(), "metadata": {**agent()["metadata"], "uid": "agent-2"}},
            FINDING,
            id="a new object of the same name",
        ),
    ],
)
def test_a_new_event_has_another_name(raw: Raw, finding: Finding) -> None:
    """It is created although a similar one exists."""
    assert event()["metadata"]["name"] != event(raw, finding)["metadata"]["name"]
