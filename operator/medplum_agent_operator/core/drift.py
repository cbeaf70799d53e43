"""Whether a live object still is what we would apply. Called by `plan` before every write, so that converged objects cost none.

The live object may hold more than we render (server defaults, fields of other managers): only what we render is compared.
A field that we no longer render shows in the fingerprint instead, which changes with what is rendered.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes.utils.quantity import parse_quantity

_NAMED_BY = ("name", "mountPath", "containerPort", "port", "uid")
"""Keys by which Kubernetes tells the items of its list-maps apart (containers, variables, volumes, mounts, ports, owners)."""


def fingerprint(value: Any) -> str:
    """Sixteen hex digits that change when `value` does, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def first_difference(desired: Any, live: Any, path: str = "") -> str | None:
    """The path of the first place where `live` is not what `desired` says; None where it is.

    >>> first_difference({"spec": {"replicas": 1}}, {"spec": {"replicas": 3, "paused": False}})
    'spec.replicas'
    >>> first_difference({"limits": {"cpu": "0.5"}}, {"limits": {"cpu": "500m"}}) is None
    True
    """
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return path if desired else None
        for key, value in desired.items():
            below = f"{path}.{key}" if path else str(key)
            if key not in live:
                if value in ({}, [], None):
                    continue
                return below
            if key in {"requests", "limits"} and isinstance(value, dict):
                found = _first_quantity(value, live[key], below)
            else:
                found = first_difference(value, live[key], below)
            if found is not None:
                return found
        return None
    if isinstance(desired, list | tuple):
        return _first_item(desired, live, path)
    return None if desired == live else path


def _first_item(desired: Sequence[Any], live: Any, path: str) -> str | None:
    """Items are told apart by name where all have one of their own, else by place and number, as atomic lists are."""
    if not isinstance(live, list | tuple):
        return path if desired else None
    names = [_name(item) for item in desired]
    if None not in names and len(set(names)) == len(names):
        by_name = {_name(item): item for item in live}
        pairs = [(f"{path}[{name}]", item, by_name.get(name)) for name, item in zip(names, desired, strict=True)]
    elif len(desired) == len(live):
        pairs = [(f"{path}[{n}]", item, live[n]) for n, item in enumerate(desired)]
    else:
        return path
    return next((found for where, item, other in pairs if (found := first_difference(item, other, where))), None)


def _name(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    return next((f"{key}={item[key]}" for key in _NAMED_BY if key in item), None)


def _first_quantity(desired: Mapping[str, Any], live: Any, path: str) -> str | None:
    """The API server writes quantities its own way (`0.5` becomes `500m`): compare amounts, not text."""
    for key, value in desired.items():
        other = live.get(key) if isinstance(live, dict) else None
        if other is None or parse_quantity(value) != parse_quantity(other):
            return f"{path}.{key}"
    return None
