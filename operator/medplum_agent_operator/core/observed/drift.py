"""Whether a live object still is what the operator would apply.

Called by `rollout.actions` before every write, so that a converged object costs no write; also by `deployment` and
`rollout.template_in_force`. The live object may have more than the operator renders (server defaults, fields of other
managers): only rendered fields are compared. A field that is no longer rendered changes the fingerprint instead.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubernetes.utils.quantity import parse_quantity

_NAMED_BY = ("name", "mountPath", "containerPort", "port", "uid")
"""Keys that identify the items of list-maps in Kubernetes (containers, variables, volumes, mounts, ports, owners)."""


def fingerprint(value: Any) -> str:
    """Sixteen hex digits that change when `value` changes. The order of its keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Item:
    """A step of a path into a list.

    Attributes:
        name: the item's identifying key and value, or its index.
        desired: the desired item.
    """

    name: tuple[str, Any] | int
    desired: Any


_Path = tuple["str | _Item", ...]


def first_difference(desired: Any, live: Any) -> str | None:
    """The path of the first field in which `live` differs from `desired`; None if it does not differ.

    >>> first_difference({"spec": {"replicas": 1}}, {"spec": {"replicas": 3, "paused": False}})
    'spec.replicas'
    >>> first_difference({"limits": {"cpu": "0.5"}}, {"limits": {"cpu": "500m"}}) is None
    True
    """
    return next(map(_path_text, _differences(desired, live, ())), None)


def first_drift(applied: Any, live: Any, fields: Mapping[str, Any]) -> str | None:
    """The path of the first field that someone has changed since it was applied; None if there is no drift.

    A field that the API server rewrote while it was applied is not drift (docs/adr/0029). An admission policy that rewrites
    images does that: the field stays ours, and applying it again would have the same result, forever. A later edit by
    someone else takes the ownership of the field away from us.

    Args:
        applied: what the operator applied last.
        live: the live object, or the same part of it.
        fields: the fields of `live` that the operator owns, from `applied_fields`.

    Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    return next((_path_text(path) for path in _differences(applied, live, ()) if not _is_owned(path, fields)), None)


def applied_fields(raw: Mapping[str, Any], manager: str) -> Mapping[str, Any]:
    """The fields that a manager owns by server-side apply, as `fieldsV1`.

    Empty if the object has no `managedFields`, as in the cache.
    """
    for entry in raw["metadata"].get("managedFields") or ():
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and not entry.get("subresource"):
            owned: Mapping[str, Any] = entry.get("fieldsV1") or {}
            return owned
    return {}


def as_stored(applied: Any, live: Any, fields: Mapping[str, Any]) -> Any:
    """What was applied, in the form that the API server stored.

    Applying that form changes nothing, even after the admission policy that rewrote it is gone.

    Args: those of `first_drift`.
    """
    paths = [path for path in _differences(applied, live, ()) if _is_owned(path, fields)]
    if not paths:
        return applied
    stored = copy.deepcopy(applied)
    for path in paths:
        _copy_from_live(stored, live, path)
    return stored


def _copy_from_live(target: Any, live: Any, path: _Path) -> None:
    """Set one field of `target` to its value in `live`; remove it if `live` does not have it."""
    *parents, last = path
    for step in parents:
        target, live = _at(target, step), _at(live, step)
    value = _at(live, last)
    if isinstance(last, str):
        if value is None:
            target.pop(last)
        else:
            target[last] = copy.deepcopy(value)
        return
    index = last.name if isinstance(last.name, int) else target.index(_at(target, last))
    target[index : index + 1] = [] if value is None else [copy.deepcopy(value)]


def _at(value: Any, step: "str | _Item") -> Any:
    if isinstance(step, str):
        return value.get(step)
    if isinstance(step.name, int):
        return value[step.name]
    key, name = step.name
    return next((item for item in value if item.get(key) == name), None)


def _is_owned(path: _Path, fields: Mapping[str, Any]) -> bool:
    """Whether a field is among the owned fields. A value that is owned as a whole has nothing below it (an atomic list)."""
    for step in path:
        below = _below(step, fields)
        if below is None:
            return False
        if not below:
            return True
        fields = below
    return True


def _below(step: "str | _Item", fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if isinstance(step, str):
        below: Mapping[str, Any] | None = fields.get(f"f:{step}")
        return below
    if not isinstance(step.desired, dict):
        return None
    for name, owned in fields.items():
        # `k:` has every key of the list-map, which may not include ours. A key that the desired item omits has its default.
        keys = json.loads(name[2:]) if name.startswith("k:") else None
        if keys is None or not keys.keys() & step.desired.keys():
            continue
        if all(step.desired.get(key, value) == value for key, value in keys.items()):
            return dict(owned)
    return None


def _path_text(path: _Path) -> str:
    text = ""
    for step in path:
        if isinstance(step, str):
            text += f".{step}"
        else:
            text += f"[{step.name}]" if isinstance(step.name, int) else f"[{step.name[0]}={step.name[1]}]"
    return text.removeprefix(".")


def _differences(desired: Any, live: Any, path: _Path) -> Iterator[_Path]:
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            if desired:
                yield path
            return
        for key, value in desired.items():
            below = (*path, str(key))
            if key not in live:
                if value not in ({}, [], None):
                    yield below
            elif key in {"requests", "limits"} and isinstance(value, dict):
                yield from _quantities(value, live[key], below)
            else:
                yield from _differences(value, live[key], below)
    elif isinstance(desired, list | tuple):
        yield from _items(desired, live, path)
    elif desired != live:
        yield path


def _items(desired: Sequence[Any], live: Any, path: _Path) -> Iterator[_Path]:
    """Match items by name if every item has a unique one; else by index, as in atomic lists."""
    if not isinstance(live, list | tuple):
        if desired:
            yield path
        return
    names = [name for item in desired if (name := _name(item)) is not None]
    if len(set(names)) == len(desired):
        by_name = {_name(item): item for item in live}
        for name, item in zip(names, desired, strict=True):
            yield from _differences(item, by_name.get(name), (*path, _Item(name, item)))
    elif len(desired) == len(live):
        for index, (item, other) in enumerate(zip(desired, live, strict=True)):
            yield from _differences(item, other, (*path, _Item(index, item)))
    else:
        yield path


def _name(item: Any) -> tuple[str, Any] | None:
    if not isinstance(item, dict):
        return None
    return next(((key, item[key]) for key in _NAMED_BY if key in item), None)


def _quantities(desired: Mapping[str, Any], live: Any, path: _Path) -> Iterator[_Path]:
    """Compare amounts, not text: the API server normalises quantities (`0.5` becomes `500m`)."""
    for key, value in desired.items():
        other = live.get(key) if isinstance(live, dict) else None
        if other is None or parse_quantity(value) != parse_quantity(other):
            yield (*path, key)
