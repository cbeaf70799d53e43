"""What a rollout waits for before it begins: a maintenance window, status, the image. Called by `plan`. Pure."""

from collections.abc import Callable
from typing import Final

from medplum_agent_operator.core.objects.agent_pod import image_of
from medplum_agent_operator.core.policy import downtime, prepull
from medplum_agent_operator.core.policy.verdict import Refused
from medplum_agent_operator.core.report import progress
from medplum_agent_operator.core.rollout import actions, records, rollback, upkeep
from medplum_agent_operator.core.rollout.desired import Desired
from medplum_agent_operator.core.rollout.steps import Pass, Step


def wait_for_window(this: Pass, wanted: Desired) -> Refused | None:
    """A change that stops first waits for a maintenance window."""
    if this.allowed is None or not wanted.choice.mechanics.stops_first:
        return None
    return downtime.outside_windows(this.observed, this.allowed, wanted.template.body, wanted.choice, now=this.now)


def wait_for_status(this: Pass, wanted: Desired) -> Step | None:
    """A rollout waits until status has the previous one, whose record it replaces."""
    return None if this.observed.rollout_in_status else upkeep.report_first(this, wanted.spec)


def wait_for_image(this: Pass, wanted: Desired) -> Step | None:
    """A change that stops first waits until the new image and the Secret are on the node."""
    if not wanted.choice.mechanics.stops_first:
        return None
    observed, spec = this.observed, wanted.spec
    fetch = prepull.needed_fetch(observed, spec, image=image_of(wanted.template.body))
    if fetch is None:
        return None
    record = records.begin(observed, this.verdict, spec, wanted.choice, moved=wanted.moved, now=this.now)
    state = progress.fetching(observed, record, spec, fetch, now=this.now)
    failed = rollback.latch(this, spec, state, record)
    return failed or Step(state, record, actions.while_fetching(observed, fetch, this.config))


BEFORE_A_ROLLOUT: Final[tuple[Callable[[Pass, Desired], Refused | Step | None], ...]] = (
    wait_for_window,
    wait_for_status,
    wait_for_image,
)
"""What a rollout waits for, in this order. A refusal leaves the applied spec in force; a step replaces the rollout in this pass."""
