"""Whether JSON from an annotation has the shape of a pod template: the types of Kubernetes' own API, field by field.

Called by `rollout_record` before a template from an annotation counts. It says nothing about what the template does. A field
that the client library does not know may have any value, because a cluster can be newer than the library.
"""

from collections.abc import Mapping
from typing import Any, Final

from kubernetes.client import models
from kubernetes.utils.quantity import parse_quantity

_QUANTITIES: Final = frozenset({"requests", "limits", "overhead"})
"""Maps whose values are quantities, which have the type `str` in the client library."""
_SIMPLE: Final[Mapping[str, tuple[type, ...]]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}


def is_pod_template(value: Any) -> bool:
    """Whether a value has the types of a `PodTemplateSpec`, valid quantities and valid characters."""
    return _fits(value, "V1PodTemplateSpec") and _is_utf8(value)


def _fits(value: Any, kind: str, field: str = "") -> bool:
    outer, _, inner = kind.removesuffix("]").partition("[")
    if outer.lower() == "list":
        return isinstance(value, list) and all(_fits(item, inner) for item in value)
    if outer.lower() == "dict":
        inner = inner.partition(", ")[2]
        quantities = field in _QUANTITIES
        return isinstance(value, dict) and all(
            _is_quantity(part) if quantities else _fits(part, inner) for part in value.values()
        )
    if kind in _SIMPLE:
        # True is an int in Python, not in JSON.
        return isinstance(value, _SIMPLE[kind]) and (kind == "bool" or not isinstance(value, bool))
    model = getattr(models, kind, None)
    if model is None:  # `object` and `datetime`: a number or a name of a port; a moment, which is null in a template
        return not isinstance(value, dict | list)
    types = {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}
    required = {"V1PodTemplateSpec": {"metadata", "spec"}, "V1PodSpec": {"containers"}, "V1Container": {"name"}}
    return (
        isinstance(value, dict)
        and required.get(kind, set()) <= value.keys()
        and all(key not in types or _fits(part, types[key], key) for key, part in value.items())
    )


def _is_quantity(value: Any) -> bool:
    try:
        return isinstance(value, str | int | float) and parse_quantity(value).is_finite()
    except (ValueError, ArithmeticError):
        return False


def _is_utf8(value: Any) -> bool:
    """Whether every text can be sent: JSON can escape half a character, UTF-8 cannot hold it."""
    if isinstance(value, dict):
        return all(_is_utf8(key) and _is_utf8(part) for key, part in value.items())
    if isinstance(value, list):
        return all(map(_is_utf8, value))
    return not isinstance(value, str) or value.isprintable() or _encodes(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
