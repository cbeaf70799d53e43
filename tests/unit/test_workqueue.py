"""The queue: what it promises to every key, whatever the work does. Time is real, and short."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator import workqueue
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.workqueue import WorkQueue, backoff_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A, B = Key("clinic", "a"), Key("clinic", "b")


class Work:
    """Work that waits at a gate, and notes what it was asked for."""

    def __init__(self) -> None:
        self.begun: list[Key] = []
        self.done: list[Key] = []
        self.together: dict[Key, int] = {}
        self.most_together = 0
        self.faults: list[Exception] = []
        self.answers: list[float | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, key: Key) -> float | None:
        """Work on a key."""
        self.begun.append(key)
        self.together[key] = self.together.get(key, 0) + 1
        self.most_together = max(self.most_together, self.together[key])
        try:
            await self.gate.wait()
            if self.faults:
                raise self.faults.pop(0)
            self.done.append(key)
            return self.answers.pop(0) if self.answers else None
        finally:
            self.together[key] -= 1


class Failures(list[tuple[Key, Exception, float]]):
    """What the queue told of failed runs."""

    def __call__(self, key: Key, fault: Exception, pause: float) -> None:
        """Note it."""
        self.append((key, fault, pause))


@asynccontextmanager
async def running(
    work: Work, *, workers: int = 4, timeout_seconds: float = 5, told: Failures | None = None
) -> AsyncIterator[WorkQueue]:
    """Run a queue for the time of a test."""
    queue = WorkQueue(
        work, on_failure=Failures() if told is None else told, workers=workers, timeout_seconds=timeout_seconds
    )
    queue.start()
    try:
        yield queue
    finally:
        work.gate.set()
        await queue.stop(grace_seconds=1)


async def until(holds: object, *, seconds: float = 2) -> None:
    """Wait until something callable holds."""
    assert callable(holds)
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for is a fact of the queue, which tells nobody
            await asyncio.sleep(0.002)


async def test_a_key_that_is_added_twice_before_its_run_runs_once() -> None:
    """What happened many times needs one look."""
    work = Work()
    queue = WorkQueue(work, on_failure=Failures(), workers=1, timeout_seconds=5)
    for _ in range(5):
        queue.add(A)
    queue.start()
    await until(lambda: queue.idle)
    await queue.stop(grace_seconds=1)
    assert [A] == work.done


async def test_one_key_is_never_worked_on_twice_at_once_and_nothing_is_lost() -> None:
    """Added while it is worked on, it is worked on again, once, afterwards."""
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
    assert 1 == work.most_together


async def test_different_keys_are_worked_on_side_by_side() -> None:
    """One slow agent does not hold up another."""
    work = Work()
    work.gate.clear()
    async with running(work, workers=2) as queue:
        queue.add(A)
        queue.add(B)
        await until(lambda: {A, B} == set(work.begun))
        assert 2 == len(work.begun)


async def test_no_more_are_worked_on_at_once_than_there_are_workers() -> None:
    """The rest waits, and the queue knows for how long."""
    work = Work()
    work.gate.clear()
    async with running(work, workers=1) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        queue.add(B)
        await asyncio.sleep(0.03)
        assert [A] == work.begun
        assert 0.02 < queue.oldest_wait_seconds < 2
        assert not queue.idle
        work.gate.set()
        await until(lambda: queue.idle)
        assert 0.0 == queue.oldest_wait_seconds


async def test_a_failing_key_comes_back_after_pauses_that_grow_and_begins_anew_after_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told each time; the pause starts over once it has gone well."""
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 0.004)
    monkeypatch.setattr("random.random", lambda: 0.0)
    work, told = Work(), Failures()
    work.faults = [ValueError(str(n)) for n in range(3)]
    async with running(work, told=told) as queue:
        queue.add(A)
        await until(lambda: [A] == work.done)
        work.faults = [ValueError("3")]
        queue.add(A)
        await until(lambda: 2 == len(work.done))
    assert ["0", "1", "2", "3"] == [str(fault) for _, fault, _ in told]
    assert [0.004, 0.008, 0.016, 0.004] == [pause for _, _, pause in told]


