"""How a story ends before its end. Raised by everything on the stage, caught by `run` alone."""

from __future__ import annotations


class StepFailedError(Exception):
    """A step of the story did not happen."""
