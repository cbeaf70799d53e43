"""Get images as archives, built once and kept in the cache folder outside the checkout.

The node tier and `python -m tests.support.cluster.images` call `image`: where the inputs are what they were, this costs
milliseconds. Two runs at once wait for each other. An image appears in the cache whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.images.buildah import Buildah
from tests.support.cluster.images.catalogue import RECIPES, FromLayer, Recipe, key
from tests.support.cluster.images.errors import ImageError
from tests.support.cluster.images.oci import Layout
from tests.support.cluster.images.packages import IMAGE_PROGRAMS, what_is_missing
from tests.support.cluster.locks import exclusive
from tests.support.cluster.marks import NODES, require_mark
from tests.support.cluster.progress import say
from tests.support.cluster.toolchain.build import cache_faults, cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEPT_SECONDS: Final = 7 * 24 * 3600.0
"""An archive that was not used for this long is deleted when its successor is built."""
WORK: Final = ".building-"


@dataclass(frozen=True, slots=True)
class Image:
    """An archive that `ctr images import` takes, and the references that it brings."""

    name: str
    archive: Path
    references: Sequence[str]

    @property
    def reference(self) -> str:
        """The first of them, or the only one."""
        return self.references[0]


def image(name: str) -> Image:
    """Return an image of the catalogue, and build it if it is missing.

    Raises:
        ImageError: when it cannot be built here; the message says why.
    """
    return build(name, RECIPES[name])


@cache_faults()
def build(name: str, recipe: Recipe) -> Image:
    """Return the image of any recipe, and build it if it is missing."""
    require_mark(NODES)
    found = _cached(name, recipe)
    if found.archive.is_file():
        os.utime(found.archive)
        return found
    if fault := what_is_missing(IMAGE_PROGRAMS):
        raise ImageError(f"The image {name} cannot be built here: {fault}")
    base = None if isinstance(recipe, FromLayer) else image(recipe.base)
    with exclusive(_folder() / "build.lock", while_waiting="Another process is building images; waiting for it …"):
        if not found.archive.is_file():  # the other process may have built it
            say(f"Building the image {name} …")
            began = time.monotonic()
            with _workplace() as folder:
                layout = make(recipe, folder, base=base)
                partial = folder / "archive"
                layout.archive(partial)
                partial.rename(found.archive)
            _drop_old(found)
            say(f"Built {found.reference} in {time.monotonic() - began:.0f} s: {found.archive}")
    return found


def make(recipe: Recipe, folder: Path, *, base: Image | None = None) -> Layout:
    """Build into a layout in that folder, without the cache."""
    layout = Layout.create(folder / "layout")
    if isinstance(recipe, FromLayer):
        layer = folder / "layer.tar"
        recipe.write(layer, folder)
        layout.add(recipe.reference, layers=[layer], config=recipe.config)
        return layout
    if base is None:
        raise ImageError(f"{recipe.reference} needs a base")
    buildah = Buildah(folder / "buildah", pip_cache=cache_folder() / "pip")
    buildah.load(base.archive, base.reference)
    buildah.build(recipe.on(base.reference), recipe.reference)
    buildah.export(recipe.reference, folder / "exported")
    layout.adopt(recipe.reference, folder / "exported")
    for reference, environment in recipe.variants.items():
        layout.vary(recipe.reference, reference, environment)
    return layout


def _folder() -> Path:
    return cache_folder() / "images"


def _cached(name: str, recipe: Recipe) -> Image:
    return Image(name, _folder() / f"{name}-{key(recipe)}.tar", recipe.references)


@contextmanager
def _workplace() -> Iterator[Path]:
    """A folder for one build. Deletes what killed builds left, which is safe under the build lock."""
    for left in _folder().glob(f"{WORK}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=_folder(), prefix=WORK) as folder:
        yield Path(folder)


def _drop_old(current: Image) -> None:
    for archive in _folder().glob(f"{current.name}-*.tar"):
        if archive != current.archive and time.time() - archive.stat().st_mtime > KEPT_SECONDS:
            archive.unlink()
