"""When the old agent could serve for the last time, and the new one for the first: what gap and overlap are made of.

Called by `status`; pure. An agent serves while its pod is ready and its container has not ended, on its way out or not:
kube-proxy sends new connections to a terminating pod that is ready as long as there is no other.

Kubernetes' own times have whole seconds, so a moment is made of two things: the second that Kubernetes tells, and the
operator's clock in the pass that saw it first, put into that second. Example, a recreate that the operator watches:

    12:00:05        finishedAt of the old agent's container     seen at 12:00:05.31  ->  the old one ended at 12:00:05.31
    12:00:07        the new pod's Ready, lastTransitionTime     seen at 12:00:07.84  ->  the new one served from 12:00:07.84
                                                                                         gap 2.53 s, overlap 0

How far it may be off: by what the news needs from the kubelet to the operator, some hundredths of a second each. Had the
operator been away until 12:01, both moments would be put to the end of their seconds, 12:00:06 and 12:00:08: gap 2 s, each
end off by one second at the most. The same holds where the clocks of node and operator differ.

A handoff's gap is 0 where the new one was ready before the old one ended. Its overlap is counted from the beginning of the
second in which the new one became ready: up to a second too long, never too short. (To note that moment, status would have
to be written once more in each handoff.)

Where nobody saw the old agent end, because its pod was removed by force or was gone before the operator came back: in a
recreate its end is the moment in which the new pod was made, as the Deployment controller makes it when the old one has
gone; in a handoff nothing is told.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api.status import Rollout, Strategy
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord

_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of a takeover so far.

    Attributes:
        old_ended_at: the last moment in which the old agent could serve; None while it can, or where that is not known.
        new_ready_at: the first moment in which the new one could, where that was after the old one's end.
    """

    old_ended_at: datetime | None = None
    new_ready_at: datetime | None = None


def moment(second: datetime, *, seen_at: datetime) -> datetime:
    """When it was, of something that Kubernetes dates to a second and that was first seen at a moment of our clock."""
    return min(max(seen_at, second), second + _SECOND)


def notice(known: Moments, record: RolloutRecord, observed: Observed, *, begins: bool, now: datetime) -> Moments:
    """What this pass knows of the takeover, given what passes before it have noted."""
    if record.from_version is None:
        return Moments()
    if begins:  # what runs is all of the old template still; where none of it serves the gap counts from here
        return Moments() if observed.pods_with_open_ports else Moments(record.started_at)
    if any(pod.ports_open for pod in observed.earlier_pods):
        return Moments()
    old_ended_at = known.old_ended_at or _end_of_the_old(record, observed, now=now)
    ready_since = _ready_since(record, observed)
    if known.old_ended_at is None and record.strategy is not Strategy.RECREATE and ready_since is not None:
        # The new one was ready first: its second will do, and the old one's end is told when all of its pod has ended.
        return Moments(old_ended_at) if observed.activation.settled else Moments()
    if known.new_ready_at is not None or ready_since is None or old_ended_at is None:
        return Moments(old_ended_at, known.new_ready_at)
    return Moments(old_ended_at, moment(ready_since, seen_at=now))


def figures(rollout: Rollout, record: RolloutRecord, observed: Observed) -> tuple[float | None, float | None]:
    """Gap and overlap of a rollout that is done, in seconds; None where they cannot be told."""
    ready = [pod.ready_since for pod in observed.current_pods if pod.ready_since is not None]
    if ready and min(ready) < record.started_at.replace(microsecond=0):
        return 0.0, None  # the pod that served before goes on serving: a target was given up for it
    new, old = rollout.new_ready_at or _ready_since(record, observed), rollout.old_ended_at
    if new is None or old is None:
        return None, None
    return _seconds(new - old), _seconds(old - new)


def _end_of_the_old(record: RolloutRecord, observed: Observed, *, now: datetime) -> datetime | None:
    began = record.started_at.replace(microsecond=0)
    # Pods that had ended before the rollout began tell nothing of it; one that did not serve any more ends with its beginning.
    old = [pod for pod in observed.pods if not observed.is_current(pod) and not _ended_before(pod, began)]
    ends = [moment(pod.ports_closed_since, seen_at=now) for pod in old if pod.ports_closed_since is not None]
    if not ends and record.strategy is Strategy.RECREATE:
        ends = [moment(pod.created, seen_at=now) for pod in observed.current_pods if pod.created is not None]
    return max(record.started_at, *ends) if ends else None


def _ended_before(pod: Pod, began: datetime) -> bool:
    return pod.finished and pod.ports_closed_since is not None and pod.ports_closed_since < began


def _ready_since(record: RolloutRecord, observed: Observed) -> datetime | None:
    """The second since which the new agent is ready; None while it is not."""
    found = [pod.ready_since for pod in observed.current_pods if pod.ports_open and pod.ready_since is not None]
    since = min(found, default=None)
    return since if since is not None and since >= record.started_at.replace(microsecond=0) else None


def _seconds(time: timedelta) -> float:
    return max(0.0, round(time.total_seconds(), 2))
