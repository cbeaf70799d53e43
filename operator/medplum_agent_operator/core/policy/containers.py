"""Read the state of one container: whether it can still start, and the kubelet's words about it.

Called by `diagnosis` for the agent's pod and by `prepull` for the Job that pulls an image. Pure.

Admission policies add containers to pods (a mesh's proxy, a log shipper). These get a message of their own and decide nothing:
the spec neither names their images nor explains their exits.
"""

from collections.abc import Mapping
from typing import Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, REFUSED_CREDENTIALS, Container
from medplum_agent_operator.core.policy.phrases import reported

_PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}

_NEVER_PULLED = {"ErrImageNeverPull", "InvalidImageName"}
"""Waiting reasons of an image that never arrives until a user fixes the cause."""
_NOT_YET = "failed to sync"
"""The kubelet's words for a Secret that it has not read yet. Only this config error resolves without a fix."""
_NO_SUCH_IMAGE = (
    "not found",
    "manifest unknown",
    "does not exist",
    "access denied",
    "access forbidden",
    "unauthorized",
    "authentication required",
    "authorization failed",
    "insufficient_scope",
    "no basic auth credentials",
    "401 unauthorized",
    "403 forbidden",
)
"""A registry's words for an image that it does not have, or to which it denies access. Any other error may be temporary.

Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes, and containerd's remotes/docker.
"""
_MOST_EXITS: Final = 3
"""After this many exits without ever being ready, waiting for the agent cannot help."""
_EXITS_WITHOUT_MESSAGE: Final = 4
_EXITS_WHILE_ANOTHER_SERVES: Final = 5
"""The same for exit code 1 without a message, which may be a server that is away for a moment: after about 40 s, or 80 s if an earlier agent serves.

Source: agents exit with 1 at their start if the server answers a read of Agent or Endpoint with 5xx; the kubelet's back-off is 10, 20, 40 s.
"""
_LIKELY: Final[Mapping[int, tuple[str, str]]] = {
    0: (
        "Exit code 0 proves nothing: agents older than 4.1.3 also exit with 0 when they cannot log in.",
        "Check spec.server.baseUrl and the credentials in the Secret.",
    ),
    1: (
        "Possible causes that leave no message: Medplum refuses access to Agent or Endpoints, the log folder is not writable, or a TCP or ASTM device resets its connection.",
        "Read the log with the command. In Medplum, check that the Agent and its Endpoints exist and that its ClientApplication may read them.",
    ),
    126: ("The program cannot be executed.", "Give spec.image.command's program the execute permission for everyone."),
    127: ("The program is not in the image.", "Correct spec.image.command or the image."),
    137: ("It was killed, usually because it exceeded its memory limit.", "Raise spec.podTemplate.resources.limits."),
}
"""Likely cause and fix for an exit code of an agent that leaves no message."""
_NO_MESSAGE: Final = ("It left no message.", "Read the container's log with the command.")


def likely_cause(exit_code: int) -> tuple[str, str]:
    """Likely cause and fix for an agent that exits without a message."""
    return _LIKELY.get(exit_code, _NO_MESSAGE)


def cannot_be_created(container: Container) -> bool:
    """Whether a container waits because the kubelet cannot create or run it."""
    return container.waiting in _CONFIG


def never_starts(container: Container) -> bool:
    """Whether a container cannot be created or refuses to start, and waiting cannot help."""
    if refuses_credentials(container) and not container.running:
        return True
    return lacks_secret(container) or _no_such_image(container)


def is_stuck(container: Container, *, another_serves: bool = False) -> bool:
    """Whether waiting cannot help a container that was never ready. `another_serves`: whether an earlier agent serves devices meanwhile."""
    most = _MOST_EXITS
    if container.name == AGENT_CONTAINER and container.exit_code == 1 and not container.termination_message:
        most = _EXITS_WHILE_ANOTHER_SERVES if another_serves else _EXITS_WITHOUT_MESSAGE
    exits = container.waiting == "CrashLoopBackOff" and container.restarts >= most - 1
    return never_starts(container) or exits


def _no_such_image(container: Container) -> bool:
    """Whether waiting cannot bring the image: name or policy exclude a pull, or the registry refused it and the kubelet backs off."""
    words = container.message.lower()
    return container.waiting in _NEVER_PULLED or (
        container.waiting == "ImagePullBackOff" and any(word in words for word in _NO_SUCH_IMAGE)
    )


def keeps_exiting(container: Container) -> bool:
    """Whether a container exits again and again, and is not merely between two starts."""
    if refuses_credentials(container):
        # The script refuses at the start or never: a container that runs now has other credentials.
        return not container.running
    return container.waiting == "CrashLoopBackOff" or container.restarts > 0


def refuses_credentials(container: Container) -> bool:
    """Whether the start script refused the credentials. One exit is enough evidence."""
    return (
        container.name == AGENT_CONTAINER
        and container.exit_code == REFUSED_CREDENTIALS
        and bool(container.termination_message)
    )


def pull_fails(container: Container) -> bool:
    """Whether a container waits because its image cannot be pulled."""
    return container.waiting in _PULL


def pull_error(container: Container) -> str:
    """Why the pull fails, in the kubelet's words: the cause alone, which stays the same during a pull and during the back-off."""
    cause = container.message.rpartition("ErrImagePull: ")[2].strip().rstrip(".")
    return "the kubelet keeps trying" if cause.startswith("Back-off ") else cause or container.waiting


def lacks_secret(container: Container) -> bool:
    """Whether a container waits because a Secret, or a key of one, is missing."""
    return container.waiting == "CreateContainerConfigError" and _NOT_YET not in container.message


def kubelet_words(container: Container) -> str:
    """The kubelet's words, without its back-off message, which changes at each try."""
    if container.message.startswith("Back-off "):
        return "the kubelet keeps trying"
    return container.message.strip().rstrip(".") or container.waiting


def added_trouble(container: Container, *, pod: str, command: str) -> Finding | None:
    """Why a container that an admission policy added does not run; None if nothing is known to be wrong."""
    if pull_fails(container):
        reason, what, cause = Reason.IMAGE_PULL_FAILED, "cannot pull its image", pull_error(container)
    elif cannot_be_created(container):
        reason, what, cause = Reason.CONTAINER_CONFIG_ERROR, "cannot be created", kubelet_words(container)
    elif container.exit_code is not None and not container.ready and keeps_exiting(container):
        reason, what, cause = Reason.CRASH_LOOP, f"keeps exiting with code {container.exit_code}", ""
    else:
        return None
    last_words = f"Its last message: {container.termination_message}" if container.termination_message else ""
    return warning(
        reason,
        Message(
            f"Container {container.name}, which a policy added to pod {pod}, {what}.",
            cause=reported("The kubelet", cause) if cause else last_words,
            fix="Correct the admission policy or webhook that adds the container, or exempt the pod from it.",
            command=command,
        ),
    )
