"""Checks before the watches begin: is the API server there, which namespaces are readable, which image runs this operator.

Called by `__main__`. After a power cut, pods may start before the API server does, so the operator waits for it. A fault that waiting cannot fix,
such as missing rights or a missing CRD, ends the start with a sentence.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final, TypeVar

from medplum_agent_operator.adapters.kube import Kube
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.errors import ClusterError, RefusedError, StartupError, UntrustedError
from medplum_agent_operator.kinds import POD
from medplum_agent_operator.settings import Settings
from medplum_agent_operator.telemetry import log

T = TypeVar("T")

PAUSES_SECONDS: Final = (1.0, 2.0, 5.0, 10.0)
"""Pauses between tries; the last one repeats."""
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class StartupFacts:
    """Where this operator runs.

    Attributes:
        namespaces: the namespaces to watch; empty means all.
        left_out: namespaces from the settings that the operator may not read.
        own_image: the image of the operator's own pod; None if it does not run in a pod, or may not read it.
    """

    namespaces: tuple[str, ...]
    left_out: tuple[str, ...]
    own_image: str | None


async def retry_until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Repeat a request until the API server answers it.

    Raises:
        StartupError: when waiting cannot fix the fault.
    """
    for pause in chain(PAUSES_SECONDS, repeat(PAUSES_SECONDS[-1])):
        try:
            return await ask()
        except ClusterError as fault:
            words = f"The operator cannot read the objects that it watches: {fault} {_hint(fault)}"
            temporary = fault.status in {0, _TOO_MANY} or fault.status >= 500  # noqa: PLR2004 - HTTP's own numbers
            if isinstance(fault, UntrustedError) or not temporary:
                raise StartupError(words) from fault
            log.warning("not started yet, trying again in %.0f s. %s", pause, words)
        await asyncio.sleep(pause)
    raise AssertionError  # the pauses never end


async def read_facts(kube: Kube, settings: Settings) -> StartupFacts:
    """Find the namespaces to watch, and the operator's own image.

    Raises:
        ClusterError: when the API server does not answer.
    """
    namespaces, left_out = await _readable(kube, settings.namespaces)
    return StartupFacts(namespaces, left_out, None if settings.gate_image else await _own_image(kube, settings))


async def wait_until_readable(kube: Kube, left_out: tuple[str, ...], *, every_seconds: float) -> None:
    """Wait until the operator may read one of these namespaces."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            found, _ = await _readable(kube, left_out)
        except ClusterError as fault:
            log.debug("%s cannot be read yet: %s", ", ".join(left_out), fault)
        else:
            log.info("%s can be read now: ending, so that a restart watches it", ", ".join(found))
            return


async def _readable(kube: Kube, namespaces: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split namespaces into readable ones and others. A deleted namespace takes its RoleBinding along; that must not affect the rest."""
    left_out: dict[str, RefusedError] = {}
    for namespace in namespaces:
        try:
            await kube.list(KIND, namespace)
        except RefusedError as fault:
            left_out[namespace] = fault
    if left_out and len(left_out) == len(namespaces):
        raise next(iter(left_out.values()))
    for namespace, refusal in left_out.items():
        log.error(
            "namespace %s is left out: %s If it no longer exists, remove it from --namespaces. If it does, give the operator's service account its "
            "rights there (manifests/overlays/one-namespace in the operator's sources); the operator then restarts automatically.",
            namespace,
            refusal,
        )
    return tuple(name for name in namespaces if name not in left_out), tuple(left_out)


async def _own_image(kube: Kube, settings: Settings) -> str | None:
    """The image of the operator's own pod; None if it does not run in a pod, or may not read it."""
    if not settings.pod or not settings.pod_namespace:
        return None
    try:
        pod = await kube.get(POD, settings.pod_namespace, settings.pod)
    except RefusedError as fault:
        log.warning("gates cannot be created: the operator's own image is unknown, set --gate-image: %s", fault)
        return None
    containers = ((pod or {}).get("spec") or {}).get("containers") or [{}]
    image = next((one for one in containers if one.get("name") == "operator"), containers[0]).get("image")
    return str(image) if image else None


def _hint(fault: ClusterError) -> str:
    match fault.status:
        case 403 if "/nodes" in str(fault):
            return (
                "The operator reads nodes so that a node drain hands agents over. Bind the ClusterRole medplum-agent-operator-nodes "
                "(manifests/base/rbac.yaml in the operator's sources) to its service account. Or set --no-watch-nodes: then a node drain stops an agent and starts it elsewhere."
            )
        case 404:
            return (
                "Is the CRD installed? Run kubectl apply --server-side -f crds/medplumagents.yaml in the operator's sources. "
                "The installed package prints it too: python -m medplum_agent_operator.api.crd"
            )
        case 401 | 403:
            return "Does the service account have the rights of manifests/base in the operator's sources? To watch only some namespaces, set --namespaces."
        case _:
            return "Is the API server there, and is it the right one?"
