"""What was active before a downgrade that was approved, kept where nothing changes it: a ControllerRevision (docs/adr/0019).

Called by `plan` when such a downgrade begins; the backup is the first thing that is written, and where it cannot be written nothing
else is. It holds what the notes on the Deployment say, hence no secret: a spec names its Secret, and nobody here has read it.
"""

import json
from typing import Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import API_VERSION, MedplumAgent
from medplum_agent_operator.api.agent import KIND as AGENT_KIND
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects.agent_pod import selector
from medplum_agent_operator.core.objects.agent_start import properties_in
from medplum_agent_operator.core.objects.children import applied_spec, owner_reference
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Change, LastGood, RolloutRecord
from medplum_agent_operator.core.rollout.actions import Apply

KIND: Final = "ControllerRevision"


def with_backup(observed: Observed, record: RolloutRecord) -> tuple[RolloutRecord, tuple[Apply, ...]]:
    """The record with the name of its backup, where an approved downgrade begins; and what has to be written before anything else.

    Where the last one did not become active, what was active is still what its backup holds: other settings, or another target.
    """
    if record.change is not Change.DOWNGRADE or record.approval is None:
        return record, ()
    live = observed.record
    if (
        live is not None
        and live.backup
        and not observed.activation.became_active
        and live.from_version == record.from_version
    ):
        return record.model_copy(update={"backup": live.backup}), ()
    state = _state_before_downgrade(observed)
    if state is None:
        return record, ()
    body = render_backup(observed.agent, state)
    named = record.model_copy(update={"backup": body["metadata"]["name"]})
    return named, (Apply(body, None, "missing", immutable=True),)


def _state_before_downgrade(observed: Observed) -> LastGood | None:
    """Spec and template of the version that the downgrade goes down from; None where the Deployment does not tell them."""
    live, baseline = observed.deployment, observed.baseline
    if live is None or baseline is None:
        return None
    applied, recorded = live.as_last_good(), live.annotations.get(names.LAST_GOOD)
    # In the middle of a change to something newer that never became active, what was active is the note.
    found = map(LastGood.read, (applied, recorded) if observed.activation.became_active else (recorded, applied))
    return next((state for state in found if state is not None and state.spec.version == baseline.text), None)


def render_backup(agent: MedplumAgent, state: LastGood) -> dict[str, Any]:
    """The ControllerRevision. Its name changes with what is in it, so that writing it twice leads to one."""
    backup = _backup_data(agent, state)
    return {
        "apiVersion": "apps/v1",
        "kind": KIND,
        "metadata": {
            "name": f"{agent.name}-backup-{fingerprint([agent.uid, agent.generation, backup])[:10]}",
            "namespace": agent.namespace,
            "labels": {
                **selector(agent),
                names.INSTANCE_LABEL: agent.name,
                names.COMPONENT_LABEL: "agent",
                names.MANAGED_BY_LABEL: names.MANAGED_BY,
                names.VERSION_LABEL: state.spec.version,
            },
            "ownerReferences": [owner_reference(agent)],
        },
        # Of the spec that asks for the downgrade: a later backup has a higher one.
        "revision": agent.generation,
        "data": backup,
    }


def _backup_data(agent: MedplumAgent, state: LastGood) -> dict[str, Any]:
    """A manifest to make the agent anew from; the JSON patch that gives a live one its spec back; and the pod as it was, to look at.

    The patch replaces the whole spec, so what was not there before goes; `kubectl apply` would leave what it has not set itself.
    """
    spec = _as_written(state.spec)
    identity = {"name": agent.name, "namespace": agent.namespace}
    return {
        "agent": {"apiVersion": API_VERSION, "kind": AGENT_KIND, "metadata": identity, "spec": spec},
        "restore": [
            {"op": "test", "path": "/metadata/name", "value": agent.name},
            {"op": "replace", "path": "/spec", "value": spec},
        ],
        "podTemplate": state.applied.template,
        "agentProperties": properties_in(state.applied.template),
    }


def _as_written(spec: MedplumAgentSpec) -> dict[str, Any]:
    """A spec as the API server keeps it: defaults written out, which a later release may change, but not where they are empty."""
    sparse = spec.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True, mode="json")
    found: dict[str, Any] = _without_empty_defaults(json.loads(applied_spec(spec)), sparse)
    return found


def _without_empty_defaults(full: Any, sparse: Any) -> Any:
    """`full` without empty maps and lists that `sparse`, which has no defaults, does not have: an empty selector is not none.

    >>> _without_empty_defaults({"labels": {}, "selector": {}, "level": "INFO"}, {"selector": {}})
    {'selector': {}, 'level': 'INFO'}
    """
    if isinstance(full, dict):
        given = sparse if isinstance(sparse, dict) else {}
        return {
            key: _without_empty_defaults(value, given.get(key))
            for key, value in full.items()
            if key in given or value not in ({}, [])
        }
    if isinstance(full, list):
        others = sparse if isinstance(sparse, list) else [None] * len(full)
        return [_without_empty_defaults(item, other) for item, other in zip(full, others, strict=True)]
    return full
