"""Has the live pod template ever been the agent that served? One answer, from six facts.

`model.Observed.activation` collects the facts; everything that depends on the answer asks it. The first row that fits decides;
`-` means that the fact does not matter.

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

*Effectively active* raises the baseline only: a version that may have served is never left downwards without an approval.
"""

from dataclasses import dataclass
from enum import StrEnum


class Activation(StrEnum):
    """How far the live pod template has come."""

    NEVER = "Never"
    """No sign that it was ever available."""
    POSSIBLY = "Possibly"
    """It may have been available while the operator did not look: its pods were restarted since."""
    ACTIVE = "Active"
    """It became available; a pod of an earlier template still ends."""
    SETTLED = "Settled"
    """It became available and no earlier pod is left. Later trouble with its pod is no rollout of ours."""

    @property
    def settled(self) -> bool:
        """Whether the rollout of the live template is over."""
        return self is Activation.SETTLED

    @property
    def became_active(self) -> bool:
        """Whether the live template's version became active."""
        return self in {Activation.ACTIVE, Activation.SETTLED}

    def is_effectively_active(self, *, newer: bool, serves_alone: bool) -> bool:
        """Whether a change counts as a change *from* the live template although its rollout was not seen to end.

        Args:
            newer: its version is newer than the one that became active last, or there is no such version.
            serves_alone: its pods serve, and no pod of an earlier template does.
        """
        return not self.became_active and newer and (serves_alone or self is Activation.POSSIBLY)

    def is_rollback_target(self, *, newer: bool, serves_alone: bool) -> bool:
        """Whether the next change returns to the live template if it fails."""
        return (
            self.became_active
            or self.is_effectively_active(newer=newer, serves_alone=serves_alone)
            or (self is Activation.POSSIBLY and serves_alone)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The facts behind an activation.

    Attributes:
        completed: history has this rollout as completed.
        rolled_out: the Deployment controller reports the live template's pod as the only one, and available.
        earlier_pods: pods of earlier templates run or may run.
        named_available: the Deployment controller's condition names a ReplicaSet of the live template as available.
        restarted: somebody asked for new pods of the live template since its rollout began.
        ruled_out: an earlier pod shows that the live template cannot have become active yet.
    """

    completed: bool
    rolled_out: bool
    earlier_pods: bool
    named_available: bool
    restarted: bool
    ruled_out: bool


def activation(seen: Evidence) -> Activation:
    """The activation that the evidence shows."""
    if seen.completed or (seen.rolled_out and not seen.earlier_pods):
        return Activation.SETTLED
    if seen.rolled_out or seen.named_available:
        return Activation.ACTIVE
    if seen.restarted and not seen.ruled_out:
        return Activation.POSSIBLY
    return Activation.NEVER
