"""Kubernetes Events, rendered from findings. Called by `report`.

An Event's name contains a fingerprint of the agent's uid and generation and of the reason and text. Creating the same Event
again fails with "already exists". So restarts and repeated passes report nothing twice while the cluster stores the Event.
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
    content = [metadata.get("uid"), metadata.get("generation"), finding.reason, finding.message.summary]
    timestamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{fingerprint(content)}", "namespace": metadata["namespace"]},
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
        "firstTimestamp": timestamp,
        "lastTimestamp": timestamp,
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "reportingInstance": instance,
    }
