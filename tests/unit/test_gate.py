"""What is rendered for a gate, when devices go through it, and when an agent's drain behind it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api.annotations import REFRESH
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_pod import render_pod_template, selector
from medplum_agent_operator.core.objects.children import render_gate, render_supporting
from medplum_agent_operator.core.objects.gate_pod import drain_command, gate_selector, render_gate_pod
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy import gate_messages
from medplum_agent_operator.core.rollout.template_in_force import REVISION, of_gate
from tests.support.builders import NOW, REPOSITORY, agent, observed, parsed, stamp
from tests.support.simulated_cluster import SimulatedCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from medplum_agent_operator.core.plan import Plan

IMAGE = "registry.example.org/operator:1"
CONFIG = Config(image_repository=REPOSITORY, gate_image=IMAGE)


def plan(spec: dict[str, Any], *, config: Config = CONFIG, **children: dict[str, Any]) -> Plan:
    """The plan for an agent with this `spec.gate` and these live children."""
    raw = agent("5.1.15", gate=spec)
    owned = {part: _owned(child, raw) for part, child in children.items()}
    return make_plan(observed(raw, children=owned), config=config, now=NOW)


def _owned(child: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    owner = {"kind": "MedplumAgent", "name": raw["metadata"]["name"], "uid": raw["metadata"]["uid"], "controller": True}
    return {
        **child,
        "metadata": {"name": "x", "resourceVersion": "1", **child.get("metadata", {}), "ownerReferences": [owner]},
    }


def body(plan: Plan, kind: str, name: str) -> dict[str, Any] | None:
    """What is to be applied under that name."""
    return next((dict(a.body) for a in plan.actions if (a.kind, a.name) == (kind, name)), None)


def serving(replicas: int = 2) -> dict[str, Any]:
    """A live gate that takes connections."""
    own = parsed("5.1.15", gate={"enabled": True})
    template = render_gate_pod(own, own.spec, image=IMAGE)
    return {"spec": {"replicas": replicas, "template": template}, "status": {"availableReplicas": replicas}}


NAME = parsed("5.1.15").name


def test_without_a_gate_there_is_nothing_of_it() -> None:
    """The Service leads to the agent."""
    made = plan({"enabled": False})
    assert {NAME, f"{NAME}-moves-by-handoff", made.revision} == {action.name for action in made.actions}
    service = body(made, "Service", NAME)
    assert service is not None
    assert selector(parsed("5.1.15")) == service["spec"]["selector"]


HOST_NETWORK = {"podTemplate": {"hostNetwork": True}}
HOST_PORT = {"channels": [{"name": "adt", "port": 2575, "hostPort": 2575}]}
DICOM = {"channels": [{"name": "pacs", "port": 4242, "protocol": "DICOM"}]}
BOTH = {"channels": [*DICOM["channels"], {"name": "adt", "port": 2575, "protocol": "HL7"}]}


@pytest.mark.parametrize(
    ("spec", "enabled", "gated"),
    [
        pytest.param({}, None, True, id="HL7, which is the default"),
        pytest.param(BOTH, None, True, id="HL7 among others"),
        pytest.param(DICOM, None, False, id="no HL7"),
        pytest.param(HOST_NETWORK, None, False, id="devices connect to the node"),
        pytest.param(HOST_PORT, None, False, id="devices may connect to the node"),
        pytest.param({}, False, False, id="off"),
        pytest.param(DICOM, True, True, id="on, without HL7"),
        pytest.param(HOST_PORT, True, True, id="on, past which devices may connect"),
    ],
)
def test_a_gate_is_wanted_where_it_serves_unless_the_spec_says_otherwise(
    spec: dict[str, Any],
    enabled: bool | None,  # noqa: FBT001
    gated: bool,  # noqa: FBT001
) -> None:
    """On by default where a channel speaks HL7 and devices come through the Service."""
    gate = {} if enabled is None else {"enabled": enabled}
    assert gated is parsed("5.1.15", gate=gate, **spec).spec.gated


def test_a_new_gate_is_made_before_devices_are_led_to_it() -> None:
    """Until it takes connections, they reach the agent directly; that is ordinary, and looked at again in a minute."""
    made = plan({"enabled": True, "replicas": 3})
    deployment, service = body(made, "Deployment", f"{NAME}-gate"), body(made, "Service", NAME)
    assert deployment is not None
    assert service is not None
    assert 3 == deployment["spec"]["replicas"]
    assert selector(parsed("5.1.15")) == service["spec"]["selector"]
    assert Reason.GATE_NOT_SERVING not in [finding.reason for finding in made.findings]


@pytest.mark.parametrize(("seconds", "reported"), [(59, False), (60, True)])
def test_a_gate_that_does_not_serve_for_long_is_reported(seconds: float, reported: bool) -> None:  # noqa: FBT001
    """A Warning and a notice in the plan after a minute; until then the pass is requeued for that moment."""
    since = NOW - timedelta(seconds=seconds)
    waits = {"availableReplicas": 0, "conditions": [{"type": "Available", "lastTransitionTime": stamp(since)}]}
    made = plan({"enabled": True}, GateDeployment={**serving(), "status": waits})
    assert reported == (Reason.GATE_NOT_SERVING in [finding.reason for finding in made.findings])
    assert reported == ("devices connect to the agent directly" in made.text)
    assert reported or made.requeue_at == NOW + timedelta(seconds=1)


def test_devices_are_led_to_a_gate_that_takes_connections() -> None:
    """The Service selects the gate's pods, by names of ports that stay when a channel is renamed."""
    made = plan({"enabled": True}, GateDeployment=serving())
    service = body(made, "Service", NAME)
    assert service is not None
    assert gate_selector(parsed("5.1.15")) == service["spec"]["selector"]
    assert ["p2575"] == [port["targetPort"] for port in service["spec"]["ports"]]
    assert Reason.GATE_NOT_SERVING not in [finding.reason for finding in made.findings]


