"""Who owns an object with a name of ours. Called by `model`, `policy.checks`, `status` and `rollout.actions`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from medplum_agent_operator.api.agent import KIND, MedplumAgent


class Ownership(StrEnum):
    """Who owns an object that has the name of one of ours."""

    OURS = "ours"
    FOREIGN = "foreign"
    LEFTOVER = "leftover"
    """Owned by a deleted MedplumAgent of the same name. Garbage collection will remove it."""


def ownership(raw: Mapping[str, Any], agent: MedplumAgent) -> Ownership:
    """Who owns a raw object, by its controller's owner reference."""
    for owner in raw["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            if owner.get("uid") == agent.uid:
                return Ownership.OURS
            if owner.get("kind") == KIND and owner.get("name") == agent.name:
                return Ownership.LEFTOVER
    return Ownership.FOREIGN
