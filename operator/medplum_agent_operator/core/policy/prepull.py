"""Make image and Secret available on the node before the old agent stops: whether a Job is needed, the Job, and its troubles.

Called by `plan` when a change that stops first is about to begin. The old agent serves until the kubelet has created the Job's
container, which needs the new image and the new agent's Secret (docs/adr/0012). Decisions use the observation only: a change
that a user undoes or replaces leaves a Job behind, which ends automatically.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects.agent_pod import idle_resources
from medplum_agent_operator.core.objects.agent_start import credentials
from medplum_agent_operator.core.objects.children import owner_reference
from medplum_agent_operator.core.objects.restricted import RESTRICTED_CONTAINER, RESTRICTED_POD
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.jobs import FetchJob
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, Container, Pod
from medplum_agent_operator.core.policy import containers
from medplum_agent_operator.core.policy.phrases import reported

TTL_SECONDS: Final = 120
"""How long Kubernetes keeps a finished Job. If the Job is gone before the change begins, a second one finds the image there."""
LONGEST_SECONDS: Final = 3600
"""An abandoned Job ends after this time. If the change still waits for it, the operator creates the Job again."""
_NAME_LENGTH: Final = 63


@dataclass(frozen=True, slots=True)
class Fetch:
    """An image that has to be on a node before the old agent may stop.

    Attributes:
        body: the Job that pulls it.
        node: the serving agent's node.
        image: the image.
        job: the live Job; None before it is created.
    """

    body: Mapping[str, Any] = field(repr=False)
    node: str
    image: str
    job: FetchJob | None

    def deadline(self, spec: MedplumAgentSpec, *, now: datetime) -> datetime:
        """When the change counts as failed because its image is missing."""
        began = now if self.job is None or self.job.created is None else self.job.created
        return began + timedelta(seconds=spec.handoff.progress_deadline_seconds)


def needed_fetch(observed: Observed, spec: MedplumAgentSpec, *, image: str) -> Fetch | None:
    """The fetch that a change to `image` needs before the old agent stops; None if it needs none or the image is there.

    A fetch begins only for an agent that serves: without one, waiting gains nothing. Once begun, it is awaited even while the
    agent is briefly down: a crash or a restart must not let the agent stop for an image that cannot be pulled. The Job runs on
    a cordoned or tainted node too, although the new pod starts elsewhere: it still shows whether the image can be pulled.
    """
    if not spec.handoff.pre_pull or observed.deployment is None:
        return None
    before = observed.applied_spec
    same_secret = before is not None and credentials(before) == credentials(spec)
    for pod in observed.live_pods:
        if not pod.node or pod.terminating or (pod.image == image and same_secret):
            continue
        body = render_job(observed.agent, spec, image=image, node=pod.node)
        job = next((job for job in observed.fetches if job.name == body["metadata"]["name"]), None)
        under_way = job is not None and not job.ended
        if (pod in observed.serving_pods or under_way) and (job is None or not job.image_and_secret_present):
            return Fetch(body, pod.node, image, job)
    return None


def render_job(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str, node: str) -> dict[str, Any]:
    """Render the Job. Its name changes with the spec, its content and the retry annotation, so each of these leads to another try."""
    labels = {
        **spec.for_children.labels,
        names.NAME_LABEL: "medplum-agent-fetch",
        names.FETCH_LABEL: agent.name,
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
    }
    body = {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": TTL_SECONDS,
        "activeDeadlineSeconds": max(LONGEST_SECONDS, 2 * spec.handoff.progress_deadline_seconds),
        "template": {
            "metadata": {
                "labels": labels,
                "annotations": {**spec.for_children.annotations, **spec.pod_template.annotations},
            },
            "spec": _render_pod(agent, spec, image=image, node=node),
        },
    }
    tail = f"-fetch-{fingerprint([agent.uid, agent.generation, agent.annotations.get(names.RETRY), body])[:10]}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": agent.name[: _NAME_LENGTH - len(tail)].rstrip("-") + tail,
            "namespace": agent.namespace,
            "labels": labels,
            **({"annotations": dict(spec.for_children.annotations)} if spec.for_children.annotations else {}),
            "ownerReferences": [owner_reference(agent)],
        },
        "spec": body,
    }


def _render_pod(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str, node: str) -> dict[str, Any]:
    chosen = spec.pod_template
    # The kubelet also uses the ServiceAccount's pull secrets, so the Job runs under the agent's account, without its token.
    security = chosen.security_context.model_dump(by_alias=True)
    tolerations = [t.model_dump(by_alias=True, exclude_none=True, mode="json") for t in chosen.tolerations]
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": chosen.service_account_name or agent.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {**RESTRICTED_POD, **security},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}}},
        "tolerations": [*tolerations, {"operator": "Exists", "effect": "NoSchedule"}],
        "containers": [
            {
                "name": AGENT_CONTAINER,
                "image": image,
                "imagePullPolicy": str(spec.image.pull_policy),
                "command": ["true"],
                "env": credentials(spec),
                "resources": idle_resources(spec),
                "securityContext": RESTRICTED_CONTAINER,
            }
        ],
    }
    if spec.image.pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image.pull_secrets]
    if chosen.runtime_class_name:
        pod["runtimeClassName"] = chosen.runtime_class_name
    return pod


def trouble(fetch: Fetch) -> Finding | None:
    """Why the image is not available yet, in the kubelet's or the scheduler's words; None if nothing is known to be wrong."""
    if (job := fetch.job) is None:
        return None
    kubectl = f"kubectl -n {fetch.body['metadata']['namespace']}"
    command = f"{kubectl} describe job {job.name}"
    if job.pod is not None and job.pod.unschedulable:
        return warning(
            Reason.UNSCHEDULABLE,
            Message(
                f"Node {fetch.node} does not accept the pod that pulls the image.",
                cause=reported("The scheduler", job.pod.unschedulable),
                fix="Make room on the node, or correct the tolerations in spec.podTemplate.",
                command=command,
            ),
        )
    if job.pod is not None and (found := _pod_trouble(job.pod, fetch.node, command)) is not None:
        return found
    if job.suspended and not job.ended:
        return warning(
            Reason.JOB_SUSPENDED,
            Message(
                f"Job {job.name}, which pulls the image, is suspended, so Kubernetes creates no pod for it.",
                cause="A queue or an admission policy of the cluster suspends Jobs until it admits them.",
                fix="Admit the Job in that queue, or exempt Jobs of this operator. The command shows the Job's labels and Events. Or set spec.handoff.prePull "
                "to false: the old agent then stops at once, and no agent serves if the new image cannot be pulled.",
                command=command,
            ),
        )
    if job.ended:
        return warning(
            Reason.IMAGE_PULL_FAILED,
            Message(
                f"Job {job.name} ended without the image, as when its pod is evicted or deleted.",
                cause=reported("The Job controller", job.failure) if job.failure else "",
                fix=f"None needed; the operator automatically creates another Job {TTL_SECONDS} seconds after the end of this one.",
                command=command,
            ),
        )
    return None


def _pod_trouble(pod: Pod, node: str, command: str) -> Finding | None:
    """What is wrong with the container that pulls the image, or with an init container that it waits for."""
    own = [_container_trouble(container, node, command) for container in pod.own_containers({AGENT_CONTAINER})]
    first = [containers.added_trouble(container, pod=pod.name, command=command) for container in pod.init_containers]
    return next((found for found in (*own, *first) if found is not None), None)


def _container_trouble(container: Container, node: str, command: str) -> Finding | None:
    if containers.pull_fails(container):
        return warning(
            Reason.IMAGE_PULL_FAILED,
            Message(
                f"Node {node} cannot pull the image.",
                cause=reported("The kubelet", containers.pull_error(container)),
                fix="Check the image's name, spec.image.pullSecrets and the registry; push the image if it is missing.",
                command=command,
            ),
        )
    if containers.lacks_secret(container):
        return warning(
            Reason.CONTAINER_CONFIG_ERROR,
            Message(
                "The agent's container cannot be created.",
                cause=reported("The kubelet", containers.kubelet_words(container)),
                fix="Create what is missing, or correct spec.server.credentialsSecretRef.",
                command=command,
            ),
        )
    return None


def hopeless(fetch: Fetch) -> bool:
    """Whether waiting cannot help: the registry does not have the image, denies access to it, or the Secret is missing."""
    pod = None if fetch.job is None else fetch.job.pod
    return pod is not None and any(map(containers.never_starts, pod.own_containers({AGENT_CONTAINER})))


def unknown_trouble(fetch: Fetch) -> Finding:
    """The trouble after the deadline when the cluster reports no cause."""
    metadata = fetch.body["metadata"]
    command = f"kubectl -n {metadata['namespace']} describe job {metadata['name']}"
    # Named in the fix too: the failure's record keeps that, and the Job outlives the failure for a while.
    fix = f"Look at the Job that pulls the image ({command})."
    return warning(
        Reason.PROGRESS_DEADLINE_EXCEEDED, Message("The cluster reports no reason.", fix=fix, command=command)
    )
