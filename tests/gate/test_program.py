"""The gate as a process on a real API server, with the rights that it has in a cluster and no others.

Its agents are EndpointSlices without anybody behind them: what passes through a gate in a cluster is tested on real nodes.
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
        """Wait until its log has that."""
        wait_for(lambda: text in self.log.read_text(), what=f"the gate says {text!r}", seconds=20)

    def get(self, path: str) -> tuple[int, str]:
        """Ask its pages: status and text."""
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
    """Start one with free ports on loopback, by way of `before`; kill it at the end if it still runs.

    On a channel of bytes it makes no connection by itself, and nobody is where the EndpointSlices here say.
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
    """A kubeconfig of a ServiceAccount that may list and watch EndpointSlices, and nothing else."""
    cluster.kubectl("create", "serviceaccount", "gate", "--namespace", namespace)
    role = ["create", "role", "gate", "--verb=list,watch", "--resource=endpointslices.discovery.k8s.io"]
    cluster.kubectl(*role, "--namespace", namespace)
    binding = ["create", "rolebinding", "gate", "--role=gate", f"--serviceaccount={namespace}:gate"]
    cluster.kubectl(*binding, "--namespace", namespace)
    return cluster.service_account_kubeconfig(namespace, "gate")


def put(cluster: Cluster, namespace: str, **pods: dict[str, bool]) -> None:
    """Let the Service's EndpointSlice name these pods."""
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


def test_it_follows_its_agent_and_ends_in_good_order(
    cluster: Cluster, namespace: str, rights: Path, tmp_path: Path
) -> None:
    """Ready once it has heard the API server, told of each change by the watch, and gone with code 0 on SIGTERM."""
    ready, ending = {"ready": True}, {"ready": False, "serving": True, "terminating": True}
    with program(rights, namespace, tmp_path / "log") as gate:
        gate.says("listening: ")
        wait_for(lambda: gate.get("/readyz") == (200, "ok"), what="it is ready", seconds=20)
        put(cluster, namespace, red=ready)
        gate.says("adt goes to red")
        put(cluster, namespace, red=ready, green=ready)
        put(cluster, namespace, red=ending, green=ready)
        gate.says("adt goes to green")
        put(cluster, namespace, red=ending, green=ending)
        gate.says("adt goes to nobody")
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
    """Kubernetes calls the agent ready: then the way is blocked from here, and devices are not led this way."""
    with program(rights, namespace, tmp_path / "log", channel="adt:HL7:0") as gate:
        gate.says("listening: ")
        wait_for(lambda: gate.get("/readyz") == (200, "ok"), what="it is ready without an agent", seconds=20)
        put(cluster, namespace, red={"ready": True})
        wait_for(lambda: gate.get("/readyz")[0] == 503, what="it is not ready any more", seconds=20)
        assert "cannot be reached from here: adt" in gate.get("/readyz")[1]
        assert 200 == gate.get("/healthz")[0]


def test_without_rights_it_says_so_and_is_not_ready(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """And it does not end: what it lacks may come."""
    cluster.kubectl("create", "serviceaccount", "nobody", "--namespace", namespace)
    kubeconfig = cluster.service_account_kubeconfig(namespace, "nobody")
    with program(kubeconfig, namespace, tmp_path / "log") as gate:
        gate.says("EndpointSlices cannot be read")
        assert "forbidden" in gate.log.read_text()
        assert 503 == gate.get("/readyz")[0]
        assert gate.process.poll() is None


def test_while_the_api_server_is_away_what_it_said_last_holds(
    cluster: Cluster, namespace: str, rights: Path, tmp_path: Path
) -> None:
    """A kubeconfig that leads nowhere any more is what a gate sees of that; it stays ready, and with its agent."""
    put(cluster, namespace, red={"ready": True})
    with program(rights, namespace, tmp_path / "log") as gate:
        gate.says("adt goes to red")
        cluster.kubectl("delete", "rolebinding", "gate", "--namespace", namespace)
        time.sleep(1)
        assert (200, "ok") == gate.get("/readyz")
        assert "nobody" not in gate.log.read_text()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--channel", "adt:FTP:21"], "'adt:FTP:21' is no channel; write name:protocol:port"),
        (["--channel", "adt:HL7:99999"], "is no channel"),
        (["--hold-seconds", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_a_wrong_flag_ends_it_with_a_sentence(flags: list[str], sentence: str) -> None:
    """Before it listens anywhere."""
    given = ["--namespace", "x", "--service", "y", *flags]
    ended = subprocess.run([PROGRAM, *given], capture_output=True, text=True, check=False, timeout=60)
    assert 2 == ended.returncode
    assert sentence in ended.stderr


def test_without_a_cluster_it_ends_with_a_sentence(tmp_path: Path) -> None:
    """No service account and no kubeconfig."""
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
    assert "No cluster to ask" in ended.stderr


def test_a_limit_of_descriptors_is_raised_and_told(namespace: str, rights: Path, tmp_path: Path) -> None:
    """A container may start with 1,024, of which each device takes two or three: as far as it may it raises that, and says what is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, 1_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        with program(rights, namespace, tmp_path / "log") as gate:
            gate.says("listening: ")
            limits = Path(f"/proc/{gate.process.pid}/limits").read_text()
            assert str(hard) == re.split(r"\s{2,}", next(x for x in limits.splitlines() if "open files" in x))[1]
        with program(rights, namespace, tmp_path / "log-2", before=("prlimit", f"--nofile={most}")) as gate:
            gate.says(f"lets in {(most - 100) // 3} devices, and not 2000")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_gate_that_knows_no_agent_and_hears_nothing_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has to look: devices are led to it, and no message passes. While it knows an agent it goes on with that."""
    monkeypatch.setattr(main, "DEAF_SECONDS", 0.2)
    caplog.set_level("INFO")
    flags = parse([*OWN, "--namespace", "clinic", "--service", SERVICE, "--channel", "adt:TCP:0"])
    clients = count()

    def connect() -> AsyncClient:
        return cast("AsyncClient", Silent(answers=next(clients) == 0))

    gate, end = main.Gate(flags), asyncio.Event()
    running = asyncio.create_task(gate.run(connect, end))
    await until(lambda: "listening: " in caplog.text)
    port = re.findall(r"http on port (\d+)", caplog.text)[-1]
    async with aiohttp.ClientSession() as session:

        async def ready() -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as page:
                return page.status, await page.text()

        async with asyncio.timeout(10):
            while (await ready())[0] != 503:  # noqa: ASYNC110 - what is asked of has no event to wait for
                await asyncio.sleep(0.05)
        assert "has not said for" in (await ready())[1]
        gate.pods_are({"adt": Pods(frozenset({Pod("a", "127.0.0.1", 1)}))})
        assert (200, "ok") == await ready()
    end.set()
    await running


class Silent:
    """A client that is answered with nothing, once, or not at all."""

    resourceVersion = "1"  # noqa: N815 - the client's own name

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers

    def list(self, *_: Any, **__: Any) -> Silent:
        """No slice, if anything."""
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        if not self.answers:
            raise OSError("gone")
        for nothing in tuple[Any]():
            yield nothing

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """It breaks."""
        self.answers = False
        async for one in self:
            yield one

    async def close(self) -> None:
        """Nothing is open."""
