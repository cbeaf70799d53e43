"""Settings: by environment variable and by flag, with a sentence for each invalid one."""

from __future__ import annotations

import pytest

from medplum_agent_operator.errors import StartupError
from medplum_agent_operator.settings import ENV_PREFIX, Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the machine that the tests run on."""
    for field in Settings.model_fields:
        monkeypatch.delenv(f"{ENV_PREFIX}{field.upper()}", raising=False)


def test_no_setting_is_required() -> None:
    """All namespaces, JSON, info, port 8080."""
    found = Settings.load([])
    assert ((), None, "json", "info", 8080) == (
        found.namespaces,
        found.image_repository,
        found.log_format,
        found.log_level,
        found.health_port,
    )


GOOD = [
    pytest.param("eviction-taints", "Patching, example.org/*", ("Patching", "example.org/*"), id="two keys of taints"),
    pytest.param("namespaces", "clinic-a", ("clinic-a",), id="one namespace"),
    pytest.param(
        "namespaces", "clinic-a, clinic-b,", ("clinic-a", "clinic-b"), id="several, with spaces and a comma too many"
    ),
    pytest.param(
        "image-repository",
        "registry.example.org:5000/medplum/agent",
        "registry.example.org:5000/medplum/agent",
        id="a repository",
    ),
    pytest.param("gate-image", "registry.example.org/op:1", "registry.example.org/op:1", id="an image of gates"),
    *(
        pytest.param(f"allowed-{what}", "one, two*", ("one", "two*"), id=f"limited {what}")
        for what in ("image-repositories", "servers", "secrets", "service-accounts", "priority-classes")
    ),
    pytest.param("pod", "operator-1", "operator-1", id="its own pod"),
    pytest.param("pod-namespace", "operators", "operators", id="its own namespace"),
    pytest.param("log-format", "console", "console", id="a format"),
    pytest.param("log-level", "debug", "debug", id="a level"),
    pytest.param("health-host", "127.0.0.1", "127.0.0.1", id="a host"),
    pytest.param("health-port", "0", 0, id="any free port"),
    pytest.param("workers", "64", 64, id="the most workers"),
    pytest.param("resync-seconds", "5", 5, id="the shortest resync"),
    pytest.param("request-timeout-seconds", "1.5", 1.5, id="a fraction of a second"),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_each_setting_can_be_given_by_flag_or_by_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object
) -> None:
    """Both have the same effect."""
    field = name.replace("-", "_")
    assert expected == getattr(Settings.load([f"--{name}", value]), field)
    monkeypatch.setenv(f"{ENV_PREFIX}{field.upper()}", value)
    assert expected == getattr(Settings.load([]), field)


def test_every_setting_is_in_the_table_above() -> None:
    """A new setting needs a row."""
    rows = {str(row.values[0]) for row in GOOD} | {"watch-nodes", "allow-host-ports"}
    assert {field.replace("_", "-") for field in Settings.model_fields} == rows


def test_a_switch_needs_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-watch-nodes is enough; the environment variable is true or false."""
    found = [Settings.load(arguments).watch_nodes for arguments in ([], ["--watch-nodes"], ["--no-watch-nodes"])]
    assert [True, True, False] == found
    monkeypatch.setenv(f"{ENV_PREFIX}WATCH_NODES", "false")
    assert Settings.load([]).watch_nodes is False


def test_a_flag_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most specific one counts."""
    monkeypatch.setenv(f"{ENV_PREFIX}WORKERS", "3")
    assert 4 == Settings.load(["--workers", "4"]).workers


def test_an_empty_environment_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may have an empty one."""
    monkeypatch.setenv(f"{ENV_PREFIX}WORKERS", "")
    monkeypatch.setenv(f"{ENV_PREFIX}IMAGE_REPOSITORY", "")
    found = Settings.load([])
    assert (8, None) == (found.workers, found.image_repository)


BAD = [
    pytest.param("eviction-taints", "a b", "'a b' is not the key of a taint", id="a space in a taint"),
    pytest.param("eviction-taints", "*", "use keys such as example.org/patching or example.org/*", id="every taint"),
    pytest.param("eviction-taints", "Example.org/x", "is not the key of a taint", id="a capital in a taint's domain"),
    pytest.param("namespaces", "Clinic", "'Clinic' is not a namespace's name", id="a capital in a namespace"),
    pytest.param("namespaces", "a_b", "use names such as clinic-a,clinic-b", id="an underscore in a namespace"),
    pytest.param("namespaces", "x" * 64, "is not a namespace's name", id="a namespace that is too long"),
    pytest.param("image-repository", "agent:5.1.15", "without tag or digest", id="a repository with a tag"),
    pytest.param("image-repository", "agent@sha256:00", "without tag or digest", id="a repository with a digest"),
    pytest.param("image-repository", "a b", "is not an image repository", id="a space in a repository"),
    pytest.param("log-format", "xml", "json", id="an unknown format"),
    pytest.param("log-level", "INFO!", "debug", id="an unknown level"),
    pytest.param("health-port", "65536", "65535", id="a port out of range"),
    pytest.param("health-port", "http", "integer", id="a port by name"),
    pytest.param("workers", "0", "greater than or equal to 1", id="no workers"),
    pytest.param("workers", "65", "less than or equal to 64", id="too many workers"),
    pytest.param("resync-seconds", "4", "greater than or equal to 5", id="a resync too often"),
    pytest.param("request-timeout-seconds", "0", "greater than or equal to 1", id="no time for a request"),
]


@pytest.mark.parametrize("by_flag", [True, False], ids=["by flag", "by environment"])
@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_an_invalid_setting_ends_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str, *, by_flag: bool
) -> None:
    """The sentence names the flag and the environment variable, and says what is valid."""
    variable = f"{ENV_PREFIX}{name.replace('-', '_').upper()}"
    if not by_flag:
        monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError) as fault:
        Settings.load([f"--{name}", value] if by_flag else [])
    assert str(fault.value).startswith(f"Setting --{name} ({variable}): ")
    assert words in str(fault.value)


def test_two_invalid_settings_are_reported_together() -> None:
    """One sentence each, in one start."""
    with pytest.raises(StartupError) as fault:
        Settings.load(["--workers", "0", "--health-port", "-1"])
    assert 2 == len(str(fault.value).splitlines())


def test_help_shows_flags_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    """No Python types, no default that is none, and --version is one of them."""
    with pytest.raises(SystemExit) as end:
        Settings.load(["--help"])
    said = capsys.readouterr().out
    assert 0 == end.value.code
    assert [] == [
        word
        for word in ("tuple", " str", " int", " float", "(default: None)", "(default: ()", "\n    Every")
        if word in said
    ]
    for shown in (
        "--namespaces NAMESPACES",
        "--workers WORKERS",
        "--log-format {json,console}",
        "--version",
        "(default: 8080)",
    ):
        assert shown in said


@pytest.mark.parametrize("arguments", [["--version"], ["--workers", "2", "--version"]])
def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Beside other flags too, and whatever the environment says."""
    monkeypatch.setenv(f"{ENV_PREFIX}WORKRES", "3")
    with pytest.raises(SystemExit) as end:
        Settings.load(arguments)
    assert (0, True) == (end.value.code, capsys.readouterr().out.startswith("medplum-agent-operator "))


def test_a_misspelt_variable_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would silently leave a setting at its default."""
    monkeypatch.setenv(f"{ENV_PREFIX}WORKRES", "3")
    with pytest.raises(StartupError, match=f"Unknown setting {ENV_PREFIX}WORKRES"):
        Settings.load([])
