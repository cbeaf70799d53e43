"""The work queue: what it guarantees for every key. Time is virtual, so results do not depend on the speed of the machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator import workqueue
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.workqueue import WorkQueue, backoff_seconds
from tests.support.virtual_time import use_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A, B = Key("clinic", "a"), Key("clinic", "b")


@pytest.fixture(autouse=True)
async def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the event loop of each test a clock of its own."""
    use_virtual_time(asyncio.get_running_loop(), monkeypatch)


class Work:
    """Work that waits until its gate opens, and records its runs."""

    def __init__(self) -> None:
        self.begun: list[Key] = []
        self.begun_at: list[float] = []
        """Seconds on the clock of the event loop."""
        self.done: list[Key] = []
        self.concurrent: dict[Key, int] = {}
        self.most_concurrent = 0
        self.faults: list[Exception] = []
        self.answers: list[float | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, key: Key) -> float | None:
        """Run for a key."""
        self.begun.append(key)
        self.begun_at.append(asyncio.get_running_loop().time())
        self.concurrent[key] = self.concurrent.get(key, 0) + 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent[key])
        try:
            await self.gate.wait()
            if self.faults:
                raise self.faults.pop(0)
            self.done.append(key)
            return self.answers.pop(0) if self.answers else None
        finally:
            self.concurrent[key] -= 1


class Failures(list[tuple[Key, Exception, float]]):
    """The failed runs that the queue reported."""

    def __call__(self, key: Key, fault: Exception, pause: float) -> None:
        """Record one."""
        self.append((key, fault, pause))


@asynccontextmanager
async def running(
    work: Work, *, workers: int = 4, timeout_seconds: float = 5, failures: Failures | None = None
) -> AsyncIterator[WorkQueue]:
    """Run a queue until the end of the block."""
    queue = WorkQueue(
        work, on_failure=Failures() if failures is None else failures, workers=workers, timeout_seconds=timeout_seconds
    )
    queue.start()
    try:
        yield queue
    finally:
        work.gate.set()
        await queue.stop(grace_seconds=1)


async def until(holds: object, *, seconds: float = 2) -> None:
    """Wait until a callable returns something true."""
    assert callable(holds)
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - the queue has no event for the facts that tests wait for
            await asyncio.sleep(0.002)


async def test_a_key_that_is_added_several_times_before_its_run_runs_once() -> None:
    """Many events need one run."""
    work = Work()
    queue = WorkQueue(work, on_failure=Failures(), workers=1, timeout_seconds=5)
    for _ in range(5):
        queue.add(A)
    queue.start()
    await until(lambda: queue.idle)
    await queue.stop(grace_seconds=1)
    assert [A] == work.done


async def test_one_key_never_runs_twice_at_once_and_no_event_is_lost() -> None:
    """A key that is added during its run runs once more afterwards."""
    work = Work()
    work.gate.clear()
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        for _ in range(5):
            queue.add(A)
        await asyncio.sleep(0.02)
        assert [A] == work.begun
        work.gate.set()
        await until(lambda: queue.idle)
    assert [A, A] == work.done
    assert 1 == work.most_concurrent


async def test_different_keys_run_concurrently() -> None:
    """A slow agent does not delay another."""
    work = Work()
    work.gate.clear()
    async with running(work, workers=2) as queue:
        queue.add(A)
        queue.add(B)
        await until(lambda: {A, B} == set(work.begun))
        assert 2 == len(work.begun)


async def test_no_more_keys_run_at_once_than_there_are_workers() -> None:
    """The others wait, and the queue knows how long."""
    work = Work()
    work.gate.clear()
    async with running(work, workers=1) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        queue.add(B)
        await asyncio.sleep(0.03)
        assert [A] == work.begun
        assert 0.03 == pytest.approx(queue.oldest_wait_seconds, abs=0.003)
        assert not queue.idle
        work.gate.set()
        await until(lambda: queue.idle)
        assert 0.0 == queue.oldest_wait_seconds


async def test_a_failing_key_backs_off_for_longer_each_time_until_a_run_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue reports each failure. After a success the first backoff applies again."""
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 0.004)
    monkeypatch.setattr("random.random", lambda: 0.0)
    work, failures = Work(), Failures()
    work.faults = [ValueError(str(n)) for n in range(3)]
    async with running(work, failures=failures) as queue:
        queue.add(A)
        await until(lambda: [A] == work.done)
        work.faults = [ValueError("3")]
        queue.add(A)
        await until(lambda: 2 == len(work.done))
    assert ["0", "1", "2", "3"] == [str(fault) for _, fault, _ in failures]
    assert [0.004, 0.008, 0.016, 0.004] == [backoff for _, _, backoff in failures]


async def test_an_added_key_does_not_wait_for_the_end_of_its_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event starts a run at once."""
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 20)
    work, failures = Work(), Failures()
    work.faults = [ValueError("x")]
    async with running(work, failures=failures) as queue:
        queue.add(A)
        await until(lambda: 1 == len(failures))
        assert failures[-1][2] > 5
        queue.add(A)
        await until(lambda: [A] == work.done)


