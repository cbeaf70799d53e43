"""The live Deployment, with what the operator remembers of it. Built by `model`; read by every wing. It decides nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Self

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.drift import applied_fields, as_stored, first_drift
from medplum_agent_operator.core.observed.mechanics import Mechanics, mechanics_of_deployment
from medplum_agent_operator.core.observed.moments import moment
from medplum_agent_operator.core.observed.notes import Notes, template_hash
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate, LastGood, RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion, version_of

_MAX_DIGITS: Final = 9
"""Digits of a recreate count; a longer number was not written by the operator."""


@dataclass(frozen=True, slots=True)
class LiveDeployment:
    """The live Deployment: the parts that decisions need.

    Attributes:
        raw: the object.
        notes: what the operator remembers of what it applied.
    """

    raw: Mapping[str, Any] = field(repr=False)
    notes: Notes = field(default_factory=Notes, repr=False)

    def with_notes(self, notes: Notes) -> Self:
        """The same Deployment, with what the operator remembers of it."""
        return replace(self, notes=notes)

    @property
    def spec(self) -> Mapping[str, Any]:
        """The live spec."""
        spec: Mapping[str, Any] = self.raw["spec"]
        return spec

    @property
    def template(self) -> Mapping[str, Any]:
        """The live pod template."""
        template: Mapping[str, Any] = self.spec["template"]
        return template

    @property
    def annotations(self) -> Mapping[str, str]:
        """The live annotations."""
        return self.raw["metadata"].get("annotations") or {}

    @property
    def template_hash(self) -> str | None:
        """The fingerprint in the live template; None if the annotation is missing."""
        return template_hash(self.template)

    @property
    def version(self) -> AgentVersion | None:
        """The version of the live template; None if neither its label nor its image's tag is a version."""
        labels = (self.template.get("metadata") or {}).get("labels") or {}
        containers = self.template["spec"].get("containers") or ()
        image = next((c.get("image", "") for c in containers if c.get("name") == AGENT_CONTAINER), "")
        return version_of(labels, image)

    @property
    def applied_version(self) -> AgentVersion | None:
        """The version that the operator applied last, even if someone has edited the template since."""
        recorded = None if self.record is None else AgentVersion.read(self.record.to)
        return recorded or self.version

    @property
    def uses_host_ports(self) -> bool:
        """Whether two pods of the live template would compete for ports on one node."""
        pod = self.template["spec"]
        return bool(pod.get("hostNetwork")) or any(
            port.get("hostPort") for container in pod.get("containers") or () for port in container.get("ports") or ()
        )

    @property
    def mechanics(self) -> Mechanics:
        """How the live Deployment replaces a pod."""
        return mechanics_of_deployment(self.spec)

    @property
    def record(self) -> RolloutRecord | None:
        """The record of the rollout that led to the live template; None if it is unknown."""
        return self.notes.record

    @property
    def applied_spec(self) -> MedplumAgentSpec | None:
        """The spec that the live Deployment was rendered from; None if it is unknown."""
        return self.notes.spec

    @property
    def applied_template(self) -> AppliedTemplate | None:
        """The live pod template as it was rendered; None if a release without revisions applied it."""
        return self.notes.template

    @property
    def runs_applied_template(self) -> bool:
        """Whether the live template is the applied one, apart from edits. Somebody may have put another one back (`kubectl rollout undo`)."""
        applied = self.applied_template
        return applied is None or template_hash(applied.template) == self.template_hash

    @property
    def last_good(self) -> LastGood | None:
        """What was active before the live template; None if nothing was, or if a release without revisions began this rollout."""
        return self.notes.before

    def as_last_good(self) -> LastGood | None:
        """The live spec and template; None if the applied spec is unknown."""
        spec = self.applied_spec
        # A release without revisions: take the live template, which is the same pod with defaults filled in.
        return None if spec is None else LastGood(spec, self.applied_template or AppliedTemplate(0, self.template))

    def _condition(self, kind: str) -> Mapping[str, Any]:
        conditions = (self.raw.get("status") or {}).get("conditions") or ()
        return next((c for c in conditions if c.get("type") == kind), {})

    @property
    def _status_is_current(self) -> bool:
        """Whether the Deployment controller has seen the latest spec."""
        observed = (self.raw.get("status") or {}).get("observedGeneration", 0)
        return bool(observed >= self.raw["metadata"].get("generation", 0))

    @property
    def rolled_out(self) -> bool:
        """Whether the Deployment controller reports that the live template's pod became available and is the only one.

        Its condition alone is not enough: once a Recreate has begun, the condition may still describe the earlier template
        (pkg/controller/deployment/progress.go does not update it while it counts no replica of another template).

        Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#complete-deployment
        """
        status = self.raw.get("status") or {}
        updated = status.get("updatedReplicas", 0)
        return (
            self._status_is_current
            and self._condition("Progressing").get("reason") == "NewReplicaSetAvailable"
            and updated >= 1
            and status.get("replicas", 0) == updated
            and status.get("availableReplicas", 0) >= 1
        )

    def names_available(self, replica_sets: Collection[str]) -> bool:
        """Whether the Deployment controller's condition says that one of these ReplicaSets became available.

        It stays true if the pod fails later. It compares no times, so the clocks of operator and controller may differ.
        """
        progressing = self._condition("Progressing")
        return progressing.get("reason") == "NewReplicaSetAvailable" and any(
            f'"{name}"' in progressing.get("message", "") for name in replica_sets if name
        )

    def progress_deadline_exceeded(self, now: datetime) -> bool:
        """Whether the live template's pod has missed the Deployment controller's progress deadline.

        The condition may still describe an earlier template that failed. So it counts only once the live template's own
        deadline has passed.
        """
        if not self._status_is_current or self._condition("Progressing").get("reason") != "ProgressDeadlineExceeded":
            return False
        return self.record is None or now >= self.record.started_at.replace(microsecond=0) + self.deadline

    @property
    def paused(self) -> bool:
        """Whether the Deployment is paused: then the Deployment controller replaces no pod."""
        return self.spec.get("paused") is True

    def differs_from(self, template: Mapping[str, Any]) -> bool:
        """Whether the live template is not this one, or has drifted since it was applied.

        The fingerprint in the template shows which template was applied last, and covers fields that are no longer rendered.
        """
        if (template["metadata"].get("annotations") or {}).get(names.TEMPLATE_HASH) != self.template_hash:
            return True
        return first_drift(template, self.template, self._owned_fields) is not None

    def as_stored(self, template: Mapping[str, Any]) -> Mapping[str, Any]:
        """The applied template in the form that the API server stored.

        Applying it in this form replaces no pod, even after the admission policy that rewrote it is gone (docs/adr/0029).
        """
        stored: Mapping[str, Any] = as_stored(template, self.template, self._owned_fields)
        return stored

    @property
    def _owned_fields(self) -> Mapping[str, Any]:
        """The fields of the live template that the operator's field manager owns, in the form of `fieldsV1`."""
        spec = applied_fields(self.raw, names.MANAGED_BY).get("f:spec") or {}
        owned: Mapping[str, Any] = spec.get("f:template") or {}
        return owned

    def template_annotation(self, annotation: str) -> str:
        """The value of an annotation of the live template; empty if it is not set."""
        return str(((self.template.get("metadata") or {}).get("annotations") or {}).get(annotation, ""))

    @property
    def recreate_count(self) -> int:
        """The number of the recreate that the live template was rendered for; 0 if it is missing or invalid."""
        number = self.template_annotation(names.STOPPED_FIRST)
        return int(number) if number.isdecimal() and len(number) <= _MAX_DIGITS else 0

    @property
    def deadline(self) -> timedelta:
        """How long a rollout may go without progress."""
        return timedelta(seconds=self.spec.get("progressDeadlineSeconds", 0))

    @property
    def has_stale_progressing_condition(self) -> bool:
        """Whether the condition says `NewReplicaSetAvailable`: stale, and never updated, if the live template is not active.

        This happens in a recreate onto a ReplicaSet that existed before: a change that is tried again, or a rollback. The
        Deployment controller counts no replica of another template and so considers the rollout complete
        (pkg/controller/deployment/progress.go). It never reports a missed deadline (docs/adr/0026, 0027).
        """
        return self._status_is_current and self._condition("Progressing").get("reason") == "NewReplicaSetAvailable"

    @property
    def creation_overdue_at(self) -> datetime | None:
        """When a failure to create the live template's pod exceeds the progress deadline; None if pods can be created.

        If the ReplicaSet existed before and none of its pods can be created, the Deployment controller's condition still
        describes the earlier rollout. It then never reports a missed deadline (DeploymentTimedOut in
        pkg/controller/deployment/util).
        """
        began = moment(self._condition("ReplicaFailure").get("lastTransitionTime"))
        if not self._status_is_current or not self.creation_failure or began is None:
            return None
        if self.record is not None:
            began = max(began, self.record.started_at.replace(microsecond=0))
        return began + self.deadline

    @property
    def creation_failure(self) -> str:
        """Why no pod can be created (quota, admission), in the API server's words; empty if pods can be created."""
        failure = self._condition("ReplicaFailure")
        return str(failure.get("message", "")) if failure.get("status") == "True" else ""

    @property
    def replacing(self) -> bool:
        """Whether the Deployment controller still counts pods of an earlier template, as after `kubectl rollout restart`."""
        status = self.raw.get("status") or {}
        return bool(status.get("updatedReplicas", 0) < status.get("replicas", 0))
