"""Watches that break or fall silent: a resync finds what they lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.operator_process import NAMESPACE, SERVICE_ACCOUNT
from tests.support.proxy import Proxy, through_proxy
from tests.support.world import agent_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.world import World


@pytest.fixture
def proxy(empty_world: World) -> Iterator[Proxy]:
    """An operator behind a proxy, with a resync every five seconds."""
    kubeconfig = empty_world.cluster.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
    with through_proxy(kubeconfig) as (proxy, proxied):
        empty_world.start_operator("--resync-seconds", "5", "--request-timeout-seconds", "2", kubeconfig=proxied)
        yield proxy
        # Stop the operator before its proxy.
        empty_world.operators[-1].kill()


def test_silent_watches_lose_nothing(empty_world: World, proxy: Proxy) -> None:
    """Every open connection falls silent, then objects change and are deleted: the next LIST finds both."""
    world = empty_world
    world.apply(agent_manifest(), agent_manifest("ghost"))
    for name in ("front-desk", "ghost"):
        world.wait_for_phase("Running", "5.1.14", name)
    proxy.silence()
    world.kubectl("delete", "mpa", "ghost", "--timeout=30s")
    world.kubectl("delete", "service", "front-desk")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15", seconds=60)
    assert "service/front-desk\n" == world.kubectl("get", "service", "front-desk", "-o", "name")
    world.wait(
        lambda: "ghost" not in world.kubectl("get", "deployment,service,pods", "-o", "name"), "the ghost stays gone"
    )


def test_cut_connections_are_opened_again(empty_world: World, proxy: Proxy) -> None:
    """All connections break during a handoff: it completes anyway."""
    world = empty_world
    world.install()
    world.set_version("5.1.15")
    world.wait_for_phase("HandingOff")
    proxy.cut()
    world.wait_for_phase("Running", "5.1.15", seconds=60)
    assert ["5.1.15", "5.1.14"] == [entry["to"] for entry in world.status()["history"]]
