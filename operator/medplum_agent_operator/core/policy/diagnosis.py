"""Why a rollout does not get on, in the words of its pods. Called by `plan`; pure, and never judged on a single probe.

Silent exits get the likely cause, as seen with the real agent (docs/user-guide.md, "When an agent does not start").
No log line is ever copied: agent logs may hold patient data.
"""

from collections.abc import Iterator
from typing import Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import Channel, MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, READY_PREFIX, REFUSED_CREDENTIALS, Container, Pod
from medplum_agent_operator.core.policy import messages

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
_ENDS: Final = 3
"""An agent that has ended so often without ever having been ready is not waited for."""

_SILENT = {
    0: (
        "Exit code 0 proves nothing: agents before 4.1.3 also end with 0 when they cannot log in. "
        "Check spec.server.baseUrl and the credentials in the Secret."
    ),
    1: (
        "The agent says nothing when it cannot write its log folder, when a port is taken (before 5.1.14), or when a TCP peer resets a "
        "byte-stream channel; check the channels' Endpoints in Medplum against spec.channels, and what else uses these ports."
    ),
    126: "The program in spec.image.command cannot be executed: it needs the execute permission for every user.",
    127: "The program in spec.image.command is not in the image.",
    137: "It was killed, as a rule for using more memory than spec.podTemplate.resources.limits allows.",
}


def trouble(observed: Observed, spec: MedplumAgentSpec) -> Finding | None:
    """What stands in the way of the current template's pod, the most telling fault first; None where nothing is known yet."""
    deployment = observed.deployment
    if deployment is not None and deployment.creation_failure:
        return _finding(
            Reason.POD_CREATION_FAILED, f"The cluster refuses to create the agent's pod: {deployment.creation_failure}"
        )
    for pod in observed.current_pods:
        if pod.ready or pod.terminating:
            continue
        for found in _faults(pod, spec):
            if found.reason is Reason.UNSCHEDULABLE and any(other.terminating for other in observed.live_pods):
                continue  # as it should be: it waits until the one before it has gone
            return found
    return None


def lost_node(observed: Observed) -> Finding | None:
    """A node that is not heard of and that an agent's pod is on: what that means for the agent, and what an admin may do."""
    for pod in observed.live_pods:
        node = observed.node_of(pod)
        if node is None or node.lost_since is None:
            continue
        told = messages.node_lost(
            node=node.name,
            since=node.lost_since,
            pod=pod.name,
            hands_over=all(one.version is not None and one.version.hands_over for one in observed.live_pods),
        )
        return _finding(Reason.NODE_LOST, told)
    return None


def hopeless(observed: Observed) -> bool:
    """Whether something stands in the way of the current template's pod that no waiting mends; `trouble` says what.

    An image that is not there or that nobody lets us have counts once the kubelet has given up its first try; an agent that ends
    counts at its third end. A pod that no node takes is waited for: nodes come, and so does room.
    """
    return any(
        never_starts(container) or (container.waiting == "CrashLoopBackOff" and container.restarts >= _ENDS - 1)
        for pod in observed.current_pods
        if not pod.ready and not pod.terminating
        for container in pod.all_containers()
    )


def never_starts(container: Container) -> bool:
    """Whether a container cannot be made, or refuses to begin, and no waiting mends it."""
    if _refuses(container) and not container.running:
        return True
    return lacks_what_it_reads(container) or _no_such_image(container)


def _no_such_image(container: Container) -> bool:
    """Whether a registry has said that it does not have the image, or does not give it to us, and the kubelet has given up a try."""
    words = container.message.lower()
    return container.waiting in _NEVER_PULLED or (
        container.waiting == "ImagePullBackOff" and any(word in words for word in _NO_SUCH_IMAGE)
    )


