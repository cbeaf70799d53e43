"""What the state of one container means: whether it can still start, and the kubelet's words about it.

Called by `diagnosis` for the agent's pod and by `prepull` for the Job that pulls an image. Pure.
"""

from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, REFUSED_CREDENTIALS, Container

_PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}

_NEVER_PULLED = {"ErrImageNeverPull", "InvalidImageName"}
"""What an image can be waited for only in vain, as long as nobody mends something."""
_NOT_YET = "failed to sync"
"""The kubelet's words for a Secret that it has not read yet: the one container that cannot be made and soon can be."""
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
"""A registry's words for an image that it does not have, or does not give to us. Everything else may be its network or its rest.

Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes, and containerd's remotes/docker.
"""


def cannot_be_created(container: Container) -> bool:
    """Whether a container waits because the kubelet cannot create or run it."""
    return container.waiting in _CONFIG


def never_starts(container: Container) -> bool:
    """Whether a container cannot be made, or refuses to begin, and no waiting mends it."""
    if refuses_credentials(container) and not container.running:
        return True
    return lacks_secret(container) or _no_such_image(container)


def _no_such_image(container: Container) -> bool:
    """Whether a registry has said that it does not have the image, or does not give it to us, and the kubelet has given up a try."""
    words = container.message.lower()
    return container.waiting in _NEVER_PULLED or (
        container.waiting == "ImagePullBackOff" and any(word in words for word in _NO_SUCH_IMAGE)
    )


def keeps_exiting(container: Container) -> bool:
    """Whether a container that has exited is not merely between two starts."""
    if refuses_credentials(container):
        # It refuses at its start or not at all: one that runs has other credentials by now.
        return not container.running
    return container.waiting == "CrashLoopBackOff" or container.restarts > 0


def refuses_credentials(container: Container) -> bool:
    """Whether the start script ended instead of the agent; it needs no second end to be believed."""
    return (
        container.name == AGENT_CONTAINER
        and container.exit_code == REFUSED_CREDENTIALS
        and bool(container.termination_message)
    )


def pull_fails(container: Container) -> bool:
    """Whether a container waits because its image cannot be pulled."""
    return container.waiting in _PULL


def pull_error(container: Container) -> str:
    """Why, in the kubelet's words: the cause alone, which reads the same while it pulls and while it waits to try again."""
    cause = container.message.rpartition("ErrImagePull: ")[2].strip().rstrip(".")
    return "the kubelet keeps trying" if cause.startswith("Back-off ") else cause or container.waiting


def lacks_secret(container: Container) -> bool:
    """Whether a container waits because a Secret, or a key of one, is not there."""
    return container.waiting == "CreateContainerConfigError" and _NOT_YET not in container.message


def kubelet_words(container: Container) -> str:
    """The kubelet's words; its back-off reads differently at each try, so only what stays is kept."""
    if container.message.startswith("Back-off "):
        return "the kubelet keeps trying"
    return container.message.strip().rstrip(".") or container.waiting
