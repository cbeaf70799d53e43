"""The core of `make bench-handoff`, with five handoffs, and the bars that are not timings of a quiet machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tools.handoffs.figures import BREAKS_BOUND, OVERLAP_BOUND
from tests.tools.handoffs.row import hand_over

if TYPE_CHECKING:
    from tests.support.real_nodes.clinic import Clinic

pytestmark = pytest.mark.timeout(300)

BUSY_SECONDS = 2.0
"""What a machine that is busy with other tests may add to the time in which both agents are connected."""


def test_five_handoffs_in_a_row_lose_and_refuse_nothing(clinic: Clinic) -> None:
    """190 messages a second in four shapes: none is lost, no connection refused, each one breaks once per handoff at most."""
    clinic.open()
    found = hand_over(clinic, 5)
    assert found.sent > 3000
    assert (0, 0, 0, 0) == (found.lost, found.unacknowledged, found.refused, found.pushes_lost)
    assert [] == [each for each in found.handoffs if each.most_breaks_on_one_connection > BREAKS_BOUND]
    assert [] == [each for each in found.handoffs if not 0 < each.overlap <= OVERLAP_BOUND + BUSY_SECONDS]
