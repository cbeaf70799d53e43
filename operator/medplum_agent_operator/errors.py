"""Faults of I/O, as exceptions. A fault of the world (a missing image, a refused change) is never one: it is a finding."""

LONGEST_MESSAGE = 2000
"""Characters of an answer of the API server that are told: a condition takes 32 KiB, and a webhook may say anything."""


class OperatorError(Exception):
    """Base of what this package raises itself. The text is a whole sentence that says what to do."""


class StartupError(OperatorError):
    """The operator cannot start: a wrong setting, no cluster, no CRD. Ends the process with its sentence."""


class ClusterError(OperatorError):
    """A request to the API server failed; trying again later may help.

    Attributes:
        status: the HTTP status, or 0 when there was no answer.
        reason: Kubernetes' own machine-readable reason, such as `Conflict`.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 1]}…")
        self.status = status
        self.reason = reason


class UntrustedError(ClusterError):
    """The API server's certificate is not of the CA that is known here, which is read once: starting again reads it anew."""


class ConflictError(ClusterError):
    """Somebody changed the object between our read and our write (409): observe again and decide anew."""


class RefusedError(ClusterError):
    """The API server understood the write and refuses it (400, 403, 413, 422): trying the same again is of no use soon."""
