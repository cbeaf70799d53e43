"""Why a rollout does not progress, in the words of its pods. Pure.

Called by `progress`, `failure` and `downtime`. It must never judge by a single probe, and never copy a log line: agent
logs may contain patient data.
"""

from collections.abc import Iterator

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import Channel, MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, READY_PREFIX, Container, Pod
from medplum_agent_operator.core.policy import node_messages
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.containers import (
    added_trouble,
    cannot_be_created,
    is_stuck,
    keeps_exiting,
    kubelet_words,
    likely_cause,
    pull_error,
    pull_fails,
    refuses_credentials,
)
from medplum_agent_operator.core.policy.phrases import reported


def trouble(observed: Observed, spec: MedplumAgentSpec) -> Finding | None:
    """What blocks the current template's pod: the first fault that is not expected; None if none is known."""
    agent, deployment = observed.agent, observed.deployment
    if deployment is not None and deployment.creation_failure:
        return warning(
            Reason.POD_CREATION_FAILED,
            Message(
                "The cluster refuses to create the agent's pod.",
                cause=reported("Kubernetes", deployment.creation_failure),
                fix="Correct what the cause names: a quota, the Pod Security level or an admission policy. The command lists the refusals.",
                command=f"kubectl -n {agent.namespace} get events --field-selector reason=FailedCreate",
            ),
        )
    for pod in observed.current_pods:
        if pod.ready or pod.terminating:
            continue
        for found in _faults(agent, pod, spec):
            if found.reason is Reason.UNSCHEDULABLE and any(other.terminating for other in observed.live_pods):
                continue  # expected: the scheduler places it when the previous pod has ended
            return found
    return None


def not_ready(observed: Observed, spec: MedplumAgentSpec) -> Finding | None:
    """Why a pod that runs is not ready, from its conditions. Reported only after the deadline: a slow start is no fault."""
    for pod in observed.current_pods:
        if pod.terminating or pod.ready:
            continue
        if pod.readiness_gates:
            return warning(
                Reason.READINESS_GATE,
                Message(
                    f"Pod {pod.name} listens on every port, but a readiness gate of it is not true.",
                    cause=reported("The kubelet", pod.readiness_gates),
                    fix="Find out which controller sets that condition, such as the one of a load balancer, and why it does not.",
                    command=_describe(observed.agent, pod),
                ),
            )
        if pod.has_no_sandbox:
            return warning(
                Reason.SANDBOX_NOT_READY,
                Message(
                    f"Node {pod.node} has not set up the network and the volumes of pod {pod.name}, so no container of it starts.",
                    cause="The kubelet reports that the pod is not ready to start containers.",
                    fix="Read the pod's Events, and check the network plugin and the volumes of the node.",
                    command=_describe(observed.agent, pod),
                ),
            )
    return unready_ports(observed, spec)


def lost_node(observed: Observed) -> Finding | None:
    """An unreachable node with an agent's pod on it."""
    for pod in observed.live_pods:
        node = observed.node_of(pod)
        if node is None or node.lost_since is None:
            continue
        message = node_messages.node_lost(
            observed.agent,
            node=node.name,
            since=node.lost_since,
            pod=pod.name,
            hands_over=all(one.version is not None and one.version.hands_over for one in observed.live_pods),
            available=Availability.of(observed),
        )
        return warning(Reason.NODE_LOST, message)
    return None


def hopeless(observed: Observed) -> bool:
    """Whether waiting cannot help the current template's pod; `trouble` says why.

    A missing or refused image counts once the kubelet backs off after its first try. An agent that exits counts at its third exit. An
    unschedulable pod does not count: nodes and room may come. Nor does a container that an admission policy added: a rollback would
    get the same one.
    """
    own = _rendered(observed.applied_spec or observed.agent.spec)
    served = any(pod.ports_open for pod in observed.earlier_pods)
    return any(
        is_stuck(container, another_serves=served)
        for pod in _starting(observed)
        for container in pod.own_containers(own)
    )


def never_serves(observed: Observed) -> bool:
    """Whether no pod of the current template gets ready as things are, including for a container that another party added."""
    return any(is_stuck(container) for pod in _starting(observed) for container in pod.all_containers())


def _starting(observed: Observed) -> list[Pod]:
    return [pod for pod in observed.current_pods if not pod.ready and not pod.terminating]


def _rendered(spec: MedplumAgentSpec) -> set[str]:
    """The names of the containers that the operator renders."""
    return {AGENT_CONTAINER, *(f"{READY_PREFIX}{channel.name}" for channel in spec.channels)}


