"""The gate's metrics and logs: numbers and addresses, never any content of a message."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import generate_latest

from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.metrics import Metrics
from medplum_agent_operator.gate.takeovers import Takeovers
from tests.gate.conftest import gate
from tests.support.gate.actors import agent, device
from tests.support.gate.scene import message


def test_every_event_is_counted() -> None:
    """Every kind and every ending has a metric, by channel."""
    metrics = Metrics(answer_seconds=60)
    channel = metrics.channel("adt")
    for kind in Kind:
        channel.note(kind, 3)
    for why in Ending:
        channel.connection_closed(why)
    channel.connection_refused()
    text = generate_latest(metrics.registry).decode()
    assert 'medplum_agent_gate_messages_repeated_total{channel="adt"} 3.0' in text
    assert 'medplum_agent_gate_held_seconds_count{channel="adt"} 1.0' in text
    assert 'medplum_agent_gate_connections_closed_total{channel="adt",reason="no_agent"} 1.0' in text
    assert 'medplum_agent_gate_connections_refused_total{channel="adt"} 1.0' in text


def test_takeovers_of_the_last_agents_are_remembered() -> None:
    """Old ones are forgotten, so a gate that runs for years needs no more memory."""
    takeovers = Takeovers()
    for number in range(20):
        takeovers.count(f"agent-{number}", Kind.MOVED, 1)
        takeovers.count("agent-0", Kind.REPEATED, 1)
        takeovers.count(f"agent-{number}", Kind.SENT, 1)
    found = takeovers.as_json()
    assert 8 == len(found)
    assert {"agent-0", "agent-19"} <= set(found)
    assert 20 == found["agent-0"]["repeated"]


def test_the_longest_hold_stays() -> None:
    """A later, shorter hold does not replace it."""
    metrics = Metrics(answer_seconds=60)
    channel = metrics.channel("adt")
    for seconds in (1.0, 2.5, 0.3):
        channel.note(Kind.HELD, seconds)
    assert 'medplum_agent_gate_longest_held_seconds{channel="adt"} 2.5' in generate_latest(metrics.registry).decode()


def test_connected_devices_are_counted_by_address() -> None:
    """The agent sees only the gate's address. A disconnected device's address disappears."""
    metrics = Metrics(answer_seconds=60)
    connected = {"10.0.0.1": 2, "10.0.0.2": 1}
    metrics.channel("adt").count_devices(lambda: connected)
    text = generate_latest(metrics.registry).decode()
    assert 'medplum_agent_gate_devices{channel="adt"} 3.0' in text
    assert 'medplum_agent_gate_device_connections{address="10.0.0.1",channel="adt"} 2.0' in text
    del connected["10.0.0.1"]
    assert "10.0.0.1" not in generate_latest(metrics.registry).decode()


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_no_log_line_contains_a_message(caplog: pytest.LogCaptureFixture, level: int) -> None:
    """At DEBUG a line has a message's type and control id, at INFO not even these. Malformed input changes nothing."""
    caplog.set_level(level, logger="medplum_agent_operator")
    whole = message("4711", text="MUSTERMANN")
    async with agent() as old, gate(old.port, frame_bytes=500) as running, device(running.port) as sender:
        sender.send(b"MUSTERMANN", whole, b"\x0bMUSTERMANN\x1c\r", whole)
        await sender.answers(2)
        sender.send(message("2", text="MUSTERMANN" * 100))
        assert ("closed", "") == await sender.answer()
        assert {"127.0.0.1": 1} == dict(running.relay.connected())
    assert "MUSTERMANN" not in caplog.text
    assert ("ADT^A01 4711" in caplog.text) == (level == logging.DEBUG)
    assert "longer than the limit" in caplog.text
