"""Whether somebody asked for new pods of the live template since its rollout began. Called by `model`; read by `activation`.

The Deployment controller's revision shows it, for every writer and every method: it grows by one with each other pod template. The
operator's own write accounts for one. `kubectl rollout restart`, a reloader, `kubectl set env`, a rewrite by an admission policy
during another client's write, and an edit that was reverted: each is one more.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-back-to-a-previous-revision
"""

from typing import Final

from medplum_agent_operator.api.annotations import RESTARTED_AT
from medplum_agent_operator.core.observed.deployment import LiveDeployment

REVISION: Final = "deployment.kubernetes.io/revision"
"""Set by the Deployment controller on the Deployment: the number of its newest ReplicaSet."""
_MAX_DIGITS: Final = 18
"""Digits of a revision; a longer number was not written by the Deployment controller."""


def restart_mark(deployment: LiveDeployment) -> str | None:
    """The mark that the last `kubectl rollout restart` left in the live template; None if it was never used."""
    return deployment.template_annotation(RESTARTED_AT) or None


def revision(deployment: LiveDeployment) -> int:
    """The Deployment controller's revision; 0 if it is missing or invalid."""
    number = str(deployment.annotations.get(REVISION, ""))
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= _MAX_DIGITS else 0


def highest_revision(deployment: LiveDeployment | None, *, writes: int = 0) -> int:
    """The highest revision that the Deployment can have once the controller has seen it, and this many more writes of its template."""
    if deployment is None:
        return writes
    status, metadata = deployment.raw.get("status") or {}, deployment.raw["metadata"]
    unseen = max(0, metadata.get("generation", 0) - status.get("observedGeneration", 0))
    return revision(deployment) + int(unseen) + writes


def revision_of_a_template_that_cannot_be_active(deployment: LiveDeployment, recorded: int) -> int | None:
    """The revision to record while pods of an earlier template prove that the live template has never been active.

    While the controller has not reported the live generation, nothing new is known: it writes the revision before it reports that. In a recreate
    the live template gets its revision only once the earlier pods have ended; until then the recorded one counts.
    """
    highest = highest_revision(deployment)
    if highest != revision(deployment):
        return recorded or None
    return (max(highest, recorded) if deployment.mechanics.stops_first else highest) or None


def asked_for_new_pods(deployment: LiveDeployment) -> bool:
    """Whether somebody asked for new pods of the live template since its rollout began."""
    record = deployment.record
    if record is None:
        return False
    if record.revision is not None and revision(deployment) > record.revision:
        return True
    return restart_mark(deployment) not in {None, record.restart_mark}
