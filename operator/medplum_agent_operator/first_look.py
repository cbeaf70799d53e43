"""What has to be known before anything is watched, asked for until the API server answers.

Called by `__main__`. After a power cut pods may be up before the API server is: it is waited for. What no waiting mends, as rights or a CRD
that are not there, ends the start with a sentence.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final, TypeVar

from medplum_agent_operator.adapters.kube import Kube
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.errors import ClusterError, RefusedError, StartupError, UntrustedError
from medplum_agent_operator.settings import Settings
from medplum_agent_operator.telemetry import log

T = TypeVar("T")

PAUSES_SECONDS: Final = (1.0, 2.0, 5.0, 10.0)
"""Between tries; the last one again and again."""
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where this operator is.

    Attributes:
        namespaces: those that it watches; none means all.
        left_out: those that it was told to watch and may not read.
        own_image: the image of its own pod; None where it runs in none, or may not look.
    """

    namespaces: tuple[str, ...]
    left_out: tuple[str, ...]
    own_image: str | None


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the API server answers.

    Raises:
        StartupError: when the answer is one that no waiting mends.
    """
    for pause in chain(PAUSES_SECONDS, repeat(PAUSES_SECONDS[-1])):
        try:
            return await ask()
        except ClusterError as fault:
            words = f"The operator cannot read what it watches: {fault} {_hint(fault)}"
            passes = fault.status in {0, _TOO_MANY} or fault.status >= 500  # noqa: PLR2004 - HTTP's own numbers
            if isinstance(fault, UntrustedError) or not passes:
                raise StartupError(words) from fault
            log.warning("not started yet, trying again in %.0f s. %s", pause, words)
        await asyncio.sleep(pause)
    raise AssertionError  # the pauses have no end


async def look_around(kube: Kube, settings: Settings) -> Surroundings:
    """Find out what may be watched, and which image this is.

    Raises:
        ClusterError: when the API server does not say.
    """
    namespaces, left_out = await _readable(kube, settings.namespaces)
    return Surroundings(namespaces, left_out, None if settings.gate_image else await _own_image(kube, settings))


async def until_readable(kube: Kube, left_out: tuple[str, ...], *, every_seconds: float) -> None:
    """Wait until one of these namespaces may be read after all."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            found, _ = await _readable(kube, left_out)
        except ClusterError as fault:
            log.debug("%s cannot be read yet: %s", ", ".join(left_out), fault)
        else:
            log.info("%s can be read now: ending, to be started again and watch it", ", ".join(found))
            return


async def _readable(kube: Kube, namespaces: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of several namespaces those that may be read, and the others: one that is deleted takes its RoleBinding along, and no other is to suffer."""
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
            "namespace %s is left out: %s If it is gone, take it off --namespaces. Else give the operator's service account its rights there "
            "(manifests/overlays/one-namespace): it then starts again by itself.",
            namespace,
            refusal,
        )
    return tuple(name for name in namespaces if name not in left_out), tuple(left_out)


async def _own_image(kube: Kube, settings: Settings) -> str | None:
    """The image of the operator's own pod; None where it runs in none, or may not look."""
    if not settings.pod or not settings.pod_namespace:
        return None
    try:
        pod = await kube.get("Pod", settings.pod_namespace, settings.pod)
    except RefusedError as fault:
        log.warning("no gate can be made: the operator's own image is not known, set --gate-image: %s", fault)
        return None
    containers = ((pod or {}).get("spec") or {}).get("containers") or [{}]
    image = next((one for one in containers if one.get("name") == "operator"), containers[0]).get("image")
    return str(image) if image else None


def _hint(fault: ClusterError) -> str:
    match fault.status:
        case 403 if "/nodes" in str(fault):
            return (
                "Nodes are read so that a node drain hands agents over. Bind the ClusterRole medplum-agent-operator-nodes (manifests/base/rbac.yaml) "
                "to the service account, or set --no-watch-nodes: then a drain stops an agent and starts it elsewhere."
            )
        case 404:
            return "Is the CRD installed? kubectl apply -f crds/medplumagents.yaml"
        case 401 | 403:
            return "Does the service account have the rights in manifests/base? To watch some namespaces only, set --namespaces."
        case _:
            return "Is the API server there, and is it the right one?"
