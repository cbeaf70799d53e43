"""Which of two states of the API server is the older one. Called by `cache` and `observe`.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions (comparable since 1.35, and numbers in every API
server backed by etcd).
"""

from collections.abc import Mapping
from typing import Any


def age(raw: Mapping[str, Any]) -> int:
    """An object's resource version, for ordering two states of one kind; 0 where it has none that can be compared."""
    return number(raw["metadata"].get("resourceVersion", ""))


def number(resource_version: str) -> int:
    """A resource version as a number; 0 where it is none.

    >>> number("1042"), number("")
    (1042, 0)
    """
    return int(resource_version) if resource_version.isdecimal() else 0
