"""How far gap and overlap may be off, for every moment and every delay."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from medplum_agent_operator.api.status import Rollout, Strategy
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.report.downtime_measurement import gap_and_overlap, within_second
from tests.support.builders import NOW, agent, observed

milliseconds = st.integers(min_value=0, max_value=20_000)


@settings(derandomize=True)
@given(ended=milliseconds, became_ready=milliseconds, seen_late=st.tuples(milliseconds, milliseconds))
def test_each_end_is_off_by_its_delay_and_by_one_second_at_the_most(
    ended: int, became_ready: int, seen_late: tuple[int, int]
) -> None:
    """Seen at once it is exact; never are both figures above 0, and neither is below."""
    old, new = (NOW + timedelta(milliseconds=value) for value in (ended, became_ready))
    late_old, late_new = (timedelta(milliseconds=value) for value in seen_late)
    record = RolloutRecord(
        change=Change.UPGRADE, from_version="4.2.3", to="5.1.15", strategy=Strategy.RECREATE, started_at=NOW
    )
    rollout = Rollout(
        to="5.1.15",
        old_ended_at=within_second(old.replace(microsecond=0), seen_at=old + late_old),
        new_ready_at=within_second(new.replace(microsecond=0), seen_at=new + late_new),
    )
    gap, overlap = gap_and_overlap(rollout, record, observed(agent()))
    assert gap is not None
    assert overlap is not None
    assert 0.0 == min(gap, overlap)
    error = (gap - overlap) - (became_ready - ended) / 1000
    rounding = 0.006
    assert -min(seen_late[0] / 1000, 1) - rounding <= error <= min(seen_late[1] / 1000, 1) + rounding
