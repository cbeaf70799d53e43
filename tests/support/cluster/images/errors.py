"""The one exception of the image builder."""

from __future__ import annotations


class ImageError(Exception):
    """An image could not be had; the message says why and what would help."""
