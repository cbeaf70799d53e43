"""An object that is edited all the time: the operator keeps up, sends few requests, and rests when the edits end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.api.annotations import AGENT_LABEL
from tests.support.crash_points.enumeration import quiet
from tests.support.crash_points.modes import Counting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.crash_points.clinic import Clinics
    from tests.support.http_proxy import Answer, Call

EDITS = 300
EVERY_SECONDS = 0.02
"""Fifty edits a second, for six seconds."""
ONE_PASS = 12
"""Requests of a pass that writes: six reads, the Deployment, status, an Event, and as much again where somebody was quicker."""

pytestmark = pytest.mark.timeout(300)


class Requests(Counting):
    """Counts all requests except watches and the LISTs of the resync."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def before(self, call: Call) -> Answer | None:
        """Count a request."""
        self.asked += not call.watches and not (
            call.lists and f"{AGENT_LABEL}=" not in call.query.get("labelSelector", "")
        )
        return await super().before(call)


async def edited(edit: Callable[[int], Awaitable[object]]) -> None:
    """Edit at a steady rate, or as fast as the API server answers."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(EDITS):
        await edit(number)
        await asyncio.sleep(max(0.0, begun + number * EVERY_SECONDS - loop.time()))


@pytest.mark.parametrize("what", ["an annotation", "the spec"])
async def test_the_operator_keeps_up_with_fifty_edits_a_second(clinics: Clinics, what: str) -> None:
    """Annotations of other tools cost no request; a spec costs at most one pass for each edit. Both end at rest, on the last edit."""
    async with clinics.clinic() as clinic:
        asked = Requests()
        await clinic.start_operator(asked)
        await clinic.apply("5.1.14")
        await clinic.until(lambda seen: seen.at_rest("5.1.14"), "5.1.14 installed")
        await quiet(asked)
        before = asked.asked

        async def edit(number: int) -> None:
            if what == "the spec":
                await clinic.patch(handoff={"onNodeDrain": ("Evict", "Handoff")[number % 2], "drainSeconds": 1})
            else:
                await clinic.annotate(somebody=str(number))

        await edited(edit)
        await quiet(asked)
        spent = asked.asked - before
        assert spent <= (EDITS * ONE_PASS if what == "the spec" else 0)
        await clinic.until(lambda seen: seen.at_rest("5.1.14"), "rest")
        assert "again and again" not in clinic.log, "a user who edits fights with nobody"
        assert {"agent 5.1.14"} == set(clinic.witness.pods_ever.values())
        before = asked.asked
        await asyncio.sleep(10)
        assert before == asked.asked
