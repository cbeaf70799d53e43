"""What `/healthz` and `/readyz` check: faults that a restart of the operator fixes.

Made by `__main__`, called by `adapters.health` for each request. It reads facts of this process and sends no request.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from medplum_agent_operator import handlers
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.workqueue import WorkQueue

STUCK_AFTER_SECONDS: Final = 300.0
"""An agent that waits longer than this for its pass means that the workers hang."""
DEAF_AFTER_SECONDS: Final = 120.0
"""A kind with objects but without an event by then is not watched: Kopf discovers the kinds of the API server only once, at its start."""


class Probes:
    """The state of this process that decides whether it is live and ready.

    Attributes:
        queue: the work queue; None until it runs.
        background: tasks that must not end.
        kinds_seen: the kinds that sent a watch event.
        watching_since: when the watches began, on the clock of the event loop; None before that.
    """

    def __init__(self, cache: Cache, *, nodes: bool) -> None:
        """`nodes`: whether nodes are watched."""
        self._cache = cache
        self._nodes = nodes
        self.queue: WorkQueue | None = None
        self.background: list[asyncio.Task[None]] = []
        self.kinds_seen: set[str] = set()
        self.watching_since: float | None = None

    def readiness(self) -> list[str]:
        """The reasons why the operator is not ready."""
        return ["The watches have not started yet."] if self.watching_since is None else self.liveness()

    def liveness(self) -> list[str]:
        """The faults that a restart fixes."""
        return [*_of_queue(self.queue), *_of_tasks(self.background), *self._of_watches()]

    def _of_watches(self) -> Sequence[str]:
        since, now = self.watching_since, asyncio.get_running_loop().time()
        if since is None or now - since <= DEAF_AFTER_SECONDS:
            return ()
        silent = handlers.kinds_without_events(self._cache, self.kinds_seen, nodes=self._nodes)
        return [f"No watch events received for {kind} although objects of this kind exist." for kind in silent]


def _of_queue(queue: WorkQueue | None) -> Iterable[str]:
    if queue is None:
        return
    if not queue.alive:
        yield "A worker has ended."
    if queue.oldest_wait_seconds > STUCK_AFTER_SECONDS:
        yield f"An agent has been waiting for its pass for {queue.oldest_wait_seconds:.0f} s: the workers hang."


def _of_tasks(tasks: Iterable[asyncio.Task[None]]) -> Iterable[str]:
    return (f"The task {task.get_name()} has ended." for task in tasks if task.done())
