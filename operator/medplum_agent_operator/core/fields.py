"""Who owns an object's fields, after an object was created and not applied.

Called by `reconcile`. A Deployment is created by POST, which fails where one is there already: server-side apply has no such
precondition, and a first write that comes late would overwrite what a successor has made meanwhile. But what is created so is owned by
an `Update`, and server-side apply takes away only what an `Apply` of the same manager owns. So the entry is turned into one.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#upgrading-from-client-side-apply-to-server-side-apply
"""

from collections.abc import Mapping, Sequence
from typing import Any

from medplum_agent_operator.api.annotations import MANAGED_BY


def as_applied(live: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
    """The managed fields as if we had applied what we created; None where that is so already.

    >>> as_applied({"metadata": {"managedFields": [{"manager": "medplum-agent-operator", "operation": "Update"}]}})
    [{'manager': 'medplum-agent-operator', 'operation': 'Apply'}]
    >>> as_applied({"metadata": {"managedFields": [{"manager": "medplum-agent-operator", "operation": "Apply"}]}}) is None
    True
    """
    entries = live["metadata"].get("managedFields") or ()
    if not any(map(_created_by_us, entries)):
        return None
    applied = any(entry.get("manager") == MANAGED_BY and entry.get("operation") == "Apply" for entry in entries)
    others = [entry for entry in entries if not _created_by_us(entry)]
    ours = [{**entry, "operation": "Apply"} for entry in entries if _created_by_us(entry)]
    return others if applied else [*others, *ours]


def _created_by_us(entry: Mapping[str, Any]) -> bool:
    return entry.get("manager") == MANAGED_BY and entry.get("operation") == "Update" and not entry.get("subresource")
