"""Kubernetes Events: published once, and again only when their content changes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.objects.events import render_event
from medplum_agent_operator.core.observed.findings import Finding, Severity
from tests.support.builders import NOW, Raw, agent

FINDING = Finding(Reason.HANDING_OFF, Severity.NORMAL, "Going from 5.1.14 to 5.1.15.")


def event(raw: Raw | None = None, finding: Finding = FINDING, *, later: int = 0, instance: str = "pod-a") -> Raw:
    """The Event for a finding."""
    return render_event(raw or agent(), finding, now=NOW + timedelta(seconds=later), instance=instance)


def test_an_event_has_the_finding_and_its_object() -> None:
    """Type, reason and message of the finding, about this object, from the operator."""
    found = event()
    assert ("Normal", "HandingOff", "Going from 5.1.14 to 5.1.15.") == (
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


def test_the_same_content_has_the_same_name() -> None:
    """Later, or from another instance after a restart: the API server answers "exists"."""
    assert event()["metadata"]["name"] == event(later=60, instance="pod-b")["metadata"]["name"]
    assert event()["metadata"]["name"].startswith("lab.")


@pytest.mark.parametrize(
    ("raw", "finding"),
    [
        pytest.param(agent(generation=2), FINDING, id="another generation of the spec"),
        pytest.param(agent(), Finding(Reason.HANDING_OFF, Severity.NORMAL, "Other."), id="other words"),
        pytest.param(agent(), Finding(Reason.RECREATING, Severity.NORMAL, FINDING.message), id="another reason"),
        pytest.param(
            {**agent(), "metadata": {**agent()["metadata"], "uid": "agent-2"}},
            FINDING,
            id="a new object of the same name",
        ),
    ],
)
def test_new_content_has_another_name(raw: Raw, finding: Finding) -> None:
    """It is published although a similar Event exists."""
    assert event()["metadata"]["name"] != event(raw, finding)["metadata"]["name"]
