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
from medplum_agent_operator.core.objects.agent_pod import image_reference, marked, render_pod_template
from medplum_agent_operator.core.observed.drift import first_difference
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate
from medplum_agent_operator.core.rollout.records import requested_refresh

REVISION: Final = 1
"""Of the renderer. Raise it with a change of what is rendered for a spec that has not changed, and say so in the changelog."""
REQUIRED_REVISION: Final = 0
"""Templates of an older revision are replaced at once. Raise it to `REVISION` only where leaving a pod as it is would do harm."""


@dataclass(frozen=True, slots=True)
class Template:
    """A pod template in force.

    Attributes:
        applied: the template, and which revision rendered it.
        pending_update: the first field that this release would render otherwise, and does not yet; empty where there is none.
        newly_rendered: whether it is rendered anew, and not what was applied before.
    """

    applied: AppliedTemplate = field(repr=False)
    pending_update: str = ""
    newly_rendered: bool = False

    @property
    def body(self) -> Mapping[str, Any]:
        """The pod template itself."""
        return self.applied.template

    def with_moved_off_mark(self, mark: str) -> "Template":
        """The same with a note of the node that it moves the agent off."""
        return self._marked(names.MOVED_OFF, mark)

    def with_stop_number(self, number: int) -> "Template":
        """The same as one that none before was: its ReplicaSet is new.

        Else the Deployment controller goes on saying of it what was true the last time: its condition is not touched by a Recreate onto a
        ReplicaSet that was there before (docs/adr/0017).

        Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/deployment/progress.go
        """
        return self._marked(names.STOPPED_FIRST, str(number))

    def _marked(self, annotation: str, text: str) -> "Template":
        return replace(self, applied=AppliedTemplate(self.applied.revision, marked(self.body, annotation, text)))


Render = Callable[[MedplumAgentSpec], Mapping[str, Any]]


def of_agent(observed: Observed, spec: MedplumAgentSpec, config: Config, *, refreshes: bool) -> Template:
    """The agent's template for a spec that is in force. `refreshes`: whether a refresh counts: it waits with what is refused."""
    agent, live = observed.agent, observed.deployment

    def render(wanted: MedplumAgentSpec) -> Mapping[str, Any]:
        image = image_reference(wanted, wanted.image.repository or config.image_repository or "")
        # What is recorded on the live template stays on it: without the notes it would be another template.
        rendered: Mapping[str, Any] = render_pod_template(agent, wanted, image=image)
        for name in (names.MOVED_OFF, names.STOPPED_FIRST):
            rendered = marked(rendered, name, "" if live is None else live.mark(name))
        return rendered

    rendered = render(spec)
    if live is None or live.applied_spec is None:
        return _newly_rendered(rendered)
    recorded = live.applied_template
    if recorded is None and live.template_hash == _hash_of(rendered):
        return _newly_rendered(rendered)
    # What an older release wrote without a note of it is taken as the API server keeps it.
    applied, refreshed = recorded or AppliedTemplate(0, live.template), refreshes and _refresh_requested(observed)
    if _renders_alike(spec, live.applied_spec, render, rendered):
        return _keep_applied(applied, rendered, refreshed=refreshed)
    if (
        not observed.activation.became_active
        and (previous := live.last_good) is not None
        and _renders_alike(spec, previous.spec, render, rendered)
    ):
        return _keep_applied(
            previous.applied, rendered, refreshed=refreshed
        )  # given up for what still runs: its pod is to stay
    return _newly_rendered(rendered)


def of_gate(observed: Observed, spec: MedplumAgentSpec, config: Config) -> Template | None:
    """The gate's template for a spec that is in force; None where there is no gate, and its image is not known."""
    agent, live = observed.agent, observed.children.get("GateDeployment")
    running = _running_image(live)
    image = config.gate_image or running
    if image is None:
        return None

    def render(wanted: MedplumAgentSpec) -> Mapping[str, Any]:
        return gate_pod.render_gate_pod(agent, wanted, image=image)

    rendered = render(spec)
    before = observed.applied_spec
    live_spec = (live or {}).get("spec") or {}
    if live is None or running is None or before is None or not live_spec.get("replicas"):
        return _newly_rendered(rendered)
    recorded = AppliedTemplate.read((live["metadata"].get("annotations") or {}).get(names.APPLIED_TEMPLATE))
    if recorded is None:
        as_it_runs = gate_pod.render_gate_pod(agent, spec, image=running)
        same = first_difference(as_it_runs, live_spec["template"]) is None
        recorded = AppliedTemplate(REVISION, as_it_runs) if same else AppliedTemplate(0, live_spec["template"])
    if not _renders_alike(spec, before, render, rendered):
        return _newly_rendered(rendered)
    return _keep_applied(recorded, rendered, refreshed=_refresh_requested(observed))


def _newly_rendered(rendered: Mapping[str, Any]) -> Template:
    return Template(AppliedTemplate(REVISION, rendered), newly_rendered=True)


def _renders_alike(
    spec: MedplumAgentSpec, before: MedplumAgentSpec, render: Render, rendered: Mapping[str, Any]
) -> bool:
    """Whether two specs come to the same pod: what differs from what was applied is then this release's doing."""
    return spec == before or render(before) == rendered


def _keep_applied(applied: AppliedTemplate, rendered: Mapping[str, Any], *, refreshed: bool) -> Template:
    if applied.template == rendered:
        return Template(applied)
    if applied.revision < REQUIRED_REVISION or refreshed:
        return _newly_rendered(rendered)
    return Template(applied, pending_update=_difference(rendered, applied))


def _refresh_requested(observed: Observed) -> bool:
    asked = requested_refresh(observed.agent)
    record = observed.record
    return asked is not None and (record is None or asked != record.refresh)


def _difference(rendered: Mapping[str, Any], applied: AppliedTemplate) -> str:
    """The first field that differs, in either direction; empty where nothing but the fingerprint does."""
    found = first_difference(_without_hash(rendered), applied.template)
    if found is None and applied.revision:  # one that the API server wrote out has more fields than we render, always
        found = first_difference(_without_hash(applied.template), rendered)
    return found or ""


def _hash_of(template: Mapping[str, Any]) -> str | None:
    found: str | None = (template["metadata"].get("annotations") or {}).get(names.TEMPLATE_HASH)
    return found


def _without_hash(template: Mapping[str, Any]) -> dict[str, Any]:
    metadata = template["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != names.TEMPLATE_HASH}
    return {**template, "metadata": {**metadata, "annotations": annotations}}


def _running_image(live: Mapping[str, Any] | None) -> str | None:
    template = ((live or {}).get("spec") or {}).get("template") or {}
    containers = (template.get("spec") or {}).get("containers") or [{}]
    image = containers[0].get("image")
    return image if isinstance(image, str) else None