def unready_ports(observed: Observed, spec: MedplumAgentSpec) -> Finding | None:
    """Channel ports that are closed on a pod that runs. Reported only after the deadline: a slow start is no fault."""
    agent, secret = observed.agent, spec.server.credentials_secret_ref.name
    for pod in observed.current_pods:
        closed = [str(channel.port) for channel, ready in _channels(pod, spec) if not ready]
        if closed and not pod.terminating:
            return warning(
                Reason.PORT_NOT_READY,
                Message(
                    f"Pod {pod.name} runs but does not listen on port {', '.join(closed)}.",
                    cause="An agent opens a port only after it has logged in to Medplum and found a channel with that port there.",
                    fix=f"Read the agent's log with the command. Check spec.server, Secret {secret}, the network to the server, and in Medplum the port in the "
                    "address of each channel's Endpoint.",
                    command=_logs(agent, pod, AGENT_CONTAINER),
                ),
            )
    return None


def _channels(pod: Pod, spec: MedplumAgentSpec) -> Iterator[tuple[Channel, bool]]:
    states = {container.name: container.ready for container in pod.containers}
    for index, channel in enumerate(spec.channels):
        yield channel, states.get(AGENT_CONTAINER if index == 0 else f"{READY_PREFIX}{channel.name}", False)


def _faults(agent: MedplumAgent, pod: Pod, spec: MedplumAgentSpec) -> Iterator[Finding]:
    if pod.unschedulable:
        yield warning(
            Reason.UNSCHEDULABLE,
            Message(
                f"No node accepts pod {pod.name}.",
                cause=reported("The scheduler", pod.unschedulable),
                fix="Add a node, free capacity, or correct the scheduling in spec.podTemplate. The command shows the pod's events.",
                command=_describe(agent, pod),
            ),
        )
    own = _rendered(spec)
    for container in pod.own_containers(own):
        yield from _container_faults(agent, pod, container, spec)
    for container in pod.added_containers(own):
        found = added_trouble(container, pod=pod.name, command=_describe(agent, pod))
        if found is not None:
            yield found


def _container_faults(agent: MedplumAgent, pod: Pod, container: Container, spec: MedplumAgentSpec) -> Iterator[Finding]:
    if pull_fails(container):
        yield warning(
            Reason.IMAGE_PULL_FAILED,
            Message(
                f"Pod {pod.name} cannot pull its image.",
                cause=reported("The kubelet", pull_error(container)),
                fix="Check spec.image, spec.image.pullSecrets and the registry. The command shows the pod's events.",
                command=_describe(agent, pod),
            ),
        )
    elif cannot_be_created(container):
        keys = spec.server.credentials_secret_ref
        secret = keys.name
        yield warning(
            Reason.CONTAINER_CONFIG_ERROR,
            Message(
                f"Container {container.name} of pod {pod.name} cannot be created.",
                cause=reported("The kubelet", kubelet_words(container)),
                fix=f"Create what is missing. Secret {secret} must have the keys {keys.client_id_key} and {keys.client_secret_key}. The command shows the pod's events.",
                command=_describe(agent, pod),
            ),
        )
    elif container.exit_code is not None and not container.ready and keeps_exiting(container):
        yield _ended(agent, pod, container, spec)


def _ended(agent: MedplumAgent, pod: Pod, container: Container, spec: MedplumAgentSpec) -> Finding:
    if refuses_credentials(container):
        secret = spec.server.credentials_secret_ref.name
        return warning(
            Reason.CREDENTIALS_REFUSED,
            Message(
                f"Pod {pod.name} refuses to write agent.properties.",
                cause=container.termination_message,
                fix=f"Correct the value in Secret {secret}. The command lists its keys, without their values.",
                command=f"kubectl -n {agent.namespace} describe secret {secret}",
            ),
        )
    code = container.exit_code or 0
    cause, fix = likely_cause(code)
    if container.termination_message:
        cause, fix = f"Its last message: {container.termination_message}", "Correct what the message names."
    return warning(
        Reason.CRASH_LOOP,
        Message(
            f"Container {container.name} of pod {pod.name} keeps exiting with code {code}.",
            cause=cause,
            fix=fix,
            command=f"{_logs(agent, pod, container.name)} --previous",
        ),
    )


def _describe(agent: MedplumAgent, pod: Pod) -> str:
    return f"kubectl -n {agent.namespace} describe pod {pod.name}"


def _logs(agent: MedplumAgent, pod: Pod, container: str) -> str:
    return f"kubectl -n {agent.namespace} logs {pod.name} -c {container}"
