"""The gate in front of an agent, rendered from a spec, and whether devices go through it. Pure.

Called by `resources`, `actions` and `pod_template`. The gate is a program of its own (`medplum_agent_operator.gate`); here are the objects that run it, and
the pause before an agent's end that ends as soon as nobody is connected any more.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.channels import Channel, Protocol
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects.restricted import RESTRICTED_CONTAINER, RESTRICTED_POD
from medplum_agent_operator.core.observed.pods import GATE_CONTAINER

PROGRAM: Final = "/opt/operator/bin/medplum-agent-gate"
HTTP_PORT: Final = 8081
FIRST_PORT: Final = 10_000
"""Where the first channel's devices come in; the next has the next. The Service translates: no channel's port can meet another, or
be one that only root may listen on."""
CLUSTER_ROLE: Final = "medplum-agent-gate"
LEAVE_SECONDS: Final = 5
"""How long a terminating gate still accepts connections: until every node knows that it should get none."""
GRACE_SECONDS: Final = 25
"""How long it may then take to finish the messages in hand."""
PATIENCE: Final = timedelta(seconds=60)
"""How long gates may be missing before that is reported: they start, or a node was lost."""

_RESOURCES: Final[Mapping[str, Any]] = {
    "requests": {"cpu": "50m", "memory": "64Mi"},
    "limits": {"memory": "256Mi"},
}

DRAIN: Final = r"""
connected() {
  for file in /proc/net/tcp /proc/net/tcp6; do
    [ -r "$file" ] || continue
    while read -r _ local _ state _; do
      case "$state $ports" in "01 "*" ${local##*:} "*) return 0 ;; esac
    done < "$file"
  done
  return 1
}
clock() {
  read -r up _ < /proc/uptime
  up=${up%.*}${up#*.}
}
ports=" $2 "
passed=0
seen=
clock
until=$((up + $1 * 100))
while [ "$up" -lt "$until" ]; do
  if connected; then
    seen=1
  elif [ -n "$seen" ] || [ "$passed" -ge "$3" ]; then
    exit 0
  fi
  sleep 0.05
  passed=$((passed + 1))
  clock
done
""".lstrip()
# Arguments: at most so many seconds; the channels' ports in hexadecimal, as /proc/net/tcp has them (01: established); how many looks where
# nobody was ever connected. Where no other agent is ready, a gate closes its connections to one that is about to end once that has answered
# everything: then there is nothing to wait for. On a channel of messages each gate that has not heard of the end yet has a connection
# (`gate.knocking`); on others nothing shows that one has not, and a second passes.
_LOOKS_WHERE_NOTHING_SHOWS: Final = 20


def port_name(channel: Channel) -> str:
    """What the port of a channel is called between Service, gate and agent: a channel that is renamed keeps its way."""
    return f"p{channel.port}"


def gate_name(agent: MedplumAgent) -> str:
    """The name of the gate's objects."""
    return f"{agent.name}-gate"


def gate_selector(agent: MedplumAgent) -> dict[str, str]:
    """The labels that find a gate's pods. None of them is one by which an agent's are found."""
    return {names.NAME_LABEL: "medplum-agent-gate", names.GATE_LABEL: agent.name}


def drain_command(spec: MedplumAgentSpec) -> list[str]:
    """The pause before an agent's end behind a gate: until nobody is connected, at most `drainSeconds`."""
    ports = " ".join(f"{channel.port:04X}" for channel in spec.channels)
    messages = all(channel.protocol is Protocol.HL7 for channel in spec.channels)
    looks = 1 if messages else _LOOKS_WHERE_NOTHING_SHOWS
    return ["sh", "-c", DRAIN, "drain", str(spec.handoff.drain_seconds), ports, str(looks)]


def available(deployment: Mapping[str, Any] | None) -> bool:
    """Whether a gate takes connections, as its Deployment says."""
    return bool(deployment and ((deployment.get("status") or {}).get("availableReplicas") or 0) > 0)


def patience_until(deployment: Mapping[str, Any] | None, *, now: datetime) -> datetime | None:
    """Until when it is ordinary that no gate takes connections yet, or any more; None where one does."""
    if available(deployment):
        return None
    if deployment is None:
        return now + PATIENCE
    conditions = (deployment.get("status") or {}).get("conditions") or ()
    times = [c.get("lastTransitionTime") for c in conditions if c.get("type") == "Available"]
    times.append((deployment.get("metadata") or {}).get("creationTimestamp"))
    since = max((datetime.fromisoformat(text) for text in times if text), default=None)
    return (now if since is None else since) + PATIENCE


def stuck(deployment: Mapping[str, Any] | None) -> str:
    """Why a change of the gates does not get on, in their Deployment's words; empty where it does, or is none.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#failed-deployment
    """
    conditions = ((deployment or {}).get("status") or {}).get("conditions") or ()
    late = any(c.get("type") == "Progressing" and c.get("status") == "False" for c in conditions)
    refused = [c for c in conditions if c.get("type") == "ReplicaFailure" and c.get("status") == "True"]
    told = refused or [c for c in conditions if c.get("type") == "Progressing"]
    return str(told[0].get("message") or told[0].get("reason") or "") if late and told else ""


def leads_to_gate(spec: MedplumAgentSpec, deployment: Mapping[str, Any] | None) -> bool:
    """Whether the Service leads devices to the gate: where one is wanted and takes connections; else to the agent itself.

    So a gate that cannot run costs what it would have given, and no device the way to its agent.
    """
    return spec.gated and available(deployment)


def render_gate_pod(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    """The template of the gate's pods."""
    own = gate_selector(agent)
    return {
        "metadata": {
            # Managed by us, so that the watch on pods includes them: the operator asks each gate for its report.
            "labels": {
                **own,
                names.INSTANCE_LABEL: agent.name,
                names.COMPONENT_LABEL: "gate",
                names.MANAGED_BY_LABEL: names.MANAGED_BY,
            },
            "annotations": {"kubectl.kubernetes.io/default-container": GATE_CONTAINER},
        },
        "spec": {
            **_placed_as_the_agent(spec),
            "serviceAccountName": gate_name(agent),
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": LEAVE_SECONDS + GRACE_SECONDS + 5,
            "securityContext": {**RESTRICTED_POD, "runAsUser": 65532, "runAsGroup": 65532},
            # On different nodes where possible: the loss of a node then takes one gate.
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": own},
                }
            ],
            "containers": [_render_container(agent, spec, image=image)],
        },
    }


