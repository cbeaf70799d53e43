"""Changes behind a gate: devices keep their connections, and nothing is lost, refused, broken or repeated."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.real_nodes.behind_a_gate import install_behind_a_gate, unnoticed
from tests.support.real_nodes.clinic import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster.node import Machine
    from tests.support.real_nodes.clinic import Clinic

pytestmark = pytest.mark.timeout(300)

ENHANCED = f"{ADDRESS}?enhanced=true"


@pytest.mark.parametrize(
    ("address", "delay_ms", "devices"),
    [
        pytest.param(ADDRESS, 0, (), id="original"),
        pytest.param(ENHANCED, 500, (), id="enhanced, a slow server"),
        pytest.param(ADDRESS, 200, ("--pipeline", "8"), id="original, devices that do not wait"),
    ],
)
def test_no_device_notices_a_handoff(clinic: Clinic, address: str, delay_ms: int, devices: tuple[str, ...]) -> None:
    """5.1.14 to 5.1.15, also where the agent acknowledges on receipt, and where up to eight messages of a device are under way."""
    clinic.open(address=address, answerDelayMs=delay_ms)
    install_behind_a_gate(clinic, "5.1.14")
    with clinic.traffic(*devices) as traffic:
        entry = clinic.change("5.1.15")
        time.sleep(2)
    unnoticed(traffic)
    assert "RollingHandoff" == entry["strategy"]


def test_devices_get_one_slow_answer_in_a_forced_downgrade_and_back(clinic: Clinic) -> None:
    """5.1.15 to 4.2.3, approved, and to 5.1.15 again: each time one agent stops before the other starts."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    with clinic.traffic() as traffic:
        down = clinic.change("4.2.3", approval="4.2.3 CHG-1042")
        time.sleep(2)
        up = clinic.change("5.1.15")
        time.sleep(2)
    overall = unnoticed(traffic)
    assert ("Recreate", "Recreate") == (down["strategy"], up["strategy"])
    assert overall["longest_pause_seconds"] > 0.5, "no device waited, so an agent was always there"
    reported = clinic.wait(lambda: clinic.status()["history"][0].get("gate"), "the gates report the change", 60)
    assert reported["connectionsMoved"] >= 4, reported
    assert reported["messagesHeld"] >= 4, reported
    waited = max(stage["overall"]["longest_pause_seconds"] for stage in traffic.report["stages"])
    assert 0.5 < clinic.status()["history"][0]["gapSeconds"] < waited + 0.5


def test_an_agent_that_hangs_is_reported_and_left_alone(clinic: Clinic) -> None:
    """Stopped in the middle of its work (SIGSTOP) it takes connections as before: the kubelet sees nothing, its gates do."""
    if not clinic.cluster.machines:
        pytest.skip("processes of a cluster that the tests did not start cannot be stopped")
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15", gate={"answerSeconds": 5})
    clinic.wait(lambda: says(clinic, "Forwarding") == ("True", "Forwarding"), "gates are asked", 60)
    [pod] = clinic.pods()
    with clinic.traffic("--ack-timeout", "60") as traffic:
        signal_the_agent(clinic, pod, "SIGSTOP")
        try:
            clinic.wait(lambda: says(clinic, "Forwarding") == ("False", "AgentSilent"), "status shows it", 60)
            assert ("True", "Serving") == says(clinic, "Available"), "it takes connections"
        finally:
            signal_the_agent(clinic, pod, "SIGCONT")
        clinic.wait(lambda: says(clinic, "Forwarding") == ("True", "Forwarding"), "it answers again", 60)
    assert 1 == len(clinic.events("AgentSilent"))
    assert [pod["metadata"]["uid"]] == [each["metadata"]["uid"] for each in clinic.pods()]
    assert 0 == restarts(clinic)
    [channel] = clinic.status()["channels"]
    assert ("adt", True) == (channel["name"], "observedAt" in channel)
    unnoticed(traffic)


