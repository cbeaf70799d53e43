"""Which pod template is in force, for the agent and its gate: the applied one, as long as the spec renders the same pod.

Called by `plan`, `desired`, `actions` and `rollback`; pure. A new operator release must not replace a pod, except below
`REQUIRED_REVISION`: its update of the template comes with the agent's next rollout, or when a user requests it (docs/adr/0025).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_pod import image_reference, render_pod_template, with_annotation
from medplum_agent_operator.core.observed.drift import first_difference
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.notes import template_hash
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.rollout.records import requested_refresh

REVISION: Final = 1
"""The renderer's revision. Raise it if an unchanged spec renders to another template, and add an entry to the changelog."""
REQUIRED_REVISION: Final = 0
"""Templates of an older revision are replaced at once. Raise it to `REVISION` only if an old pod would do harm."""


@dataclass(frozen=True, slots=True)
class Template:
    """A pod template in force.

    Attributes:
        applied: the template, and the revision that rendered it.
        pending_update: the first field that this release renders differently; empty without a pending update.
        newly_rendered: whether this pass rendered it; False for a template that was applied before.
    """

    applied: AppliedTemplate = field(repr=False)
    pending_update: str = ""
    newly_rendered: bool = False

    @property
    def body(self) -> Mapping[str, Any]:
        """The pod template itself."""
        return self.applied.template

    def with_moved_off_mark(self, mark: str) -> "Template":
        """The same template with the mark of a move off a node."""
        return self._marked(names.MOVED_OFF, mark)

    def with_stop_number(self, number: int) -> "Template":
        """The same template with a number of its own, so that it gets a new ReplicaSet.

        In a Recreate onto an existing ReplicaSet the Deployment controller does not update its condition, which would still describe
        the first time (docs/adr/0026).

        Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/deployment/progress.go
        """
        return self._marked(names.STOPPED_FIRST, str(number))

    def _marked(self, annotation: str, text: str) -> "Template":
        return replace(
            self, applied=AppliedTemplate(self.applied.revision, with_annotation(self.body, annotation, text))
        )


Render = Callable[[MedplumAgentSpec], Mapping[str, Any]]


def of_agent(observed: Observed, spec: MedplumAgentSpec, config: Config, *, refreshes: bool) -> Template:
    """The agent's template for a spec. `refreshes`: whether a requested refresh counts; while the user's spec is refused, it waits."""
    agent, live = observed.agent, observed.deployment

    def render(wanted: MedplumAgentSpec) -> Mapping[str, Any]:
        image = image_reference(wanted, wanted.image.repository or config.image_repository or "")
        # The live template's marks stay: without them it would be another template.
        rendered: Mapping[str, Any] = render_pod_template(agent, wanted, image=image)
        for name in (names.MOVED_OFF, names.STOPPED_FIRST):
            rendered = with_annotation(rendered, name, "" if live is None else live.template_annotation(name))
        return rendered

    rendered = render(spec)
    if live is None or live.applied_spec is None:
        return _newly_rendered(rendered)
    recorded = live.applied_template
    # A release without revisions applied it: take it as the API server stores it. `spec` may be a forged one, unless it is the user's.
    applied = recorded or AppliedTemplate.read({"revision": 0, "template": live.template})
    proven = refreshes or first_difference(rendered, live.template) is None
    exact = recorded is None and live.template_hash == template_hash(rendered) and proven
    if applied is None or exact:
        return _newly_rendered(rendered)
    refreshed = refreshes and _refresh_requested(observed)
    if spec == live.applied_spec and not (spec.image.repository or config.image_repository):
        return Template(applied)  # this operator has lost its default: what it would render has no image
    if _renders_alike(spec, live.applied_spec, render, rendered):
        return _keep_applied(applied, rendered, refreshed=refreshed)
    if (
        not observed.activation.became_active
        and (previous := live.last_good) is not None
        and _renders_alike(spec, previous.spec, render, rendered)
    ):
        # An abort: the previous pod still runs and has to stay.
        return _keep_applied(previous.applied, rendered, refreshed=refreshed)
    return _newly_rendered(rendered)


def of_gate(observed: Observed, spec: MedplumAgentSpec, config: Config) -> Template | None:
    """The gate's template for a spec; None if neither the configuration nor a running gate has an image."""
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
    recorded = observed.memory.notes.gate
    if recorded is None:
        as_it_runs = gate_pod.render_gate_pod(agent, spec, image=running)
        same = first_difference(as_it_runs, live_spec["template"]) is None
        stored = AppliedTemplate.read({"revision": 0, "template": live_spec["template"]})
        recorded = AppliedTemplate(REVISION, as_it_runs) if same else stored
    if recorded is None:
        return _newly_rendered(rendered)
    if not _renders_alike(spec, before, render, rendered):
        return _newly_rendered(rendered)
    return _keep_applied(recorded, rendered, refreshed=_refresh_requested(observed))


def _newly_rendered(rendered: Mapping[str, Any]) -> Template:
    return Template(AppliedTemplate(REVISION, rendered), newly_rendered=True)


def _renders_alike(
    spec: MedplumAgentSpec, before: MedplumAgentSpec, render: Render, rendered: Mapping[str, Any]
) -> bool:
    """Whether two specs render to the same pod. If so, only the release makes a difference to the applied template."""
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
    """The first field that differs, in either direction; empty if only the fingerprint differs."""
    found = first_difference(_without_hash(rendered), applied.template)
    if (
        found is None and applied.revision
    ):  # revision 0 is the API server's form, which always has more fields than we render
        found = first_difference(_without_hash(applied.template), rendered)
    return found or ""


def _without_hash(template: Mapping[str, Any]) -> dict[str, Any]:
    metadata = template["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != names.TEMPLATE_HASH}
    return {**template, "metadata": {**metadata, "annotations": annotations}}


def _running_image(live: Mapping[str, Any] | None) -> str | None:
    template = ((live or {}).get("spec") or {}).get("template") or {}
    containers = (template.get("spec") or {}).get("containers") or [{}]
    image = containers[0].get("image")
    return image if isinstance(image, str) else None
