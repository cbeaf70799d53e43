"""Read a raw MedplumAgent, also one whose spec this release cannot read, and one that is being deleted. Called by `reconcile`. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from medplum_agent_operator.api.agent import GARBAGE_COLLECTION, MedplumAgent, kept_by
from medplum_agent_operator.api.spec import MedplumAgentSpec


def read_agent(raw: Mapping[str, Any], applied: MedplumAgentSpec | None) -> MedplumAgent:
    """The MedplumAgent; if its spec does not fit the model, with `applied`, the spec that was applied last. A readable pause still counts.

    Raises:
        ValidationError: when the spec does not fit the model and the applied one is unknown.
    """
    try:
        return MedplumAgent.parse(raw)
    except ValidationError as fault:
        if applied is None:
            raise
        spec = raw.get("spec")
        paused = isinstance(spec, Mapping) and spec.get("paused") is True
        body = applied.model_dump(by_alias=True, exclude_none=True, mode="json") | {"paused": paused}
        return replace(MedplumAgent.parse({**raw, "spec": body}), fault=first_fault(fault))


def first_fault(fault: ValidationError) -> str:
    """The first field that does not fit the model, and why."""
    first = fault.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"


def is_garbage_collected(raw: Mapping[str, Any]) -> bool:
    """Whether garbage collection removes the children of a deleted MedplumAgent: the operator must not create them again.

    While only finalizers of other programs keep it, its children stay and its agent serves.
    """
    kept = kept_by(raw)
    return bool(raw["metadata"].get("deletionTimestamp")) and (not kept or bool(GARBAGE_COLLECTION & set(kept)))
