"""The sentences that tell of a rollout, from what it is about to do until it has ended or failed.

Called by `progress` and, for what both say, by `messages`, which has all other sentences. None of them decides anything.
"""

from collections.abc import Iterable
from typing import assert_never

from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.policy.messages import in_between, seconds


def under_way(record: RolloutRecord, spec: MedplumAgentSpec) -> str:
    """What a rollout that has begun is doing, and why in this way."""
    before, to = record.from_version, record.to
    settle = seconds(spec.handoff.min_ready_seconds)
    if before is None:
        return f"Installing {to}: the agent counts as active once every channel port has been open for {settle}."
    what = _what(record)
    if record.approval:
        what += f', approved by "{record.approval}"'
    if record.backup:
        what += f", with a backup in ControllerRevision {record.backup},"
    drain = seconds(spec.handoff.drain_seconds)
    if record.moved_off:
        return (
            f"Moving the agent, {to}, off node {record.moved_off}, which is cordoned, by a rolling handoff: the new agent starts on another node; once "
            f"every channel port has been open for {settle} the old one gets no new connections, drains for {drain} and stops. A drain of the node "
            "waits until then and goes on by itself."
        )
    if record.strategy is Strategy.ROLLING_HANDOFF and record.change in {Change.ABORT, Change.ROLLBACK}:
        return f"{what}. Its agent, which still runs, stays as it is unless other settings have changed too; the other one drains for {drain} and stops."
    if record.strategy is Strategy.ROLLING_HANDOFF:
        return (
            f"{what} by a rolling handoff, because {record.why}: the new agent starts beside the old one; once every channel port has been open for "
            f"{settle} the old one gets no new connections, drains for {drain} and stops."
        )
    return (
        f"{what} by stopping first, because {record.why}: the old agent drains for {drain} {'at most ' if spec.gated else ''}and stops, and the new one "
        f"starts when it is gone; {in_between(spec)}."
    )


def approved(record: RolloutRecord) -> str:
    """That a downgrade goes ahead, by what and whom it was approved, and where what was active before is kept."""
    by = f" (set with {record.approved_by})" if record.approved_by else ""
    kept = (
        f"What was active before is kept in ControllerRevision {record.backup}."
        if record.backup
        else "There is no backup: the cluster does not tell what was active before."
    )
    return f'The downgrade from {record.from_version} to {record.to} is approved by "{record.approval}"{by}. {kept}'


def _what(record: RolloutRecord) -> str:
    """What a rollout does, as the beginning of a sentence."""
    match record.change:
        case Change.ABORT:
            return f"Going back to {record.to}, which was active last, from a target that never became active"
        case Change.NONE:
            return f"Replacing the agent's pod, {record.to}, by one with other settings"
        case Change.INSTALL:
            return f"Installing {record.to} again"
        case Change.ROLLBACK:
            return f"{_why_back(record)} Going back to {record.to}, exactly as it was"
        case Change.UPGRADE | Change.DOWNGRADE:
            return f"Going from {record.from_version} to {record.to}"
        case _ as never:
            assert_never(never)


def _why_back(record: RolloutRecord) -> str:
    """What failed before a rollback."""
    failed = record.failed
    why = f": {failed.message}" if failed is not None else "."
    return f"The change to {record.rolled_back_from} has failed{why}"


def fetching(record: RolloutRecord, *, image: str, node: str) -> str:
    """A change that stops first, whose image is fetched before: nothing has been stopped yet."""
    approved = f', approved by "{record.approval}",' if record.approval else ""
    what = "The agent's pod is to be replaced by one with another image"
    if record.from_version != record.to:
        what = f"{record.from_version or 'What runs'} is to give way to {record.to}"
    return (
        f"{what}{approved} by stopping first, because {record.why}. Before that, image {image} is fetched to node {node}; the old agent goes on serving "
        "until it is there, and so is the Secret."
    )


def not_fetched(*, image: str, node: str, trouble: str) -> str:
    """Why a change that stops first was not begun."""
    return (
        f"Image {image} could not be made ready on node {node}, so nothing was stopped. {trouble} (With spec.handoff.prePull false the old agent would "
        "be stopped at once, whether the new one can start or not.)"
    )


