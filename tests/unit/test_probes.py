"""What /healthz and /readyz report: faults that a restart of the operator fixes, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.probes import DEAF_AFTER_SECONDS, STUCK_AFTER_SECONDS, Probes
from medplum_agent_operator.workqueue import WorkQueue
from tests.support.builders import pod
from tests.support.virtual_time import use_virtual_time


@pytest.fixture(autouse=True)
async def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the event loop of each test a clock of its own."""
    use_virtual_time(asyncio.get_running_loop(), monkeypatch)


def probes(managed_by: str = "medplum-agent-operator") -> Probes:
    """The probes of an operator that watches, with one pod in its cache."""
    cache, raw = Cache(), pod()
    raw["metadata"]["labels"]["app.kubernetes.io/managed-by"] = managed_by
    cache.put("Pod", raw)
    found = Probes(cache, nodes=True)
    found.watching_since = asyncio.get_running_loop().time()
    return found


async def test_an_operator_is_ready_when_its_watches_have_begun() -> None:
    """Before that it is live but not ready."""
    found = probes()
    assert ([], []) == (found.liveness(), found.readiness())
    found.watching_since = None
    assert ([], ["The watches have not started yet."]) == (found.liveness(), found.readiness())


async def test_a_kind_without_events_is_a_fault_after_two_minutes() -> None:
    """Kopf does not watch a kind that the API server did not list at the start."""
    found = probes()
    await asyncio.sleep(DEAF_AFTER_SECONDS)
    assert [] == found.liveness()
    await asyncio.sleep(1)
    assert ["No watch events received for Pod although objects of this kind exist."] == found.liveness()
    found.kinds_seen.add("Pod")
    assert [] == found.liveness()


async def test_an_object_that_its_watch_does_not_select_is_no_fault() -> None:
    """A policy rewrote the label that we applied. A restart would not change that."""
    found = probes("fleet")
    await asyncio.sleep(DEAF_AFTER_SECONDS + 1)
    assert [] == found.liveness()


async def test_a_background_task_that_ended_is_a_fault() -> None:
    """Each of them runs as long as the operator."""
    found = probes()
    task = asyncio.create_task(asyncio.sleep(1), name="resync")
    found.background.append(task)
    assert [] == found.liveness()
    await task
    assert ["The task resync has ended."] == found.liveness()


async def test_workers_that_hang_or_ended_are_a_fault() -> None:
    """An agent waits for its pass, or no worker is left."""

    async def hang(_: Key) -> None:
        await asyncio.Event().wait()

    found = probes()
    queue = found.queue = WorkQueue(hang, on_failure=lambda *_: None, workers=1, timeout_seconds=10_000)
    queue.start()
    for name in "ab":
        queue.add(Key("clinic", name))
    found.kinds_seen.add("Pod")
    assert [] == found.liveness()
    await asyncio.sleep(STUCK_AFTER_SECONDS + 1)
    assert ["An agent has been waiting for its pass for 301 s: the workers hang."] == found.liveness()
    await queue.stop(grace_seconds=1)
    assert "A worker has ended." in found.liveness()
