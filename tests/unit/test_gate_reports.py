"""What gates tell, on its way to the operator: their own page, read by the operator; and gates that answer badly, late or not at all."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from medplum_agent_operator.adapters import gates
from medplum_agent_operator.adapters.gates import GateReports
from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.core.observed.gate_reports import Channel, Takeover, Traffic
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.gate.effects import Kind
from medplum_agent_operator.gate.metrics import Metrics
from medplum_agent_operator.gate.reports import ChannelReport
from medplum_agent_operator.gate.routes import Life, Pod
from tests.support.gate.actors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from medplum_agent_operator.ports import Object

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY = Key("clinic", "lab")


def at(seconds: float) -> datetime:
    """So many seconds after 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def test_what_a_gate_writes_is_what_the_operator_reads() -> None:
    """Its real page, word for word."""
    metrics = Metrics(answer_seconds=60)
    channel = metrics.channel("adt")
    channel.count_devices(lambda: {"10.0.0.1": 2, "10.0.0.2": 1})
    life = Life(Pod("lab-2", "10.1.0.1", 2575))
    for kind, number in ((Kind.MOVED, 1), (Kind.HELD, 2.5), (Kind.REPEATED, 1), (Kind.ANSWERED, 0.1)):
        channel.note(kind, number, life)
    read = Traffic.read([metrics.status()])
    assert {"lab-2": Takeover(moved=1, held=1, longest_hold_seconds=2.5, repeated=1)} == read.takeovers
    assert 3 == read.channels["adt"].devices
    last = read.channels["adt"].last_message_at
    assert last is not None
    assert abs((datetime.now(UTC) - last).total_seconds()) < 60


class Reported:
    """A channel's report with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.report = ChannelReport("adt", answer_seconds=60, clock=lambda: self.now)

    def after(self, seconds: float, *kinds: Kind) -> Reported:
        """Time passes, then something happens."""
        self.now += seconds
        for kind in kinds:
            self.report.note(kind)
        return self

    @property
    def silent_since(self) -> datetime | None:
        """As the operator reads it."""
        return Traffic.read([{"channels": [self.report.as_json()]}]).channels["adt"].silent_since


def test_an_agent_that_was_given_a_message_and_answers_none_is_silent() -> None:
    """Since the first of them, once that has waited for longer than a message may."""
    channel = Reported().after(5, Kind.SENT).after(30, Kind.SENT).after(29)
    assert None is channel.silent_since
    assert at(1005) == channel.after(1).silent_since
    assert None is channel.after(0, Kind.ANSWERED).silent_since


def test_an_answer_to_another_message_shows_that_it_is_not() -> None:
    """A bot that fails leaves single messages unanswered."""
    channel = Reported().after(0, Kind.SENT).after(50, Kind.SENT, Kind.LATE).after(50)
    assert None is channel.silent_since


def test_an_agent_that_was_given_nothing_is_not_silent() -> None:
    """Nor is one that took over from a silent one."""
    assert None is Reported().after(1000).silent_since
    channel = Reported().after(0, Kind.SENT)
    channel.report.agent_is(None)
    assert None is channel.after(1000).silent_since


def test_gates_are_added_up() -> None:
    """An answer through one shows that the agent is not silent to another; who waits longest names the time."""
    first = {"name": "adt", "connectedDevices": 1, "lastMessageAt": "2026-09-01T12:00:00Z"}
    second = {"name": "adt", "connectedDevices": 2, "silentSince": "2026-09-01T11:59:00Z"}
    third = {"name": "adt", "silentSince": "2026-09-01T12:00:30Z"}
    both = Traffic.read([{"channels": [first]}, {"channels": [second]}])
    assert (2, 3, None) == (both.gates, both.channels["adt"].devices, both.channels["adt"].silent_since)
    later = Traffic.read([{"channels": [first]}, {"channels": [third]}])
    assert datetime(2026, 9, 1, 12, 0, 30, tzinfo=UTC) == later.channels["adt"].silent_since


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {"channels": 7, "takeovers": [1]},
        {"channels": [7, {"name": "adt", "connectedDevices": "many", "lastMessageAt": "yesterday"}]},
        {"channels": [{"name": "adt", "silentSince": "2026-09-01T12:00:00", "connectedDevices": -3}]},
        {"takeovers": {"lab-1": {"held": float("nan"), "moved": True}, "lab-2": "x"}},
        {"channels": [{"name": "adt", "connectedDevices": -(10**400)}]},
    ],
)
def test_nonsense_reads_as_absent(raw: object) -> None:
    """Whoever answers for a gate cannot bring the operator down."""
    read = Traffic.read([raw])
    assert read.channels in ({}, {"adt": Channel("adt")})
    assert {pod: told.held for pod, told in read.takeovers.items()} in ({}, {"lab-1": 0})


class Pods:
    """What the watches have seen: pods of gates."""

    def __init__(self, *pods: Object) -> None:
        self.pods = list(pods)

    def with_label(self, kind: str, key: str) -> list[Object]:
        """All of them."""
        assert ("Pod", names.GATE_LABEL) == (kind, key)
        return self.pods


def gate_pod(address: str = "127.0.0.1", *, ready: bool = True) -> dict[str, Any]:
    """A pod of the agent's gate."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": "g", "namespace": KEY.namespace, "labels": {names.GATE_LABEL: KEY.name}},
        "status": {"podIP": address, "conditions": conditions},
    }


