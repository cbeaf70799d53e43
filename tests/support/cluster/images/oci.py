"""OCI images as files: a layout folder with layers, configurations and manifests, and the archive made of it.

The image builder (`build`) calls this. The pause image and the base need no program but this module, and the versions
of a double are one set of layers under several configurations, which costs a few hundred bytes each. Layers stay
uncompressed: they never travel, and compressing and expanding them would be most of the time of a build and an import.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tarfile
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
REFERENCE: Final = "org.opencontainers.image.ref.name"
FULL_NAME: Final = "io.containerd.image.name"
"""containerd takes this one as it is; the other one alone may be a tag to it."""

Json = dict[str, Any]


class Layout:
    """A folder in the form that the OCI image layout specification describes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"

    @classmethod
    def create(cls, folder: Path) -> Layout:
        """Begin an empty layout."""
        layout = cls(folder)
        layout._blobs.mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")
        layout._write_index([])
        return layout

    @classmethod
    def unpack(cls, archive: Path, folder: Path) -> Layout:
        """Open an archive again, in an empty folder."""
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")
        return cls(folder)

    def references(self) -> list[str]:
        """The names of the images in it."""
        return [entry["annotations"][REFERENCE] for entry in self._index()]

    def manifest(self, reference: str) -> Json:
        """The manifest of an image."""
        return self._read(self._entry(reference))

    def config(self, reference: str) -> Json:
        """The configuration of an image: user, entry point, environment, labels."""
        return self._read(self.manifest(reference)["config"])

    def layers(self, reference: str) -> list[Path]:
        """The layers of an image as tar files, the base's first."""
        return [self._blobs / each["digest"].removeprefix("sha256:") for each in self.manifest(reference)["layers"]]

    def add(self, reference: str, *, layers: Sequence[Path], config: Mapping[str, Any]) -> None:
        """Add an image made of these tar files, which are moved into the layout."""
        described = [self._take(layer) for layer in layers]
        whole = {
            "architecture": architecture(),
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in described]},
            # buildah counts: an image on top of one without history cannot be built in more than one stage.
            "history": [{"created": "1980-01-01T00:00:00Z", "created_by": reference} for _ in described],
        }
        self._add_manifest(reference, layers=described, config=whole)

    def adopt(self, reference: str, folder: Path) -> None:
        """Add an image that was written as loose files (`manifest.json`, and blobs named by their sums)."""
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for descriptor in (manifest["config"], *manifest["layers"]):
            digest = descriptor["digest"].removeprefix("sha256:")
            shutil.move(folder / digest, self._blobs / digest)
        self._list(reference, manifest)

    def vary(self, source: str, reference: str, environment: Mapping[str, str]) -> None:
        """Add an image with the same layers as another one, and these variables added to its environment."""
        config = self.config(source)
        inner = config.setdefault("config", {})
        kept = [each for each in inner.get("Env") or [] if each.partition("=")[0] not in environment]
        inner["Env"] = [*kept, *(f"{name}={value}" for name, value in environment.items())]
        self._add_manifest(reference, layers=self.manifest(source)["layers"], config=config)

    def archive(self, target: Path) -> None:
        """Write the layout as an archive, byte for byte the same for the same images."""
        files = sorted(path for path in self._folder.rglob("*") if path.is_file())
        with tarfile.open(target, "w") as archive:
            for path in files:
                entry = tarfile.TarInfo(str(path.relative_to(self._folder)))
                entry.size = path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(entry, content)

    def _add_manifest(self, reference: str, *, layers: list[Json], config: Json) -> None:
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self._put(config, CONFIG), "layers": layers}
        self._list(reference, manifest)

    def _list(self, reference: str, manifest: Json) -> None:
        entry = self._put(manifest, MANIFEST) | {"annotations": {REFERENCE: reference, FULL_NAME: reference}}
        self._write_index([*(each for each in self._index() if each["annotations"][REFERENCE] != reference), entry])

    def _entry(self, reference: str) -> Json:
        for entry in self._index():
            if entry["annotations"][REFERENCE] == reference:
                return entry
        raise KeyError(reference)

    def _take(self, layer: Path) -> Json:
        digest = file_digest(layer)
        target = self._blobs / digest
        shutil.move(layer, target)
        return {"mediaType": LAYER, "digest": f"sha256:{digest}", "size": target.stat().st_size}

    def _put(self, content: Json, media_type: str) -> Json:
        data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def _read(self, descriptor: Json) -> Json:
        content: Json = json.loads((self._blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes())
        return content

    def _index(self) -> list[Json]:
        entries: list[Json] = json.loads((self._folder / "index.json").read_bytes())["manifests"]
        return entries

    def _write_index(self, entries: list[Json]) -> None:
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
        (self._folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def architecture() -> str:
    """This machine's architecture, by the name that images use."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def file_digest(path: Path) -> str:
    """The SHA-256 sum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
