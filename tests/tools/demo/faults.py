"""How the demo fails. Raised by every module of the demo, caught only by `run`."""

from __future__ import annotations


class StepFailedError(Exception):
    """A step did not lead to the expected result."""