@pytest.mark.parametrize(("enabled", "told"), [(True, True), (False, False)])
def test_a_gate_of_another_image_is_left_and_told_of(enabled: bool, told: bool) -> None:  # noqa: FBT001
    """An operator of another release interrupts no device for it; of a gate that is switched off nothing waits."""
    raw = agent("5.1.15", gate={"enabled": enabled})
    cluster = SimulatedCluster(raw).settle()
    children = {**cluster.observe().children, "GateDeployment": _owned(serving(), raw)}
    newer = replace(CONFIG, gate_image="registry.example.org/operator:2")
    waits = make_plan(replace(cluster.observe(), children=children), config=newer, now=cluster.now).pending_update
    assert told is ("its gate's pods (spec.containers[name=gate].image)" in waits)
    assert told or not waits


def test_a_gate_that_takes_no_connections_is_gone_past() -> None:
    """It costs what it would have given, and no device the way to its agent."""
    made = plan({"enabled": True}, GateDeployment={**serving(), "status": {}})
    service = body(made, "Service", NAME)
    assert service is not None
    assert selector(parsed("5.1.15")) == service["spec"]["selector"]


def test_a_gate_that_is_switched_off_goes_on_until_devices_are_led_past_it() -> None:
    """First the Service, and once that is so, no replicas. Nothing is deleted."""
    to_gate = {"spec": {"selector": gate_selector(parsed("5.1.15"))}}
    to_agent = {"spec": {"selector": selector(parsed("5.1.15"))}}
    first = plan({"enabled": False}, GateDeployment=serving(), Service=to_gate)
    assert body(first, "Deployment", f"{NAME}-gate") is None
    service = body(first, "Service", NAME)
    assert service is not None
    assert selector(parsed("5.1.15")) == service["spec"]["selector"]
    second = body(plan({"enabled": False}, GateDeployment=serving(), Service=to_agent), "Deployment", f"{NAME}-gate")
    assert second is not None
    assert 0 == second["spec"]["replicas"]


def test_a_stranger_s_deployment_of_the_gate_s_name_is_left_alone() -> None:
    """Where a gate is wanted it is in the way, and said so; where none is, it is nobody's business."""
    raw, stranger = agent("5.1.15", gate={"enabled": True}), {"metadata": {"name": f"{NAME}-gate"}, "spec": {}}
    wanted = make_plan(observed(raw, children={"GateDeployment": stranger}), config=CONFIG, now=NOW)
    assert (Reason.NAME_TAKEN, ()) == (wanted.reason, wanted.actions)
    assert f"Deployment {NAME}-gate" in wanted.text
    unwanted = make_plan(observed(agent("5.1.15"), children={"GateDeployment": stranger}), config=CONFIG, now=NOW)
    assert unwanted.actions
    assert body(unwanted, "Deployment", f"{NAME}-gate") is None


