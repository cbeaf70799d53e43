"""A registry that only reads: serves the images of OCI archives to the nodes of one run, as `registry.test`.

Started by tests/support/cluster/real.py in the run's own network namespace, with an isolated interpreter, hence without imports from
the tests. Arguments: address, port, seconds that each layer is held back (a slow line), archives. What it does not have is
answered with 404, as a registry does; so a test of an image that cannot be pulled sees the kubelet's own words.

Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md (pull)
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = 1 << 20
NAME = "io.containerd.image.name"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/?]+)")


class Shelf:
    """Where in which archive each blob lies, and which digest each tag means."""

    def __init__(self, archives: list[Path]) -> None:
        self.blobs: dict[str, tuple[Path, int, int]] = {}
        self.tags: dict[tuple[str, str], str] = {}
        for archive in archives:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.name.startswith("blobs/sha256/"):
                        digest = f"sha256:{member.name.rpartition('/')[2]}"
                        self.blobs[digest] = (archive, member.offset_data, member.size)
                    elif member.name == "index.json":
                        self._note(json.load(tar.extractfile(member)))  # type: ignore[arg-type]  # a file has content

    def _note(self, index: dict[str, list[dict[str, dict[str, str]]]]) -> None:
        for manifest in index["manifests"]:
            _, _, path = manifest["annotations"][NAME].partition("/")
            name, _, tag = path.rpartition(":")
            self.tags[name, tag] = str(manifest["digest"])


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    protocol_version = "HTTP/1.1"
    shelf: Shelf
    layer_seconds = 0.0

    def do_GET(self) -> None:
        """Send a manifest or a blob."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send the header of one."""
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        if self.path.rstrip("/") == "/v2":
            self._head(200, "application/json", 2, "")
            if with_body:
                self.wfile.write(b"{}")
            return
        match = ROUTE.fullmatch(self.path.partition("?")[0])
        digest = "" if match is None else match["reference"]
        if match is not None and match["kind"] == "manifests" and not digest.startswith("sha256:"):
            digest = self.shelf.tags.get((match["name"], digest), "")
        if match is None or digest not in self.shelf.blobs:
            code = "MANIFEST_UNKNOWN" if match is None or match["kind"] == "manifests" else "BLOB_UNKNOWN"
            body = json.dumps({"errors": [{"code": code, "message": "not here"}]}).encode()
            self._head(404, "application/json", len(body), "")
            if with_body:
                self.wfile.write(body)
            return
        archive, offset, size = self.shelf.blobs[digest]
        kind = MANIFEST if match["kind"] == "manifests" else "application/octet-stream"
        self._head(200, kind, size, digest)
        if with_body:
            self._send(archive, offset, size, slowly=match["kind"] == "blobs")

    def _head(self, status: int, kind: str, size: int, digest: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def _send(self, archive: Path, offset: int, size: int, *, slowly: bool) -> None:
        if slowly:
            time.sleep(self.layer_seconds)
        with archive.open("rb") as file:
            file.seek(offset)
            while size:
                chunk = file.read(min(CHUNK, size))
                self.wfile.write(chunk)
                size -= len(chunk)


def main() -> None:
    """Serve until the end of the process."""
    address, port, seconds, *archives = sys.argv[1:]
    Handler.shelf = Shelf([Path(archive) for archive in archives])
    Handler.layer_seconds = float(seconds)
    ThreadingHTTPServer((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
