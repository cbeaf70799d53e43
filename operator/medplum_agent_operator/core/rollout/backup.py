"""The backup before an approved downgrade: an immutable ControllerRevision with the previous state (docs/adr/0019).

Called by `plan` when such a downgrade begins. The backup is written first; if that fails, nothing else is written. It must never
contain a secret: its content comes from the revision in force, and a spec only names its Secret.
"""

from typing import Any

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import API_VERSION, MedplumAgent
from medplum_agent_operator.api.agent import KIND as AGENT_KIND
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects.agent_pod import selector
from medplum_agent_operator.core.objects.agent_start import properties_in
from medplum_agent_operator.core.objects.children import owner_reference
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.revision import KIND
from medplum_agent_operator.core.observed.rollout_record import Change, LastGood, RolloutRecord, dump_spec
from medplum_agent_operator.core.rollout.actions import Apply


def with_backup(observed: Observed, record: RolloutRecord) -> tuple[RolloutRecord, tuple[Apply, ...]]:
    """Add the backup's name to the record of an approved downgrade, and make the action that has to be written first.

    If the previous downgrade never became active, its backup still has the active state, and the record names that one.
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
    """Spec and template of the version that the downgrade leaves; None if the Deployment has no record of them."""
    live, baseline = observed.deployment, observed.baseline
    if live is None or baseline is None:
        return None
    applied, recorded = live.as_last_good(), live.last_good
    # During a change to a newer version that never became active, the active state is the one before.
    found = (applied, recorded) if observed.activation.became_active else (recorded, applied)
    return next((state for state in found if state is not None and state.spec.version == baseline.text), None)


def render_backup(agent: MedplumAgent, state: LastGood) -> dict[str, Any]:
    """Render the ControllerRevision. Its name is derived from its content, so two writes lead to one object."""
    backup = _backup_data(agent, state)
    return {
        "apiVersion": "apps/v1",
        "kind": KIND,
        "metadata": {
            "name": f"{agent.name}-backup-{fingerprint([agent.uid, agent.generation, backup])[:10]}",
            "namespace": agent.namespace,
            "labels": {
                **agent.spec.for_children.labels,
                **selector(agent),
                names.INSTANCE_LABEL: agent.name,
                names.COMPONENT_LABEL: "agent",
                names.MANAGED_BY_LABEL: names.MANAGED_BY,
                names.VERSION_LABEL: state.spec.version,
            },
            **(
                {"annotations": dict(agent.spec.for_children.annotations)}
                if agent.spec.for_children.annotations
                else {}
            ),
            "ownerReferences": [owner_reference(agent)],
        },
        # The generation of the spec that asks for the downgrade: a later backup has a higher one.
        "revision": agent.generation,
        "data": backup,
    }


def _backup_data(agent: MedplumAgent, state: LastGood) -> dict[str, Any]:
    """A manifest to create the agent again, a JSON patch to restore a live one's spec, and the previous pod template for reading.

    The patch replaces the whole spec and so removes later fields; `kubectl apply` would leave fields that it did not set.
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
    """A spec as the API server stores it: with its defaults, which a later release may change, but without empty ones."""
    sparse = spec.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True, mode="json")
    found: dict[str, Any] = _without_empty_defaults(dump_spec(spec), sparse)
    return found


def _without_empty_defaults(full: Any, sparse: Any) -> Any:
    """Remove empty maps and lists from `full` that `sparse`, which has no defaults, lacks. An empty selector that a user set stays.

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
