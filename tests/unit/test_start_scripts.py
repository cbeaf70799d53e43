"""The two shell scripts in an agent's pod, run by a real `sh`: what they write, what they refuse, what they leave behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.core.objects.agent_pod import render_pod_template
from tests.support.builders import Raw, parsed

if TYPE_CHECKING:
    from pathlib import Path

TELL = 'printf "%s\\n" "$$" "$(umask)" "$*"; env'
"""An agent that tells its PID, its umask, its arguments and its environment."""


def containers(**spec: object) -> list[Raw]:
    """The rendered containers."""
    observed = parsed(**spec)  # type: ignore[arg-type]
    template = render_pod_template(observed, observed.spec, image="registry.example.org/agent:5.1.15")
    found: list[Raw] = template["spec"]["containers"]
    return found


def expanded(argument: str, environment: dict[str, str]) -> str:
    """What the kubelet makes of a container's argument: `$(NAME)` becomes the variable's value if there is one, `$$` a `$`."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, argument)


def start(
    folder: Path, *command: str, client_id: str = "id-1", secret: str = "s3cret", **server: str
) -> tuple[subprocess.Popen[str], str]:
    """Start the agent's container as the kubelet would, with its paths put into a folder. Returns the process and what it said."""
    for name in ("config", "work", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    wanted = {**parsed().spec.server.model_dump(by_alias=True), **server}
    container = containers(image={"command": list(command or ("sh", "-c", TELL))}, server=wanted)[0]
    environment = {"PATH": os.environ["PATH"], **{item["name"]: item.get("value", "") for item in container["env"]}}
    environment |= {"CLIENT_ID": client_id, "CLIENT_SECRET": secret, "TMPDIR": str(folder / "tmp")}
    whole = [expanded(part, environment) for part in (*container["command"], *container["args"])]
    whole = [part.replace("/dev/termination-log", str(folder / "last-words")) for part in whole]
    whole = [str(folder / "config") if part == "/run/medplum-agent" else part for part in whole]
    process = subprocess.Popen(
        whole, cwd=folder / "work", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, _ = process.communicate(timeout=60)
    return process, said


def test_configuration_is_written_where_the_agent_looks_for_it(tmp_path: Path) -> None:
    """agent.properties holds credentials, identity and both log folders; the working directory links to it; nobody else reads it."""
    assert 0 == start(tmp_path)[0].returncode
    link = tmp_path / "work" / "agent.properties"
    assert (tmp_path / "config" / "agent.properties") == link.resolve()
    lines = dict(line.split("=", 1) for line in link.read_text().splitlines())
    assert ("id-1", "s3cret") == (lines["clientId"], lines["clientSecret"])
    assert lines["baseUrl"].startswith("https://")
    assert lines["agentId"]
    assert lines["logger.main.logDir"] == lines["logger.channel.logDir"]
    assert 0 == link.stat().st_mode & 0o077


@pytest.mark.parametrize(
    ("client_id", "secret", "words"),
    [
        ("id-1", "abc==", "client secret (key clientSecret of Secret lab-credentials) contains '='"),
        ("a=b", "s3cret", "client id (key clientId of Secret lab-credentials) contains '='"),
        ("id-1", "s3cret\n", "contains a line break"),
        ("id-1", "s3\r\ncret", "contains a line break"),
        ("id-1\nagentId", "s3cret", "contains a line break"),
        ("", "s3cret", "client id (key clientId of Secret lab-credentials) is empty"),
    ],
)
def test_credentials_that_the_file_cannot_carry_are_refused_with_a_sentence(
    tmp_path: Path, client_id: str, secret: str, words: str
) -> None:
    """Exit code 64, the sentence in the termination message, no configuration with half a secret, and no agent."""
    process, said = start(tmp_path, "echo", "started", client_id=client_id, secret=secret)
    assert 64 == process.returncode
    assert words in (tmp_path / "last-words").read_text()
    assert not (tmp_path / "config" / "agent.properties").exists()
    assert "started" not in said


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("$(touch broken)`touch broken`; touch broken", id="commands"),
        pytest.param("%s%d\\n\\x41\\c", id="what printf or echo would make something of"),
        pytest.param("'\"' \"'\" * ? ~ $HOME ${HOME} !! #", id="quotes, patterns, variables"),
        pytest.param("-n -e --", id="options"),
        pytest.param("  sp ace\t ", id="white space"),
        pytest.param("$(CLIENT_ID) $$", id="the kubelet's own way to name a variable"),
        pytest.param("gehe\u00efm\u2028", id="letters and line separators beyond ASCII"),
    ],
)
def test_a_hostile_secret_is_written_letter_by_letter_and_runs_nothing(tmp_path: Path, secret: str) -> None:
    """What stands in the Secret is a value, whatever it looks like; it adds no line either."""
    _, harmless = start(tmp_path)
    count = len((tmp_path / "config" / "agent.properties").read_bytes().split(b"\n"))
    process, said = start(tmp_path, secret=secret)
    assert 0 == process.returncode
    lines = (tmp_path / "config" / "agent.properties").read_bytes().split(b"\n")
    assert f"clientSecret={secret}".encode() in lines
    assert count == len(lines)
    assert [] == list(tmp_path.rglob("broken"))
    assert len(harmless.splitlines()) == len(said.splitlines())


