"""The live Deployment, and what the operator has noted on it. Built by `model`; read by everything that decides."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.drift import applied_fields, first_drift, kept
from medplum_agent_operator.core.observed.mechanics import Mechanics, mechanics_of_deployment
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate, LastGood, RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion, version_of

_LONGEST_NUMBER: Final = 10
"""Digits; somebody wrote what is longer by hand."""


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
    def mechanics(self) -> Mechanics:
        """How the live Deployment replaces a pod."""
        return mechanics_of_deployment(self.spec)

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
        except (ValidationError, ValueError, RecursionError):
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

    def names_available(self, replica_sets: Collection[str]) -> bool:
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
        return self.record is None or now >= self.record.started_at.replace(microsecond=0) + self.deadline

    @property
    def paused(self) -> bool:
        """Whether somebody has paused it: then the Deployment controller replaces no pod."""
        return self.spec.get("paused") is True

    def differs_from(self, template: Mapping[str, Any]) -> bool:
        """Whether the live template is another than this one, or somebody has changed it since it was applied.

        The fingerprint within the template tells of fields that are no longer rendered, and of which template was applied last.
        """
        if (template["metadata"].get("annotations") or {}).get(names.TEMPLATE_HASH) != self.template_hash:
            return True
        return first_drift(template, self.template, self._held) is not None

    def kept(self, template: Mapping[str, Any]) -> Mapping[str, Any]:
        """The template that was applied, as the API server keeps it: written so, it replaces no pod, whatever has become of that policy."""
        found: Mapping[str, Any] = kept(template, self.template, self._held)
        return found

    @property
    def _held(self) -> Mapping[str, Any]:
        """Which fields of the live template are ours."""
        spec = applied_fields(self.raw, names.MANAGED_BY).get("f:spec") or {}
        found: Mapping[str, Any] = spec.get("f:template") or {}
        return found

    def mark(self, annotation: str) -> str:
        """What an annotation of the live template says; empty where it is not there."""
        return str(((self.template.get("metadata") or {}).get("annotations") or {}).get(annotation, ""))

    @property
    def stops(self) -> int:
        """Which of the changes that stop the agent first made the live template; 0 where none did, or somebody broke the note of it."""
        found = self.mark(names.STOPPED_FIRST)
        return int(found) if found.isdecimal() and len(found) < _LONGEST_NUMBER else 0

    @property
    def restart_mark(self) -> str | None:
        """What the last `kubectl rollout restart` left in the live template; None where there was none."""
        return self.mark(names.RESTARTED_AT) or None

    @property
    def restarted(self) -> bool:
        """Whether somebody asked for new pods of the live template since its rollout began (`kubectl rollout restart`)."""
        return self.record is not None and self.restart_mark not in {None, self.record.restart_mark}

    @property
    def deadline(self) -> timedelta:
        """How long a rollout may go without getting on."""
        return timedelta(seconds=self.spec.get("progressDeadlineSeconds", 0))

    @property
    def has_stale_progressing_condition(self) -> bool:
        """Whether the Deployment controller's condition says of a template that is not active what was true of one before, and will go on saying it.

        So it is where the old pod was stopped first and the ReplicaSet was there before: a change that is tried again, or the way back. As no
        replica of another template is counted, it takes the rollout for complete (pkg/controller/deployment/progress.go), and never gives up.
        """
        return self._seen and self._condition("Progressing").get("reason") == "NewReplicaSetAvailable"

    @property
    def creation_overdue_at(self) -> datetime | None:
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
        return began + self.deadline

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
