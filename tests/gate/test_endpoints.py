"""Which pods take connections, as EndpointSlices say."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from lightkube.models.core_v1 import ObjectReference
from lightkube.models.discovery_v1 import Endpoint, EndpointConditions, EndpointPort
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.discovery_v1 import EndpointSlice

from medplum_agent_operator.gate import endpoints
from medplum_agent_operator.gate.endpoints import Endpoints, pods_of
from medplum_agent_operator.gate.routes import Life, Pod, Pods
from tests.support.gate.actors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lightkube import AsyncClient


def endpoint(name: str, address: str = "10.0.0.1", **conditions: bool | None) -> Endpoint:
    """A pod in a slice."""
    return Endpoint([address], EndpointConditions(**conditions), targetRef=ObjectReference(kind="Pod", name=name))


def piece(*endpoints: Endpoint, family: str = "IPv4", **ports: int) -> EndpointSlice:
    """A slice."""
    named = [EndpointPort(name=name, port=port) for name, port in (ports or {"adt": 2575}).items()]
    return EndpointSlice(addressType=family, endpoints=list(endpoints), ports=named)


A = frozenset({Pod("a", "10.0.0.1", 2575)})


@pytest.mark.parametrize(
    ("conditions", "pods"),
    [
        ({"ready": True, "serving": True, "terminating": False}, Pods(ready=A)),
        ({"ready": None}, Pods(ready=A)),
        ({"ready": False, "serving": False, "terminating": False}, Pods(waiting=A)),
        ({"ready": False, "serving": True, "terminating": True}, None),
        ({"ready": True, "serving": True, "terminating": True}, None),
    ],
)
def test_a_pod_counts_unless_it_is_about_to_end(conditions: dict[str, Any], pods: Pods | None) -> None:
    """One that drains still serves, and gets nothing new all the same."""
    assert pods == pods_of([piece(endpoint("a", **conditions))]).get("adt")


def test_each_port_has_its_own_pods() -> None:
    """By the name of the Service's port."""
    found = pods_of([piece(endpoint("a", ready=True), adt=2575, lab=2576)])
    assert {"adt": Pods(A), "lab": Pods(frozenset({Pod("a", "10.0.0.1", 2576)}))} == found


def test_a_pod_with_both_families_is_one_pod() -> None:
    """IPv4 is taken, in whatever order the slices come; where there is none, IPv6."""
    four, six = piece(endpoint("a")), piece(endpoint("a", "fd00::1"), endpoint("b", "fd00::2"), family="IPv6")
    both = {"adt": Pods(A | {Pod("b", "fd00::2", 2575)})}
    assert both == pods_of([four, six]) == pods_of([six, four])


def test_a_slice_may_be_empty() -> None:
    """The API server sends null for what is not there."""
    nobody = EndpointSlice(addressType="IPv4", endpoints=None, ports=None)
    assert {} == pods_of([nobody, EndpointSlice(addressType="IPv4", endpoints=[Endpoint([])], ports=[EndpointPort()])])


class Slices:
    """What the client's `list` gives: one slice."""

    resourceVersion = "1"  # noqa: N815 - the client's own name

    async def __aiter__(self) -> AsyncIterator[EndpointSlice]:
        one = piece(endpoint("a"))
        one.metadata = ObjectMeta(name="x")
        yield one


class Client:
    """A client that finds one slice and nothing new; what a real API server says is tested in test_program."""

    def list(self, *_: Any, **__: Any) -> Slices:
        """Everything there is."""
        return Slices()

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Nothing happens."""
        await asyncio.sleep(60)
        yield

    async def close(self) -> None:
        """Nothing is open."""


async def test_devices_outlive_a_bug_in_what_follows_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong there is logged with its trace and tried again: a gate that ended of it would take all connections along."""
    heard: list[object] = []

    def tell(pods: object) -> None:
        heard.append(pods)
        if len(heard) == 1:
            raise KeyError("a bug")

    endpoints = Endpoints(
        lambda: cast("AsyncClient", Client()), namespace="clinic", service="front-desk-agent", tell=tell
    )
    following = asyncio.create_task(endpoints.follow())
    await until(lambda: len(heard) == 2)
    assert not following.done()
    assert "Traceback" in caplog.text
    following.cancel()


async def test_a_new_client_is_made_after_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's CA may have been replaced since the last one was made; the old one is closed."""
    monkeypatch.setattr(endpoints, "_FIRST_PAUSE_SECONDS", 0.001)
    made, closed, heard = list[Client](), list[Client](), list[object]()

    class Rotated(Client):
        def list(self, *_: Any, **__: Any) -> Slices:
            if self is made[0]:
                raise OSError("certificate verify failed")
            return super().list()

        async def close(self) -> None:
            closed.append(self)

    def connect() -> AsyncClient:
        made.append(Rotated())
        return cast("AsyncClient", made[-1])

    followed = Endpoints(connect, namespace="clinic", service="front-desk-agent", tell=heard.append)
    never = followed.silent_seconds
    following = asyncio.create_task(followed.follow())
    await until(lambda: heard)
    assert made[:1] == closed
    assert 2 == len(made)
    assert (None, True) == (never, isinstance(followed.silent_seconds, float))
    following.cancel()
    await asyncio.wait({following})
    assert made == closed


async def test_when_the_agent_has_gone_the_watch_is_not_believed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have died without a word: everything is read again soon, and then ever less often, also where it goes and comes all the time."""
    monkeypatch.setattr(endpoints, "LOOK_SOON_SECONDS", 0.02)
    heard: list[float] = []
    loop = asyncio.get_running_loop()
    followed = Endpoints(
        lambda: cast("AsyncClient", Client()),
        namespace="clinic",
        service="front-desk-agent",
        tell=lambda _: heard.append(loop.time()),
    )
    following = asyncio.create_task(followed.follow())
    await until(lambda: len(heard) == 1)
    followed.agent_is(Life(Pod("a", "10.0.0.1", 2575)))
    await asyncio.sleep(0.1)
    assert 1 == len(heard)
    followed.agent_is(None)
    await until(lambda: len(heard) == 5)
    followed.agent_is(None)
    await until(lambda: len(heard) == 6)
    following.cancel()
    pauses = [after - before for before, after in pairwise(heard[1:])]
    assert all(2 ** (n - 0.1) * 0.02 <= pause for n, pause in enumerate(pauses))