def test_the_agent_has_the_credentials_neither_in_its_arguments_nor_in_its_environment(tmp_path: Path) -> None:
    """Not even where the spec names the variables in the kubelet's way: the server's address and the command stay as they are."""
    marks = ("$(CLIENT_SECRET)", "$$(CLIENT_ID)", "$HOME")
    url = "https://api.medplum.com/$(CLIENT_SECRET)"
    _, said = start(tmp_path, "sh", "-c", TELL, "agent", *marks, client_id="name-of-it", secret="hidden", baseUrl=url)
    assert " ".join(marks) == said.splitlines()[2]
    assert "hidden" not in said
    assert "name-of-it" not in said
    assert "CLIENT_" not in "".join(line for line in said.splitlines()[3:])
    assert f"baseUrl={url}" in (tmp_path / "config" / "agent.properties").read_text()


def test_the_agent_is_the_process_itself_with_an_umask_and_a_temp_folder_like_new(tmp_path: Path) -> None:
    """`exec`: the program has the shell's PID. A PID file that survived a kill is gone; the file's umask is not the agent's."""
    left = tmp_path / "tmp" / "medplum-agent"
    left.mkdir(parents=True)
    (left / "medplum-agent.pid").write_text("1")
    usual = subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True, check=True).stdout.strip()
    process, said = start(tmp_path)
    assert [str(process.pid), usual] == said.splitlines()[:2]
    assert [] == list((tmp_path / "tmp").iterdir())


def test_a_container_that_starts_again_takes_the_secret_as_it_is_by_then(tmp_path: Path) -> None:
    """The folders outlive a crash of the container: the file and the link are made anew."""
    start(tmp_path, secret="before")
    process, _ = start(tmp_path, secret="after")
    assert 0 == process.returncode
    assert "clientSecret=after" in (tmp_path / "work" / "agent.properties").read_text().splitlines()


def test_a_container_that_carries_a_probe_sleeps_until_it_is_told_to_end(tmp_path: Path) -> None:
    """It ends at once on SIGTERM, with 0, although nothing but its trap would let a PID 1 do so."""
    two = [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}]
    begun, sleep = tmp_path / "begun", tmp_path / "sleep"
    sleep.write_text(f'#!/bin/sh\ntouch {begun}\nexec /bin/sleep "$@"\n')
    sleep.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(containers(channels=two)[1]["command"], start_new_session=True, env=os.environ | path)
    try:
        while not begun.exists():  # from here on the trap is set; pytest's own timeout ends a test that gets no further
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(timeout=60)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the child that sleeps; in a container it ends with its PID 1
