"""Which of two states of an object is older. Called by `cache` and `observe`.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions (comparable since Kubernetes 1.35,
and numbers in every API server that uses etcd).
"""

from collections.abc import Mapping
from typing import Any


def age(raw: Mapping[str, Any]) -> int:
    """An object's resource version as a number, to order two states of one kind; 0 if it is not a number."""
    return number(raw["metadata"].get("resourceVersion", ""))


def number(resource_version: str) -> int:
    """A resource version as a number; 0 if it is not a number.

    >>> number("1042"), number("")
    (1042, 0)
    """
    return int(resource_version) if resource_version.isdecimal() else 0
