"""Kubernetes Events, rendered from findings. Called by `reconcile`.

An Event's name is made of what it says about which generation: saying it again is answered with "exists", so that restarts
and repeated passes tell nothing twice for as long as the cluster keeps Events.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medplum_agent_operator.api.agent import API_VERSION, KIND
from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.findings import Finding


def render_event(raw: Mapping[str, Any], finding: Finding, *, now: datetime, instance: str) -> dict[str, Any]:
    """An Event about a MedplumAgent.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ (core/v1 form, which
    `kubectl describe` and every dashboard show).
    """
    metadata = raw["metadata"]
    said = [metadata.get("uid"), metadata.get("generation"), finding.reason, finding.message.summary]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{fingerprint(said)}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata.get("uid"),
        },
        "type": str(finding.severity),
        "reason": str(finding.reason),
        "message": finding.message.summary,
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "reportingInstance": instance,
    }
