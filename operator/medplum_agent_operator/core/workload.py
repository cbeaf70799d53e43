"""The live Deployment and what the operator has noted on it: how its template came about, and from which spec.

Built by `model`; read by everything that decides. A field that somebody broke reads as absent.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Strategy
from medplum_agent_operator.core.pods import AGENT_CONTAINER
from medplum_agent_operator.core.version import AgentVersion, version_of

_RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"


class Change(StrEnum):
    """What going to a version means, seen from the version that became active last."""

    NONE = "None"
    """The version is the applied one; the template may differ in other ways."""
    INSTALL = "Install"
    """No version was ever active."""
    UPGRADE = "Upgrade"
    """To a newer version, or to another target after one that never became active."""
    DOWNGRADE = "Downgrade"
    """To an older version than the one that became active last."""
    ABORT = "Abort"
    """Back to the version that became active last, from a target that never did: never a downgrade."""
    ROLLBACK = "Rollback"
    """Back to what was active before a change that failed, exactly as it was."""


def _or(otherwise: StrEnum) -> BeforeValidator:
    """A word that another release of the operator wrote and this one does not know reads as `otherwise`: the rest of a note still counts."""
    known = set(type(otherwise))
    return BeforeValidator(lambda word: otherwise if isinstance(word, str) and word not in known else word)


class Failure(BaseModel):
    """Why a change was given up, and what opens its latch. Kept in the rollout's record.

    Attributes:
        version: the version that it was to lead to.
        spec: fingerprint of the spec that failed: another spec is another try.
        reason: what went wrong, in one word.
        message: what went wrong, in whole sentences.
        retry: the annotation `agents.medplum.com/retry` when it failed: another text is another try.
        approval: the approval when it failed: another approval is another try.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )

    version: str
    spec: str
    reason: Annotated[Reason, _or(Reason.PROGRESS_DEADLINE_EXCEEDED)]
    message: str
    retry: str | None = None
    approval: str | None = None


class RolloutRecord(BaseModel):
    """How the pod template came to be what it is: kept on the Deployment, written in the same request as the template.

    Attributes:
        change: what it was when it began.
        from_version: the version that was active when it began; None for the first.
        to: the version of the template.
        strategy: how it is made.
        why: why in that way.
        started_at: when it began. Also its name: no two rollouts of one agent begin in the same microsecond.
        previous_outcome: how the rollout before this one had ended by then.
        approval: the annotation that let it go ahead; None where none was needed.
        approved_by: the field manager that had set the annotation.
        moved_off: the cordoned node that the agent is moved off; None where this is no move.
        rolled_back_from: the version whose change had failed; None where this is no rollback.
        failed: the change that failed last and is not tried again by itself; None where there is none.
        refresh: the annotation `agents.medplum.com/refresh` that has been acted on.
        now: the annotation `agents.medplum.com/now` that has been used up.
        backup: the ControllerRevision with what was active before an approved downgrade; None where none was made.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )

    change: Annotated[Change, _or(Change.NONE)]
    from_version: str | None = Field(default=None, alias="from")
    to: str
    strategy: Strategy
    why: str = ""
    started_at: datetime
    previous_outcome: Annotated[Outcome, _or(Outcome.SUPERSEDED)] | None = None
    approval: str | None = None
    approved_by: str | None = None
    moved_off: str | None = None
    rolled_back_from: str | None = None
    failed: Failure | None = None
    refresh: str | None = None
    now: str | None = None
    backup: str | None = None

    def dump(self) -> str:
        """The annotation's value."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """The record that an annotation holds; None where there is none or somebody broke it."""
        try:
            return cls.model_validate_json(text) if text else None
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True)
class AppliedTemplate:
    """A pod template as it was rendered, and by which revision of the renderer."""

    revision: int
    template: Mapping[str, Any] = field(repr=False)

    def dump(self) -> str:
        """The annotation's value."""
        return json.dumps({"revision": self.revision, "template": self.template}, separators=(",", ":"))

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """What an annotation holds; None where there is none or somebody broke it."""
        try:
            raw = json.loads(text or "null")
            if isinstance(raw["template"]["spec"]["containers"], list):
                return cls(int(raw["revision"]), raw["template"])
        except (ValueError, TypeError, LookupError):
            return None
        return None


