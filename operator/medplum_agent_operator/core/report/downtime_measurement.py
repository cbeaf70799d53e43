"""When the old agent could serve last and the new agent first: the basis of gap and overlap.

Called by `history`; pure. An agent serves while its pod is ready and its container has not ended, terminating or not: kube-proxy
sends new connections to a ready terminating pod while no other pod is ready.

Kubernetes' times have whole seconds. So each moment has two sources: the second that Kubernetes reports, and the operator's clock
in the pass that saw it first, limited to that second. Example, a recreate that the operator watches:

    12:00:05        finishedAt of the old agent's container     seen at 12:00:05.31  ->  the old one ended at 12:00:05.31
    12:00:07        the new pod's Ready, lastTransitionTime     seen at 12:00:07.84  ->  the new one served from 12:00:07.84
                                                                                         gap 2.53 s, overlap 0

The error of each moment is the way from the kubelet to the operator, some hundredths of a second. If the operator is down until
12:01, both moments move to the end of their seconds, 12:00:06 and 12:00:08: gap 2 s, and each moment is off by one second at
most. The same is true if the clocks of node and operator differ.

A handoff's gap is 0 if the new agent was ready before the old one ended. Its overlap counts from the beginning of the second in
which the new agent became ready: up to a second too long, never too short. (To store that moment, each handoff would need one
more write of status.)

If the operator did not see the old agent end, because its pod was force-deleted or was gone before the operator returned: in a
recreate, the end is the creation of the new pod, because the Deployment controller creates it when the old one is gone; in a
handoff, nothing is reported.
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
class Measurement:
    """What is known so far of the change from the old agent to the new one.

    Attributes:
        old_ended_at: the last moment at which the old agent could serve; None while it can, or if that is unknown.
        new_ready_at: the first moment at which the new agent could serve, if that was after the old one's end.
    """

    old_ended_at: datetime | None = None
    new_ready_at: datetime | None = None


def within_second(second: datetime, *, seen_at: datetime) -> datetime:
    """The moment of an event: `seen_at` by the operator's clock, limited to the second that Kubernetes reports."""
    return min(max(seen_at, second), second + _SECOND)


def measure(
    known: Measurement, record: RolloutRecord, observed: Observed, *, begins: bool, now: datetime
) -> Measurement:
    """What this pass knows, given what earlier passes recorded."""
    if record.from_version is None:
        return Measurement()
    if begins:  # all pods are still of the old template; if none of them serves, the gap begins now
        return Measurement() if observed.pods_with_open_ports else Measurement(record.started_at)
    if any(pod.ports_open for pod in observed.earlier_pods):
        return Measurement()
    old_ended_at = known.old_ended_at or _old_ended_at(record, observed, now=now)
    ready_since = _ready_since(record, observed)
    if known.old_ended_at is None and record.strategy is not Strategy.RECREATE and ready_since is not None:
        # The new agent was ready first: its second is enough. The old one's end is reported when its whole pod has ended.
        return Measurement(old_ended_at) if observed.activation.settled else Measurement()
    if known.new_ready_at is not None or ready_since is None or old_ended_at is None:
        return Measurement(old_ended_at, known.new_ready_at)
    return Measurement(old_ended_at, within_second(ready_since, seen_at=now))


def gap_and_overlap(rollout: Rollout, record: RolloutRecord, observed: Observed) -> tuple[float | None, float | None]:
    """Gap and overlap of a completed rollout, in seconds; None if unknown."""
    ready = [pod.ready_since for pod in observed.current_pods if pod.ready_since is not None]
    if ready and min(ready) < record.started_at.replace(microsecond=0):
        return 0.0, None  # the rollout returned to a pod that served all the time
    new, old = rollout.new_ready_at or _ready_since(record, observed), rollout.old_ended_at
    if new is None or old is None:
        return None, None
    return _seconds(new - old), _seconds(old - new)


def _old_ended_at(record: RolloutRecord, observed: Observed, *, now: datetime) -> datetime | None:
    began = record.started_at.replace(microsecond=0)
    # Pods that had ended before the rollout began do not count. A pod that no longer served ends with the rollout's begin.
    old = [pod for pod in observed.pods if not observed.is_current(pod) and not _ended_before(pod, began)]
    ends = [within_second(pod.ports_closed_since, seen_at=now) for pod in old if pod.ports_closed_since is not None]
    if not ends and record.strategy is Strategy.RECREATE:
        ends = [within_second(pod.created, seen_at=now) for pod in observed.current_pods if pod.created is not None]
    return max(record.started_at, *ends) if ends else None


def _ended_before(pod: Pod, began: datetime) -> bool:
    return pod.finished and pod.ports_closed_since is not None and pod.ports_closed_since < began


def _ready_since(record: RolloutRecord, observed: Observed) -> datetime | None:
    """The second since which the new agent has been ready; None while it is not."""
    found = [pod.ready_since for pod in observed.current_pods if pod.ports_open and pod.ready_since is not None]
    since = min(found, default=None)
    return since if since is not None and since >= record.started_at.replace(microsecond=0) else None


def _seconds(time: timedelta) -> float:
    return max(0.0, round(time.total_seconds(), 2))
