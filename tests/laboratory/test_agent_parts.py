"""The agent stand-in's small decisions: versions, configuration, PID file, switches, addresses, byte streams."""

from __future__ import annotations

import doctest
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.doubles import hl7
from tests.support.doubles.agent import properties
from tests.support.doubles.agent.__main__ import _is_lost, _options
from tests.support.doubles.agent.addresses import AgentConfigError, channel_addresses
from tests.support.doubles.agent.byte_stream import ByteStream, Delimiters
from tests.support.doubles.agent.pidfile import AlreadyRunningError, PidFile, state_of
from tests.support.doubles.agent.properties import LogSettings, MissingArgumentsError, is_logged, read_settings
from tests.support.doubles.agent.switches import SwitchError, Switches
from tests.support.doubles.agent.version import AgentTraits

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.mark.parametrize("module", [hl7, properties])
def test_examples_in_docstrings(module: ModuleType) -> None:
    """They are true."""
    found = doctest.testmod(module)
    assert (0, True) == (found.failed, found.attempted > 0)


@pytest.mark.parametrize(
    ("trait", "last_without", "first_with"),
    [
        ("handles_sigterm_as_pid_1", "4.0.9", "4.1.0"),
        ("retries_login", "4.1.2", "4.1.3"),
        ("waits_for_a_busy_port", "4.2.0", "4.2.1"),
        ("hands_over", "4.2.3", "4.2.4"),
        ("has_byte_streams", "4.2.40", "4.3.0"),
        ("has_log_files", "4.3.13", "4.3.14"),
        ("finds_frames", "4.5.2", "5.0.0"),
        ("keeps_push_connections", "4.5.2", "5.0.0"),
    ],
)
def test_what_comes_with_a_version(trait: str, last_without: str, first_with: str) -> None:
    """By the three numbers alone: a build id changes nothing."""
    values = [getattr(AgentTraits.parse(text), trait) for text in (last_without, first_with, f"{first_with}-abc1234")]
    assert [False, True, True] == values


@pytest.mark.parametrize(
    ("trait", "last_with", "first_without"),
    [
        ("reports_success_unbound", "4.5.2", "5.0.0"),
        ("rebuilds_messages", "5.0.14", "5.1.0"),
        ("stays_a_zombie", "5.1.17", "5.1.18"),
    ],
)
def test_what_ends_with_a_version(trait: str, last_with: str, first_without: str) -> None:
    """Faults that upstream has fixed."""
    assert [True, False] == [getattr(AgentTraits.parse(text), trait) for text in (last_with, first_without)]


def test_bind_faults() -> None:
    """Three ways in three eras."""
    faults = [AgentTraits.parse(text).bind_fault for text in ("4.1.12", "4.2.0", "5.0.10", "5.1.14")]
    assert ["dies silently", "hangs", "hangs", "dies with a message"] == faults


def test_reported_version() -> None:
    """`X.Y.Z-<7 characters>`: the image's own build id, or one that stays the same."""
    assert "5.1.15-abc1234" == AgentTraits.parse("5.1.15-abc1234").reported
    invented = AgentTraits.parse("5.1.15").reported
    assert ("5.1.15", 7) == (invented.partition("-")[0], len(invented.partition("-")[2]))
    assert invented == AgentTraits.parse("v5.1.15").reported


@pytest.mark.parametrize(
    ("version", "pid", "age", "lost"),
    [
        ("4.0.9", 1, 60, True),
        ("4.1.0", 1, 60, False),
        ("5.1.15", 1, 0.09, True),
        ("5.1.15", 1, 0.11, False),
        ("4.0.9", 2, 60, False),
        ("5.1.15", 2, 0.01, False),
    ],
)
def test_a_sigterm_that_is_lost(version: str, pid: int, age: float, *, lost: bool) -> None:
    """As PID 1, before 4.1.0 always, later in the first 100 ms."""
    assert lost == _is_lost(AgentTraits.parse(version), pid=pid, age_seconds=age)


FILE = "baseUrl=http://s/\nclientId=c\nclientSecret=abc==\nagentId=a\nlogger.channel.logLevel=WARN\nlogger.channel.logDir=/logs"


def read(text: str | None, *arguments: str, version: str = "5.1.15") -> properties.AgentSettings:
    """Read settings as a program in /srv."""
    return read_settings(arguments, lambda: text, traits=AgentTraits.parse(version), program_folder="/srv")


def test_file() -> None:
    """A value is cut at its first `=`; a logger without a folder writes beside the program."""
    found = read(FILE)
    assert ("http://s", "c", "abc", "a") == (found.base_url, found.client_id, found.client_secret, found.agent_id)
    assert (LogSettings("INFO", "/srv"), LogSettings("WARN", "/logs")) == (found.main_log, found.channel_log)


def test_four_arguments_put_the_file_aside() -> None:
    """Whole: not even its log folders count."""
    found = read(FILE, "http://t", "d", "x==", "b")
    assert ("http://t", "d", "x==", "b") == (found.base_url, found.client_id, found.client_secret, found.agent_id)
    assert (LogSettings("INFO", "/srv"), LogSettings("INFO", "/srv")) == (found.main_log, found.channel_log)


def test_three_arguments_are_none() -> None:
    """Then the file is read."""
    assert "a" == read(FILE, "http://t", "d", "x").agent_id


@pytest.mark.parametrize("text", [None, "", "baseUrl=http://s\nclientId=c\nclientSecret==x\nagentId=a"])
def test_missing_arguments(text: str | None) -> None:
    """No file, an empty one, or one that leaves something out: a secret that begins with `=` is none."""
    with pytest.raises(MissingArgumentsError):
        read(text)


