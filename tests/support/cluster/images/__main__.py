"""Build what is missing and print archive and references: `python -m tests.support.cluster.images [--sizes] [image ...]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.images.build import Image, image
from tests.support.cluster.images.catalogue import RECIPES
from tests.support.cluster.images.errors import ImageError
from tests.support.cluster.images.oci import Layout
from tests.support.cluster.progress import say
from tests.support.cluster.toolchain import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> int:
    """Build all images or the named ones."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.cluster.images",
        description="Build the test images that are missing, and print archive and references of each.",
    )
    parser.add_argument("names", nargs="*", metavar="image", help=f"one of {', '.join(RECIPES)} (default: all)")
    parser.add_argument("--sizes", action="store_true", help="show the size of each layer, plain and compressed")
    options = parser.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        parser.error(f"no such image: {', '.join(sorted(unknown))}")
    try:
        for name in options.names or RECIPES:
            built = image(name)
            sys.stdout.write(f"{built.archive} {' '.join(built.references)}\n")
            if options.sizes:
                sys.stdout.writelines(sizes(built))
    except (ImageError, ToolchainError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. No partial image is left.")
        return 130
    return 0


def sizes(built: Image) -> Iterator[str]:
    """A line for each layer, the base's first."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.unpack(built.archive, Path(folder))
        for number, layer in enumerate(layout.layers(built.reference), start=1):
            size, packed = layer.stat().st_size, len(zlib.compress(layer.read_bytes()))
            yield f"  layer {number}: {size / 1e6:.1f} MB, {packed / 1e6:.1f} MB compressed\n"


if __name__ == "__main__":
    sys.exit(main())
