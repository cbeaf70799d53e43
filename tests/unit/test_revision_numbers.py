"""The Deployment controller's revision in the rollout's record: which states of the Deployment change it."""

from __future__ import annotations

from typing import Any

import pytest

from medplum_agent_operator.core.observed.deployment import LiveDeployment
from medplum_agent_operator.core.observed.requests import REVISION, revision_of_a_template_that_cannot_be_active


def live(revision: int, *, generation: int, seen: int, strategy: str = "RollingUpdate") -> LiveDeployment:
    """A Deployment whose controller has reported the generation `seen`."""
    raw: dict[str, Any] = {
        "metadata": {"annotations": {REVISION: str(revision)}, "generation": generation},
        "spec": {"strategy": {"type": strategy}, "template": {"metadata": {}, "spec": {}}},
        "status": {"observedGeneration": seen},
    }
    return LiveDeployment(raw)


@pytest.mark.parametrize("strategy", ["RollingUpdate", "Recreate"])
@pytest.mark.parametrize("revision", [1, 2])
def test_a_generation_that_the_controller_has_not_reported_changes_nothing(strategy: str, revision: int) -> None:
    """The controller writes the revision first and the generation later: a record between them would be one write too many."""
    deployment = live(revision, generation=5, seen=4, strategy=strategy)
    assert 2 == revision_of_a_template_that_cannot_be_active(deployment, 2)


def test_a_reported_generation_is_believed() -> None:
    """In a handoff the revision is what somebody's edit made it; in a recreate it comes only after the old pods."""
    assert 3 == revision_of_a_template_that_cannot_be_active(live(3, generation=5, seen=5), 2)
    assert 2 == revision_of_a_template_that_cannot_be_active(live(1, generation=5, seen=5, strategy="Recreate"), 2)