def _render_container(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    ports = [
        {"name": port_name(channel), "containerPort": port, "protocol": "TCP"} for port, channel in _own_ports(spec)
    ]
    wanted = spec.gate.resources
    resources = None if wanted is None else wanted.model_dump(by_alias=True, exclude_defaults=True, mode="json")
    return {
        "name": GATE_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [PROGRAM],
        "args": _flags(agent, spec),
        "ports": [*ports, {"containerPort": HTTP_PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": HTTP_PORT}, "periodSeconds": 1},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": HTTP_PORT},
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}},
        "resources": resources or _RESOURCES,
        "securityContext": RESTRICTED_CONTAINER,
    }


def _own_ports(spec: MedplumAgentSpec) -> list[tuple[int, Channel]]:
    """Each channel with the port on which the gate listens for its devices."""
    return list(enumerate(spec.channels, start=FIRST_PORT))


def _flags(agent: MedplumAgent, spec: MedplumAgentSpec) -> list[str]:
    wanted = spec.gate
    return [
        f"--namespace={agent.namespace}",
        f"--service={agent.name}-agent",
        *(f"--channel={c.name}:{c.protocol}:{port}:{port_name(c)}" for port, c in _own_ports(spec)),
        f"--hold-seconds={wanted.hold_seconds}",
        f"--answer-seconds={wanted.answer_seconds}",
        f"--move-seconds={wanted.move_seconds}",
        f"--grace-seconds={GRACE_SECONDS}",
        f"--max-message-bytes={wanted.max_message_mebibytes * 1024 * 1024}",
        f"--max-connections={wanted.max_connections}",
        f"--max-connections-per-address={wanted.max_connections_per_address}",
        f"--http-port={HTTP_PORT}",
        *(() if wanted.send_again else ("--no-send-again",)),
    ]


def _placed_as_the_agent(spec: MedplumAgentSpec) -> dict[str, Any]:
    """What decides where a pod may run and whence its image comes: where the agent can, its gate can."""
    chosen = spec.pod_template.model_dump(
        by_alias=True,
        exclude_defaults=True,
        mode="json",
        include={"node_selector", "tolerations", "priority_class_name"},
    )
    if spec.image.pull_secrets:
        chosen["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image.pull_secrets]
    return chosen
