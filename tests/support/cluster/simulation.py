"""How a test controls a simulated pod: annotations on the pod, read by the stages in `stages/`."""

from __future__ import annotations

from enum import StrEnum

PREFIX = "sim.medplum.com"


class Behaviour(StrEnum):
    """What a pod does after it is scheduled."""

    READY = "ready"
    """The default: started at once, ready after one second."""
    SLOW_READY = "slow-ready"
    """Ready after five seconds."""
    NEVER_READY = "never-ready"
    """Running, but one container never passes its readiness probe."""
    IMAGE_PULL_FAILS = "image-pull-fails"
    """One container waits with ImagePullBackOff."""
    CONFIG_ERROR = "config-error"
    """One container waits with CreateContainerConfigError."""
    CRASH_LOOP = "crash-loop"
    """One container waits with CrashLoopBackOff; its termination message is `message`, if set."""
    CRASH_LOOP_MESSAGE = "crash-loop-message"
    """As before, but with a termination message even without `message`."""
    CRASH_LOOP_SILENT = "crash-loop-silent"
    """As before, but never with a termination message."""


def simulate(
    behaviour: Behaviour = Behaviour.READY,
    *,
    container: str | None = None,
    message: str | None = None,
    exit_code: int | None = None,
    ready_after: str | None = None,
    terminate_after: str | None = None,
) -> dict[str, str]:
    """Return the annotations for a pod template.

    `container` is the one at fault (default `agent`); the two durations are Go's, such as
    "300ms" or "1h": from being scheduled to being ready, and from being deleted to being gone (default 1.5 s).
    """
    annotations = {
        "behaviour": str(behaviour),
        "unready-container": container,
        "message": message,
        "exit-code": None if exit_code is None else str(exit_code),
        "ready-after": ready_after,
        "terminate-after": terminate_after,
    }
    return {f"{PREFIX}/{name}": value for name, value in annotations.items() if value is not None}
