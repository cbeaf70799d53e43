"""The right that a request needs, in words. Asked by `kube` where a refusal names none.

An API server before 1.31 gives no reason if a server-side apply would create an object and the account may not: its message ends
with "is forbidden:". Pure.
"""

import re
from typing import Final

_SAYS_NOTHING: Final = re.compile(r'(?:\S+ (?:"[^"]*" )?is forbidden[:\s]*(?:<nil>)?)?[.\s]*')
_PATH: Final = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)


def needed_right(method: str, path: str, message: str, *, applies: bool) -> str:
    """Return a sentence that names verb, resource and namespace; empty if the API server's message says more than "forbidden".

    Args:
        method: of the request.
        path: of the request, below the API server's address.
        message: the API server's, of its answer 403.
        applies: whether this is a server-side apply, which creates an object that does not exist.

    >>> path = "/apis/apps/v1/namespaces/clinic/deployments/lab"
    >>> needed_right("PATCH", path, 'deployments.apps "lab" is forbidden: ', applies=True)
    "The operator's account needs the right to create and patch deployments.apps in namespace clinic."
    >>> needed_right("PATCH", path, 'deployments.apps "lab" is forbidden: exceeded quota', applies=True)
    ''
    """
    found = _PATH.fullmatch(path)
    if found is None or not _SAYS_NOTHING.fullmatch(message):
        return ""
    match method:
        case "GET":
            verbs = "get" if found["name"] else "list"
        case "POST":
            verbs = "create"
        case "PATCH":
            verbs = "create and patch" if applies else "patch"
        case _:
            verbs = method.lower()
    resource = found["resource"] + (f"/{found['part']}" if found["part"] else "")
    group = f".{found['group']}" if found["group"] else ""
    where = f"in namespace {found['namespace']}" if found["namespace"] else "in the whole cluster"
    return f"The operator's account needs the right to {verbs} {resource}{group} {where}."
