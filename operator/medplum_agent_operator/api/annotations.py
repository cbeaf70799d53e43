"""Names of annotations and labels, each with its writer and its value.

Read by `core`, the cache and the contract tests. Code outside this module never spells such a name out.
"""

from typing import Final

DOMAIN: Final = "agents.medplum.com"

# Users set these on a MedplumAgent.
FORCE_DOWNGRADE: Final = f"{DOMAIN}/force-downgrade"
"""Approves one downgrade: `"<target version>[ free text]"`, for example `"4.2.3 CHG-1042"`."""
NOW: Final = f"{DOMAIN}/now"
"""Lets one change that costs downtime begin outside maintenance windows: `"<target version>[ free text]"`."""
RETRY: Final = f"{DOMAIN}/retry"
"""Retries a failed change: any text that differs from the text at the time of the failure."""
REFRESH: Final = f"{DOMAIN}/refresh"
"""Lets a newer operator release render the pods again: any text that differs from the text at the last rendering."""

# The operator sets these on the Deployment, in the same request as the template that they describe.
REVISION: Final = f"{DOMAIN}/revision"
"""Name of the ControllerRevision in force: the operator's memory. On a ControllerRevision, as a label: its number (docs/adr/0032)."""
ROLLOUT: Final = f"{DOMAIN}/rollout"
"""JSON record of the rollout that produced the pod template: from, to, strategy, startedAt, approval. A copy for people."""
APPLIED_SPEC: Final = f"{DOMAIN}/applied-spec"
"""JSON of the spec that the Deployment was rendered from. A copy for people; absent if it is long."""

# The operator sets these on the pod template, and so on every pod.
TEMPLATE_HASH: Final = f"{DOMAIN}/template-hash"
"""Fingerprint of the pod template as rendered. It separates pods of the current template from older pods."""
MOVED_OFF: Final = f"{DOMAIN}/moved-off"
"""The node, and the pod on it, that the agent was last moved off. A new value triggers the move."""
STOPPED_FIRST: Final = f"{DOMAIN}/stopped-first"
"""Number of the recreate rollout that produced the template. Numbers never repeat, so each recreate has its own ReplicaSet."""
AGENT_LABEL: Final = f"{DOMAIN}/agent"
"""The MedplumAgent's name. Part of the selector: with the namespace it is the agent's identity in the cluster."""
FETCH_LABEL: Final = f"{DOMAIN}/fetches-for"
"""On a Job that fetches an image, and on its pod: the MedplumAgent's name. No selector of agent pods uses it."""
GATE_LABEL: Final = f"{DOMAIN}/gate-of"
"""On a gate's pods: the name of the MedplumAgent behind the gate. No selector of agent pods uses it."""
VERSION_LABEL: Final = f"{DOMAIN}/version"
"""The agent version that a pod runs. The operator reads it back to find the active version."""

# The operator sets this on the PodDisruptionBudget.
NODE_DRAIN: Final = f"{DOMAIN}/node-drain"
"""How a node drain that this budget blocks will continue. For people who find the budget's name in a refused eviction."""

RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
"""Set by `kubectl rollout restart` on the pod template. A new value replaces the pods."""

# https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
NAME_LABEL: Final = "app.kubernetes.io/name"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"

APP_NAME: Final = "medplum-agent"
MANAGED_BY: Final = "medplum-agent-operator"
"""Value of the managed-by label, field manager of every write, and source of every Event."""
