"""Log lines about devices: each has the address, and no address has ten a minute."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from medplum_agent_operator.gate.device_log import ADDRESSES, DeviceLog
from tests.support.gate.timers import Timers

if TYPE_CHECKING:
    import pytest


def test_a_flood_is_two_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The first one at once, and a number a minute later; nothing in a quiet minute."""
    caplog.set_level(logging.INFO)
    timers = Timers()
    lines = DeviceLog(timers.call_later)
    for _ in range(10_570):
        lines.note("10.0.0.9", "refused", level=logging.WARNING)
    timers.passes(60)
    assert ["refused", "in the last minute also: 10569 x refused"] == caplog.messages
    assert {"10.0.0.9"} == {record.device for record in caplog.records}  # type: ignore[attr-defined]
    assert {logging.WARNING} == {record.levelno for record in caplog.records}
    timers.passes(60)
    assert 2 == len(caplog.messages)
    assert 0 == len(timers)


def test_a_line_has_the_number_and_the_summary_their_sum(caplog: pytest.LogCaptureFixture) -> None:
    """One event may be the loss of many messages."""
    caplog.set_level(logging.INFO)
    timers = Timers()
    lines = DeviceLog(timers.call_later)
    for number in (40, 1, 7):
        lines.note("10.0.0.9", "lost a message", number=number)
    timers.passes(60)
    assert ["40 x lost a message", "in the last minute also: 8 x lost a message"] == caplog.messages


def test_no_minute_has_ten_lines_of_one_address(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens, in any minute."""
    caplog.set_level(logging.INFO)
    timers = Timers()
    lines = DeviceLog(timers.call_later)
    times: list[float] = []
    for second in range(600):
        before = len(caplog.records)
        for kind in range(12):
            lines.note("10.0.0.9", f"kind {(second * 7 + kind) % 25}")
        timers.passes(1)
        times += [float(second)] * (len(caplog.records) - before)
    assert max(sum(at <= one < at + 60 for one in times) for at in range(600)) < 10


def test_many_addresses_share_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Each of thousands of addresses does something: the log stays bounded, and so does the memory."""
    caplog.set_level(logging.INFO)
    timers = Timers()
    lines = DeviceLog(timers.call_later)
    for number in range(5_000):
        lines.note(f"10.1.{number // 250}.{number % 250}", "refused")
    timers.passes(60)
    assert ADDRESSES + 2 == len(caplog.records)
    assert "other addresses" == caplog.records[-1].device  # type: ignore[attr-defined]
