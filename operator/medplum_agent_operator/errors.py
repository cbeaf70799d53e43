"""Exceptions for failed I/O. A fault in the cluster (a missing image, a refused change) is never an exception: it is a finding."""

LONGEST_MESSAGE = 2000
"""How many characters of an API server's answer are shown. A condition has at most 32 KiB, and a webhook may return any text."""


def sentence(words: object) -> str:
    r"""Return a library's words as a sentence, so that another one may follow.

    >>> sentence("no such file\n"), sentence(ValueError("No.")), sentence("lab is forbidden: "), sentence("")
    ('no such file.', 'No.', 'lab is forbidden.', '')
    """
    text = str(words).rstrip(" :\n\r\t")
    return text if not text or text.endswith((".", "!", "?", "…")) else f"{text}."


class OperatorError(Exception):
    """Base of this package's own exceptions. The text is a complete sentence that says what to do."""


class StartupError(OperatorError):
    """The operator cannot start: a wrong setting, no cluster, no CRD. The process prints the text and exits."""


class ClusterError(OperatorError):
    """A request to the API server failed. A later retry may succeed.

    Attributes:
        status: the HTTP status; 0 without an answer.
        reason: Kubernetes' own machine-readable reason, such as `Conflict`.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 1]}…")
        self.status = status
        self.reason = reason


class UntrustedError(ClusterError):
    """The CA that the operator knows did not sign the API server's certificate. The operator reads the CA once, at start: restart it."""


class ConflictError(ClusterError):
    """The object changed between our read and our write (409): observe and decide again."""


class RefusedError(ClusterError):
    """The API server refused the write (400, 403, 413, 422). The same write is not likely to succeed soon."""
