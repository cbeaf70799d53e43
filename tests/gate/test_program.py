"""The gate as a process on a real API server, with exactly the rights that it has in a cluster.

Its agents are EndpointSlices without a process behind them. `tests/node` tests traffic through a gate in a cluster.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest

from medplum_agent_operator.gate import __main__ as main
from medplum_agent_operator.gate.flags import parse
from medplum_agent_operator.gate.routes import Pod, Pods
from tests.support.cluster import wait_for
from tests.support.gate.actors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from lightkube import AsyncClient

    from tests.support.cluster import Cluster

PROGRAM = Path(sys.executable).with_name("medplum-agent-gate")
SERVICE = "front-desk-agent"
OWN = ("--host", "127.0.0.1", "--http-port", "0")


@dataclass
class Program:
    """A running gate."""

    process: subprocess.Popen[bytes]
    log: Path

    def says(self, text: str) -> None:
        """Wait until its log contains the text."""
        wait_for(lambda: text in self.log.read_text(), what=f"the gate says {text!r}", seconds=20)

    def get(self, path: str) -> tuple[int, str]:
        """Request an HTTP path. Returns status and text."""
        [line] = [line for line in self.log.read_text().splitlines() if "listening: " in line]
        port = line.rpartition("http on port ")[2].split('"')[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as page:
            return page.code, page.read().decode()


@contextmanager
def program(
    kubeconfig: Path, namespace: str, log: Path, *flags: str, channel: str = "adt:TCP:0", before: Sequence[str] = ()
) -> Iterator[Program]:
    """Start a gate with free ports on loopback, and kill it at the end. `before`: a command that starts it.

    On a TCP channel the gate does not connect on its own. No process listens on the addresses in these EndpointSlices.
    """
    own = [*OWN, "--namespace", namespace, "--service", SERVICE]
    environment = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*before, PROGRAM, *own, "--channel", channel, *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment | {"KUBECONFIG": str(kubeconfig)},
        ) as process,
    ):
        running = Program(process, log)
        try:
            yield running
        finally:
            process.kill()


@pytest.fixture
def rights(cluster: Cluster, namespace: str) -> Path:
    """Return a kubeconfig of a ServiceAccount that may list and watch EndpointSlices, and nothing else."""
    cluster.kubectl("create", "serviceaccount", "gate", "--namespace", namespace)
    role = ["create", "role", "gate", "--verb=list,watch", "--resource=endpointslices.discovery.k8s.io"]
    cluster.kubectl(*role, "--namespace", namespace)
    binding = ["create", "rolebinding", "gate", "--role=gate", f"--serviceaccount={namespace}:gate"]
    cluster.kubectl(*binding, "--namespace", namespace)
    return cluster.service_account_kubeconfig(namespace, "gate")


def put(cluster: Cluster, namespace: str, **pods: dict[str, bool]) -> None:
    """Write these pods, with their conditions, into the Service's EndpointSlice."""
    piece: dict[str, Any] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": SERVICE,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "addressType": "IPv4",
        "ports": [{"name": "adt", "port": 2575, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [f"192.0.2.{number}"],
                "conditions": conditions,
                "targetRef": {"kind": "Pod", "name": name, "namespace": namespace},
            }
            for number, (name, conditions) in enumerate(pods.items(), start=1)
        ],
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(piece))


def test_the_gate_follows_its_agent_and_exits_on_sigterm(
    cluster: Cluster, namespace: str, rights: Path, tmp_path: Path
) -> None:
    """It is ready after the first list, the watch reports each change, and SIGTERM ends it with exit code 0."""
    ready, ending = {"ready": True}, {"ready": False, "serving": True, "terminating": True}
    with program(rights, namespace, tmp_path / "log") as gate:
        gate.says("listening: ")
        wait_for(lambda: gate.get("/readyz") == (200, "ok"), what="it is ready", seconds=20)
        put(cluster, namespace, red=ready)
        gate.says("channel adt: the current agent is red")
        put(cluster, namespace, red=ready, green=ready)
        put(cluster, namespace, red=ending, green=ready)
        gate.says("channel adt: the current agent is green")
        put(cluster, namespace, red=ending, green=ending)
        gate.says("channel adt: no agent accepts connections")
        status, text = gate.get("/metrics")
        assert 200 == status
        assert 'medplum_agent_gate_devices{channel="adt"} 0.0' in text
        status, text = gate.get("/status")
        assert (200, {"channels": [{"name": "adt", "connectedDevices": 0}], "takeovers": {}}) == (
            status,
            json.loads(text),
        )
        gate.process.terminate()
        assert 0 == gate.process.wait(10)


def test_a_gate_that_cannot_reach_its_agent_is_not_ready(
    cluster: Cluster, namespace: str, rights: Path, tmp_path: Path
) -> None:
    """Kubernetes reports the agent ready, so the gate's own way is blocked. Its Service must not send devices here."""
    with program(rights, namespace, tmp_path / "log", channel="adt:HL7:0") as gate:
        gate.says("listening: ")
        wait_for(lambda: gate.get("/readyz") == (200, "ok"), what="it is ready without an agent", seconds=20)
        put(cluster, namespace, red={"ready": True})
        wait_for(lambda: gate.get("/readyz")[0] == 503, what="it is not ready any more", seconds=20)
        assert "this gate cannot connect to it on adt" in gate.get("/readyz")[1]
        assert 200 == gate.get("/healthz")[0]


