"""The MedplumAgent resource: its names in the API, and how to parse one object.

Read by `crd`, `core` and the shell. Must never decide anything: it turns JSON into values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from medplum_agent_operator.api.annotations import DOMAIN, FORCE_DOWNGRADE
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import MedplumAgentStatus, parse_status

GROUP: Final = DOMAIN
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "MedplumAgent"
PLURAL: Final = "medplumagents"
SINGULAR: Final = "medplumagent"
SHORT_NAME: Final = "mpa"
CATEGORY: Final = "medplum"

MAX_NAME_LENGTH: Final = 52
"""The agent's Service has the same name (63 characters at most), and other child objects add a suffix to it."""


GARBAGE_COLLECTION: Final = frozenset({"foregroundDeletion", "orphan"})
"""Finalizers by which the garbage collector deletes or orphans the children first.

Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/#cascading-deletion
"""


@dataclass(frozen=True, slots=True)
class MedplumAgent:
    """A MedplumAgent as the API server returns it.

    Attributes:
        finalizers: its finalizers, if it is being deleted; else empty.
        fault: why its spec does not fit the model; `spec` is then the one that was applied last. Empty if it fits.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    spec: MedplumAgentSpec
    status: MedplumAgentStatus
    annotations: Mapping[str, str] = field(default_factory=dict)
    managed_fields: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    finalizers: tuple[str, ...] = ()
    fault: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Parse an object in the API's JSON form.

        Raises:
            pydantic.ValidationError: when the spec does not fit the model. The CRD's schema normally prevents that.
        """
        metadata = raw["metadata"]
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            spec=MedplumAgentSpec.model_validate(raw.get("spec") or {}),
            status=parse_status(raw.get("status") or {}),
            annotations=dict(metadata.get("annotations") or {}),
            managed_fields=tuple(metadata.get("managedFields") or ()),
            finalizers=kept_by(raw),
        )

    @property
    def field_manager_of_approval(self) -> str | None:
        """The field manager of the approval annotation, such as `kubectl-annotate`; with several owners, the latest."""
        owners = [
            entry
            for entry in self.managed_fields
            if f"f:{FORCE_DOWNGRADE}"
            in ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations", {})
        ]
        latest = max(owners, key=lambda entry: str(entry.get("time", "")), default=None)
        return None if latest is None else latest.get("manager")


def kept_by(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The finalizers that keep a deleted MedplumAgent; empty if it is not being deleted."""
    metadata = raw["metadata"]
    return tuple(metadata.get("finalizers") or ()) if metadata.get("deletionTimestamp") else ()
