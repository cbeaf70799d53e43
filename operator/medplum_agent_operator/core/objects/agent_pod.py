"""The agent's pod template, rendered from a spec. Pure: the same spec always gives the same template.

What it guarantees and why (facts: docs/user-guide.md, "How an agent's pod is built"):

* The agent's binary is PID 1, so that SIGTERM reaches it; `sh` is gone before the agent starts.
* Nothing starts before the agent: no init container, no native sidecar. In the kubelet each of them costs up to a second, and
  where the old agent is stopped first nobody serves meanwhile (docs/adr/0010).
* Credentials never stand in the agent's command line or environment: the start script writes them into a file in memory and
  takes them out of the environment before it becomes the agent.
* Nothing that a second agent could meet: every folder is private to the pod, and the temp folder is emptied at each start,
  because a PID file that survived a SIGKILL would end the agent for ever.
* Ready means that every channel's port takes a TCP connection. A probe has one handler, hence one port: the first channel's
  probe is the agent container's own, each further channel gets a sleeping container that carries its probe (docs/adr/0006,
  0010). Those end no earlier than the agent, so the pod counts as ready, and serves, for as long as it drains.
* No liveness probe: an agent whose server is away opens no port, and a restart would not bring the server back.
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
"""The agent ends within 50 ms of SIGTERM; a signal in its first 100 ms is lost, and then only SIGKILL ends it."""

_SLEEP: Final = "trap 'exit 0' TERM; sleep infinity & wait"
# PID 1 ignores a SIGTERM that it has no trap for: the pod, and in a recreate the gap, would last until SIGKILL.

PASSED_ON: Final = (
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
"""Fields of `spec.podTemplate` that a PodSpec has too. Every other field has a place of its own in this module."""
_DEFAULT_RESOURCES: Final[Mapping[str, Any]] = {
    # https://www.medplum.com/docs/agent: 512 MB at least, 2 GB recommended. Measured: 75 to 126 MiB.
    "requests": {"cpu": "250m", "memory": "512Mi"},
    "limits": {"memory": "2Gi"},
}
SMALL: Final[Mapping[str, Any]] = {
    # Of containers that only sleep. With a limit of CPU, as a quota may ask for one of each container.
    "requests": {"cpu": "10m", "memory": "16Mi"},
    "limits": {"cpu": "250m", "memory": "32Mi"},
}


def selector(agent: MedplumAgent) -> dict[str, str]:
    """The labels that find this agent's pods: its identity in the namespace. Never changes."""
    return {names.NAME_LABEL: names.APP_NAME, names.AGENT_LABEL: agent.name}


def image_reference(spec: MedplumAgentSpec, repository: str) -> str:
    """The image as a pod names it; the tag is the version unless the spec says otherwise."""
    digest = f"@{spec.image.digest}" if spec.image.digest else ""
    return f"{repository}:{spec.image.tag or spec.version}{digest}"


def image_of(template: Mapping[str, Any]) -> str:
    """The image of the agent's container in a pod template."""
    return next(str(one["image"]) for one in template["spec"]["containers"] if one["name"] == AGENT_CONTAINER)


