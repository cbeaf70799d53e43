"""The keyed work queue between events and passes, with the semantics of controller-runtime's, in asyncio.

`handlers` and `resync` add keys; `__main__` starts and stops the queue. It knows nothing of Kubernetes. It guarantees:

- One key never runs twice at once. A key that is added during its run runs again afterwards.
- A key whose run fails is requeued after a jittered backoff. Only failures after a full backoff lengthen it; runs that events start do not.
- A run can ask to be requeued after a time.
- Stopping lets current runs finish, within a limit.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from medplum_agent_operator.core.observed.scope import Key

FIRST_BACKOFF_SECONDS: Final = 0.2
LONGEST_BACKOFF_SECONDS: Final = 60.0


Work = Callable[[Key], Awaitable[float | None]]
"""Runs for one key. Returns the seconds after which to requeue the key, or None. If it raises, the key backs off."""
OnFailure = Callable[[Key, Exception, float], None]
"""Called after each failed run with the key, the fault, and the seconds until the next try."""


def backoff_seconds(failures: int, *, jitter: float) -> float:
    """The backoff after the `failures`-th failure in a row: 0.2 s doubling up to 60 s, less up to a half (`jitter` in 0..1).

    >>> [backoff_seconds(n, jitter=0.0) for n in (1, 2, 3, 20)]
    [0.2, 0.4, 0.8, 60.0]
    """
    backoff = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 32), LONGEST_BACKOFF_SECONDS)
    return backoff * (1 - jitter / 2)


class WorkQueue:
    """Waiting keys, and the workers that run them."""

    def __init__(self, work: Work, *, on_failure: OnFailure, workers: int, timeout_seconds: float) -> None:
        self._work = work
        self._on_failure = on_failure
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._waiting: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._dirty: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._backs_off_until: dict[Key, float] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._busy_tasks: set[asyncio.Task[None] | None] = set()
        self._stopping = False

    def add(self, key: Key) -> None:
        """Queue a key. Adding it again before its run changes nothing; during its run it is queued for another one."""
        if self._stopping or key in self._queued:
            return
        if key in self._running:
            self._dirty.add(key)
            return
        self._cancel_timer(key)
        self._queued[key] = asyncio.get_running_loop().time()
        self._waiting.put_nowait(key)

    def start(self) -> None:
        """Start the workers."""
        self._tasks = [asyncio.create_task(self._worker(), name=f"worker-{n}") for n in range(self._workers)]

    async def stop(self, *, grace_seconds: float) -> None:
        """Start no more runs. Let current runs finish for `grace_seconds`, then cancel them."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            if task not in self._busy_tasks:
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the oldest queued key has been waiting; 0 if the queue is empty."""
        return asyncio.get_running_loop().time() - min(self._queued.values()) if self._queued else 0.0

    @property
    def alive(self) -> bool:
        """Whether all workers run."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def idle(self) -> bool:
        """Whether no key is queued or running. Keys that will be requeued later do not count."""
        return not self._queued and not self._running

    async def _worker(self) -> None:
        while not self._stopping:
            key = await self._waiting.get()
            self._queued.pop(key, None)
            with self._marked_as_running(key):
                await self._run(key)
            if key in self._dirty:
                self._dirty.discard(key)
                self.add(key)

    @contextmanager
    def _marked_as_running(self, key: Key) -> Iterator[None]:
        """Mark the key as running, and its worker as one that `stop` waits for."""
        task = asyncio.current_task()
        self._running.add(key)
        self._busy_tasks.add(task)
        try:
            yield
        finally:
            self._running.discard(key)
            self._busy_tasks.discard(task)

    async def _run(self, key: Key) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                requeue_after = await self._work(key)
        except Exception as fault:  # noqa: BLE001 - a fault of one key must not end the worker
            backoff = self._back_off(key)
            self._on_failure(key, fault, backoff)
            self._requeue_after(key, backoff)
            return
        self._failures.pop(key, None)
        self._backs_off_until.pop(key, None)
        if requeue_after is not None:
            self._requeue_after(key, max(0.0, requeue_after))

    def _back_off(self, key: Key) -> float:
        """The seconds to wait after a failure. A failure before the end of the current backoff does not count as a new one."""
        now = asyncio.get_running_loop().time()
        left = self._backs_off_until.get(key, now) - now
        if left > 0:
            return left
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        backoff = backoff_seconds(failures, jitter=random.random())  # noqa: S311 - spreads load, no secret
        self._backs_off_until[key] = now + backoff
        return backoff

    def _requeue_after(self, key: Key, seconds: float) -> None:
        self._cancel_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._requeue, key)

    def _requeue(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
