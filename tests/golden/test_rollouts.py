"""Whole rollouts as stories, one file for each kind of change, in `tests/golden/rollouts`. Read them first if you are new here.

`python -m pytest tests/golden --force-regen` writes them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.simulated_cluster.situations import HOLD
from tests.support.transcript import Story

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_regressions.file_regression import FileRegressionFixture

FOLDER: Final = Path(__file__).parent / "rollouts"
WINDOW: Final = [{"schedule": "5 12 * * *", "duration": "1h"}]


def handoff() -> Story:
    """Both versions can run side by side."""
    story = Story("A rolling handoff: both versions are 4.2.4 or newer", "5.1.14")
    story.tell("A user sets spec.version to 5.1.15.").edit(version="5.1.15").settle()
    return story


def recreate() -> Story:
    """The running version cannot run beside another."""
    story = Story("A recreate: the running version is older than 4.2.4", "4.2.3")
    story.tell("A user sets spec.version to 5.1.15.").edit(version="5.1.15").settle()
    return story


def refused() -> Story:
    """A downgrade that nobody approves, and the way back."""
    story = Story("A refused downgrade: nothing changes until somebody approves it", "5.1.15")
    story.tell("A user sets spec.version to 4.2.3.").edit(version="4.2.3").settle()
    story.tell("The pod's node is drained: the pod comes back with the version that ran.").evict().settle()
    story.tell("The user sets spec.version back to 5.1.15.").edit(version="5.1.15").settle()
    return story


def forced_downgrade() -> Story:
    """A downgrade that a cluster admin approves, and the upgrade after it."""
    story = Story("A forced downgrade: approved by a cluster admin", "5.1.15")
    story.tell("A user sets spec.version to 4.2.3.").edit(version="4.2.3").settle()
    story.tell("A cluster admin approves it: force-downgrade=4.2.3 CHG-1042.").annotate("4.2.3 CHG-1042").settle()
    story.tell("Later, a user sets spec.version to 5.1.15 again: an upgrade.").edit(version="5.1.15").settle()
    story.tell("And back to 4.2.3: the approval is used up.").edit(version="4.2.3").settle()
    return story


def failed_handoff() -> Story:
    """The new agent never gets ready."""
    story = Story("A failed handoff: rolled back, and latched", "5.1.14")
    story.never_ready.add("5.1.15")
    story.tell("A user sets spec.version to 5.1.15, which never opens its ports.").edit(version="5.1.15")
    story.wait_for_deadline()
    story.tell("The cause is fixed, and an admin asks for another try.").mend()
    story.mark("agents.medplum.com/retry", "now").settle()
    return story


def failed_recreate() -> Story:
    """The old agent has stopped and the new one never gets ready."""
    story = Story("A failed recreate: the previous version serves again", "4.2.3")
    story.never_ready.add("5.1.15")
    story.tell("A user sets spec.version to 5.1.15, which never opens its ports.").edit(version="5.1.15")
    story.wait_for_deadline()
    return story


def failed_on_hold() -> Story:
    """With onFailure Hold nothing is rolled back."""
    story = Story("A failed handoff with onFailure: Hold", "5.1.14", handoff=HOLD)
    story.never_ready.add("5.1.15")
    story.tell("A user sets spec.version to 5.1.15, which never opens its ports.").edit(version="5.1.15")
    story.wait_for_deadline()
    story.tell("The cause is fixed.").mend().settle()
    return story


def image_missing() -> Story:
    """A recreate whose image cannot be pulled stops nobody."""
    story = Story("A recreate whose image cannot be pulled: nobody is stopped", "4.2.3")
    story.never_pulled.add("5.1.15")
    story.tell("A user sets spec.version to 5.1.15, whose image does not exist.").edit(version="5.1.15").settle()
    story.tick(61)
    story.settle()
    return story


def node_drain() -> Story:
    """A node drain is a handoff."""
    story = Story("A node drain: the agent is handed to another node first", "5.1.15")
    story.tell("kubectl drain node-1 cordons the node.").cordon("node-1").settle()
    return story


def window() -> Story:
    """A change that costs downtime waits for its window."""
    story = Story("A maintenance window: a change that costs downtime waits", "4.2.3", maintenanceWindows=WINDOW)
    story.tell("A user sets spec.version to 5.1.15.").edit(version="5.1.15").settle()
    story.tell("The window opens at 12:05.").tick(300)
    story.settle()
    return story


def abort() -> Story:
    """A target that never became active is given up."""
    story = Story("An abort: back to the version that still serves, no downgrade", "5.1.14")
    story.never_ready.add("5.1.15")
    story.tell("A user sets spec.version to 5.1.15, which is slow to start.").edit(version="5.1.15")
    story.until(lambda: len(story.pods) > 1)
    story.tell("The user sets spec.version back to 5.1.14.").edit(version="5.1.14").settle()
    return story


def settings() -> Story:
    """Other settings of the same version."""
    story = Story("Other settings: the version stays, the pod is replaced", "5.1.15")
    story.tell("A user sets spec.logging.level to DEBUG.").edit(logging={"level": "DEBUG"}).settle()
    story.tell("A user sets spec.service.type to NodePort: no pod is replaced.").edit(service={"type": "NodePort"})
    story.settle()
    return story


STORIES: Final = (
    handoff, recreate, refused, forced_downgrade, failed_handoff, failed_recreate, failed_on_hold, image_missing,
    node_drain, window, abort, settings,
)  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_rollout_reads_as_it_did(story: Callable[[], Story], file_regression: FileRegressionFixture) -> None:
    """A change of what the operator does, or of when, is seen in the diff."""
    file_regression.check(story().text, fullpath=FOLDER / f"{story.__name__}.txt")


def test_every_file_is_a_story() -> None:
    """None is left behind."""
    assert {f"{story.__name__}.txt" for story in STORIES} == {path.name for path in FOLDER.iterdir()}
