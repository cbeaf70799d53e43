"""Log lines for machines and for humans, each with the agent and the reason."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.telemetry import log, set_up_logging

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {
        name: logging.getLogger(name).level
        for name in ("kopf", "kopf.objects", "aiohttp.access", "kubernetes", "asyncio")
    }
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


MARKS = {"agent": "clinic/lab", "reason": "HandingOff"}


def test_a_line_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object: when, how bad, from where, what, about which agent, why."""
    set_up_logging(as_json=True, level="info")
    log.warning("going to %s", "5.1.15", extra=MARKS)
    line = json.loads(capsys.readouterr().err)
    assert ("WARNING", "medplum_agent_operator", "going to 5.1.15") == (
        line["severity"],
        line["logger"],
        line["message"],
    )
    assert ("clinic/lab", "HandingOff") == (line["agent"], line["reason"])
    assert "T" in line["timestamp"]


def test_a_message_with_line_breaks_stays_one_line_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages may contain text from annotations."""
    set_up_logging(as_json=True, level="info")
    log.info("one\ntwo")
    assert 1 == len(capsys.readouterr().err.splitlines())


def test_a_line_for_humans(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, level, agent, reason, message; without agent and reason if it has none."""
    set_up_logging(as_json=False, level="info")
    log.warning("going", extra=MARKS)
    log.info("started")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(" warning clinic/lab HandingOff  going")
    assert second.endswith(" info  started")


def test_a_fault_is_shown_to_humans_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """So that they can report it."""
    set_up_logging(as_json=False, level="info")
    try:
        json.loads("why")
    except ValueError:
        log.exception("failed")
    assert "JSONDecodeError: Expecting value" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "shown"), [("debug", 3), ("info", 1), ("error", 0)])
def test_libraries_log_from_warning_on_unless_the_level_is_debug(
    capsys: pytest.CaptureFixture[str], level: str, shown: int
) -> None:
    """The level applies to our lines; Kopf's debug and info lines appear only with debug."""
    set_up_logging(as_json=False, level=level)
    log.debug("ours")
    log.info("ours")
    logging.getLogger("kopf").info("theirs")
    assert shown == len(capsys.readouterr().err.splitlines())