def test_a_gate_that_ends_loses_nothing(clinic: Clinic) -> None:
    """By force, without a word: its devices connect again, to the other gate, and send again what was not acknowledged."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    with clinic.traffic() as traffic:
        clinic.kubectl("delete", "pod", clinic.gates()[0]["metadata"]["name"], "--grace-period=0", "--force")
        time.sleep(5)
        clinic.kubectl("rollout", "status", "deployment/front-desk-gate", "--timeout=60s")
    overall = traffic.report["overall"]
    assert (0, 0) == (overall["lost"], overall["unacknowledged"]), traffic.text


def test_gates_are_rolled_without_a_loss(clinic: Clinic) -> None:
    """One at a time, each after it has finished the messages in hand: a long-lived connection is closed between two of them."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    with clinic.traffic() as traffic:
        clinic.kubectl("patch", "mpa", "front-desk", "--type=merge", "-p", '{"spec":{"gate":{"holdSeconds":30}}}')
        clinic.wait(
            lambda: "--hold-seconds=30" in str(clinic.read("deployment", "front-desk-gate")["spec"]["template"]),
            "the gate's new template",
        )
        clinic.kubectl("rollout", "status", "deployment/front-desk-gate", "--timeout=120s")
        time.sleep(8)
    overall = traffic.report["overall"]
    assert (0, 0, 0, 0) == tuple(overall[name] for name in ("lost", "unacknowledged", "refused", "repeated")), (
        traffic.text
    )


def test_a_gate_that_is_switched_off_is_gone_past(clinic: Clinic) -> None:
    """Devices are led to the agent, then the gates end; nothing is lost."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    with clinic.traffic() as traffic:
        clinic.kubectl("patch", "mpa", "front-desk", "--type=merge", "-p", '{"spec":{"gate":{"enabled":false}}}')
        clinic.wait(lambda: not clinic.gates(), "no gate", 90)
        clinic.wait_for_phase("Running", "5.1.15", seconds=60)
        time.sleep(2)
    overall = traffic.report["overall"]
    assert (0, 0, 0) == tuple(overall[name] for name in ("lost", "unacknowledged", "refused")), traffic.text


DEVICE = """
import socket, sys, time
until = time.monotonic() + 20
while True:  # a node learns of an address a moment after it was announced
    try:
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.1)
for name in map(str.strip, sys.stdin):
    connection.sendall(f"\\x0bMSH|^~\\\\&|DEV|LAB|MED|PLUM|20260101||ADT^A01|{name}|P|2.5\\r\\x1c\\r".encode())
    answer = b""
    while not answer.endswith(b"\\x1c\\r"):
        part = connection.recv(65536)
        if not part:
            sys.exit("closed")
        answer += part
    print(*answer.split(b"MSA|")[1].decode().split("|")[:2], flush=True)
"""
# One line of its input is a message, one of its output the answer: code and control id.


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_a_device_outside_of_the_cluster_keeps_its_connection(clinic: Clinic, kind: str) -> None:
    """`externalTrafficPolicy: Local`: each node has a gate; who came in by either, or by a load balancer's address, keeps it in a handoff."""
    if not clinic.cluster.machines:
        pytest.skip("a device outside of the cluster needs a place there")
    clinic.open()
    install_behind_a_gate(clinic, "5.1.14", service={"type": kind, "externalTrafficPolicy": "Local"})
    one, other = clinic.cluster.machines
    [port] = clinic.read("service", "front-desk")["spec"]["ports"]
    ways = [(one, other.address, port["nodePort"]), (other, one.address, port["nodePort"])]
    if kind == "LoadBalancer":
        address = one.address.rpartition(".")[0] + ".250"
        announce(clinic, address)
        ways = [(one, address, port["port"]), (other, address, port["port"])]
    assert {one.name, other.name} == {pod["spec"]["nodeName"] for pod in clinic.gates()}
    wait_until_led_to_gates(clinic, ways)
    with devices(ways) as [first, second]:
        assert ["AA M1", "AA M1"] == [ask(first, "M1"), ask(second, "M1")]
        clinic.change("5.1.15")
        assert ["AA M2", "AA M2"] == [ask(first, "M2"), ask(second, "M2")]


def test_past_a_gate_a_port_of_the_node_still_leads_to_the_agent(clinic: Clinic) -> None:
    """With `hostPort` a gate has to be asked for: who comes by the Service keeps its connection, who comes by the node's port does not."""
    if not clinic.cluster.machines:
        pytest.skip("a device outside of the cluster needs a place there")
    clinic.open()
    clinic.kubectl(
        "label", "namespace", clinic.namespace, "--overwrite", "pod-security.kubernetes.io/enforce=privileged"
    )
    channel = {"name": "adt", "port": 2575, "hostPort": 2575}
    install_behind_a_gate(clinic, "5.1.14", channels=[channel])
    [pod] = clinic.pods()
    here = next(machine for machine in clinic.cluster.machines if machine.name == pod["spec"]["nodeName"])
    away = next(machine for machine in clinic.cluster.machines if machine is not here)
    service = clinic.read("service", "front-desk")["spec"]["clusterIP"]
    wait_until_led_to_gates(clinic, [(here, service, 2575)])
    with devices([(here, service, 2575), (away, here.address, 2575)]) as [by_service, by_node]:
        assert ["AA M1", "AA M1"] == [ask(by_service, "M1"), ask(by_node, "M1")]
        entry = clinic.change("5.1.15")
        assert "Recreate" == entry["strategy"]
        assert ["AA M2", ""] == [ask(by_service, "M2"), ask(by_node, "M2")]


