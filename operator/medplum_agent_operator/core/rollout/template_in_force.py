"""Which pod template is in force, for the agent and for its gate: the one that was applied, for as long as nothing of it changes.

Called by `plan` and `actions`. A release of the operator that renders pods in another way replaces none by itself: what it would
change waits for the agent's next own change, or until somebody asks for it (docs/adr/0017). Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_pod import image_reference, render_pod_template, with_annotation
from medplum_agent_operator.core.observed.drift import first_difference
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate
from medplum_agent_operator.core.rollout.records import refresh_asked_for

REVISION: Final = 1
"""Of the renderer. Raise it with a change of what is rendered for a spec that has not changed, and say so in the changelog."""
REQUIRED_REVISION: Final = 0
"""Templates of an older revision are replaced at once. Raise it to `REVISION` only where leaving a pod as it is would do harm."""


@dataclass(frozen=True, slots=True)
class Template:
    """A pod template in force.

    Attributes:
        applied: the template, and which revision rendered it.
        waits: the first field that this release would render otherwise, and does not yet; empty where there is none.
        anew: whether it is rendered anew, and not what was applied before.
    """

    applied: AppliedTemplate = field(repr=False)
    waits: str = ""
    anew: bool = False

    @property
    def body(self) -> Mapping[str, Any]:
        """The pod template itself."""
        return self.applied.template

    def moved_off(self, note: str) -> "Template":
        """The same with a note of the node that it moves the agent off."""
        return self._marked(names.MOVED_OFF, note)

    def stopped_first(self, number: int) -> "Template":
        """The same as one that none before was: its ReplicaSet is new.

        Else the Deployment controller goes on saying of it what was true the last time: its condition is not touched by a Recreate onto a
        ReplicaSet that was there before (docs/adr/0017).

        Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/deployment/progress.go
        """
        return self._marked(names.STOPPED_FIRST, str(number))

    def _marked(self, annotation: str, text: str) -> "Template":
        return replace(
            self, applied=AppliedTemplate(self.applied.revision, with_annotation(self.body, annotation, text))
        )


Render = Callable[[MedplumAgentSpec], Mapping[str, Any]]


def of_agent(observed: Observed, spec: MedplumAgentSpec, config: Config, *, refreshes: bool) -> Template:
    """The agent's template for a spec that is in force. `refreshes`: whether a refresh counts: it waits with what is refused."""
    agent, live = observed.agent, observed.deployment

    def render(wanted: MedplumAgentSpec) -> Mapping[str, Any]:
        image = image_reference(wanted, wanted.image.repository or config.image_repository or "")
        # What is noted on the live template stays on it: without the notes it would be another template.
        ours: Mapping[str, Any] = render_pod_template(agent, wanted, image=image)
        for note in (names.MOVED_OFF, names.STOPPED_FIRST):
            ours = with_annotation(ours, note, "" if live is None else live.template_annotation(note))
        return ours

    ours = render(spec)
    if live is None or live.applied_spec is None:
        return _fresh(ours)
    noted = live.applied_template
    if noted is None and live.template_hash == _seal(ours):
        return _fresh(ours)
    # What an older release wrote without a note of it is taken as the API server keeps it.
    applied, refreshed = noted or AppliedTemplate(0, live.template), refreshes and _asked_for(observed)
    if _unchanged(spec, live.applied_spec, render, ours):
        return _kept(applied, ours, refreshed=refreshed)
    if (
        not observed.activation.became_active
        and (good := live.last_good) is not None
        and _unchanged(spec, good.spec, render, ours)
    ):
        return _kept(good.applied, ours, refreshed=refreshed)  # given up for what still runs: its pod is to stay
    return _fresh(ours)


def of_gate(observed: Observed, spec: MedplumAgentSpec, config: Config) -> Template | None:
    """The gate's template for a spec that is in force; None where there is no gate, and its image is not known."""
    agent, live = observed.agent, observed.children.get("GateDeployment")
    running = _running_image(live)
    image = config.gate_image or running
    if image is None:
        return None

    def render(wanted: MedplumAgentSpec) -> Mapping[str, Any]:
        return gate_pod.render_gate_pod(agent, wanted, image=image)

    ours = render(spec)
    before = observed.applied_spec
    live_spec = (live or {}).get("spec") or {}
    if live is None or running is None or before is None or not live_spec.get("replicas"):
        return _fresh(ours)
    noted = AppliedTemplate.read((live["metadata"].get("annotations") or {}).get(names.APPLIED_TEMPLATE))
    if noted is None:
        as_it_runs = gate_pod.render_gate_pod(agent, spec, image=running)
        same = first_difference(as_it_runs, live_spec["template"]) is None
        noted = AppliedTemplate(REVISION, as_it_runs) if same else AppliedTemplate(0, live_spec["template"])
    if not _unchanged(spec, before, render, ours):
        return _fresh(ours)
    return _kept(noted, ours, refreshed=_asked_for(observed))


def _fresh(ours: Mapping[str, Any]) -> Template:
    return Template(AppliedTemplate(REVISION, ours), anew=True)


def _unchanged(spec: MedplumAgentSpec, before: MedplumAgentSpec, render: Render, ours: Mapping[str, Any]) -> bool:
    """Whether two specs come to the same pod: what differs from what was applied is then this release's doing."""
    return spec == before or render(before) == ours


def _kept(applied: AppliedTemplate, ours: Mapping[str, Any], *, refreshed: bool) -> Template:
    if applied.template == ours:
        return Template(applied)
    if applied.revision < REQUIRED_REVISION or refreshed:
        return _fresh(ours)
    return Template(applied, waits=_difference(ours, applied))


def _asked_for(observed: Observed) -> bool:
    asked = refresh_asked_for(observed.agent)
    record = observed.record
    return asked is not None and (record is None or asked != record.refresh)


def _difference(ours: Mapping[str, Any], applied: AppliedTemplate) -> str:
    """The first field that differs, in either direction; empty where nothing but the fingerprint does."""
    found = first_difference(_unsealed(ours), applied.template)
    if found is None and applied.revision:  # one that the API server wrote out has more fields than we render, always
        found = first_difference(_unsealed(applied.template), ours)
    return found or ""


def _seal(template: Mapping[str, Any]) -> str | None:
    found: str | None = (template["metadata"].get("annotations") or {}).get(names.TEMPLATE_HASH)
    return found


def _unsealed(template: Mapping[str, Any]) -> dict[str, Any]:
    metadata = template["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != names.TEMPLATE_HASH}
    return {**template, "metadata": {**metadata, "annotations": annotations}}


def _running_image(live: Mapping[str, Any] | None) -> str | None:
    template = ((live or {}).get("spec") or {}).get("template") or {}
    containers = (template.get("spec") or {}).get("containers") or [{}]
    image = containers[0].get("image")
    return image if isinstance(image, str) else None
