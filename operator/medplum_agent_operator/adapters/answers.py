"""Answers of the API server, or of a proxy in between: objects, and faults mapped to one of `errors`. Called by `kube`. Pure."""

import json
from typing import Any

from medplum_agent_operator.adapters.rights import needed_right
from medplum_agent_operator.errors import ClusterError, ConflictError, RefusedError, sentence


def object_of(request: str, status: int, content: bytes) -> dict[str, Any]:
    """Parse an answer. One that is not a JSON object does not come from an API server."""
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ClusterError(
            f"{request} was answered with {status} and no Kubernetes object: {content[:300].decode(errors='replace')}"
        )
    return found


def fault_of(method: str, path: str, status: int, content: bytes, *, applies: bool) -> ClusterError:
    """The fault that an answer from 400 on means. `applies`: whether the request was a server-side apply."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):  # from a proxy in between
        answer = {}
    # What is no Status is shown as it came.
    reason, message = (
        answer.get("reason", ""),
        answer.get("message", "") if answer else content[:300].decode(errors="replace"),
    )
    text = sentence(" ".join(filter(None, (f"{method} {path} was answered with {status}", reason))) + f": {message}")
    if status == 403 and (right := needed_right(method, path, message, applies=applies)):  # noqa: PLR2004 - HTTP's own number
        text = f"{text} {right}"
    match status:
        case 409:
            return ConflictError(text, status=status, reason=reason)
        case 400 | 403 | 413 | 415 | 422:
            return RefusedError(text, status=status, reason=reason)
        case _:
            return ClusterError(text, status=status, reason=reason)
