"""The agent's pod template, rendered from a spec. Pure: the same spec always gives the same template.

Called by `rollout.template_in_force`. What the template guarantees, and why (docs/explanation/the-agent-pod.md):

* The agent is PID 1, so that SIGTERM reaches it: `sh` replaces itself with the agent.
* Nothing starts before the agent: no init container, no native sidecar. Each would cost up to a second in the kubelet, and
  in a recreate no agent serves in that time (docs/adr/0010).
* Credentials are never in the agent's command line or environment. The start script writes them to a file in memory and
  unsets the variables before it becomes the agent.
* Two agents share no files: every folder is private to the pod. The temp folder is emptied at each start, because the agent
  would never start again next to a PID file that survived a SIGKILL.
* Ready means that every channel's port accepts TCP connections. A probe has one handler, hence one port. So the agent's
  container has the first channel's probe, and each further channel gets a sleeping container that carries its probe
  (docs/adr/0006, 0010). These containers end no earlier than the agent, so the pod stays ready and serves while it drains.
* No liveness probe: an agent that cannot reach its server opens no port, and a restart would not bring the server back.
"""

from collections.abc import Mapping
from typing import Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import Channel, MedplumAgentSpec
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_start import CONFIG_DIR, LOG_DIR, WORK_DIR, credentials, start_command
from medplum_agent_operator.core.objects.restricted import RESTRICTED_CONTAINER, RESTRICTED_POD
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, READY_PREFIX
from medplum_agent_operator.core.observed.version import AgentVersion

TEMP_DIR: Final = "/tmp"  # noqa: S108 - a private emptyDir, mounted where every program expects it

GRACE_AFTER_DRAIN_SECONDS: Final = 10
"""The agent ends within 50 ms of SIGTERM. It loses a signal in its first 100 ms; then only SIGKILL ends it."""

_SLEEP: Final = "trap 'exit 0' TERM; sleep infinity & wait"
# PID 1 ignores SIGTERM without a trap: the pod, and in a recreate the downtime, would last until SIGKILL.

POD_SPEC_FIELDS: Final = (
    "nodeSelector",
    "tolerations",
    "topologySpreadConstraints",
    "priorityClassName",
    "runtimeClassName",
    "serviceAccountName",
    "hostNetwork",
    "dnsPolicy",
    "dnsConfig",
    "hostAliases",
    "securityContext",
)
"""Fields of `spec.podTemplate` that are copied into the PodSpec. This module renders every other field itself."""
_DEFAULT_RESOURCES: Final[Mapping[str, Any]] = {
    # https://www.medplum.com/docs/agent: 512 MB at least, 2 GB recommended. Measured: 75 to 126 MiB.
    "requests": {"cpu": "250m", "memory": "512Mi"},
    "limits": {"memory": "2Gi"},
}
_IDLE_RESOURCES: Final[Mapping[str, Any]] = {
    # For containers that only sleep. The CPU limit is there because a ResourceQuota may require one for each container.
    "requests": {"cpu": "10m", "memory": "16Mi"},
    "limits": {"cpu": "250m", "memory": "32Mi"},
}


def idle_resources(spec: MedplumAgentSpec) -> Mapping[str, Any]:
    """The resources of a container that only sleeps or ends at once."""
    custom = spec.for_children.idle_resources
    found = None if custom is None else custom.model_dump(by_alias=True, exclude_defaults=True, mode="json")
    return found or _IDLE_RESOURCES


def selector(agent: MedplumAgent) -> dict[str, str]:
    """The labels that select this agent's pods. They never change."""
    return {names.NAME_LABEL: names.APP_NAME, names.AGENT_LABEL: agent.name}


def image_reference(spec: MedplumAgentSpec, repository: str) -> str:
    """The image reference for a pod. The tag is the version, unless the spec sets a tag."""
    digest = f"@{spec.image.digest}" if spec.image.digest else ""
    return f"{repository}:{spec.image.tag or spec.version}{digest}"


def image_of(template: Mapping[str, Any]) -> str:
    """The image of the agent's container in a rendered pod template."""
    return next(str(one["image"]) for one in template["spec"]["containers"] if one["name"] == AGENT_CONTAINER)


