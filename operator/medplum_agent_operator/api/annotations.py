"""Names of labels and annotations, each with who writes it. Read by `core`, by docs tests, and by nobody else's memory."""

from typing import Final

DOMAIN: Final = "agents.medplum.com"

# Written by people, on a MedplumAgent.
FORCE_DOWNGRADE: Final = f"{DOMAIN}/force-downgrade"
"""Approves one downgrade: `"<target version>[ free text]"`, for example `"4.2.3 CHG-1042"`."""
NOW: Final = f"{DOMAIN}/now"
"""Lets one change that costs downtime go ahead outside maintenance windows: `"<target version>[ free text]"`."""
RETRY: Final = f"{DOMAIN}/retry"
"""Opens the latch of a failed change: a text that was not there when it failed."""
REFRESH: Final = f"{DOMAIN}/refresh"
"""Lets a newer operator release render the pods anew: a text that was not there when they were rendered last."""

# Written by the operator, on the Deployment. They are its whole memory, and they change in the same write as what they tell of.
ROLLOUT: Final = f"{DOMAIN}/rollout"
"""JSON of the rollout that made the pod template what it is: from, to, strategy, startedAt, approval."""
APPLIED_SPEC: Final = f"{DOMAIN}/applied-spec"
"""JSON of the spec that the Deployment was rendered from: what a refused change leaves in force."""
APPLIED_TEMPLATE: Final = f"{DOMAIN}/applied-template"
"""JSON of the pod template as it was rendered, and by which revision of the renderer: a newer one replaces no pod by itself."""
LAST_GOOD: Final = f"{DOMAIN}/last-good"
"""JSON of the spec and the pod template that were active before the live ones: what a failed change goes back to."""

# Written by the operator, on the pod template and hence on every pod.
TEMPLATE_HASH: Final = f"{DOMAIN}/template-hash"
"""Fingerprint of the pod template as rendered: tells pods of the current template from those before it."""
MOVED_OFF: Final = f"{DOMAIN}/moved-off"
"""The cordoned node, and the pod on it, that the agent was moved off last. A new value is what moves it."""
STOPPED_FIRST: Final = f"{DOMAIN}/stopped-first"
"""Which change that stopped the agent first made the template: a number that no change before had. It gives each of them a ReplicaSet of its own."""
AGENT_LABEL: Final = f"{DOMAIN}/agent"
"""The MedplumAgent's name. Part of the selector: together with the namespace it is the agent's identity in the cluster."""
FETCH_LABEL: Final = f"{DOMAIN}/fetches-for"
"""On a Job that fetches an image, and on its pod: for which MedplumAgent. Nothing selects an agent's pods by it."""
GATE_LABEL: Final = f"{DOMAIN}/gate-of"
"""On a gate's pods: in front of which MedplumAgent. Nothing selects an agent's pods by it."""
VERSION_LABEL: Final = f"{DOMAIN}/version"
"""The agent version that a pod runs: read back from the cluster to learn what is active."""

# Written by the operator, on the PodDisruptionBudget.
NODE_DRAIN: Final = f"{DOMAIN}/node-drain"
"""How a drain that this budget holds back goes on, for whoever finds the budget's name in a refused eviction."""

RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
"""Written by `kubectl rollout restart`, on the pod template: another value is what replaces the pods."""

# https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
NAME_LABEL: Final = "app.kubernetes.io/name"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"

APP_NAME: Final = "medplum-agent"
MANAGED_BY: Final = "medplum-agent-operator"
"""Value of the managed-by label, field manager of every write, and source of every Event."""
