"""Build a Dockerfile by buildah into a layout, and leave nothing behind but that layout.

The image builder calls this. buildah's storage is a temporary folder of this one build: its vfs driver copies every layer
whole, so it would fill the disk, and a layer cache would save little, as an image whose inputs are the same is not built
again. What is downloaded is kept in pip's own cache, where the index allows that to be kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.images import pip
from tests.support.cluster.images.commands import start

if TYPE_CHECKING:
    from collections.abc import Mapping

EPOCH: Final = 315532800
"""All times in images, 1980-01-01: the earliest that a zip file, and so a wheel, can carry."""
CERTIFICATES: Final = Path("/etc/ssl/certs")
PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Build:
    """What `docker build` would be given."""

    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    """The stage to stop at; the last one by default."""


class Buildah:
    """buildah with its storage in one folder."""

    def __init__(self, folder: Path, *, pip_cache: Path) -> None:
        self._folder = folder
        self._pip_cache = pip_cache
        for each in (folder / "tmp", pip_cache):
            each.mkdir(parents=True, exist_ok=True)

    def load(self, archive: Path, reference: str) -> None:
        """Take an image from an archive, under its own name."""
        self._run("pull", "--quiet", f"oci-archive:{archive}:{reference}")

    def build(self, what: Build, reference: str) -> None:
        """Build; the base must be loaded, as nothing is fetched from a registry.

        Raises:
            ImageError: with the end of the build's log.
        """
        configuration = self._folder / "pip.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(pip.configuration(), encoding="utf-8")
        arguments = {**what.arguments, **{name: os.environ[name] for name in PROXIES if name in os.environ}}
        mounts = [f"{configuration}:/etc/pip.conf:ro", f"{self._pip_cache}:{pip.CACHE}"]
        if CERTIFICATES.is_dir():
            mounts.append(f"{CERTIFICATES}:{CERTIFICATES}:ro")
        self._run(
            "build",
            *("--isolation", "chroot", "--network", "host", "--pull=never", "--format", "oci"),
            *("--timestamp", str(EPOCH), "--tag", reference, "--file", str(what.dockerfile)),
            *(f"--volume={mount}" for mount in mounts),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *((f"--target={what.target}",) if what.target else ()),
            str(what.context),
        )

    def export(self, reference: str, folder: Path) -> None:
        """Write the image as loose files: a manifest, and blobs that are not compressed."""
        self._run("push", "--quiet", "--disable-compression", reference, f"dir:{folder}")

    def run(self, reference: str, *command: str, user: str | None = None) -> str:
        """Start a program in a container of the image and return what it said on standard output."""
        container = self._run("from", "--pull=never", reference).strip()
        try:
            whose = ("--user", user) if user else ()
            return self._run("run", "--isolation", "chroot", *whose, container, "--", *command)
        finally:
            self._run("rm", container)

    def _run(self, *arguments: str) -> str:
        places = {"--root": "storage", "--runroot": "run"}
        options = [f"{option}={self._folder / folder}" for option, folder in places.items()]
        environment = os.environ | {"TMPDIR": str(self._folder / "tmp")}
        return start(["buildah", *options, "--storage-driver=vfs", *arguments], environment=environment)