def render_pod_template(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    """The pod template, with its own fingerprint as an annotation."""
    pod_fields = spec.pod_template.model_dump(by_alias=True, exclude_defaults=True, mode="json")
    template = {
        "metadata": {
            "labels": {
                **pod_fields.get("labels", {}),
                **selector(agent),
                names.INSTANCE_LABEL: agent.name,
                names.COMPONENT_LABEL: "agent",
                names.MANAGED_BY_LABEL: names.MANAGED_BY,
                names.VERSION_LABEL: spec.version,
            },
            "annotations": {
                **pod_fields.get("annotations", {}),
                "kubectl.kubernetes.io/default-container": AGENT_CONTAINER,
            },
        },
        "spec": _render_pod_spec(agent, spec, pod_fields, image=image),
    }
    template["metadata"]["annotations"][names.TEMPLATE_HASH] = fingerprint(template)
    return template


def with_annotation(template: Mapping[str, Any], annotation: str, text: str) -> Mapping[str, Any]:
    """The template with an annotation added and its fingerprint updated; unchanged if `text` is empty."""
    if not text:
        return template
    metadata = template["metadata"]
    annotations = {key: value for key, value in metadata["annotations"].items() if key != names.TEMPLATE_HASH}
    annotations[annotation] = text
    without_hash = {**template, "metadata": {**metadata, "annotations": annotations}}
    with_hash = {**annotations, names.TEMPLATE_HASH: fingerprint(without_hash)}
    return {**template, "metadata": {**metadata, "annotations": with_hash}}


def _render_pod_spec(
    agent: MedplumAgent, spec: MedplumAgentSpec, pod_fields: dict[str, Any], *, image: str
) -> dict[str, Any]:
    resources = pod_fields.get("resources") or _DEFAULT_RESOURCES
    security = spec.pod_template.security_context.model_dump(by_alias=True)
    affinity = pod_fields.get("affinity", {})
    if not AgentVersion.parse(spec.version).hands_over:
        affinity = _with_exclusive_anti_affinity(agent, affinity)
    pod: dict[str, Any] = {
        **{name: value for name, value in pod_fields.items() if name in POD_SPEC_FIELDS},
        "serviceAccountName": pod_fields.get("serviceAccountName") or agent.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.handoff.drain_seconds + GRACE_AFTER_DRAIN_SECONDS,
        "securityContext": {**RESTRICTED_POD, **security},
        # The kubelet starts them in this order, without a wait in between.
        "containers": [
            _render_agent(spec, resources, image=image),
            *(_render_probe_container(channel, spec, image=image) for channel in spec.channels[1:]),
        ],
        "volumes": [
            {"name": "config", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "work", "emptyDir": {}},
            {"name": "logs", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if affinity:
        pod["affinity"] = affinity
    if spec.image.pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image.pull_secrets]
    return pod


def _with_exclusive_anti_affinity(agent: MedplumAgent, affinity: Mapping[str, Any]) -> dict[str, Any]:
    """Let no other pod of this agent be scheduled, on any node, until this one has ended (docs/adr/0004).

    With any Deployment strategy, a ReplicaSet replaces a pod as soon as it *starts* to terminate (eviction, node drain,
    delete). Before 4.2.4 two agents would then run at once. So the scheduler has to delay the second one.
    """
    anti_affinity = affinity.get("podAntiAffinity", {})
    required = anti_affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    own_pods = {"labelSelector": {"matchLabels": selector(agent)}, "topologyKey": "kubernetes.io/os"}
    return {
        **affinity,
        "podAntiAffinity": {**anti_affinity, "requiredDuringSchedulingIgnoredDuringExecution": [*required, own_pods]},
    }


def _image_fields(spec: MedplumAgentSpec, image: str) -> dict[str, Any]:
    return {"image": image, "imagePullPolicy": str(spec.image.pull_policy)}


def _render_agent(spec: MedplumAgentSpec, resources: Mapping[str, Any], *, image: str) -> dict[str, Any]:
    """The agent's container. Its start script refuses credentials that agent.properties cannot carry."""
    return {
        "name": AGENT_CONTAINER,
        **_image_fields(spec, image),
        **start_command(spec),
        "workingDir": WORK_DIR,
        "env": [
            {"name": "HOME", "value": WORK_DIR},
            {"name": "TMPDIR", "value": TEMP_DIR},
            *credentials(spec),
        ],
        "ports": [_render_port(channel) for channel in spec.channels],
        "readinessProbe": _tcp_probe(spec.channels[0]),
        "resources": resources,
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR},
            {"name": "work", "mountPath": WORK_DIR},
            {"name": "logs", "mountPath": LOG_DIR},
            {"name": "tmp", "mountPath": TEMP_DIR},
        ],
        **_pre_stop(spec),
    }


def _pre_stop(spec: MedplumAgentSpec) -> dict[str, Any]:
    """The drain, as a `preStop` hook, because no agent version drains on SIGTERM.

    Every container has the same hook: as soon as one of them ends, the pod is not ready and gets no new connections. Behind
    a gate the drain ends as soon as no connection is open.
    """
    seconds = spec.handoff.drain_seconds
    if seconds and spec.gated:
        return {"lifecycle": {"preStop": {"exec": {"command": gate_pod.drain_command(spec)}}}}
    return {"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}} if seconds else {}


def _render_port(channel: Channel) -> dict[str, Any]:
    port: dict[str, Any] = {"name": channel.name, "containerPort": channel.port, "protocol": "TCP"}
    if channel.host_port:
        port["hostPort"] = channel.host_port
    return port


def _tcp_probe(channel: Channel) -> dict[str, Any]:
    return {"tcpSocket": {"port": channel.port}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 3}


def _render_probe_container(channel: Channel, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    """A container that only sleeps, and carries the readiness probe of one further channel."""
    return {
        "name": f"{READY_PREFIX}{channel.name}",
        **_image_fields(spec, image),
        "command": ["sh", "-c", _SLEEP],
        "readinessProbe": _tcp_probe(channel),
        "resources": idle_resources(spec),
        "securityContext": RESTRICTED_CONTAINER,
        **_pre_stop(spec),
    }
