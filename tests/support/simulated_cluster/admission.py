"""The model with managed fields and admission policies: the API server records field managers, and policies may change what is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.core.observed.owned_fields import copy_field, not_rendered, value_at
from tests.support.simulated_cluster.apply import copied
from tests.support.simulated_cluster.cluster import SimulatedCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.builders import Raw

_WHOLE: Final = {
    "args",
    "command",
    "tolerations",
    "nodeSelector",
    "selector",
    "matchLabels",
    "drop",
    "maintenanceWindows",
}
"""Fields that are owned as a whole."""
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}


def fields_v1(value: Any, key: str = "") -> Raw:
    """The fields of a value, in the form of `metadata.managedFields`.

    Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    if isinstance(value, dict) and key not in _WHOLE:
        return {f"f:{name}": fields_v1(below, name) for name, below in value.items()}
    if not isinstance(value, list) or key in _WHOLE or not all(isinstance(item, dict) for item in value):
        return {}
    found: Raw = {}
    for item in value:
        keys = _KEYS.get(key) or ("containerPort" if "containerPort" in item else "port", "protocol")
        known = {name: item.get(name) for name in keys if name in item}
        found[f"k:{json.dumps(known, separators=(',', ':'))}"] = {".": {}, **fields_v1(item)}
    return found


class AdmittingCluster(SimulatedCluster):
    """A cluster in which only the operator writes, so it owns every field that it applied.

    Attributes:
        policy: changes an object before it is stored; None for no policy.
    """

    policy: Callable[[str, Raw], None] | None = None
    _body: Mapping[str, Any] | None = None

    def apply(self, body: Mapping[str, Any]) -> Raw:
        """Apply an object and record the operator as its field manager. Fields that others own too stay."""
        kind = str(body["kind"])
        others = [entry for entry in _entries(self.objects.get(kind)) if entry["manager"] != MANAGED_BY]
        self._body = body
        answer = super().apply(body)
        self._body = None
        if kind in self.objects:
            entry = {"manager": MANAGED_BY, "operation": "Apply", "fieldsV1": fields_v1(dict(body))}
            self.objects[kind]["metadata"]["managedFields"] = [entry, *others]
        return answer

    def edit_as(self, manager: str, edit: Callable[[Raw], None], kind: str = "Deployment") -> AdmittingCluster:
        """Let somebody else apply a whole object with an edit, as `kubectl apply --server-side --force-conflicts` does."""
        body = copied(self.objects[kind])
        edit(body["spec"])
        entry = {"manager": manager, "operation": "Apply", "fieldsV1": fields_v1({"spec": body["spec"]})}
        body["metadata"]["managedFields"] = [*_entries(body), entry]
        self._store(kind, body)
        return self

    def _store(self, kind: str, wanted: Raw) -> None:
        live = copied(self.objects.get(kind))
        entries = _entries(live) if self._body is not None else []
        for entry in sorted(entries, key=lambda entry: bool(entry["manager"] != MANAGED_BY)):
            for path in not_rendered(entry["fieldsV1"], self._body, live, ()):
                if entry["manager"] != MANAGED_BY:
                    copy_field(wanted, live, path)
                elif path[-1].startswith("f:"):  # lists are replaced anyway
                    (value_at(wanted, path[:-1]) or {}).pop(path[-1][2:], None)  # the rest of it may be gone already
        if self.policy is not None:
            self.policy(kind, wanted)
        super()._store(kind, wanted)


def _entries(raw: Raw | None) -> list[Raw]:
    return list(((raw or {}).get("metadata") or {}).get("managedFields") or ())


def from_a_mirror(kind: str, raw: Raw) -> None:
    """Apply a policy: images of Deployments come from a mirror."""
    if kind == "Deployment":
        for container in raw["spec"]["template"]["spec"]["containers"]:
            container["image"] = container["image"].replace("registry.example.org", "mirror.example.org")