async def test_events_do_not_lengthen_the_backoff_of_a_failing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten events within the first backoff lead to ten failing runs, and the key is requeued at the end of that backoff."""
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 0.3)
    work, failures = Work(), Failures()
    work.faults = [TimeoutError() for _ in range(10)]
    async with running(work, failures=failures) as queue:
        for number in range(1, 11):
            queue.add(A)
            await until(lambda n=number: n == len(failures))
        assert max(backoff for _, _, backoff in failures) <= 0.3
        await until(lambda: [A] == work.done)


async def test_a_key_is_requeued_after_the_time_that_its_run_asked_for() -> None:
    """A run asks for a time and ends; it does not sleep."""
    work = Work()
    work.answers = [0.03, -5.0, None]
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: queue.idle)
        assert 1 == len(work.done)
        await until(lambda: 3 == len(work.done))
        await asyncio.sleep(0.05)
    assert 3 == len(work.done)
    first = work.begun_at[0]
    assert [0.0, 0.03, 0.03] == pytest.approx([at - first for at in work.begun_at])


async def test_a_run_before_that_time_cancels_the_requeue() -> None:
    """One run is enough; the latest answer counts."""
    work = Work()
    work.answers = [0.05, None]
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: 1 == len(work.done))
        queue.add(A)
        await asyncio.sleep(0.12)
    assert [A, A] == work.done


async def test_a_run_that_hangs_is_cancelled_and_counts_as_failed() -> None:
    """No key can block a worker forever."""
    work, failures = Work(), Failures()
    work.gate.clear()
    async with running(work, timeout_seconds=0.02, failures=failures) as queue:
        queue.add(A)
        await until(lambda: failures)
        assert queue.alive
    assert (A, TimeoutError) == (failures[0][0], type(failures[0][1]))


async def test_a_key_that_was_added_during_a_failing_run_runs_again_at_once() -> None:
    """The run did not see that event, so the event does not wait for the backoff."""
    work, failures = Work(), Failures()
    work.faults = [ValueError("x")]
    work.gate.clear()
    async with running(work, failures=failures) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        queue.add(A)
        work.gate.set()
        await until(lambda: [A] == work.done, seconds=0.09)
    assert [A, A] == work.begun


async def test_stopping_lets_current_runs_finish_and_starts_no_others() -> None:
    """A current run gets its time; queued keys are left to the next start."""
    work = Work()
    work.gate.clear()
    async with running(work, workers=1) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        queue.add(B)
        stopping = asyncio.create_task(queue.stop(grace_seconds=2))
        await asyncio.sleep(0.01)
        queue.add(Key("clinic", "late"))
        work.gate.set()
        await stopping
        assert ([A], [A]) == (work.begun, work.done)
        assert not queue.alive


async def test_stopping_waits_no_longer_than_the_grace_time() -> None:
    """A run that hangs is cancelled when the grace time is over."""
    work = Work()
    work.gate.clear()
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        async with asyncio.timeout(1):
            await queue.stop(grace_seconds=0.02)
    assert [] == work.done


async def test_a_stopped_queue_requeues_no_key() -> None:
    """The requeues that runs asked for are dropped."""
    work = Work()
    work.answers = [0.02]
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: [A] == work.done)
        await queue.stop(grace_seconds=1)
        await asyncio.sleep(0.05)
    assert [A] == work.done


async def test_a_queue_that_was_not_started_is_not_alive() -> None:
    """/healthz reports it."""
    work = Work()
    assert not WorkQueue(work, on_failure=Failures(), workers=1, timeout_seconds=1).alive
    async with running(work) as queue:
        assert queue.alive


@pytest.mark.parametrize(
    ("failures", "jitter", "expected"),
    [
        pytest.param(1, 0.0, 0.2, id="the first backoff is 0.2 s"),
        pytest.param(4, 0.0, 1.6, id="each is twice as long as the one before"),
        pytest.param(10_000, 0.0, 60.0, id="never more than a minute"),
        pytest.param(1, 1.0, 0.1, id="jitter subtracts at most a half"),
    ],
)
def test_backoffs_double_up_to_a_minute(failures: int, jitter: float, expected: float) -> None:
    """The backoff after this number of failures in a row."""
    assert expected == backoff_seconds(failures, jitter=jitter)