def test_without_rights_the_gate_logs_it_and_is_not_ready(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """It does not exit, as an admin may grant the rights later."""
    cluster.kubectl("create", "serviceaccount", "without-rights", "--namespace", namespace)
    kubeconfig = cluster.service_account_kubeconfig(namespace, "without-rights")
    with program(kubeconfig, namespace, tmp_path / "log") as gate:
        gate.says("cannot read EndpointSlices")
        assert "forbidden" in gate.log.read_text()
        assert 503 == gate.get("/readyz")[0]
        assert gate.process.poll() is None


def test_without_the_api_server_the_last_known_pods_stay_valid(
    cluster: Cluster, namespace: str, rights: Path, tmp_path: Path
) -> None:
    """The gate loses its rights, and stays ready with its agent."""
    put(cluster, namespace, red={"ready": True})
    with program(rights, namespace, tmp_path / "log") as gate:
        gate.says("channel adt: the current agent is red")
        cluster.kubectl("delete", "rolebinding", "gate", "--namespace", namespace)
        time.sleep(1)
        assert (200, "ok") == gate.get("/readyz")
        assert "no agent accepts connections" not in gate.log.read_text()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--channel", "adt:FTP:21"], "'adt:FTP:21' is not a channel; write name:protocol:port"),
        (["--channel", "adt:HL7:99999"], "is not a channel"),
        (["--hold-seconds", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_a_wrong_flag_prints_an_error(flags: list[str], sentence: str) -> None:
    """The gate exits with code 2 before it listens."""
    given = ["--namespace", "x", "--service", "y", *flags]
    ended = subprocess.run([PROGRAM, *given], capture_output=True, text=True, check=False, timeout=60)
    assert 2 == ended.returncode
    assert sentence in ended.stderr


def test_without_a_cluster_the_gate_prints_an_error(tmp_path: Path) -> None:
    """Without a ServiceAccount and without a kubeconfig it exits with code 1."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    flags = ["--namespace", "x", "--service", "y", "--channel", "adt:HL7:0"]
    ended = subprocess.run(
        [PROGRAM, *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**environment, "HOME": str(tmp_path)},
    )
    assert 1 == ended.returncode
    assert "Cannot find a cluster" in ended.stderr


def test_the_limit_of_file_descriptors_is_raised_and_logged(namespace: str, rights: Path, tmp_path: Path) -> None:
    """A container may start with 1,024, and each device needs two or three. The gate raises the limit and logs a lower device limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, 1_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        with program(rights, namespace, tmp_path / "log") as gate:
            gate.says("listening: ")
            limits = Path(f"/proc/{gate.process.pid}/limits").read_text()
            assert str(hard) == re.split(r"\s{2,}", next(x for x in limits.splitlines() if "open files" in x))[1]
        with program(rights, namespace, tmp_path / "log-2", before=("prlimit", f"--nofile={most}")) as gate:
            gate.says(f"allows {(most - 100) // 3} device connections instead of 2000")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_gate_without_an_agent_and_without_the_api_server_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No message would pass, so a person has to find the cause. A gate with a current agent stays ready."""
    monkeypatch.setattr(main, "STALE_SECONDS", 0.2)
    caplog.set_level("INFO")
    flags = parse([*OWN, "--namespace", "clinic", "--service", SERVICE, "--channel", "adt:TCP:0"])
    clients = count()

    def connect() -> AsyncClient:
        return cast("AsyncClient", Silent(answers=next(clients) == 0))

    gate, stop = main.Gate(flags), asyncio.Event()
    running = asyncio.create_task(gate.run(connect, stop))
    await until(lambda: "listening: " in caplog.text)
    port = re.findall(r"http on port (\d+)", caplog.text)[-1]
    async with aiohttp.ClientSession() as session:

        async def ready() -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as page:
                return page.status, await page.text()

        async with asyncio.timeout(10):
            while (await ready())[0] != 503:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.05)
        assert "no EndpointSlices could be read for" in (await ready())[1]
        gate.update_pods({"adt": Pods(frozenset({Pod("a", "127.0.0.1", 1)}))})
        assert (200, "ok") == await ready()
    stop.set()
    await running


class Silent:
    """A client whose first list is empty, or which always fails."""

    resourceVersion = "1"  # noqa: N815 - the client's own name

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers

    def list(self, *_: Any, **__: Any) -> Silent:
        """Return an empty list, or one that fails."""
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        if not self.answers:
            raise OSError("gone")
        for nothing in tuple[Any]():
            yield nothing

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Fail."""
        self.answers = False
        async for one in self:
            yield one

    async def close(self) -> None:
        """Close nothing."""
