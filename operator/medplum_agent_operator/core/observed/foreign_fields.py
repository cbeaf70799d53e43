"""Fields of a live object that other field managers own and the operator does not render, by `metadata.managedFields`.

Server-side apply removes a field that the operator no longer applies only if no other field manager owns it. Called by `writes`, which takes
ownership of such fields before a write that removes them; by `rollout.actions`, whose writes must not remove any; and by
`report.notices`. Pure. A field that an admission policy adds during the request of the operator has no owner, so it is not found here.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.core.observed.drift import applied_fields, first_difference
from medplum_agent_operator.core.observed.owned_fields import (
    Path,
    Raw,
    copy_field,
    fields_at,
    merged,
    not_rendered,
    owns,
    put_in,
    take_out,
    value_at,
)

POD_SPEC: Final = ("f:spec", "f:template", "f:spec")
_POD_TEMPLATE: Final = ("f:spec", "f:template")
_PARTS: Final = (("f:metadata", "f:labels"), ("f:metadata", "f:annotations"), ("f:spec",))
"""The parts of an object that the operator renders."""
_BY_HAND: Final = ("kubectl", "before-first-apply")
"""How the names of field managers begin that do not put a field back automatically: kubectl, and who was there before the first apply."""


@dataclass(frozen=True, slots=True)
class ForeignField:
    """A field that another field manager owns and the operator does not render.

    Attributes:
        path: the keys of `fieldsV1` below the pod's spec.
        manager: who owns it.
    """

    path: Path
    manager: str

    @property
    def by_hand(self) -> bool:
        """Whether a person has set it, by kubectl: then no program puts it back, and the next rollout may remove it."""
        return self.manager.startswith(_BY_HAND)

    def __str__(self) -> str:
        text = ""
        for step in self.path:
            if step.startswith("f:"):
                text += f".{step[2:]}"
            else:
                key, value = next(iter(json.loads(step[2:]).items()))
                text += f"[{key}={value}]"
        return text.removeprefix(".")


def of_pod_spec(rendered: Raw, raw: Raw) -> tuple[ForeignField, ...]:
    """The foreign fields of the pod that a live Deployment starts, except variables that a program added: a reloader does that.

    Args:
        rendered: the pod template as it was rendered.
        raw: the live Deployment.
    """
    desired, live = rendered["spec"], raw["spec"]["template"]["spec"]
    found = {
        ForeignField(path, manager): None
        for entry in _others(raw)
        for manager in (str(entry.get("manager", "")),)
        for path in not_rendered(fields_at(entry["fieldsV1"], POD_SPEC), desired, live, ())
    }
    return tuple(sorted((one for one in found if one.by_hand or "f:env" not in one.path), key=str))


def with_foreign_fields_only(raw: Raw) -> Raw:
    """A live Deployment with only those managed fields that `of_pod_spec` reads: usually none."""
    found = [
        {
            "manager": entry.get("manager", ""),
            "operation": entry.get("operation", ""),
            "fieldsV1": {"f:spec": {"f:template": {"f:spec": fields}}},
        }
        for entry in _others(raw)
        if (fields := fields_at(entry["fieldsV1"], POD_SPEC))
    ]
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    return {**raw, "metadata": metadata | ({"managedFields": found} if found else {})}


def removal(fields: tuple[ForeignField, ...]) -> str:
    """The strategic merge patch of a Deployment that removes these fields of its pods.

    >>> removal((ForeignField(("f:containers", 'k:{"name":"ready-lab"}'), "kubectl"),))
    '{"spec":{"template":{"spec":{"containers":[{"name":"ready-lab","$patch":"delete"}]}}}}'
    """
    whole: dict[str, Any] = {}
    for one in fields:
        target: dict[str, Any] = whole
        for step in one.path[:-1]:
            target = target.setdefault(step, {})
        target[one.path[-1]] = None
    return json.dumps({"spec": {"template": {"spec": _as_patch(whole)}}}, separators=(",", ":"))


def _as_patch(steps: Mapping[str, Any]) -> Any:
    if all(step.startswith("f:") for step in steps):
        return {step[2:]: None if below is None else _as_patch(below) for step, below in steps.items()}
    items = []
    for step, below in steps.items():
        key, value = next(iter(json.loads(step[2:]).items()))
        items.append({key: value} | ({"$patch": "delete"} if below is None else _as_patch(below)))
    return items


def without_foreign_ownership(body: Raw, raw: Raw) -> list[dict[str, Any]] | None:
    """The managed fields with which the apply of `body` removes what it no longer has; None if they are so already.

    Taken over are fields of the pod that a person set by kubectl, and fields that the operator applied before and shares with a person, or
    with a program that does not apply them again and again. The pod template is left out if `body` does not change it: no pod is replaced
    for this.

    Args:
        body: what is applied next.
        raw: the live object.

    Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership
    """
    entries = [copy.deepcopy(dict(entry)) for entry in raw["metadata"].get("managedFields") or ()]
    own = applied_fields({"metadata": {"managedFields": entries}}, MANAGED_BY)
    taken: dict[str, Any] = {}
    for entry in entries:
        if not _is_other(entry):
            continue
        for path in list(_to_take(entry, own, body, raw)):
            put_in(taken, path, take_out(entry["fieldsV1"], path))
    if not taken:
        return None
    kept = [entry for entry in entries if entry.get("fieldsV1") or not _is_other(entry)]
    if not own:
        kept.append(_new_entry(raw))
    for entry in kept:
        if (entry.get("manager"), entry.get("operation")) == (MANAGED_BY, "Apply") and not entry.get("subresource"):
            entry["fieldsV1"] = merged(entry["fieldsV1"], taken)
    return kept


def with_own_leftovers(template: Raw, raw: Raw) -> Raw:
    """The pod template with what the operator still owns in the live one, so that applying it replaces no pod.

    There is such a field only if the operator died between taking it over and the write that removes it.
    """
    own = fields_at(applied_fields(raw, MANAGED_BY), POD_SPEC)
    live = raw["spec"]["template"]["spec"]
    paths = list(not_rendered(own, template["spec"], live, ()))
    if not paths:
        return template
    spec = copy.deepcopy(template["spec"])
    for path in paths:
        copy_field(spec, live, path)
    return {**template, "spec": spec}


def _to_take(entry: Raw, own: Raw, body: Raw, raw: Raw) -> Iterator[Path]:
    manager = ForeignField((), str(entry.get("manager", "")))
    changes_pods = _replaces_pods(body, raw)
    for part in _PARTS:
        for below in not_rendered(fields_at(entry["fieldsV1"], part), value_at(body, part), value_at(raw, part), ()):
            path = (*part, *below)
            in_pods = path[:2] == _POD_TEMPLATE and raw.get("kind") == "Deployment"
            if in_pods and not changes_pods:
                continue
            shared = owns(own, path) and (manager.by_hand or entry.get("operation") == "Update")
            if shared or (in_pods and path[:3] == POD_SPEC and manager.by_hand):
                yield path


def _others(raw: Raw) -> list[Raw]:
    return [entry for entry in raw["metadata"].get("managedFields") or () if _is_other(entry)]


def _is_other(entry: Raw) -> bool:
    return entry.get("manager") != MANAGED_BY and not entry.get("subresource") and bool(entry.get("fieldsV1"))


def _replaces_pods(body: Raw, raw: Raw) -> bool:
    """Whether the apply changes the pod template anyway."""
    return first_difference(value_at(body, _POD_TEMPLATE), value_at(raw, _POD_TEMPLATE)) is not None


def _new_entry(raw: Raw) -> dict[str, Any]:
    version = {"apiVersion": raw.get("apiVersion", ""), "fieldsType": "FieldsV1", "fieldsV1": {}}
    return {"manager": MANAGED_BY, "operation": "Apply", **version}