@dataclass(frozen=True, slots=True)
class LastGood:
    """What was active before the live template: the spec, and the pod template rendered from it."""

    spec: MedplumAgentSpec
    applied: AppliedTemplate

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """What an annotation holds; None where there is none or somebody broke it."""
        try:
            raw = json.loads(text or "null")
            applied = AppliedTemplate.read(json.dumps(raw["applied"]))
            return None if applied is None else cls(MedplumAgentSpec.model_validate(raw["spec"]), applied)
        except (ValueError, TypeError, LookupError):
            return None


@dataclass(frozen=True, slots=True)
class Workload:
    """The live Deployment, as far as decisions need it."""

    raw: Mapping[str, Any] = field(repr=False)

    @property
    def spec(self) -> Mapping[str, Any]:
        """The live spec."""
        found: Mapping[str, Any] = self.raw["spec"]
        return found

    @property
    def template(self) -> Mapping[str, Any]:
        """The live pod template."""
        found: Mapping[str, Any] = self.spec["template"]
        return found

    @property
    def annotations(self) -> Mapping[str, str]:
        """The live annotations."""
        return self.raw["metadata"].get("annotations") or {}

    @property
    def template_hash(self) -> str | None:
        """Fingerprint that was rendered into the live template."""
        return ((self.template.get("metadata") or {}).get("annotations") or {}).get(names.TEMPLATE_HASH)

    @property
    def version(self) -> AgentVersion | None:
        """The version of the live template; None where it cannot be told."""
        labels = (self.template.get("metadata") or {}).get("labels") or {}
        containers = self.template["spec"].get("containers") or ()
        image = next((c.get("image", "") for c in containers if c.get("name") == AGENT_CONTAINER), "")
        return version_of(labels, image)

    @property
    def applied_version(self) -> AgentVersion | None:
        """The version that the operator last rendered, whatever somebody made of the template since."""
        recorded = None if self.record is None else AgentVersion.read(self.record.to)
        return recorded or self.version

    @property
    def uses_host_ports(self) -> bool:
        """Whether two pods of the live template could not run side by side on one node."""
        pod = self.template["spec"]
        return bool(pod.get("hostNetwork")) or any(
            port.get("hostPort") for container in pod.get("containers") or () for port in container.get("ports") or ()
        )

    @property
    def strategy(self) -> Strategy:
        """The live strategy."""
        kind = (self.spec.get("strategy") or {}).get("type")
        return Strategy.RECREATE if kind == "Recreate" else Strategy.ROLLING_HANDOFF

    @property
    def record(self) -> RolloutRecord | None:
        """How the live template came about."""
        return RolloutRecord.read(self.annotations.get(names.ROLLOUT))

    @property
    def applied_spec(self) -> MedplumAgentSpec | None:
        """The spec that the live Deployment was rendered from; None where somebody broke the note of it."""
        text = self.annotations.get(names.APPLIED_SPEC)
        try:
            return MedplumAgentSpec.model_validate(json.loads(text)) if text else None
        except (ValidationError, json.JSONDecodeError):
            return None

    @property
    def applied_template(self) -> AppliedTemplate | None:
        """The live pod template as it was rendered; None where an older release wrote it, or somebody broke the note of it."""
        return AppliedTemplate.read(self.annotations.get(names.APPLIED_TEMPLATE))

    @property
    def last_good(self) -> LastGood | None:
        """What was active before the live template; None before the first, or where an older release began this rollout."""
        return LastGood.read(self.annotations.get(names.LAST_GOOD))

    def as_last_good(self) -> str | None:
        """The live spec and template in the form in which they are noted as the last good ones."""
        spec = self.annotations.get(names.APPLIED_SPEC)
        if self.applied_spec is None or spec is None:
            return None
        # What an older release wrote is taken as the API server keeps it: the same pod in more words.
        applied = self.applied_template or AppliedTemplate(0, self.template)
        return json.dumps({"spec": json.loads(spec), "applied": json.loads(applied.dump())}, separators=(",", ":"))

    def _condition(self, kind: str) -> Mapping[str, Any]:
        conditions = (self.raw.get("status") or {}).get("conditions") or ()
        return next((c for c in conditions if c.get("type") == kind), {})

    @property
    def _seen(self) -> bool:
        observed = (self.raw.get("status") or {}).get("observedGeneration", 0)
        return bool(observed >= self.raw["metadata"].get("generation", 0))

    @property
    def rolled_out(self) -> bool:
        """Whether the live template's pod became available as the only one, as the Deployment controller says.

        Its condition alone does not do: after a Recreate has begun it still tells of the template before
        (pkg/controller/deployment/progress.go leaves it where no replica of another template is counted).

        Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#complete-deployment
        """
        status = self.raw.get("status") or {}
        updated = status.get("updatedReplicas", 0)
        return (
            self._seen
            and self._condition("Progressing").get("reason") == "NewReplicaSetAvailable"
            and updated >= 1
            and status.get("replicas", 0) == updated
            and status.get("availableReplicas", 0) >= 1
        )

    def once_rolled_out(self, replica_sets: Collection[str]) -> bool:
        """Whether the Deployment controller's condition names one of these ReplicaSets as having become available.

        Holds on when the pod dies afterwards; needs no clock, which is another one there than here.
        """
        progressing = self._condition("Progressing")
        return progressing.get("reason") == "NewReplicaSetAvailable" and any(
            f'"{name}"' in progressing.get("message", "") for name in replica_sets if name
        )

    def gave_up(self, now: datetime) -> bool:
        """Whether the Deployment controller gave up waiting for the live template's pod.

        Its condition may still tell of a failed template before: nothing can have failed before its own deadline.
        """
        if not self._seen or self._condition("Progressing").get("reason") != "ProgressDeadlineExceeded":
            return False
        deadline = timedelta(seconds=self.spec.get("progressDeadlineSeconds", 0))
        return self.record is None or now >= self.record.started_at.replace(microsecond=0) + deadline

    def restarted_since(self, moment: datetime) -> bool:
        """Whether somebody asked for new pods of the live template since (`kubectl rollout restart`)."""
        marks = (self.template.get("metadata") or {}).get("annotations") or {}
        try:
            at = datetime.fromisoformat(str(marks.get(_RESTARTED_AT, "")))
        except ValueError:
            return False
        return at.tzinfo is not None and at >= moment.replace(microsecond=0)

    @property
    def gives_up_creating_at(self) -> datetime | None:
        """When the live template's pod has not even been created for as long as a rollout may take; None where it could be.

        Where its ReplicaSet is one that was there before and no pod of it comes to be, the Deployment controller's condition goes on
        telling of the rollout before, and it never gives up (DeploymentTimedOut in pkg/controller/deployment/util).
        """
        since = self._condition("ReplicaFailure").get("lastTransitionTime")
        if not self._seen or not self.creation_failure or not since:
            return None
        began = datetime.fromisoformat(since)
        if self.record is not None:
            began = max(began, self.record.started_at.replace(microsecond=0))
        return began + timedelta(seconds=self.spec.get("progressDeadlineSeconds", 0))

    @property
    def creation_failure(self) -> str:
        """Why pods cannot be created at all (quota, admission), in the API server's words; empty where they can."""
        failure = self._condition("ReplicaFailure")
        return str(failure.get("message", "")) if failure.get("status") == "True" else ""

    @property
    def replacing(self) -> bool:
        """Whether pods of an earlier template are still counted, as after `kubectl rollout restart`."""
        status = self.raw.get("status") or {}
        return bool(status.get("updatedReplicas", 0) < status.get("replicas", 0))
