"""The two shell scripts in an agent's pod, run by a real `sh`: what they write, what they refuse, what they leave behind."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.core.pod_template import render_pod_template
from tests.builders import parsed

if TYPE_CHECKING:
    from pathlib import Path


def configure(folder: Path, *, client_id: str = "id-1", secret: str = "s3cret") -> subprocess.CompletedProcess[str]:
    """Run the init container's command as the kubelet would, with its paths put into a folder."""
    observed = parsed()
    template = render_pod_template(observed, observed.spec, image="registry.example.org/agent:5.1.15")
    container = template["spec"]["initContainers"][0]
    (folder / "config").mkdir()
    (folder / "work").mkdir()
    command = [*container["command"], *container["args"]]
    command = [part.replace("/dev/termination-log", str(folder / "last-words")) for part in command]
    command = [str(folder / "config") if part == "/run/medplum-agent" else part for part in command]
    values = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    environment = {"PATH": os.environ["PATH"], **values, "CLIENT_ID": client_id, "CLIENT_SECRET": secret}
    return subprocess.run(
        command, cwd=folder / "work", env=environment, capture_output=True, text=True, check=False, timeout=10
    )


def test_configuration_is_written_where_the_agent_looks_for_it(tmp_path: Path) -> None:
    """agent.properties holds credentials, identity and both log folders; the working directory links to it; nobody else reads it."""
    assert 0 == configure(tmp_path).returncode
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
        ("", "s3cret", "client id (key clientId of Secret lab-credentials) is empty"),
    ],
)
def test_credentials_that_the_file_cannot_carry_are_refused_with_a_sentence(
    tmp_path: Path, client_id: str, secret: str, words: str
) -> None:
    """Exit code 64, the sentence in the termination message, and no configuration that would log in with half a secret."""
    assert 64 == configure(tmp_path, client_id=client_id, secret=secret).returncode
    assert words in (tmp_path / "last-words").read_text()
    assert not (tmp_path / "config" / "agent.properties").exists()


def test_agent_is_started_as_the_process_itself_in_an_empty_temp_folder(tmp_path: Path) -> None:
    """`exec`: the program has the shell's PID; a PID file that survived a kill is gone."""
    observed = parsed()
    template = render_pod_template(observed, observed.spec, image="registry.example.org/agent:5.1.15")
    container = template["spec"]["containers"][0]
    left = tmp_path / "medplum-agent"
    left.mkdir()
    (left / "medplum-agent.pid").write_text("1")
    process = subprocess.Popen(
        [*container["command"], "sh", "-c", "echo $$"],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate(timeout=10)
    assert str(process.pid) == out.strip()
    assert [] == list(tmp_path.iterdir())