def test_a_new_release_of_the_operator_leaves_a_gate_as_it_is() -> None:
    """Its image is taken with the next change of the gate itself, or when it is asked for."""
    newer = Config(image_repository=REPOSITORY, gate_image="registry.example.org/operator:2")
    cluster = SimulatedCluster(agent("5.1.15", gate={"enabled": True, "replicas": 2})).settle()
    seen = replace(cluster.observe(), children={"GateDeployment": {"metadata": {}, **serving()}})
    kept = of_gate(seen, seen.agent.spec, newer)
    assert kept is not None
    assert IMAGE == kept.body["spec"]["containers"][0]["image"]
    assert "spec.containers[name=gate].image" == kept.pending_update
    other = seen.agent.spec.model_copy(update={"gate": seen.agent.spec.gate.model_copy(update={"hold_seconds": 30})})
    changed = of_gate(seen, other, newer)
    assert changed is not None
    assert "registry.example.org/operator:2" == changed.body["spec"]["containers"][0]["image"]
    asked = replace(seen, agent=replace(seen.agent, annotations={REFRESH: "now"}))
    refreshed = of_gate(asked, seen.agent.spec, newer)
    assert refreshed is not None
    assert "registry.example.org/operator:2" == refreshed.body["spec"]["containers"][0]["image"]
    unknown = of_gate(seen, other, Config(image_repository=REPOSITORY))
    assert unknown is not None
    assert IMAGE == unknown.body["spec"]["containers"][0]["image"]


@pytest.mark.parametrize(
    "meddle",
    [
        pytest.param(lambda pod: pod["args"].append("--hold-seconds=1"), id="a flag"),
        pytest.param(lambda pod: pod.update(image="registry.example.org/evil:9"), id="the image"),
        pytest.param(lambda pod: pod.pop("securityContext"), id="its security"),
    ],
)
def test_what_somebody_changes_at_a_gate_is_put_back(meddle: Callable[[dict[str, Any]], object]) -> None:
    """By the note of what was applied: it is no change of the operator's release that would have to wait."""
    first = body(plan({"enabled": True}), "Deployment", f"{NAME}-gate")
    assert first is not None
    live = {**deepcopy(first), "status": {"availableReplicas": 2}}
    meddle(live["spec"]["template"]["spec"]["containers"][0])
    raw = agent("5.1.15", gate={"enabled": True})
    cluster = SimulatedCluster(raw).settle()
    children = {**cluster.observe().children, "GateDeployment": _owned(live, raw)}
    seen = replace(cluster.observe(), children=children)
    gate = AppliedTemplate(REVISION, first["spec"]["template"])
    seen = seen.with_memory(replace(seen.memory, notes=replace(seen.memory.notes, gate=gate)))
    made = make_plan(seen, config=CONFIG, now=cluster.now)
    again = body(made, "Deployment", f"{NAME}-gate")
    assert again is not None
    assert first["spec"]["template"] == again["spec"]["template"]
    assert "" == made.pending_update


def test_a_release_that_leaves_a_field_out_replaces_no_gate() -> None:
    """What was applied stays in force, and what would be otherwise is told."""
    seen = SimulatedCluster(agent("5.1.15", gate={"enabled": True, "replicas": 2})).settle().observe()
    live = serving()
    live["spec"]["template"]["spec"]["containers"][0]["startupProbe"] = {"tcpSocket": {"port": 1}}
    noted = replace(seen.memory.notes, gate=AppliedTemplate(1, live["spec"]["template"]))
    seen = replace(seen.with_memory(replace(seen.memory, notes=noted)), children={"GateDeployment": live})
    kept = of_gate(seen, seen.agent.spec, CONFIG)
    assert kept is not None
    assert live["spec"]["template"] == kept.body
    assert "spec.containers[name=gate].startupProbe" in kept.pending_update


def test_a_channel_that_is_renamed_keeps_its_way() -> None:
    """Gates that run know the port by its number; only what they call it in their metrics is new, with new gates."""
    ports = []
    for name in ("adt", "admit"):
        one = parsed("5.1.15", channels=[{"name": name, "port": 2575}], gate={"enabled": True})
        service = render_supporting(one, one.spec, protected=True, through_gate=True)["Service"]["spec"]["ports"]
        pods = render_gate_pod(one, one.spec, image=IMAGE)
        gate = render_gate(one, one.spec, template=AppliedTemplate(1, pods), replicas=2)
        [container] = pods["spec"]["containers"]
        ports.append(
            (
                [port["targetPort"] for port in service],
                container["ports"],
                gate["AgentService"]["spec"]["ports"],
                [flag.split(":")[1:] for flag in container["args"] if flag.startswith("--channel")],
            )
        )
    assert ports[0] == ports[1]


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}], ""),
        (
            [{"type": "Progressing", "status": "False", "message": 'ReplicaSet "x" has timed out progressing.'}],
            "has timed out progressing.\n",
        ),
        (
            [
                {"type": "Progressing", "status": "False", "message": "late"},
                {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: compute"},
            ],
            "Cause: The gate's Deployment reports: exceeded quota: compute.\n",
        ),
        ([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}], ""),
    ],
)
def test_gates_that_cannot_be_updated_are_reported_though_those_before_serve(
    conditions: list[dict[str, str]], words: str
) -> None:
    """A new channel is not in effect although every condition is green."""
    live = serving()
    live["status"]["conditions"] = conditions
    made = plan({"enabled": True}, GateDeployment=live)
    assert bool(words) is (Reason.GATE_NOT_UPDATED in [finding.reason for finding in made.findings])
    assert words in made.text
    assert not words or "kubectl -n clinic describe pods -l agents.medplum.com/gate-of=lab" in made.text
    assert Reason.GATE_NOT_SERVING not in [finding.reason for finding in made.findings]


