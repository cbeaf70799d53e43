"""The one exception of the image builder."""

from __future__ import annotations


class ImageError(Exception):
    """An image cannot be built; the message says why and how to fix it."""