@asynccontextmanager
async def asked(pods: Pods, answer: Answer) -> AsyncIterator[tuple[GateReports, list[Key]]]:
    """The operator asks gates that answer like this."""
    app = web.Application()
    app.router.add_get("/status", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reports = GateReports(pods, port=int(runner.addresses[0][1]))
    added: list[Key] = []
    asking = asyncio.create_task(reports.forever(added.append, every_seconds=0.05))
    try:
        yield reports, added
    finally:
        asking.cancel()
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good answer counts however slow the machine is; a test of bad ones sets its own limit."""
    monkeypatch.setattr(gates, "TIMEOUT_SECONDS", 60.0)


async def well(_: web.Request) -> web.Response:
    """As a gate does."""
    return web.json_response({"channels": [{"name": "adt", "connectedDevices": 2}]})


async def test_ready_gates_are_asked_and_their_agent_is_looked_at() -> None:
    """Again and again; before the first time nothing is known."""
    async with asked(Pods(gate_pod(), gate_pod(ready=False), gate_pod("")), well) as (reports, added):
        assert None is reports.traffic(KEY)
        await until(lambda: len(added) > 1)
        assert Traffic(1, {"adt": Channel("adt", 2)}) == reports.traffic(KEY)
        assert {KEY} == set(added)


async def test_an_agent_whose_gates_are_gone_has_no_traffic() -> None:
    """And not that of long ago."""
    pods = Pods(gate_pod())
    async with asked(pods, well) as (reports, added):
        await until(lambda: added)
        pods.pods = []
        await until(lambda: reports.traffic(KEY) is None)


async def _late(_: web.Request) -> web.Response:
    await asyncio.sleep(5)
    return web.Response()


async def _wrong(_: web.Request) -> web.Response:
    return web.Response(status=500, text="{}")


async def _elsewhere(_: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def _no_json(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def _deep(_: web.Request) -> web.Response:
    return web.Response(text="[" * 100_000)


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" " * 65_536)


async def _long(_: web.Request) -> web.Response:
    return web.Response(body=b" " * (gates.LONGEST_ANSWER + 1) + b"{}")


async def _packed(_: web.Request) -> web.Response:
    packed = gzip.compress(json.dumps({"channels": []}).encode())
    return web.Response(body=packed, headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("answer", [_late, _wrong, _elsewhere, _no_json, _deep, _endless, _long, _packed])
async def test_a_gate_that_answers_badly_is_one_that_was_not_heard(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator goes on; that nobody answered is known."""
    monkeypatch.setattr(gates, "TIMEOUT_SECONDS", 0.3)
    async with asked(Pods(gate_pod()), answer) as (reports, added):
        await until(lambda: added)
        assert Traffic() == reports.traffic(KEY)


def test_a_number_beyond_all_bounds_is_bounded() -> None:
    """JSON has integers that no float holds."""
    read = Traffic.read([{"channels": [{"name": "adt", "connectedDevices": 10**400}]}])
    assert 10**12 == read.channels["adt"].devices


async def test_a_bug_does_not_end_the_asking(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its trace, and tried again."""
    broken = {"metadata": {}, "status": gate_pod()["status"]}
    pods = Pods(broken)
    async with asked(pods, well) as (_, added):
        await until(lambda: "Traceback" in caplog.text)
        pods.pods = [gate_pod()]
        await until(lambda: added)