def unready_ports(observed: Observed, spec: MedplumAgentSpec) -> Finding | None:
    """Which channels' ports are not open on a pod that otherwise runs. Said only when time is up: slow is not broken."""
    for pod in observed.current_pods:
        closed = [str(channel.port) for channel, ready in _channels(pod, spec) if not ready]
        if closed and not pod.terminating:
            return _finding(
                Reason.PORT_NOT_READY,
                f"Pod {pod.name} runs, but does not listen on port {', '.join(closed)}. An agent opens a port only after it has logged in "
                "to Medplum and read a channel with that port: check spec.server, the Secret, the network to the server, and "
                "the addresses of the agent's Endpoints.",
            )
    return None


def _channels(pod: Pod, spec: MedplumAgentSpec) -> Iterator[tuple[Channel, bool]]:
    states = {container.name: container.ready for container in pod.all_containers()}
    for index, channel in enumerate(spec.channels):
        yield channel, states.get(AGENT_CONTAINER if index == 0 else f"{READY_PREFIX}{channel.name}", False)


def _faults(pod: Pod, spec: MedplumAgentSpec) -> Iterator[Finding]:
    if pod.unschedulable:
        yield _finding(Reason.UNSCHEDULABLE, f"No node takes pod {pod.name}: {pod.unschedulable}")
    for container in pod.all_containers():
        yield from _container_faults(pod, container, spec)


def _container_faults(pod: Pod, container: Container, spec: MedplumAgentSpec) -> Iterator[Finding]:
    if container.waiting in _PULL:
        yield _finding(
            Reason.IMAGE_PULL_FAILED, f"The image of pod {pod.name} cannot be pulled: {pull_words(container)}."
        )
    elif container.waiting in _CONFIG:
        yield _finding(
            Reason.CONTAINER_CONFIG_ERROR,
            f"Container {container.name} of pod {pod.name} cannot be started: {said(container)}. If a Secret or a key is missing, "
            f"create it: the pod reads Secret {spec.server.credentials_secret_ref.name}.",
        )
    elif container.exit_code is not None and not container.ready and _keeps_ending(container):
        yield _ended(pod, container)


def _keeps_ending(container: Container) -> bool:
    if _refuses(container):
        return (
            not container.running
        )  # it refuses at once or not at all: one that runs has been given better credentials
    return container.waiting == "CrashLoopBackOff" or container.restarts > 0


def _refuses(container: Container) -> bool:
    """Whether the start script ended instead of the agent; it needs no second end to be believed."""
    return (
        container.name == AGENT_CONTAINER and container.exit_code == REFUSED_CREDENTIALS and bool(container.last_words)
    )


def _ended(pod: Pod, container: Container) -> Finding:
    if _refuses(container):
        return _finding(
            Reason.CREDENTIALS_REFUSED, f"Pod {pod.name} refuses to write agent.properties: {container.last_words}"
        )
    code = container.exit_code or 0
    words = (
        f"Its last words: {container.last_words}" if container.last_words else _SILENT.get(code, "It left no message.")
    )
    return _finding(
        Reason.CRASH_LOOP, f"Container {container.name} of pod {pod.name} keeps ending with exit code {code}. {words}"
    )


def pull_fails(container: Container) -> bool:
    """Whether a container waits because its image cannot be pulled."""
    return container.waiting in _PULL


def pull_words(container: Container) -> str:
    """Why, in the kubelet's words: the cause alone, which reads the same while it pulls and while it waits to try again."""
    cause = container.message.rpartition("ErrImagePull: ")[2].strip().rstrip(".")
    return "the kubelet keeps trying" if cause.startswith("Back-off ") else cause or container.waiting


def lacks_what_it_reads(container: Container) -> bool:
    """Whether a container waits because a Secret, or a key of one, is not there."""
    return container.waiting == "CreateContainerConfigError" and _NOT_YET not in container.message


def said(container: Container) -> str:
    """The kubelet's words; its back-off reads differently at each try, so only what stays is kept."""
    if container.message.startswith("Back-off "):
        return "the kubelet keeps trying"
    return container.message.strip().rstrip(".") or container.waiting


def _finding(reason: Reason, message: str) -> Finding:
    return Finding(reason, Severity.WARNING, message)
