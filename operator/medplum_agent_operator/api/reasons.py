"""Every reason that the operator gives, with its sentence.

One member serves the condition, the Event, the log line and the metric label; docs/reference.md has a row for each (a
contract test asks for it).
"""

from enum import StrEnum


class ConditionType(StrEnum):
    """Types in `status.conditions`."""

    READY = "Ready"
    """The spec is fulfilled: the wanted version serves and nothing is left to do."""
    RECONCILING = "Reconciling"
    """A change is being made right now (abnormal-true, as kstatus defines it)."""
    STALLED = "Stalled"
    """No progress without a person (abnormal-true, as kstatus defines it)."""
    AVAILABLE = "Available"
    """Some version of the agent serves right now: the one to alert on."""
    APPROVAL_REQUIRED = "ApprovalRequired"
    """A downgrade waits for a cluster admin's annotation."""
    FORWARDING = "Forwarding"
    """What gates give the agent it answers; only where a gate is wanted."""


class Reason(StrEnum):
    """Why something is as it is, in CamelCase as metav1.Condition and Events want it."""

    # Nothing to do, or under way.
    SERVING = "Serving"
    """The wanted version serves."""
    NOT_SERVING = "NotServing"
    """No agent pod is ready."""
    INSTALLING = "Installing"
    """The first agent is being started."""
    HANDING_OFF = "HandingOff"
    """The new agent starts first; the old one stops when the new one has taken the work."""
    RECREATING = "Recreating"
    """The old agent is stopped first; the new one starts when it is gone."""
    MOVING_OFF_NODE = "MovingOffNode"
    """The agent's node was cordoned, as for a drain: the agent is handed to another node."""
    FETCHING_IMAGE = "FetchingImage"
    """The new image is fetched to the node before the old agent is stopped."""
    RESTARTING = "Restarting"
    """Somebody asked for new pods of the same version (`kubectl rollout restart`)."""
    ROLLING_BACK = "RollingBack"
    """A change has failed, and what was active before it is brought back."""
    ROLLOUT_COMPLETED = "RolloutCompleted"
    """A rollout ended well."""
    ROLLOUT_ABORTED = "RolloutAborted"
    """A target that never became active was given up for the version that serves."""
    ROLLOUT_SUPERSEDED = "RolloutSuperseded"
    """A target that never became active was given up for another one."""
    DRIFT_REPAIRED = "DriftRepaired"
    """Somebody changed or deleted an object that the operator owns; it has been put back."""
    SPEC_APPLIED = "SpecApplied"
    """A change of the spec that replaces no pod was applied."""
    PAUSED = "Paused"
    """`spec.paused` is true: nothing is changed, not even drift repaired."""
    SETTLED = "Settled"
    """Nothing is under way."""

    # Approval.
    NO_APPROVAL_NEEDED = "NoApprovalNeeded"
    """Nothing waits for an approval."""
    DOWNGRADE_NOT_APPROVED = "DowngradeNotApproved"
    """A downgrade was asked for and nobody has approved it."""
    APPROVAL_FOR_OTHER_TARGET = "ApprovalForOtherTarget"
    """The approval names another version than the one asked for."""
    APPROVAL_MALFORMED = "ApprovalMalformed"
    """The approval does not begin with a version."""
    APPROVAL_SPENT = "ApprovalSpent"
    """This very approval has been used once already."""
    DOWNGRADE_APPROVED = "DowngradeApproved"
    """A cluster admin's approval let a downgrade go ahead."""

    # Windows.
    AWAITING_WINDOW = "AwaitingWindow"
    """A change that costs downtime waits for a maintenance window."""

    # Nothing can be done until somebody mends the input.
    INVALID_SPEC = "InvalidSpec"
    """The object does not fit this operator's model of it."""
    IMAGE_REPOSITORY_MISSING = "ImageRepositoryMissing"
    """Neither the spec nor the operator's settings name an image repository."""
    NAME_TAKEN = "NameTaken"
    """An object of that name exists and belongs to somebody else."""
    IDENTITY_TAKEN = "IdentityTaken"
    """Another MedplumAgent has the same server and agent id."""
    AWAITING_GARBAGE_COLLECTION = "AwaitingGarbageCollection"
    """An object of a deleted MedplumAgent of the same name is still on its way out."""
    LAST_SPEC_UNKNOWN = "LastSpecUnknown"
    """What ran before a refused change cannot be told from the cluster, so nothing is repaired until it is decided."""
    WRITE_REFUSED = "WriteRefused"
    """The API server refused what the operator wanted to write."""

    # A rollout that does not get on, in the words of its pods.
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    """The new agent was not available within `spec.handoff.progressDeadlineSeconds`."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    """The image cannot be pulled."""
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    """The container cannot be made: as a rule a Secret or a key in it is missing."""
    CREDENTIALS_REFUSED = "CredentialsRefused"
    """The credentials cannot be written into agent.properties."""
    CRASH_LOOP = "CrashLoop"
    """The agent's container keeps ending."""
    NODE_LOST = "NodeLost"
    """The node that the agent is on is not heard of: nobody knows whether it still runs."""
    UNSCHEDULABLE = "Unschedulable"
    """No node takes the pod."""
    POD_CREATION_FAILED = "PodCreationFailed"
    """The cluster refuses to create the pod (quota, Pod Security, an admission webhook)."""
    PORT_NOT_READY = "PortNotReady"
    """The agent runs but does not listen on a channel's port."""

    # Said beside whatever else is the case.
    WINDOW_INVALID = "WindowInvalid"
    """A maintenance window never opens: its time zone or its schedule is none."""
    GATE_NOT_SERVING = "GateNotServing"
    """A gate is asked for, and none takes connections: devices reach the agent directly."""
    FORWARDING = "Forwarding"
    """The gates tell of no message that an agent leaves unanswered for long."""
    AGENT_SILENT = "AgentSilent"
    """The agent takes connections and messages, and has answered none for `spec.gate.answerSeconds`."""
    GATES_UNREACHABLE = "GatesUnreachable"
    """Gates take connections, and the operator cannot ask them."""
