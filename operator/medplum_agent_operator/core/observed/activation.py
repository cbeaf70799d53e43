"""Whether the live pod template has ever been active: one answer, from six facts.

`model.Observed.activation` collects the facts, and everything that depends on the answer reads it. The first row that
matches decides; `-` means that the fact does not matter.

| completed | rolled out | earlier pods | named available | restarted | ruled out | activation |
|-----------|------------|--------------|-----------------|-----------|-----------|------------|
| yes       | -          | -            | -               | -         | -         | SETTLED    |
| no        | yes        | no           | -               | -         | -         | SETTLED    |
| no        | yes        | yes          | -               | -         | -         | ACTIVE     |
| no        | no         | -            | yes             | -         | -         | ACTIVE     |
| no        | no         | -            | no              | yes       | no        | POSSIBLY   |
| no        | no         | -            | no              | yes       | yes       | NEVER      |
| no        | no         | -            | no              | no        | -         | NEVER      |

What the answer means for the next change:

| activation | newer than the last active | serves alone | effectively active | rollback target |
|------------|----------------------------|--------------|--------------------|-----------------|
| SETTLED    | -                          | -            | no                 | yes             |
| ACTIVE     | -                          | -            | no                 | yes             |
| POSSIBLY   | yes                        | -            | yes                | yes             |
| POSSIBLY   | no                         | yes          | no                 | yes             |
| POSSIBLY   | no                         | no           | no                 | no              |
| NEVER      | yes                        | yes          | yes                | yes             |
| NEVER      | yes                        | no           | no                 | no              |
| NEVER      | no                         | -            | no                 | no              |

*Effectively active* only raises the baseline: going to an older version than one that may have served always counts as a
downgrade.
"""

from dataclasses import dataclass
from enum import StrEnum


class Activation(StrEnum):
    """How far the live pod template has come."""

    NEVER = "Never"
    """No sign that it was ever available."""
    POSSIBLY = "Possibly"
    """It may have been available unseen: its pods were restarted since its rollout began."""
    ACTIVE = "Active"
    """It became available, but its rollout is not complete or an earlier pod is left."""
    SETTLED = "Settled"
    """It became available and no earlier pod is left. If its pod fails later, that is not part of the rollout."""

    @property
    def settled(self) -> bool:
        """Whether the rollout of the live template is over."""
        return self is Activation.SETTLED

    @property
    def became_active(self) -> bool:
        """Whether the live template's version became active."""
        return self in {Activation.ACTIVE, Activation.SETTLED}

    def is_effectively_active(self, *, newer: bool, serves_alone: bool) -> bool:
        """Whether a change counts as a change *from* the live template, although the operator did not see its rollout end.

        Args:
            newer: its version is newer than the active version, or no version was ever active.
            serves_alone: its pods serve, and no pod of an earlier template serves.
        """
        return not self.became_active and newer and (serves_alone or self is Activation.POSSIBLY)

    def is_rollback_target(self, *, newer: bool, serves_alone: bool) -> bool:
        """Whether a rollback of the next change would return to the live template."""
        return (
            self.became_active
            or self.is_effectively_active(newer=newer, serves_alone=serves_alone)
            or (self is Activation.POSSIBLY and serves_alone)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The facts behind an activation.

    Attributes:
        completed: `status.history` lists this rollout as completed.
        rolled_out: the Deployment controller reports that the live template's pod is available and the only one.
        earlier_pods: pods of earlier templates run or may run.
        named_available: the Deployment controller's Progressing condition says that a ReplicaSet of the live template became
            available.
        restarted: `kubectl rollout restart` was used on the live template since its rollout began.
        ruled_out: a pod of an earlier template proves that the live template cannot have become active yet.
    """

    completed: bool
    rolled_out: bool
    earlier_pods: bool
    named_available: bool
    restarted: bool
    ruled_out: bool


def activation(evidence: Evidence) -> Activation:
    """The activation that follows from the evidence: the first table above."""
    if evidence.completed or (evidence.rolled_out and not evidence.earlier_pods):
        return Activation.SETTLED
    if evidence.rolled_out or evidence.named_available:
        return Activation.ACTIVE
    if evidence.restarted and not evidence.ruled_out:
        return Activation.POSSIBLY
    return Activation.NEVER