def test_without_a_known_image_there_is_no_gate() -> None:
    """The message names the flag to set."""
    made = plan({"enabled": True}, config=Config(image_repository=REPOSITORY))
    assert body(made, "Deployment", f"{NAME}-gate") is None
    assert "--gate-image" in made.text


def test_only_behind_a_gate_does_the_drain_end_early() -> None:
    """Without one, connections are devices' own, and last."""
    for spec, kind in (({"enabled": False}, "sleep"), ({"enabled": True}, "exec")):
        one = parsed("5.1.15", gate=spec)
        template = render_pod_template(one, one.spec, image="x")
        assert [kind] == list(template["spec"]["containers"][0]["lifecycle"]["preStop"])


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def drain(port: socket.socket, seconds: int, *, lab: str = "HL7", path: str | None = None) -> subprocess.Popen[bytes]:
    """Start an agent's drain, as the kubelet does. `lab`: what its other channel speaks; `path`: where programs are."""
    one = parsed(
        "5.1.15",
        channels=[
            {"name": "lab", "port": 1, "protocol": lab},
            {"name": "adt", "port": port.getsockname()[1]},
        ],
        handoff={"drainSeconds": seconds},
        gate={"enabled": True},
    )
    return subprocess.Popen(drain_command(one.spec), env=os.environ | ({} if path is None else {"PATH": path}))


def test_a_drain_ends_when_nobody_is_connected_any_more(port: socket.socket) -> None:
    """It goes on for as long as somebody is; after that it ends at once, with code 0."""
    with socket.create_connection(port.getsockname()), drain(port, 60) as running:
        accepted, _ = port.accept()
        time.sleep(2)
        assert running.poll() is None
        accepted.close()
    assert 0 == running.wait(30)


@pytest.mark.parametrize(("lab", "looks"), [("HL7", 1), ("DICOM", 20)])
def test_a_drain_where_nobody_is_connected(port: socket.socket, lab: str, looks: int, tmp_path: Path) -> None:
    """A gate that had not heard of the end would be, where all channels carry messages; else it looks for a second, every 50 ms."""
    slept, sleep = tmp_path / "slept", tmp_path / "sleep"
    sleep.write_text(f'#!/bin/sh\necho "$1" >> {slept}\n')
    sleep.chmod(0o755)
    with drain(port, 60, lab=lab, path=f"{tmp_path}:{os.environ['PATH']}") as running:
        assert 0 == running.wait(30)
    assert ["0.05"] * looks == slept.read_text().split()


def test_a_drain_is_no_longer_than_it_may_be(port: socket.socket, tmp_path: Path) -> None:
    """Somebody stays connected. It goes by the clock: however long each look takes."""
    slept, sleep = tmp_path / "slept", tmp_path / "sleep"
    sleep.write_text(f'#!/bin/sh\necho "$1" >> {slept}\nexec /bin/sleep 0.7\n')
    sleep.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    with socket.create_connection(port.getsockname()), drain(port, 2, path=path) as running:
        assert 0 == running.wait(30)
    assert 1 <= len(slept.read_text().split()) <= 3


def test_gate_pods_that_the_cluster_refuses_are_told_in_its_words() -> None:
    """A policy wants a label on every pod: the gate's Deployment has a condition for that."""
    words = 'admission webhook "policy.example.org" denied the request: label team is missing'
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": words}]
    found = gate_messages.gate_not_serving(
        parsed(), exists=True, refused=gate_pod.creation_failure({"status": {"conditions": conditions}})
    )
    assert f"Cause: Kubernetes reports: {words}." in str(found)
    for nothing in (None, {}, {"status": {"conditions": [{"type": "ReplicaFailure", "status": "False"}]}}):
        assert "" == gate_pod.creation_failure(nothing)