def wait_until_led_to_gates(clinic: Clinic, ways: list[tuple[Machine, str, int]]) -> None:
    """Until then a device may come past the gate: a node's kube-proxy learns a moment later where a Service leads now."""

    def led() -> bool:
        with devices(ways) as those:
            return ["AA M0"] * len(ways) == [ask(one, "M0") for one in those] and clinic.devices_at_gates() == len(ways)

    clinic.wait(led, "all ways lead to a gate", 60)
    clinic.wait(lambda: clinic.devices_at_gates() == 0, "those have gone again")


def announce(clinic: Clinic, address: str) -> None:
    """Do what a load balancer's controller does, as this cluster has none. kube-proxy routes the address to the Service."""
    ingress = {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}
    clinic.kubectl("patch", "service", "front-desk", "--subresource=status", "--type=merge", "-p", json.dumps(ingress))


@contextlib.contextmanager
def devices(ways: list[tuple[Machine, str, int]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Devices on nodes' own networks, each with a connection to an address and port."""
    running = [
        subprocess.Popen(
            origin.command(sys.executable, "-c", DEVICE, address, str(port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for origin, address, port in ways
    ]
    try:
        yield running
    finally:
        for device in running:
            device.kill()
            device.communicate()


def ask(device: subprocess.Popen[str], name: str) -> str:
    """Let a device send a message. Returns its answer; nothing where the connection was closed."""
    assert device.stdin is not None
    assert device.stdout is not None
    device.stdin.write(f"{name}\n")
    device.stdin.flush()
    return device.stdout.readline().strip()


def test_a_killed_agent_is_one_slow_answer(clinic: Clinic) -> None:
    """SIGKILL in the middle of the traffic: what it had not answered goes to the one that its container starts next, perhaps twice."""
    if not clinic.cluster.machines:
        pytest.skip("processes of a cluster that the tests did not start cannot be killed")
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    [pod] = clinic.pods()
    with clinic.traffic() as traffic:
        signal_the_agent(clinic, pod, "SIGKILL")
        clinic.wait(lambda: restarts(clinic) == 1, "its container restarts")
        clinic.wait_for_phase("Running", "5.1.15")
        time.sleep(3)
    unnoticed(traffic, repeated=30)


def signal_the_agent(clinic: Clinic, pod: dict[str, Any], name: str) -> None:
    """Send a signal to the process of the agent in a pod, past the kubelet."""
    agent = next(each for each in pod["status"]["containerStatuses"] if each["name"] == "agent")
    machine = next(each for each in clinic.cluster.machines if each.name == pod["spec"]["nodeName"])
    machine.ctr("tasks", "kill", "--signal", name, agent["containerID"].removeprefix("containerd://"))


def says(clinic: Clinic, kind: str) -> tuple[str, str] | None:
    """Status and reason of a condition; None where it is not there."""
    found = next((each for each in clinic.status().get("conditions", ()) if each["type"] == kind), None)
    return None if found is None else (found["status"], found["reason"])


def restarts(clinic: Clinic) -> int:
    """Return the restarts of the agent's container."""
    return sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in clinic.pods())


def test_a_drain_of_the_node_of_agent_and_gate(clinic: Clinic) -> None:
    """Both leave it: the agent by a handoff, the gate between two messages. Devices connect again, and nothing is lost or refused."""
    clinic.open()
    install_behind_a_gate(clinic, "5.1.15")
    [pod] = clinic.pods()
    node = pod["spec"]["nodeName"]
    ours = "agents.medplum.com/agent=front-desk", "agents.medplum.com/gate-of=front-desk"
    with clinic.traffic() as traffic:
        try:
            for selector in ours:
                clinic.kubectl(
                    *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"),
                    f"--pod-selector={selector}",
                )
            time.sleep(8)
        finally:
            clinic.kubectl("uncordon", node)
    overall = traffic.report["overall"]
    assert (0, 0, 0, 0) == tuple(overall[name] for name in ("lost", "unacknowledged", "refused", "repeated")), (
        traffic.text
    )
