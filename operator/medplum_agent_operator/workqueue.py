"""The keyed queue between "something happened" and "look at this object": controller-runtime's semantics, in asyncio.

`handlers` adds keys, `__main__` starts and stops it. It knows nothing of
Kubernetes. What it promises: a key is never worked on twice at once; a key added while it is worked on is worked on again; a failing
key comes back after a jittered pause, which grows by tries of its own and not by what else starts it; a key can ask to be looked at
again after a time; stopping lets runs in hand finish, within a limit.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from medplum_agent_operator.core.observed.model import Key

FIRST_BACKOFF_SECONDS: Final = 0.2
LONGEST_BACKOFF_SECONDS: Final = 60.0


Work = Callable[[Key], Awaitable[float | None]]
"""Works on one key. Returns the seconds after which to look again, or None. May raise: the key then backs off."""
OnFailure = Callable[[Key, Exception, float], None]
"""Told of each failed run: the key, the fault, and the seconds until the next try."""


def backoff_seconds(failures: int, *, jitter: float) -> float:
    """The pause after the `failures`-th failure in a row: 0.2 s doubling up to 60 s, less up to a half (`jitter` in 0..1).

    >>> [backoff_seconds(n, jitter=0.0) for n in (1, 2, 3, 20)]
    [0.2, 0.4, 0.8, 60.0]
    """
    pause = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 32), LONGEST_BACKOFF_SECONDS)
    return pause * (1 - jitter / 2)


class WorkQueue:
    """Keys that wait, and the workers that take them."""

    def __init__(self, work: Work, *, on_failure: OnFailure, workers: int, timeout_seconds: float) -> None:
        self._work = work
        self._on_failure = on_failure
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._waiting: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: dict[Key, float] = {}
        self._busy: set[Key] = set()
        self._dirty: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._pauses_until: dict[Key, float] = {}
        self._later: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._at_work: set[asyncio.Task[None] | None] = set()
        self._stopping = False

    def add(self, key: Key) -> None:
        """Ask for a run soon. Twice before it starts is once; during a run it asks for another one."""
        if self._stopping or key in self._queued:
            return
        if key in self._busy:
            self._dirty.add(key)
            return
        self._forget_later(key)
        self._queued[key] = asyncio.get_running_loop().time()
        self._waiting.put_nowait(key)

    def start(self) -> None:
        """Start the workers."""
        self._tasks = [asyncio.create_task(self._worker(), name=f"worker-{n}") for n in range(self._workers)]

    async def stop(self, *, grace_seconds: float) -> None:
        """Take no more keys; let runs in hand finish for `grace_seconds`, then cancel them."""
        self._stopping = True
        for handle in self._later.values():
            handle.cancel()
        for task in self._tasks:
            if task not in self._at_work:
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def oldest_wait_seconds(self) -> float:
        """For how long the oldest waiting key has been waiting; 0 when none waits."""
        return asyncio.get_running_loop().time() - min(self._queued.values()) if self._queued else 0.0

    @property
    def alive(self) -> bool:
        """Whether every worker is there."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is worked on (a key that asked for a later look does not count)."""
        return not self._queued and not self._busy

    async def _worker(self) -> None:
        while not self._stopping:
            key = await self._waiting.get()
            self._queued.pop(key, None)
            with self._in_hand(key):
                await self._run(key)
            if key in self._dirty:
                self._dirty.discard(key)
                self.add(key)

    @contextmanager
    def _in_hand(self, key: Key) -> Iterator[None]:
        """Mark the key as busy, and its worker as one that stopping must wait for."""
        task = asyncio.current_task()
        self._busy.add(key)
        self._at_work.add(task)
        try:
            yield
        finally:
            self._busy.discard(key)
            self._at_work.discard(task)

    async def _run(self, key: Key) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                look_again = await self._work(key)
        except Exception as fault:  # noqa: BLE001 - the boundary of a run: no fault of one object may end the worker
            pause = self._pause(key)
            self._on_failure(key, fault, pause)
            self._add_later(key, pause)
            return
        self._failures.pop(key, None)
        self._pauses_until.pop(key, None)
        if look_again is not None:
            self._add_later(key, max(0.0, look_again))

    def _pause(self, key: Key) -> float:
        """How long to wait after a failure. One that something else started before its pause was over counts as the same."""
        now = asyncio.get_running_loop().time()
        left = self._pauses_until.get(key, now) - now
        if left > 0:
            return left
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = backoff_seconds(failures, jitter=random.random())  # noqa: S311 - spreads load, keeps no secret
        self._pauses_until[key] = now + pause
        return pause

    def _add_later(self, key: Key, seconds: float) -> None:
        self._forget_later(key)
        self._later[key] = asyncio.get_running_loop().call_later(seconds, self._due, key)

    def _due(self, key: Key) -> None:
        self._later.pop(key, None)
        self.add(key)

    def _forget_later(self, key: Key) -> None:
        handle = self._later.pop(key, None)
        if handle is not None:
            handle.cancel()
