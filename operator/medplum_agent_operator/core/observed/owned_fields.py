"""Walks over `fieldsV1`, the set of fields that a field manager owns, beside the objects that it describes.

Called by `foreign_fields`; pure. It knows no field manager and decides nothing.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

Raw = Mapping[str, Any]
Path = tuple[str, ...]
"""Keys of `fieldsV1`, such as `f:containers` and `k:{"name":"agent"}`."""

_DEFAULTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "creationTimestamp": (None,),
    "defaultMode": (420,),
    "dnsPolicy": ("ClusterFirst",),
    "failureThreshold": (3,),
    "imagePullPolicy": ("IfNotPresent", "Always"),
    "periodSeconds": (10,),
    "protocol": ("TCP",),
    "restartPolicy": ("Always",),
    "schedulerName": ("default-scheduler",),
    "successThreshold": (1,),
    "terminationGracePeriodSeconds": (30,),
    "terminationMessagePath": ("/dev/termination-log",),
    "terminationMessagePolicy": ("File",),
    "timeoutSeconds": (1,),
}
"""Defaults of the API server in a pod template: who sends the whole object owns them too, and they say nothing."""
_COPIES: Final = {"serviceAccount"}
"""Fields that the API server fills in from another one."""


def not_rendered(fields: Raw, desired: Any, live: Any, path: Path) -> Iterator[Path]:
    """The paths among these owned fields that `live` has and `desired` does not: whole items of lists, else single fields."""
    for step, below in fields.items():
        if not step.startswith(("f:", "k:")):
            continue
        here, value, wanted = (*path, step), _step(live, step), _step(desired, step)
        if value in (None, {}, []) or (step[2:] in _COPIES and wanted is None):
            continue
        if wanted is None and (step.startswith("k:") or not below):
            if not (step.startswith("f:") and value in _DEFAULTS.get(step[2:], ())):
                yield here
        elif below:
            yield from not_rendered(below, {} if wanted is None else wanted, value, here)


def fields_at(fields: Raw, path: Path) -> Raw:
    """What is owned below a path; empty if nothing is."""
    for step in path:
        fields = fields.get(step) or {}
    return fields


def value_at(value: Any, path: Path) -> Any:
    """The value at a path of an object; None if it is not there."""
    for step in path:
        value = _step(value, step)
    return value


def owns(fields: Raw, path: Path) -> bool:
    """Whether these owned fields have a path."""
    for step in path:
        if step not in fields:
            return False
        fields = fields[step]
    return True


def take_out(fields: dict[str, Any], path: Path) -> Any:
    """Take a path out of `fieldsV1`, and what is empty without it."""
    first, *rest = path
    if not rest:
        return fields.pop(first)
    found = take_out(fields[first], tuple(rest))
    if not fields[first].keys() - {"."}:
        del fields[first]
    return found


def put_in(fields: dict[str, Any], path: Path, value: Any) -> None:
    """Add a path with what is owned below it."""
    for step in path[:-1]:
        fields = fields.setdefault(step, {})
    fields[path[-1]] = merged(fields.get(path[-1]) or {}, value)


def merged(one: Raw, other: Raw) -> dict[str, Any]:
    """All that one of two sets owns."""
    return {**one, **{step: merged(one.get(step) or {}, below) for step, below in other.items()}}


def copy_field(target: Any, live: Any, path: Path) -> None:
    """Copy what is at a path of `live` into `target`."""
    *parents, last = path
    for step in parents:
        source = _step(live, step)
        below = _step(target, step)
        if below is None:
            below = [] if isinstance(source, list) else {}
            target[step[2:]] = below
        target, live = below, source
    if last.startswith("f:"):
        target[last[2:]] = copy.deepcopy(_step(live, last))
    else:
        target.append(copy.deepcopy(_step(live, last)))


def _step(value: Any, step: str) -> Any:
    """What a key of `fieldsV1` leads to; None if it is not there."""
    if step.startswith("f:"):
        return value.get(step[2:]) if isinstance(value, dict) else None
    if not isinstance(value, list | tuple):
        return None
    keys = json.loads(step[2:])
    return next((item for item in value if isinstance(item, dict) and _matches(item, keys)), None)


def _matches(item: Raw, keys: Raw) -> bool:
    return all(item.get(key, *_DEFAULTS.get(key, (None,))) == value for key, value in keys.items())
