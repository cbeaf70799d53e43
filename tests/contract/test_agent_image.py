"""The steps of "Build an agent image", against a server that publishes exactly the names of upstream's releases.

Upstream's names: `medplum-agent-<version>-linux` up to 4.2.1; from 4.2.2 on `…-linux-x64` and `…-linux-arm64`; each with a
`.sha256`, whose text names the program without its architecture. Like GitHub, the server redirects a download.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.test_docs import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPE: Final = ROOT / "manifests" / "agent-image"
PAGE: Final = ROOT / "docs" / "how-to" / "build-an-agent-image.md"
UPSTREAM: Final = "https://github.com/medplum/medplum/releases/download"
RELEASES: Final = {"4.1.12-2": ("",), "4.2.1": ("",), "4.2.2": ("-x64", "-arm64"), "5.1.15": ("-x64", "-arm64")}
ASSETS: Final = [
    ("4.1.12-2", "amd64", "medplum-agent-4.1.12-2-linux"),
    ("4.2.1", "amd64", "medplum-agent-4.2.1-linux"),
    ("4.2.2", "amd64", "medplum-agent-4.2.2-linux-x64"),
    ("4.2.2", "arm64", "medplum-agent-4.2.2-linux-arm64"),
    ("5.1.15", "amd64", "medplum-agent-5.1.15-linux-x64"),
    ("5.1.15", "arm64", "medplum-agent-5.1.15-linux-arm64"),
]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the steps need curl")


def published() -> dict[str, bytes]:
    """Everything that the releases hold, by path."""
    found = {}
    for version, suffixes in RELEASES.items():
        for suffix in suffixes:
            name = f"medplum-agent-{version}-linux"
            program = f"#!/bin/sh\necho {name}{suffix}\n".encode()
            found[f"/v{version}/{name}{suffix}"] = program
            digest = hashlib.sha256(program).hexdigest()
            found[f"/v{version}/{name}{suffix}.sha256"] = f"{digest}  {name}\n".encode()
    return found


@dataclass(frozen=True, slots=True)
class Mirror:
    """The server's address, and the paths that were asked of it."""

    address: str
    asked: list[str]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """Serve the releases on a loopback."""
    files, asked = published(), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = files.get(self.path.removeprefix("/storage"))
            if content is None:
                self.send_error(HTTPStatus.NOT_FOUND)
            elif self.path.startswith("/storage"):
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            else:
                self.send_response(HTTPStatus.FOUND)
                self.send_header("Location", f"/storage{self.path}")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Mirror(f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A copy of the recipe's folder."""
    return Path(shutil.copytree(RECIPE, tmp_path / "agent-image"))


def download(context: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Dockerfile's step with these build arguments; what is not given is not set."""
    assert "RUN sh ./download.sh\n" in (context / "Dockerfile").read_text("utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.run(
        ["sh", "./download.sh"],
        cwd=context,
        env={**environment, "RELEASES": "http://127.0.0.1:1", **arguments},
        capture_output=True,
        text=True,
        check=False,
    )


def page_steps(mirror: Mirror, folder: Path, version: str, architecture: str) -> list[list[str]]:
    """Run the page's first block in a checkout, with the mirror for GitHub; return what it asks of docker."""
    (block, *_) = blocks(PAGE, "sh")
    for written, wanted in (
        ("VERSION=5.1.15", f"VERSION={version}"),
        ("ARCH=amd64", f"ARCH={architecture}"),
        (UPSTREAM, mirror.address),
    ):
        assert 1 == block.count(written)
        block = block.replace(written, wanted)
    docker = folder / "docker"
    docker.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder}/asked\n', "utf-8")
    docker.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    subprocess.run(["sh", "-e", "-c", block], cwd=ROOT, env=environment, check=True)
    return [line.split() for line in (folder / "asked").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("version", "architecture", "asset"), ASSETS)
def test_the_page_s_steps_get_the_program(
    mirror: Mirror, context: Path, tmp_path: Path, version: str, architecture: str, asset: str
) -> None:
    """From the page's commands to a checked program, for old and new versions and both architectures."""
    build, push = page_steps(mirror, tmp_path, version, architecture)
    arguments = dict(build[at + 1].split("=") for at, word in enumerate(build) if word == "--build-arg")
    assert f"linux/{architecture}" == build[build.index("--platform") + 1]
    assert ["push", f"registry.example.org/medplum-agent:{version}"] == push
    done = download(context, **arguments, RELEASES=mirror.address, TARGETARCH=architecture)
    assert 0 == done.returncode, done.stderr
    program = context / "medplum-agent"
    assert f"{asset}\n" == subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert [f"/v{version}/{asset}.sha256", f"/v{version}/{asset}"] == [p for p in mirror.asked if "/storage" not in p]


def test_the_page_s_table_names_the_assets() -> None:
    """As upstream does."""
    for _, _, asset in (ASSETS[1], *ASSETS[4:]):
        assert f"`{asset}`" in PAGE.read_text("utf-8")


def test_a_program_beside_the_recipe_is_not_downloaded(context: Path) -> None:
    """By its published name; a builder that does not say for which architecture builds for its own."""
    machine = os.uname().machine
    if machine not in {"x86_64", "aarch64"}:
        pytest.skip(f"upstream has no program for {machine}")
    asset = f"medplum-agent-5.1.15-linux-{'x64' if machine == 'x86_64' else 'arm64'}"
    program = published()[f"/v5.1.15/{asset}"]
    (context / asset).write_bytes(program)
    done = download(context, VERSION="5.1.15", SHA256=hashlib.sha256(program).hexdigest())
    assert (0, "") == (done.returncode, done.stderr)
    assert program == (context / "medplum-agent").read_bytes()


def test_another_checksum(mirror: Mirror, context: Path) -> None:
    """The build stops, and shows what came."""
    done = download(context, VERSION="5.1.15", SHA256="0" * 64, RELEASES=mirror.address, TARGETARCH="arm64")
    came = hashlib.sha256(published()["/v5.1.15/medplum-agent-5.1.15-linux-arm64"]).hexdigest()
    assert 1 == done.returncode
    assert f"medplum-agent-5.1.15-linux-arm64 is not what SHA256 says: {came}." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "Say which agent"),
        ({"VERSION": "5.1.15"}, "Say what its checksum is"),
        ({"VERSION": "4.2.1", "TARGETARCH": "arm64"}, "agents before 4.2.2 for amd64 only"),
        ({"VERSION": "5.1.15", "TARGETARCH": "s390x"}, "no agent for s390x"),
        ({"VERSION": "latest", "TARGETARCH": "amd64"}, "latest is no version"),
        ({"VERSION": "v5.1.15", "TARGETARCH": "amd64"}, "v5.1.15 is no version"),
        ({"VERSION": "5.1", "TARGETARCH": "amd64"}, "5.1 is no version"),
        ({"VERSION": "5.9.99", "TARGETARCH": "amd64"}, "404"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_there_is_not(mirror: Mirror, context: Path, arguments: dict[str, str], said: str) -> None:
    """A sentence that says what is wrong, and no program."""
    checksum = {"SHA256": "0" * 64} if len(arguments) > 1 else {}
    done = download(context, RELEASES=mirror.address, **arguments, **checksum)
    assert 0 != done.returncode
    assert said in done.stderr
