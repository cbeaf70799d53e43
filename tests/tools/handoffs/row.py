"""Changes in a row under one run of traffic, each with a mark. Called by the bench and tests/node/test_handoffs.py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tests.support.real_nodes.clinic import AGENT
from tests.tools.handoffs.figures import Handoffs, overlaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.real_nodes.clinic import Clinic

SHAPES: Final = ("--push", "2")
"""The generator's own defaults, about 190 messages a second, and pushes."""
VERSIONS: Final = ("5.1.14", "5.1.15")
FREE: Final = {"approval": "BelowZeroDowntime"}
"""Both versions can hand off. With this policy the downgrade from 5.1.15 to 5.1.14 needs no approval."""
APART_SECONDS: Final = 1.0


def hand_over(
    clinic: Clinic,
    times: int,
    *,
    done: Callable[[], None] = lambda: None,
    ready: Callable[[Clinic], None] = lambda _: None,
    **spec: Any,
) -> Handoffs:
    """Change from 5.1.14 to 5.1.15, back, and so on. The clinic must be open and have no agent.

    `spec` adds to the agent's spec; `ready` waits for everything else that traffic needs.
    """
    clinic.install(VERSIONS[0], downgradePolicy=FREE, **spec)
    ready(clinic)

    def change(number: int) -> None:
        clinic.change(VERSIONS[(number + 1) % 2])

    return _in_a_row(clinic, change, [f"handoff {number}" for number in range(times)], done)


def drain(clinic: Clinic, times: int, *, done: Callable[[], None] = lambda: None) -> Handoffs:
    """Drain the agent's node, uncordon it, and so on. The clinic must be open and have no agent."""
    clinic.install(VERSIONS[1])

    def change(_: int) -> None:
        before = clinic.status()["history"]
        node = next(pod["spec"]["nodeName"] for pod in clinic.pods())
        try:
            clinic.kubectl(
                *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"),
                f"--pod-selector=agents.medplum.com/agent={AGENT}",
            )
            clinic.wait(lambda: clinic.status()["history"] != before, "the drain is in the history")
        finally:
            clinic.kubectl("uncordon", node)

    return _in_a_row(clinic, change, [f"drain {number}" for number in range(times)], done)


def _in_a_row(clinic: Clinic, change: Callable[[int], None], names: list[str], done: Callable[[], None]) -> Handoffs:
    with clinic.traffic(shapes=SHAPES) as traffic:
        for number, name in enumerate(names):
            time.sleep(APART_SECONDS)
            traffic.mark(name)
            change(number)
            _settled(clinic)
            done()
        time.sleep(APART_SECONDS)
        traffic.mark("end")
        time.sleep(APART_SECONDS)
    connections = clinic.connections()
    if len(connections) != len(names) + 1:
        raise AssertionError(f"{len(names)} changes, but agents connected {len(connections)} times: {connections}")
    return Handoffs.of(traffic.report, names, overlaps(connections))


def _settled(clinic: Clinic) -> None:
    clinic.wait(lambda: sum(each["disconnectedAt"] is None for each in clinic.connections()) == 1, "one is connected")
