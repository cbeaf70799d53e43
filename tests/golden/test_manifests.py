"""Everything that is applied for an agent, whole, as YAML beside this file: read the diff when one changes.

`python -m pytest tests/golden --force-regen` writes them anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.objects.agent_pod import image_reference, render_pod_template
from medplum_agent_operator.core.objects.children import render_deployment, render_gate, render_supporting
from medplum_agent_operator.core.objects.gate_pod import render_gate_pod
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate, Change, LastGood, RolloutRecord
from medplum_agent_operator.core.policy.drain import protected
from medplum_agent_operator.core.policy.prepull import render_job
from medplum_agent_operator.core.rollout.backup import render_backup
from tests.support.builders import NOW, REPOSITORY, parsed

if TYPE_CHECKING:
    from pytest_regressions.file_regression import FileRegressionFixture

FOLDER: Final = Path(__file__).parent
EVERYTHING: Final[dict[str, Any]] = {
    "image": {
        "repository": "registry.example.org:5000/medplum/agent",
        "tag": "5.1.15-debian",
        "digest": "sha256:" + "0123456789abcdef" * 4,
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "registry"}],
        "command": ["/opt/medplum-agent"],
    },
    "server": {
        "baseUrl": "https://medplum.clinic.example.org/",
        "agentId": "a-1",
        "credentialsSecretRef": {"name": "credentials", "clientIdKey": "id", "clientSecretKey": "secret"},
    },
    "channels": [
        {"name": "adt", "port": 2575, "protocol": "HL7", "nodePort": 30575},
        {"name": "pacs", "port": 104, "protocol": "DICOM"},
        {"name": "lab-2", "port": 3001, "protocol": "ASTM", "hostPort": 3001},
    ],
    "service": {
        "type": "LoadBalancer",
        "annotations": {"lb.example.org/internal": "true"},
        "labels": {"team": "integration"},
        "loadBalancerClass": "example.org/lb",
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "externalTrafficPolicy": "Local",
    },
    "logging": {"level": "DEBUG", "channelLevel": "ERROR"},
    "handoff": {"minReadySeconds": 10, "drainSeconds": 20, "progressDeadlineSeconds": 600, "onFailure": "Hold", "onNodeDrain": "Evict"},
    "downgradePolicy": {"approval": "BelowZeroDowntime"},
    "maintenanceWindows": [{"schedule": "0 2 * * 0", "duration": "2h", "timeZone": "Europe/Berlin"}],
    "paused": False,
    "podTemplate": {
        "labels": {"team": "integration"},
        "annotations": {"example.org/note": "devices of ward 3"},
        "resources": {"requests": {"cpu": "0.5", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [
            {"key": "dedicated", "operator": "Equal", "value": "clinic", "effect": "NoSchedule"},
            {"key": "dedicated", "operator": "Equal", "value": "clinic", "effect": "NoExecute", "tolerationSeconds": 60},
        ],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}
                ]
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "clinic-critical",
        "runtimeClassName": "gvisor",
        "serviceAccountName": "agents",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.10"], "searches": ["clinic.example.org"], "options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "10.0.0.20", "hostnames": ["ris.clinic.example.org"]}],
        "securityContext": {"runAsUser": 1001, "runAsGroup": 1002, "fsGroup": 1003},
    },
}  # fmt: skip

ROWS = [
    pytest.param("minimal", "5.1.15", Strategy.ROLLING_HANDOFF, {}, id="the least that one can say"),
    pytest.param(
        "two-channels",
        "5.1.15",
        Strategy.ROLLING_HANDOFF,
        {"channels": [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576, "protocol": "ASTM"}]},
        id="two channels: a container of its own carries the second probe",
    ),
    pytest.param(
        "before-4.2.4", "4.2.3", Strategy.RECREATE, {}, id="4.2.3: alone on its node, one strict log level, stop first"
    ),
    pytest.param(
        "host-network",
        "5.1.15",
        Strategy.RECREATE,
        {"podTemplate": {"hostNetwork": True}},
        id="in the node's network: stop first",
    ),
    pytest.param("everything", "5.1.15", Strategy.RECREATE, EVERYTHING, id="every field set"),
]


class _Dumper(yaml.SafeDumper):
    """Without anchors, scripts as blocks."""

    def ignore_aliases(self, data: object) -> bool:
        """Write everything out."""
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _written(*objects: dict[str, Any]) -> str:
    """As a person reads them."""
    return str(yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True))


@pytest.mark.parametrize(("name", "version", "strategy", "spec"), ROWS)
def test_all_children_of(
    name: str, version: str, strategy: Strategy, spec: dict[str, Any], file_regression: FileRegressionFixture
) -> None:
    """ServiceAccount, Service, PodDisruptionBudget and Deployment, exactly as they are applied."""
    agent = parsed(version, **spec)
    image = image_reference(agent.spec, agent.spec.image.repository or REPOSITORY)
    record = RolloutRecord(change=Change.INSTALL, to=version, strategy=strategy, why="it is the first", started_at=NOW)
    template = render_pod_template(agent, agent.spec, image=image)
    deployment = render_deployment(
        agent,
        agent.spec,
        template=AppliedTemplate(1, template),
        strategy=strategy,
        record=record,
        revision="lab-r1-0123456789",
    )
    text = _written(
        *render_supporting(agent, agent.spec, protected=protected(agent.spec, nodes_watched=True)).values(), deployment
    )
    file_regression.check(text, fullpath=FOLDER / f"{name}.yaml")


def test_the_job_that_fetches_an_image(file_regression: FileRegressionFixture) -> None:
    """Exactly as it is applied, with every field set that it takes from an agent."""
    agent = parsed("4.2.3", **EVERYTHING | {"image": EVERYTHING["image"] | {"tag": "4.2.3"}})
    job = render_job(agent, agent.spec, image=image_reference(agent.spec, REPOSITORY), node="node-1")
    file_regression.check(_written(job), fullpath=FOLDER / "fetch-job.yaml")


def test_the_backup_before_an_approved_downgrade(file_regression: FileRegressionFixture) -> None:
    """Exactly as it is created, of an agent with every field set."""
    before = parsed("5.1.15", **EVERYTHING)
    template = render_pod_template(before, before.spec, image=image_reference(before.spec, REPOSITORY))
    backup = render_backup(parsed("4.2.3", generation=7), LastGood(before.spec, AppliedTemplate(1, template)))
    file_regression.check(_written(backup), fullpath=FOLDER / "backup.yaml")


def test_what_belongs_to_a_gate(file_regression: FileRegressionFixture) -> None:
    """And the Service that leads to it, and how the agent's drain ends behind it."""
    channels = [*EVERYTHING["channels"]]
    resources = {"requests": {"memory": "96Mi"}, "limits": {"memory": "256Mi"}}
    wanted = {"enabled": True, "replicas": 3, "sendAgain": False, "maxMessageMebibytes": 32, "resources": resources}
    pod = {
        key: EVERYTHING["podTemplate"][key] for key in ("nodeSelector", "tolerations", "priorityClassName", "affinity")
    }
    image = {"pullSecrets": EVERYTHING["image"]["pullSecrets"]}
    agent = parsed(
        "5.1.15", channels=channels, service={"type": "LoadBalancer"}, gate=wanted, podTemplate=pod, image=image
    )
    service = render_supporting(agent, agent.spec, protected=True, through_gate=True)["Service"]
    pods = render_gate_pod(agent, agent.spec, image="registry.example.org/medplum-agent-operator:1")
    gate = render_gate(agent, agent.spec, template=AppliedTemplate(1, pods), replicas=3)
    template = render_pod_template(agent, agent.spec, image=image_reference(agent.spec, REPOSITORY))
    text = _written(service, *gate.values(), template["spec"]["containers"][0]["lifecycle"])
    file_regression.check(text, fullpath=FOLDER / "gate.yaml")


def test_every_golden_file_is_asked_for() -> None:
    """No file is left behind by a row that has gone."""
    assert {*(f"{row.values[0]}.yaml" for row in ROWS), "backup.yaml", "fetch-job.yaml", "gate.yaml"} == {
        path.name for path in FOLDER.glob("*.yaml")
    }