def test_log_level_above_all() -> None:
    """`logLevel` replaces both loggers' own levels; before 4.3.14 it is the only one, and there are no files."""
    text = f"{FILE}\nlogLevel=ERROR\nlogger.main.logLevel=DEBUG"
    found = read(text)
    assert ("ERROR", "ERROR") == (found.main_log.level, found.channel_log.level)
    before = read(FILE, version="4.3.13")
    assert (LogSettings("INFO", None), LogSettings("INFO", None)) == (before.main_log, before.channel_log)


def test_levels() -> None:
    """A logger writes its own level and what is graver."""
    assert [True, True, False, False] == [is_logged(level, at="WARN") for level in ("ERROR", "WARN", "INFO", "DEBUG")]


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (None, "none"),
        ("17", "running"),
        (" 17\n", "running"),
        ("18", "stale"),
        ("", "unreadable"),
        ("garbage", "unreadable"),
    ],
)
def test_what_a_pid_file_means(content: str | None, state: str) -> None:
    """Process 17 lives, 18 does not."""
    assert state == state_of(content, lambda pid: pid == 17)


def test_pid_file(tmp_path: Path) -> None:
    """Written at the start, removed at the end; the own PID counts as running, a dead one is replaced."""
    path = tmp_path / "medplum-agent" / "medplum-agent.pid"
    pid_file = PidFile(path)
    pid_file.claim()
    assert str(os.getpid()) == path.read_text("utf-8")
    with pytest.raises(AlreadyRunningError):
        PidFile(path).claim()
    pid_file.release()
    assert not path.exists()
    path.write_text("4194305", "utf-8")  # one above the highest PID that Linux gives
    PidFile(path).claim()
    assert str(os.getpid()) == path.read_text("utf-8")


@pytest.mark.parametrize("content", ["", "garbage"])
def test_a_broken_pid_file_stays(tmp_path: Path, content: str) -> None:
    """For ever: nothing ever replaces it."""
    path = tmp_path / "medplum-agent.pid"
    path.write_text(content, "utf-8")
    for _ in range(2):
        with pytest.raises(AlreadyRunningError):
            PidFile(path).claim()
    assert content == path.read_text("utf-8")


def switches(text: str, version: str = "5.1.15") -> Switches:
    """Parse switches; the file /s holds one."""
    files = {"/s": '{"never_ready": true}'}
    return Switches.parse(text, files.__getitem__, AgentTraits.parse(version))


def test_switches() -> None:
    """JSON, a file with JSON, or nothing."""
    assert Switches() == switches("")
    assert Switches(zombie=True, memory_ms=5) == switches('{"zombie": true, "memory_ms": 5}')
    assert Switches(never_ready=True) == switches("@/s")


@pytest.mark.parametrize("text", ["{", "[]", '{"zombi": true}', '{"zombie": 1}', '{"memory_ms": true}'])
def test_wrong_switches_are_refused(text: str) -> None:
    """So that no test asks in vain."""
    with pytest.raises(SwitchError):
        switches(text)


def test_no_zombies_from_5_1_18_on() -> None:
    """The version that fixed the fault."""
    with pytest.raises(SwitchError):
        switches('{"zombie": true}', "5.1.18")


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's own begin with `--` and go before the environment; the rest is the agent's."""
    monkeypatch.setenv("MEDPLUM_AGENT_DOUBLE_VERSION", "4.2.3")
    monkeypatch.delenv("MEDPLUM_AGENT_DOUBLE_SWITCHES", raising=False)
    traits, _, positional = _options(["u", "c", "--agent-version", "5.1.15", "s", "a"])
    assert ((5, 1, 15), ["u", "c", "s", "a"]) == (traits.numbers, positional)
    assert (4, 2, 3) == _options([])[0].numbers
    with pytest.raises(SwitchError):
        _options(["--nonsense"])
    monkeypatch.delenv("MEDPLUM_AGENT_DOUBLE_VERSION")
    with pytest.raises(SwitchError):
        _options([])


def addresses(*urls: str, status: str = "active", endpoint_status: str = "active") -> list[tuple[str, int]]:
    """Scheme and port to bind."""
    agent: dict[str, Any] = {"status": status, "channel": [{"name": f"c{at}"} for at in range(len(urls))]}
    endpoints = [{"address": url, "status": endpoint_status} for url in urls]
    return [(each.scheme, each.port) for each in channel_addresses(agent, endpoints)]


def test_addresses() -> None:
    """Scheme and port count, the host does not; what is off is not bound."""
    urls = ("mllp://0.0.0.0:56000?enhanced=true", "tcp://example.org:7", "dicom://0.0.0.0:104")
    assert [("mllp", 56000), ("tcp", 7), ("dicom", 104)] == addresses(*urls)
    assert [] == addresses(*urls, status="off")
    assert [] == addresses(*urls, endpoint_status="off")


def test_an_unknown_scheme_is_that_channel_s_matter() -> None:
    """The others are bound."""
    assert [("other", 1), ("mllp", 2)] == addresses("http://h:1", "mllp://h:2")


@pytest.mark.parametrize("urls", [("mllp://h:1", "dicom://h:1"), ("mllp://h",)])
def test_addresses_that_cannot_be(urls: tuple[str, ...]) -> None:
    """Two channels on one port, no port."""
    with pytest.raises(AgentConfigError):
        addresses(*urls)


def test_byte_stream() -> None:
    """A message stands between the two characters, wherever reads end; control characters are taken out."""
    stream = ByteStream(Delimiters.of({"startChar": "\x02", "endChar": "\x03"}))
    assert ["ab", "cd"] == stream.feed(b"junk\x02a\rb\x03more\x02cd\x03\x02e")
    assert ["ef"] == stream.feed(b"f\x03")
    with pytest.raises(ValueError, match="endChar"):
        Delimiters.of({"startChar": "\x02"})
