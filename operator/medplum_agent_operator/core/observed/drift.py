"""Whether a live object still is what we would apply. Called by `plan` before every write, so that converged objects cost none.

The live object may hold more than we render (server defaults, fields of other managers): only what we render is compared.
A field that we no longer render shows in the fingerprint instead, which changes with what is rendered.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubernetes.utils.quantity import parse_quantity

_NAMED_BY = ("name", "mountPath", "containerPort", "port", "uid")
"""Keys by which Kubernetes tells the items of its list-maps apart (containers, variables, volumes, mounts, ports, owners)."""


def fingerprint(value: Any) -> str:
    """Sixteen hex digits that change when `value` does, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Item:
    """A step into a list: how the item is called there, its own key and value or else its number, and what it is to be."""

    name: tuple[str, Any] | int
    wanted: Any


_Path = tuple["str | _Item", ...]


def first_difference(desired: Any, live: Any) -> str | None:
    """The path of the first place where `live` is not what `desired` says; None where it is.

    >>> first_difference({"spec": {"replicas": 1}}, {"spec": {"replicas": 3, "paused": False}})
    'spec.replicas'
    >>> first_difference({"limits": {"cpu": "0.5"}}, {"limits": {"cpu": "500m"}}) is None
    True
    """
    return next(map(_written, _differences(desired, live, ())), None)


def first_drift(applied: Any, live: Any, fields: Mapping[str, Any]) -> str | None:
    """The first place where somebody has changed what was applied; None where only the API server itself keeps it otherwise than it was asked to.

    That is what an admission policy does that rewrites images, say. The field goes on being ours then; whoever changes it later takes it away
    from us. To apply it once more would lead to the same, for ever.

    Args:
        applied: what was applied last.
        live: what is there.
        fields: of `live`, what is ours, as `applied_fields` finds it.

    Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    return next((_written(path) for path in _differences(applied, live, ()) if not _is_held(path, fields)), None)


def applied_fields(raw: Mapping[str, Any], manager: str) -> Mapping[str, Any]:
    """Which fields of an object a manager holds by server-side apply; nothing where that is not told, as of what watches saw."""
    for entry in raw["metadata"].get("managedFields") or ():
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and not entry.get("subresource"):
            found: Mapping[str, Any] = entry.get("fieldsV1") or {}
            return found
    return {}


def kept(applied: Any, live: Any, fields: Mapping[str, Any]) -> Any:
    """What was applied, in the form in which the API server keeps it: to write it so changes nothing, whatever has become of that policy.

    Args: as of `first_drift`.
    """
    paths = [path for path in _differences(applied, live, ()) if _is_held(path, fields)]
    if not paths:
        return applied
    found = copy.deepcopy(applied)
    for path in paths:
        _put(found, live, path)
    return found


def _put(target: Any, live: Any, path: _Path) -> None:
    """Make a place what it is in `live`, or take it out where it is not there."""
    *way, last = path
    for step in way:
        target, live = _at(target, step), _at(live, step)
    there = _at(live, last)
    if isinstance(last, str):
        if there is None:
            target.pop(last)
        else:
            target[last] = copy.deepcopy(there)
        return
    number = last.name if isinstance(last.name, int) else target.index(_at(target, last))
    target[number : number + 1] = [] if there is None else [copy.deepcopy(there)]


def _at(value: Any, step: "str | _Item") -> Any:
    if isinstance(step, str):
        return value.get(step)
    if isinstance(step.name, int):
        return value[step.name]
    key, name = step.name
    return next((item for item in value if item.get(key) == name), None)


def _is_held(path: _Path, fields: Mapping[str, Any]) -> bool:
    """Whether a field is among these. What is held as a whole, such as a plain list, has nothing below it."""
    for step in path:
        found = _below(step, fields)
        if found is None:
            return False
        if not found:
            return True
        fields = found
    return True


def _below(step: "str | _Item", fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if isinstance(step, str):
        below: Mapping[str, Any] | None = fields.get(f"f:{step}")
        return below
    if not isinstance(step.wanted, dict):
        return None
    for name, found in fields.items():
        # By all keys of the list-map, which may be others than the one by which people know the item. What is left out is a default.
        keys = json.loads(name[2:]) if name.startswith("k:") else None
        if keys is None or not keys.keys() & step.wanted.keys():
            continue
        if all(step.wanted.get(key, value) == value for key, value in keys.items()):
            return dict(found)
    return None


def _written(path: _Path) -> str:
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
    """Items are told apart by name where all have one of their own, else by place and number, as atomic lists are."""
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
        for number, (item, other) in enumerate(zip(desired, live, strict=True)):
            yield from _differences(item, other, (*path, _Item(number, item)))
    else:
        yield path


def _name(item: Any) -> tuple[str, Any] | None:
    if not isinstance(item, dict):
        return None
    return next(((key, item[key]) for key in _NAMED_BY if key in item), None)


def _quantities(desired: Mapping[str, Any], live: Any, path: _Path) -> Iterator[_Path]:
    """The API server writes quantities its own way (`0.5` becomes `500m`): compare amounts, not text."""
    for key, value in desired.items():
        other = live.get(key) if isinstance(live, dict) else None
        if other is None or parse_quantity(value) != parse_quantity(other):
            yield (*path, key)
