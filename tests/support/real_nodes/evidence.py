"""The state of a clinic whose test failed, for the report: the namespace is deleted a moment later."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

from tests.support.operator_process import NAMESPACE, SERVICE_ACCOUNT

if TYPE_CHECKING:
    from tests.support.real_nodes.clinic import Clinic

LINES: Final = 60
"""Lines from the end of each log."""
OF_A_POD: Final = ("--all-containers", "--timestamps", f"--tail={LINES}", "--prefix")
EVENTS: Final = (
    "FIRST:.metadata.creationTimestamp,LAST:.lastTimestamp,OF:.involvedObject.name,WHY:.reason,SAYS:.message"
)
ASKED: Final = {
    "pods": ("get", "pods", "--output=wide"),
    "endpoints": ("get", "endpointslices", "--output=yaml"),
    "agents": ("get", "mpa", "--output=yaml"),
    "events": ("get", "events", "--sort-by=.metadata.creationTimestamp", f"--output=custom-columns={EVENTS}"),
}


def evidence(clinic: Clinic) -> list[tuple[str, str]]:
    """Return title and text of each section. An error here becomes the text of its section: it must not hide the test's failure."""
    sections = [
        (title, _kubectl(clinic, *arguments, f"--namespace={clinic.namespace}")) for title, arguments in ASKED.items()
    ]
    pods = _kubectl(clinic, "get", "pods", "--output=name", f"--namespace={clinic.namespace}").split()
    sections += [
        (f"log of {pod}", _kubectl(clinic, "logs", pod, *OF_A_POD, f"--namespace={clinic.namespace}"))
        for pod in pods
        if pod.startswith("pod/")
    ]
    operator = _kubectl(clinic, "logs", f"deployment/{SERVICE_ACCOUNT}", *OF_A_POD, f"--namespace={NAMESPACE}")
    lives = "\n".join(map(str, clinic.lives))
    return [*sections, ("log of the operator", operator), ("lives of agents", lives)]


def _kubectl(clinic: Clinic, *arguments: str) -> str:
    try:
        found = clinic.cluster.kubectl(*arguments, check=False)
    except subprocess.TimeoutExpired as error:
        return str(error)
    return found.stdout + found.stderr