def render_pod_template(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    """Render the template, its own fingerprint included."""
    wanted = spec.pod_template.model_dump(by_alias=True, exclude_defaults=True, mode="json")
    template = {
        "metadata": {
            "labels": {
                **wanted.get("labels", {}),
                **selector(agent),
                names.INSTANCE_LABEL: agent.name,
                names.COMPONENT_LABEL: "agent",
                names.MANAGED_BY_LABEL: names.MANAGED_BY,
                names.VERSION_LABEL: spec.version,
            },
            "annotations": {
                **wanted.get("annotations", {}),
                "kubectl.kubernetes.io/default-container": AGENT_CONTAINER,
            },
        },
        "spec": _render_pod_spec(agent, spec, wanted, image=image),
    }
    template["metadata"]["annotations"][names.TEMPLATE_HASH] = fingerprint(template)
    return template


def marked(template: Mapping[str, Any], annotation: str, text: str) -> Mapping[str, Any]:
    """The template with an annotation, and its fingerprint anew; as it is where there is nothing to say."""
    if not text:
        return template
    metadata = template["metadata"]
    annotations = {key: value for key, value in metadata["annotations"].items() if key != names.TEMPLATE_HASH}
    annotations[annotation] = text
    unsealed = {**template, "metadata": {**metadata, "annotations": annotations}}
    sealed = {**annotations, names.TEMPLATE_HASH: fingerprint(unsealed)}
    return {**template, "metadata": {**metadata, "annotations": sealed}}


def _render_pod_spec(
    agent: MedplumAgent, spec: MedplumAgentSpec, wanted: dict[str, Any], *, image: str
) -> dict[str, Any]:
    resources = wanted.get("resources") or _DEFAULT_RESOURCES
    security = spec.pod_template.security_context.model_dump(by_alias=True)
    affinity = wanted.get("affinity", {})
    if not AgentVersion.parse(spec.version).hands_over:
        affinity = _exclusive(agent, affinity)
    pod: dict[str, Any] = {
        **{name: value for name, value in wanted.items() if name in PASSED_ON},
        "serviceAccountName": wanted.get("serviceAccountName") or agent.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.handoff.drain_seconds + GRACE_AFTER_DRAIN_SECONDS,
        "securityContext": {**RESTRICTED_POD, **security},
        # The kubelet starts them in this order, without waiting in between.
        "containers": [
            _render_agent(spec, resources, image=image),
            *(_render_ready(channel, spec, image=image) for channel in spec.channels[1:]),
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


def _exclusive(agent: MedplumAgent, affinity: Mapping[str, Any]) -> dict[str, Any]:
    """Keep every other pod of this agent away, on any node, for as long as this one has not ended.

    A ReplicaSet replaces a pod as soon as it *starts* to end (eviction, drain, delete), whatever the Deployment's strategy.
    Before 4.2.4 that would be two agents at once: so the scheduler itself holds the second one back.
    """
    against = affinity.get("podAntiAffinity", {})
    required = against.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    own = {"labelSelector": {"matchLabels": selector(agent)}, "topologyKey": "kubernetes.io/os"}
    return {
        **affinity,
        "podAntiAffinity": {**against, "requiredDuringSchedulingIgnoredDuringExecution": [*required, own]},
    }


def _pull(spec: MedplumAgentSpec, image: str) -> dict[str, Any]:
    return {"image": image, "imagePullPolicy": str(spec.image.pull_policy)}


def _render_agent(spec: MedplumAgentSpec, resources: Mapping[str, Any], *, image: str) -> dict[str, Any]:
    """The agent's container: its start script refuses credentials that the file form cannot carry."""
    return {
        "name": AGENT_CONTAINER,
        **_pull(spec, image),
        **start_command(spec),
        "workingDir": WORK_DIR,
        "env": [
            {"name": "HOME", "value": WORK_DIR},
            {"name": "TMPDIR", "value": TEMP_DIR},
            *credentials(spec),
        ],
        "ports": [_render_port(channel) for channel in spec.channels],
        "readinessProbe": _probe(spec.channels[0]),
        "resources": resources,
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR},
            {"name": "work", "mountPath": WORK_DIR},
            {"name": "logs", "mountPath": LOG_DIR},
            {"name": "tmp", "mountPath": TEMP_DIR},
        ],
        **_drain(spec),
    }


def _drain(spec: MedplumAgentSpec) -> dict[str, Any]:
    """The pause before the signal: SIGTERM does not drain in any agent version.

    All containers take it alike. When the first of them ends, the pod is no longer ready, and gets no connection any more.
    Behind a gate it ends as soon as nobody is connected any more.
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


def _probe(channel: Channel) -> dict[str, Any]:
    return {"tcpSocket": {"port": channel.port}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 3}


def _render_ready(channel: Channel, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    """A container that only sleeps and carries the readiness probe of one further channel."""
    return {
        "name": f"{READY_PREFIX}{channel.name}",
        **_pull(spec, image),
        "command": ["sh", "-c", _SLEEP],
        "readinessProbe": _probe(channel),
        "resources": SMALL,
        "securityContext": RESTRICTED_CONTAINER,
        **_drain(spec),
    }