async def test_a_key_that_is_added_does_not_wait_for_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something happened: look now."""
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 20)
    work, told = Work(), Failures()
    work.faults = [ValueError("x")]
    async with running(work, told=told) as queue:
        queue.add(A)
        await until(lambda: 1 == len(told))
        assert told[-1][2] > 5
        queue.add(A)
        await until(lambda: [A] == work.done)


async def test_what_else_starts_a_failing_key_does_not_lengthen_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten events within its first pause: ten runs that fail, and it comes back after that one pause."""
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 0.3)
    work, told = Work(), Failures()
    work.faults = [TimeoutError() for _ in range(10)]
    async with running(work, told=told) as queue:
        for failures in range(1, 11):
            queue.add(A)
            await until(lambda n=failures: n == len(told))
        assert max(pause for _, _, pause in told) <= 0.3
        await until(lambda: [A] == work.done)


async def test_a_key_is_looked_at_again_after_the_time_that_it_asked_for() -> None:
    """Deadlines are computed times, not sleeps in a run."""
    work = Work()
    work.answers = [0.03, -5.0, None]
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: queue.idle)
        assert 1 == len(work.done)
        await until(lambda: 3 == len(work.done))
        await asyncio.sleep(0.05)
    assert 3 == len(work.done)


async def test_a_later_look_is_forgotten_when_the_key_runs_before_it() -> None:
    """One look is enough; the latest answer counts."""
    work = Work()
    work.answers = [0.05, None]
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: 1 == len(work.done))
        queue.add(A)
        await asyncio.sleep(0.12)
    assert [A, A] == work.done


async def test_a_run_that_hangs_is_ended_and_counts_as_failed() -> None:
    """No object may hold a worker for ever."""
    work, told = Work(), Failures()
    work.gate.clear()
    async with running(work, timeout_seconds=0.02, told=told) as queue:
        queue.add(A)
        await until(lambda: told)
        assert queue.alive
    assert (A, TimeoutError) == (told[0][0], type(told[0][1]))


async def test_a_key_that_became_dirty_in_a_run_that_failed_runs_again_at_once() -> None:
    """What happened during the run was not seen by it, and waits for no pause."""
    work, told = Work(), Failures()
    work.faults = [ValueError("x")]
    work.gate.clear()
    async with running(work, told=told) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        queue.add(A)
        work.gate.set()
        await until(lambda: [A] == work.done, seconds=0.09)
    assert [A, A] == work.begun


async def test_stopping_lets_runs_in_hand_finish_and_begins_no_other() -> None:
    """A run that is half told gets its time; what waits is left for the next start."""
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


async def test_stopping_waits_no_longer_than_it_may() -> None:
    """A run that hangs is cancelled when the grace is over."""
    work = Work()
    work.gate.clear()
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: [A] == work.begun)
        async with asyncio.timeout(1):
            await queue.stop(grace_seconds=0.02)
    assert [] == work.done


async def test_a_stopped_queue_looks_at_nothing_again() -> None:
    """Looks that were asked for are dropped."""
    work = Work()
    work.answers = [0.02]
    async with running(work) as queue:
        queue.add(A)
        await until(lambda: [A] == work.done)
        await queue.stop(grace_seconds=1)
        await asyncio.sleep(0.05)
    assert [A] == work.done


async def test_a_queue_that_was_not_started_is_not_alive() -> None:
    """Which /healthz tells."""
    work = Work()
    assert not WorkQueue(work, on_failure=Failures(), workers=1, timeout_seconds=1).alive
    async with running(work) as queue:
        assert queue.alive


@pytest.mark.parametrize(
    ("failures", "jitter", "expected"),
    [
        pytest.param(1, 0.0, 0.2, id="the first pause is 0.2 s"),
        pytest.param(4, 0.0, 1.6, id="each is twice the one before"),
        pytest.param(10_000, 0.0, 60.0, id="never more than a minute"),
        pytest.param(1, 1.0, 0.1, id="jitter takes off a half at the most"),
    ],
)
def test_pauses_double_up_to_a_minute(failures: int, jitter: float, expected: float) -> None:
    """The pause after so many failures in a row."""
    assert expected == backoff_seconds(failures, jitter=jitter)
