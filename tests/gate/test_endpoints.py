"""The agent's pods from EndpointSlices, and how the gate follows them."""

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
    """Return an endpoint for a pod."""
    return Endpoint([address], EndpointConditions(**conditions), targetRef=ObjectReference(kind="Pod", name=name))


def endpoint_slice(*endpoints: Endpoint, family: str = "IPv4", **ports: int) -> EndpointSlice:
    """Return an EndpointSlice."""
    named = [EndpointPort(name=name, port=port) for name, port in (ports or {"adt": 2575}).items()]
    return EndpointSlice(addressType=family, endpoints=list(endpoints), ports=named)


A = frozenset({Pod("a", "10.0.0.1", 2575)})


@pytest.mark.parametrize(
    ("conditions", "pods"),
    [
        ({"ready": True, "serving": True, "terminating": False}, Pods(ready=A)),
        ({"ready": None}, Pods(ready=A)),
        ({"ready": False, "serving": False, "terminating": False}, Pods(not_ready=A)),
        ({"ready": False, "serving": True, "terminating": True}, None),
        ({"ready": True, "serving": True, "terminating": True}, None),
    ],
)
def test_a_pod_counts_unless_it_terminates(conditions: dict[str, Any], pods: Pods | None) -> None:
    """A draining pod still serves, but it gets no new messages."""
    assert pods == pods_of([endpoint_slice(endpoint("a", **conditions))]).get("adt")


def test_each_port_has_its_own_pods() -> None:
    """They are found by the name of the Service's port."""
    found = pods_of([endpoint_slice(endpoint("a", ready=True), adt=2575, lab=2576)])
    assert {"adt": Pods(A), "lab": Pods(frozenset({Pod("a", "10.0.0.1", 2576)}))} == found


def test_a_pod_with_two_address_families_is_one_pod() -> None:
    """It counts with its IPv4 address, in any order of the slices. A pod without IPv4 counts with IPv6."""
    four, six = (
        endpoint_slice(endpoint("a")),
        endpoint_slice(endpoint("a", "fd00::1"), endpoint("b", "fd00::2"), family="IPv6"),
    )
    both = {"adt": Pods(A | {Pod("b", "fd00::2", 2575)})}
    assert both == pods_of([four, six]) == pods_of([six, four])


def test_a_slice_may_be_empty() -> None:
    """The API server sends null for empty fields."""
    empty = EndpointSlice(addressType="IPv4", endpoints=None, ports=None)
    assert {} == pods_of([empty, EndpointSlice(addressType="IPv4", endpoints=[Endpoint([])], ports=[EndpointPort()])])


class Slices:
    """The result of the client's `list`: one slice."""

    resourceVersion = "1"  # noqa: N815 - the client's own name

    async def __aiter__(self) -> AsyncIterator[EndpointSlice]:
        one = endpoint_slice(endpoint("a"))
        one.metadata = ObjectMeta(name="x")
        yield one


class Client:
    """A client with one slice and no watch events. `test_program` uses a real API server."""

    def list(self, *_: Any, **__: Any) -> Slices:
        """Return all slices."""
        return Slices()

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Report no event."""
        await asyncio.sleep(60)
        yield

    async def close(self) -> None:
        """Close nothing."""


async def test_a_bug_while_following_the_agent_does_not_end_the_gate(caplog: pytest.LogCaptureFixture) -> None:
    """The fault is logged with its trace and retried. If the gate ended, all devices would lose their connections."""
    heard: list[object] = []

    def on_pods(pods: object) -> None:
        heard.append(pods)
        if len(heard) == 1:
            raise KeyError("a bug")

    endpoints = Endpoints(
        lambda: cast("AsyncClient", Client()), namespace="clinic", service="front-desk-agent", on_pods=on_pods
    )
    following = asyncio.create_task(endpoints.follow())
    await until(lambda: len(heard) == 2)
    assert not following.done()
    assert "Traceback" in caplog.text
    following.cancel()


async def test_a_new_client_is_made_after_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's CA may have been replaced since. The old client is closed."""
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

    followed = Endpoints(connect, namespace="clinic", service="front-desk-agent", on_pods=heard.append)
    never = followed.seconds_since_list
    following = asyncio.create_task(followed.follow())
    await until(lambda: heard)
    assert made[:1] == closed
    assert 2 == len(made)
    assert (None, True) == (never, isinstance(followed.seconds_since_list, float))
    following.cancel()
    await asyncio.wait({following})
    assert made == closed


async def test_without_a_current_agent_the_next_list_comes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch may have died silently. The pauses between lists then double, also if the agent comes and goes all the time."""
    monkeypatch.setattr(endpoints, "EARLY_RELIST_SECONDS", 0.02)
    heard: list[float] = []
    loop = asyncio.get_running_loop()
    followed = Endpoints(
        lambda: cast("AsyncClient", Client()),
        namespace="clinic",
        service="front-desk-agent",
        on_pods=lambda _: heard.append(loop.time()),
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
