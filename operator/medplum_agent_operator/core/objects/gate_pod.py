"""The gate in front of an agent, rendered from a spec, and whether the Service leads to it. Pure.

Called by `children`, `agent_pod`, `rollout` and `report`. The gate is a program of its own (`medplum_agent_operator.gate`).
This module renders its pod, and the drain of an agent behind a gate, which ends as soon as no connection is open.
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
"""The gate's port for the first channel; each further channel has the next one.

The Service maps the channels' ports to these. So no two ports collide, and none of them needs root.
"""
CLUSTER_ROLE: Final = "medplum-agent-gate"
LEAVE_SECONDS: Final = 5
"""How long a terminating gate still accepts connections, until no node sends it new ones."""
GRACE_SECONDS: Final = 25
"""How long it may then take to finish the messages that it still has."""
TOLERATED_ABSENCE: Final = timedelta(seconds=60)
"""How long gates may be unavailable before that is reported: they may still start, or a node was lost."""

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
# Arguments: the limit in seconds; the channels' ports in hexadecimal, as in /proc/net/tcp (01: established); the number of
# checks if no connection was ever seen. If no other agent is ready, a gate closes its connections to a terminating agent once
# that has answered everything: then the drain can end. On an HL7 channel, every gate that does not know about the end yet has
# a connection (`gate.knocking`). On other channels it may have none, so the script waits for one second.
_CHECKS_WITHOUT_A_CONNECTION: Final = 20
"""With 0.05 seconds between two checks."""


def port_name(channel: Channel) -> str:
    """The name of a channel's port in Service and gate. It does not depend on the channel's name, which may change."""
    return f"p{channel.port}"


def gate_name(agent: MedplumAgent) -> str:
    """The name of the gate's objects."""
    return f"{agent.name}-gate"


def gate_selector(agent: MedplumAgent) -> dict[str, str]:
    """The labels that select a gate's pods. They never select an agent's pods."""
    return {names.NAME_LABEL: "medplum-agent-gate", names.GATE_LABEL: agent.name}


def drain_command(spec: MedplumAgentSpec) -> list[str]:
    """The drain of an agent behind a gate: until no connection is open, at most `drainSeconds`."""
    ports = " ".join(f"{channel.port:04X}" for channel in spec.channels)
    only_hl7 = all(channel.protocol is Protocol.HL7 for channel in spec.channels)
    checks = 1 if only_hl7 else _CHECKS_WITHOUT_A_CONNECTION
    return ["sh", "-c", DRAIN, "drain", str(spec.handoff.drain_seconds), ports, str(checks)]


def available(deployment: Mapping[str, Any] | None) -> bool:
    """Whether the gate's Deployment reports an available replica."""
    return bool(deployment and ((deployment.get("status") or {}).get("availableReplicas") or 0) > 0)


def absence_tolerated_until(deployment: Mapping[str, Any] | None, *, now: datetime) -> datetime | None:
    """Until when unavailable gates are not worth reporting; None if a gate is available."""
    if available(deployment):
        return None
    if deployment is None:
        return now + TOLERATED_ABSENCE
    conditions = (deployment.get("status") or {}).get("conditions") or ()
    times = [c.get("lastTransitionTime") for c in conditions if c.get("type") == "Available"]
    times.append((deployment.get("metadata") or {}).get("creationTimestamp"))
    since = max((datetime.fromisoformat(text) for text in times if text), default=None)
    return (now if since is None else since) + TOLERATED_ABSENCE


def stall_reason(deployment: Mapping[str, Any] | None) -> str:
    """Why an update of the gates makes no progress, in the Deployment controller's words; empty if it progresses.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#failed-deployment
    """
    conditions = ((deployment or {}).get("status") or {}).get("conditions") or ()
    deadline_missed = any(c.get("type") == "Progressing" and c.get("status") == "False" for c in conditions)
    creation_failures = [c for c in conditions if c.get("type") == "ReplicaFailure" and c.get("status") == "True"]
    causes = creation_failures or [c for c in conditions if c.get("type") == "Progressing"]
    return str(causes[0].get("message") or causes[0].get("reason") or "") if deadline_missed and causes else ""


def routes_through_gate(spec: MedplumAgentSpec, deployment: Mapping[str, Any] | None) -> bool:
    """Whether the Service leads devices to the gate: only if the spec enables it and a gate is available.

    If no gate can run, devices lose the gate's benefits but still reach their agent.
    """
    return spec.gated and available(deployment)


def render_gate_pod(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    """The template of the gate's pods."""
    labels = gate_selector(agent)
    return {
        "metadata": {
            # The managed-by label lets the watch on pods include them: the operator asks each gate for its report.
            "labels": {
                **spec.for_children.labels,
                **labels,
                names.INSTANCE_LABEL: agent.name,
                names.COMPONENT_LABEL: "gate",
                names.MANAGED_BY_LABEL: names.MANAGED_BY,
            },
            "annotations": {**spec.for_children.annotations, "kubectl.kubernetes.io/default-container": GATE_CONTAINER},
        },
        "spec": {
            **_placement_of_agent(spec),
            "serviceAccountName": gate_name(agent),
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": LEAVE_SECONDS + GRACE_SECONDS + 5,
            "securityContext": {**RESTRICTED_POD, "runAsUser": 65532, "runAsGroup": 65532},
            # On different nodes if possible, so that a lost node takes only one gate.
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": labels},
                }
            ],
            "containers": [_render_container(agent, spec, image=image)],
        },
    }


def _render_container(agent: MedplumAgent, spec: MedplumAgentSpec, *, image: str) -> dict[str, Any]:
    ports = [
        {"name": port_name(channel), "containerPort": port, "protocol": "TCP"} for port, channel in _listen_ports(spec)
    ]
    custom = spec.gate.resources
    resources = None if custom is None else custom.model_dump(by_alias=True, exclude_defaults=True, mode="json")
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


def _listen_ports(spec: MedplumAgentSpec) -> list[tuple[int, Channel]]:
    """Pairs of the port on which the gate listens for devices and the channel."""
    return list(enumerate(spec.channels, start=FIRST_PORT))


def _flags(agent: MedplumAgent, spec: MedplumAgentSpec) -> list[str]:
    gate = spec.gate
    return [
        f"--namespace={agent.namespace}",
        f"--service={agent.name}-agent",
        *(f"--channel={c.name}:{c.protocol}:{port}:{port_name(c)}" for port, c in _listen_ports(spec)),
        f"--hold-seconds={gate.hold_seconds}",
        f"--answer-seconds={gate.answer_seconds}",
        f"--move-seconds={gate.move_seconds}",
        f"--grace-seconds={GRACE_SECONDS}",
        f"--max-message-bytes={gate.max_message_mebibytes * 1024 * 1024}",
        f"--max-connections={gate.max_connections}",
        f"--max-connections-per-address={gate.max_connections_per_address}",
        f"--http-port={HTTP_PORT}",
        *(() if gate.send_again else ("--no-send-again",)),
    ]


def _placement_of_agent(spec: MedplumAgentSpec) -> dict[str, Any]:
    """Fields that decide where a pod may run and how its image is pulled. A gate can run wherever its agent can."""
    fields = spec.pod_template.model_dump(
        by_alias=True,
        exclude_defaults=True,
        mode="json",
        include={"node_selector", "tolerations", "priority_class_name"},
    )
    if spec.image.pull_secrets:
        fields["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image.pull_secrets]
    return fields