def fetch_failed(record: RolloutRecord, *, what: str) -> str:
    """The image did not come: nothing was stopped, and the ways out."""
    back = (
        f'; or set spec.version back to "{record.from_version}"'
        if record.from_version != record.to
        else "; or undo the change"
    )
    return f"{what} The old agent goes on serving. Mend the cause, and the change goes on by itself{back}."


def no_other_node(*, node: str, trouble: str) -> str:
    """A move that no node takes: nothing was stopped, and what lets the drain go on."""
    return (
        f"No other node takes the agent, so it goes on serving on {node} and a drain of that node waits. {trouble.rstrip('.')}. Add a node, make room or "
        "correct the scheduling in spec.podTemplate, and it goes on by itself; or take the cordon back; or let the drain stop the agent by setting "
        "spec.handoff.onNodeDrain to Evict."
    )


def move_failed(*, node: str, version: str, trouble: str, serving: bool, deadline_seconds: int) -> str:
    """A move off a cordoned node that missed its deadline."""
    state = f"{version} goes on serving" if serving else "No agent serves right now"
    return (
        f"The agent, {version}, could not be moved off node {node} within {seconds(deadline_seconds)}; a drain of the node waits. {trouble} {state}. Mend "
        "the cause, and it goes on by itself; or let the drain stop the agent by setting spec.handoff.onNodeDrain to Evict."
    )


def failed(
    record: RolloutRecord,
    *,
    trouble: str,
    serving: Iterable[str],
    deadline_seconds: int | None,
    held: str,
    was_active: bool,
) -> str:
    """A rollout that has failed: the cause in words, what serves now, and the ways out.

    Args:
        record: the rollout.
        trouble: the cause.
        serving: versions that serve.
        deadline_seconds: the deadline that it missed; None where it was given up before.
        held: why it is not taken back, where it could be; empty where there is nothing to go back to.
        was_active: whether it counts as having been active: going back from it by hand is a change like any other then.
    """
    alive = " and ".join(sorted(set(serving)))
    before, to = record.from_version, record.to
    if record.rolled_back_from:
        what = f"Going back to {to}, which was active before,"
    else:
        what = f"The change from {before} to {to}" if before else f"The installation of {to}"
    how = f"was not done within {seconds(deadline_seconds)}" if deadline_seconds else "has failed"
    state = f"{alive} goes on serving" if alive else "No agent serves right now"
    if before is None or record.rolled_back_from:
        back = " or change the spec"
    elif before == to:
        back = " or undo the change of the spec"
    elif was_active:
        back = f' or set spec.version back to "{before}", which is judged as a change from {to}: a downgrade needs an approval'
    else:
        back = f' or set spec.version back to "{before}", which needs no approval'
    parts = [f"{what} {how}. {trouble} {state}.", held, f"Mend the cause, and it goes on by itself;{back}."]
    return " ".join(part for part in parts if part)


def restart_failed(*, version: str, trouble: str, serving: bool, deadline_seconds: int) -> str:
    """New pods of the same version, asked for by somebody else than the operator, that did not become available."""
    state = "The pod before it goes on serving." if serving else "No agent serves right now."
    return (
        f"The restart of {version} that somebody asked for was not done within {seconds(deadline_seconds)}. {trouble} {state} "
        "Mend the cause, and it goes on by itself; or take it back with kubectl rollout undo."
    )


def completed(record: RolloutRecord) -> str:
    """A rollout that ended well."""
    if record.from_version is None:
        return f"{record.to} is installed and serves."
    if record.rolled_back_from:
        return f"{record.to} serves as before; the change to {record.rolled_back_from} had failed and was taken back."
    if record.change is Change.ABORT:
        return f"{record.to} serves as before; the change from it was given up."
    if record.moved_off:
        return f"{record.to} serves; it was moved off node {record.moved_off} by a rolling handoff."
    how = "by a rolling handoff" if record.strategy is Strategy.ROLLING_HANDOFF else "by stopping first"
    return f"{record.to} serves; it took over from {record.from_version} {how}."
