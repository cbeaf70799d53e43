"""What must be equal at the end of every run, disturbed or not: status, children and pods, without times and random values.

Called by `enumeration` with a finished run. Digests are plain trees, so that a difference is readable.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tests.support.crash_points.access import AGENTS, APPS, CORE, of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.crash_points.clinic import Clinic

CHILDREN: Final = (
    f"{APPS}/deployments",
    f"{CORE}/services",
    f"{CORE}/pods",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/batch/v1/jobs",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    f"{APPS}/controllerrevisions",
)
ROLLOUT: Final = "agents.medplum.com/rollout"
REVISION: Final = "agents.medplum.com/revision"
_TIMES: Final = {
    "startedAt",
    "completedAt",
    "deadline",
    "oldEndedAt",
    "newReadyAt",
    "lastTransitionTime",
    "observedAt",
    # Measured: they differ between runs, and are absent if no operator ran.
    "gapSeconds",
    "overlapSeconds",
}
_RANDOM: Final = {
    "agents.medplum.com/applied-hash",  # a hash that covers values which are removed here
    "clusterIP",
    "clusterIPs",
    "creationTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "uid",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
}


async def digest(clinic: Clinic) -> dict[str, Any]:
    """Read everything in a namespace that a user can distinguish."""
    read = [clinic.access.items(of(clinic.namespace, path)) for path in CHILDREN]
    found = await asyncio.gather(clinic.access.items(of(clinic.namespace, f"{AGENTS}/medplumagents")), *read)
    agents, (deployments, services, pods, *others) = found[0], found[1:]
    # A template's fingerprint covers random names too, if the agent was moved off a node.
    names = {pod["metadata"]["name"] for pod in pods}
    plain = {
        "status": [_status(agent.get("status") or {}) for agent in agents],
        "deployments": [_object(raw) | {"replicas": _replicas(raw)} for raw in deployments],
        "services": [_object(raw) for raw in services],
        "others": [_object(raw) for part in others for raw in part if not _is_revision(raw)],
        "memory": _memory(deployments, others[-1]),
        "pods": sorted(f"{pod['metadata']['generateName']} {pod['status'].get('phase')}" for pod in pods),
        "pods ever": dict(sorted(Counter(clinic.witness.pods_ever.values()).items())),
    }
    return _without_random_names(plain, clinic.namespace, names)


def _status(raw: dict[str, Any]) -> dict[str, Any]:
    """A status with its conditions by type, because their order does not matter."""
    found: dict[str, Any] = _stable(raw)
    return found | {"conditions": {condition.pop("type"): condition for condition in found.get("conditions", ())}}


def _is_revision(raw: dict[str, Any]) -> bool:
    """Whether it is a revision. How many there are depends on how often the operator was killed."""
    return REVISION in (raw["metadata"].get("labels") or {})


def _memory(deployments: Iterable[dict[str, Any]], revisions: Iterable[dict[str, Any]]) -> list[Any]:
    """The content of the revisions in force."""
    in_force = {(raw["metadata"].get("annotations") or {}).get(REVISION) for raw in deployments}
    found = [copy.deepcopy(raw["data"]) for raw in revisions if raw["metadata"]["name"] in in_force]
    for data in found:
        data["record"].pop("revision", None)  # how often the Deployment controller counted depends on its speed
    stable: list[Any] = _stable(found)
    return stable


def _object(raw: dict[str, Any]) -> dict[str, Any]:
    metadata = dict(raw["metadata"])
    annotations = dict(metadata.get("annotations") or {})
    if ROLLOUT in annotations:
        annotations[ROLLOUT] = json.loads(annotations[ROLLOUT])
        annotations[ROLLOUT].pop("revision", None)  # how often the Deployment controller counted depends on its speed
    owners = [f"{owner['kind']} {owner['name']}" for owner in metadata.get("ownerReferences") or ()]
    tree = {key: value for key, value in raw.items() if key in {"spec", "roleRef", "subjects", "data"}}
    found: dict[str, Any] = _stable({**tree, "metadata": {**metadata, "annotations": annotations}})
    return {"kind": raw.get("kind", ""), "owners": owners, **found}


def _replicas(raw: dict[str, Any]) -> list[int]:
    status = raw.get("status") or {}
    return [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]


def _stable(value: Any) -> Any:
    """A tree without times and without values that the API server generates."""
    if isinstance(value, dict):
        return {key: _stable(part) for key, part in value.items() if key not in _TIMES | _RANDOM}
    return [_stable(part) for part in value] if isinstance(value, list) else value


def _without_random_names(plain: dict[str, Any], namespace: str, names: Iterable[str]) -> dict[str, Any]:
    text = json.dumps(plain, sort_keys=True).replace(namespace, "NAMESPACE")
    for name in names:
        text = text.replace(name, "POD")
    text = re.sub(r"front-desk-(fetch|backup)-[0-9a-f]+", r"front-desk-\1-HASH", text)
    text = re.sub(r"front-desk-r[0-9]+-[0-9a-f]{10}", "front-desk-REVISION", text)
    text = re.sub(r"\(pod front-desk-[0-9a-z-]+\)", "(pod POD)", text)
    text = without_replica_sets(text)
    text = re.sub(r"(NAMESPACE|node)-[ab]\b", "NODE", text)
    if "moved-off" in text:  # also in a template that is a string in another string
        text = re.sub(r'(agents.medplum.com/template-hash\\*": ?\\*")[0-9a-f]+', r"\1HASH", text)
    found: dict[str, Any] = json.loads(text)
    return found


def without_replica_sets(text: str) -> str:
    """Replace the hashes and suffixes in the names of ReplicaSets and their pods.

    The hash is a 32-bit number with the digits 4 to 9, b, c, d and f. One in 400 has fewer than eight digits.

    Source: `SafeEncodeString` in staging/src/k8s.io/apimachinery/pkg/util/rand/rand.go.

    >>> without_replica_sets("front-desk-6949559fd4-gl9lz front-desk-gate-55b68dd-")
    'front-desk-RS- front-desk-gate-RS-'
    """
    return re.sub(r"front-desk(-gate)?-[4-9bcdf]{1,10}-([a-z0-9]{5}\b)?", r"front-desk\1-RS-", text)


def differences(expected: Any, actual: Any, where: str = "") -> list[str]:
    """The differences between two digests, one line each.

    >>> differences({"a": [1, 2], "b": 3}, {"a": [1, 4], "c": 5})
    ['a[1]: expected 2, is 4', 'b: expected 3, is absent', 'c: expected absent, is 5']
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        lines = []
        for key in sorted(expected.keys() | actual.keys()):
            place = f"{where}.{key}" if where else key
            if key not in actual or key not in expected:
                there, here = (str(side.get(key, "absent"))[:300] for side in (expected, actual))
                lines.append(f"{place}: expected {there}, is {here}")
            else:
                lines += differences(expected[key], actual[key], place)
        return lines
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [
            line
            for number, (one, other) in enumerate(zip(expected, actual, strict=True))
            for line in differences(one, other, f"{where}[{number}]")
        ]
    return [] if expected == actual else [f"{where}: expected {str(expected)[:300]}, is {str(actual)[:300]}"]
