"""Whose an object with our name is. Asked by `model`, `policy.checks`, `status` and `rollout.actions`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from medplum_agent_operator.api.agent import KIND, MedplumAgent


class Ownership(StrEnum):
    """How an object of our name relates to us."""

    OURS = "ours"
    FOREIGN = "foreign"
    LEFTOVER = "leftover"
    """It belongs to a deleted MedplumAgent of the same name: garbage collection is about to remove it."""


def ownership(raw: Mapping[str, Any], agent: MedplumAgent) -> Ownership:
    """Ours, a stranger's, or left over from a MedplumAgent of the same name that was deleted."""
    for owner in raw["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            if owner.get("uid") == agent.uid:
                return Ownership.OURS
            if owner.get("kind") == KIND and owner.get("name") == agent.name:
                return Ownership.LEFTOVER
    return Ownership.FOREIGN
