"""Every text that the operator gives a person, by phase and reason: what `tests/golden/messages.txt` is made of.

Each scenario is played on the simulated cluster, or observed as it stands, and printed as `status.plan` shows it. A reason
that no scenario has fails `tests/golden/test_messages.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.observed.gate_reports import Channel, Traffic
from medplum_agent_operator.core.observed.identity import Claim
from medplum_agent_operator.core.observed.rollout_record import Change, Failure, RolloutRecord
from medplum_agent_operator.core.observed.scope import Key, Limits
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy import (
    gate_messages,
    identity_messages,
    messages,
    revision_messages,
    write_messages,
)
from medplum_agent_operator.core.policy.availability import Availability
from tests.support.builders import CONFIG, NAME, NAMESPACE, NOW, SERVER, agent, stranger
from tests.support.simulated_cluster import SimulatedCluster, installed
from tests.support.simulated_cluster.admission import AdmittingCluster
from tests.support.simulated_cluster.situations import HOLD, changing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medplum_agent_operator.core.observed.findings import Finding, Message
    from medplum_agent_operator.core.plan import Plan

GATED: Final[Mapping[str, Any]] = {"gate": {"enabled": True}}
WINDOW: Final = [{"schedule": "0 2 * * SUN", "duration": "2h", "timeZone": "Europe/Berlin"}]


@dataclass(frozen=True, slots=True)
class Text:
    """One text.

    Attributes:
        title: the situation, for a reader.
        about: phase and reason, or where the text is found.
        body: the text itself.
        events: the Events that come with it.
    """

    title: str
    about: str
    body: str
    events: tuple[str, ...] = ()
    reasons: frozenset[Reason] = frozenset()


_GENERATED: Final = re.compile(rf"{NAME}-(\d+-\d+|(backup|fetch)-[0-9a-f]{{10}})")
"""Names that count writes or fingerprint a template: another number is no other text."""


def _named(text: str) -> str:
    return _GENERATED.sub(lambda found: f"{NAME}-{found[2]}-1" if found[2] else f"{NAME}-7c9d8-x2k4p", text)


def _of(title: str, plan: Plan, findings: tuple[Finding, ...] | None = None) -> Text:
    found = plan.findings if findings is None else findings
    events = tuple(dict.fromkeys(_named(f"{each.severity} {each.reason}: {each.message.summary}") for each in found))
    reasons = frozenset({plan.reason, *(each.reason for each in found)})
    return Text(title, f"{plan.phase} / {plan.reason}", _named(plan.text), events, reasons)


def _now(title: str, cluster: SimulatedCluster, **observed: Any) -> Text:
    """What a pass would say now; `observed` replaces parts of what it sees."""
    seen = replace(cluster.observe(), **observed)
    return _of(title, make_plan(seen, config=cluster.config, now=cluster.now))


def _direct(title: str, reason: Reason, message: Message) -> Text:
    """A message that no pass of the core gives: the shell does, about a request."""
    return Text(
        title, f"Failed / {reason}", str(message), (f"Warning {reason}: {message.summary}",), frozenset({reason})
    )


def _began(title: str, cluster: SimulatedCluster) -> Text:
    """What is said of the rollout that the next pass begins, after its image is on the node."""
    return _of(title, cluster.fetched().plan())


def rollouts() -> Iterator[Text]:
    """Rollouts that go well."""
    yield _of("The first installation", SimulatedCluster(agent("5.1.15")).plan())
    yield _now("Nothing to do", installed())
    yield _began("A handoff", installed("5.1.14").edit(version="5.1.15"))
    yield _began("A recreate, without a gate", installed("4.2.3", gate={"enabled": False}).edit(version="5.1.15"))
    yield _began("A recreate, behind a gate", installed("4.2.3", **GATED).edit(version="5.1.15"))
    yield _began("Other settings", installed().edit(logging={"level": "DEBUG"}))
    yield _now("Aborted before it became active", changing("5.1.14", "5.1.15").edit(version="5.1.14"))
    yield _now("Another target before the first became active", changing("5.1.14", "5.1.15").edit(version="5.1.16"))
    yield _now("The agent's node was cordoned", installed().cordon("node-1"))
    yield _now("The agent's node has a taint that may announce a drain", installed().taint("node-1", "example.org/new"))
    cluster = installed().delete("Deployment")
    yield _now("The Deployment was deleted", cluster)
    cluster.reconcile()
    yield _now("The same, in the next pass", cluster)
    orphaned = installed()
    yield _now("The Deployment was deleted, and its pod still serves", orphaned, deployment=None)
    cluster = installed()
    cluster.restart_pods().tick()
    yield _now("kubectl rollout restart", cluster)
    cluster = installed("4.2.3")
    cluster.restart_pods().tick()
    yield _now("kubectl rollout restart, before 4.2.4", cluster)
    yield _now("Pulling the image before the old agent stops", installed("4.2.3").edit(version="5.1.15"))
    cluster = installed("5.1.14").edit(version="5.1.15").settle()
    completed = [each for each in cluster.told if each.reason is Reason.ROLLOUT_COMPLETED]
    yield _of("A handoff is complete", cluster.plan(), tuple(completed[-1:]))
    cluster = installed()
    cluster.objects["Service"]["spec"]["ports"] = []
    yield _now("Somebody edited the Service", cluster)
    yield _now("A change without a rollout", installed().edit(service={"type": "NodePort"}))


def waiting_for_others() -> Iterator[Text]:
    """What waits for somebody outside the operator, and says so."""
    cluster = installed("4.2.3", handoff={"progressDeadlineSeconds": 600})
    cluster.never_end.add("4.2.3")
    cluster.edit(version="5.1.15").settle().tick(120)
    yield _now("An old pod does not end", cluster)
    cluster = installed("4.2.3").edit(version="5.1.15")
    cluster.reconcile()
    seen = cluster.observe()
    yield _now(
        "The Job that pulls the image is suspended", cluster, fetches=(replace(seen.fetches[0], suspended=True),)
    )
    cluster = changing("5.1.14", "5.1.15", handoff=HOLD)
    cluster.settle().tick(61)
    cluster.tick()
    pods = cluster.observe().pods
    gates = [replace(pod, readiness_gates="" if pod.ready else _GATES) for pod in pods]
    yield _now("A readiness gate that nobody satisfies", cluster, pods=tuple(gates))
    no_sandbox = [replace(pod, has_no_sandbox=not pod.ready) for pod in pods]
    yield _now("A node without a working network plugin", cluster, pods=tuple(no_sandbox))
    cluster = installed()
    cluster.agent["metadata"] |= {"deletionTimestamp": "2026-09-01T12:00:00Z", "finalizers": ["example.org/backup"]}
    yield _now("A deleted MedplumAgent that a finalizer keeps", cluster)
    cluster = installed()
    cluster.objects["Service"]["metadata"]["ownerReferences"] = []
    yield _now("A child of a running agent that is not its own any more", cluster)
    cluster = installed(**GATED)
    owner = {"kind": "MedplumAgent", "name": f"{NAME}-agent", "uid": "agent-2", "controller": True}
    cluster.objects["AgentService"] = {
        **stranger("Service"),
        "metadata": {"name": f"{NAME}-agent", "ownerReferences": [owner]},
    }
    yield _now("A child's name that another MedplumAgent has", cluster)


_GATES: Final = 'the status of pod readiness gate "target-health.elbv2.k8s.aws/lab" is not "True", but False'


def downgrades() -> Iterator[Text]:
    """Downgrades, refused and approved."""
    yield _now("A downgrade below 4.2.4", installed("5.1.15").edit(version="4.2.3"))
    yield _now("The same, behind a gate", installed("5.1.15", **GATED).edit(version="4.2.3"))
    yield _now("A downgrade above 4.2.4", installed("5.1.15").edit(version="5.1.13"))
    yield _now("An approval that says true", installed("5.1.15").edit(version="4.2.3").annotate("true"))
    yield _now("An approval for another target", installed("5.1.15").edit(version="4.2.3").annotate("4.2.2 CHG-1"))
    cluster = installed("5.1.15").edit(version="4.2.3").annotate("4.2.3 CHG-1").settle(seconds=400)
    yield _now("An approval that is used up", cluster.edit(version="5.1.15").settle().edit(version="4.2.3"))
    yield _began("An approved downgrade", installed("5.1.15").edit(version="4.2.3").annotate("4.2.3 CHG-1042"))
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1", seconds=5).edit(version="5.0.3")
    yield _now("Another downgrade while no agent serves", cluster)
    cluster = installed("5.1.15").edit(version="4.2.3").as_before_revisions()
    cluster.deployment["metadata"]["annotations"][names.APPLIED_SPEC] = "{"
    yield _now("A refused downgrade and a broken record", cluster)


def waits() -> Iterator[Text]:
    """What waits for somebody or something else."""
    yield _now("A maintenance window", installed("4.2.3", maintenanceWindows=WINDOW).edit(version="5.1.15"))
    never = [{"schedule": "0 2 30 2 *", "duration": "1h"}, {**WINDOW[0], "timeZone": "Europe/Berlim"}]
    yield _now("Windows that never open", installed("4.2.3", maintenanceWindows=never).edit(version="5.1.15"))
    yield _now("spec.paused", installed().edit(paused=True))
    yield _now("spec.paused, and a recreate waits", installed("4.2.3").edit(version="5.1.15", paused=True))
    yield _now("spec.paused on a cordoned node", installed().cordon("node-1").edit(paused=True))
    cluster = installed()
    cluster.deployment["spec"]["paused"] = True
    yield _now("kubectl rollout pause", cluster)
    leftovers = {**installed().objects["Service"], "metadata": {"name": NAME, "ownerReferences": [_owner("gone")]}}
    yield _now("Leftovers of a deleted namesake", SimulatedCluster(), children={"Service": leftovers})
    pods = installed().observe().pods
    yield _now("Pods of a deleted namesake", SimulatedCluster(agent("4.2.3")), pods=pods)


def refusals() -> Iterator[Text]:
    """What the operator does not do before somebody corrects the input."""
    yield _of("No image", SimulatedCluster(config=replace(CONFIG, image_repository=None)).plan())
    limits = Limits(image_repositories=("registry.clinic.example.org/*",))
    yield _of(
        "An image that is not allowed",
        SimulatedCluster(
            agent(image={"repository": "ghcr.io/somebody/agent"}), config=replace(CONFIG, limits=limits)
        ).plan(),
    )
    yield _of(
        "Ports of the node that are not allowed",
        SimulatedCluster(
            agent(podTemplate={"hostNetwork": True}), config=replace(CONFIG, limits=Limits(node_ports=False))
        ).plan(),
    )
    foreign = {"kind": "Service", "metadata": {"name": NAME}}
    yield _now("A foreign object of our name", SimulatedCluster(), children={"Service": foreign})
    holder, own = Claim("ward", "front-desk", "0", "1", runs=True), Claim(NAMESPACE, NAME, "agent-1", "2")
    yield _now("Another MedplumAgent has the identity", SimulatedCluster(), claims=(holder, own))
    yield _now("The same, after an edit of the server", installed().edit(server=_ELSEWHERE), claims=(holder, own))
    remains = replace(holder, runs=True, uid="")
    yield _now("A deleted MedplumAgent still has the identity", SimulatedCluster(), claims=(remains, own))
    yield _direct(
        "A rollback to an identity that is taken",
        Reason.IDENTITY_TAKEN,
        identity_messages.rollback_blocked_by_identity(Key(NAMESPACE, NAME), holder, _FAILED, Availability()),
    )
    yield _direct(
        "An object that cannot be read",
        Reason.INVALID_SPEC,
        messages.invalid_spec("spec.channels: too short", serving=True),
    )
    yield _direct(
        "A request that keeps failing", Reason.REQUEST_FAILING, write_messages.request_failing(_UNANSWERED, _SERVED)
    )
    yield _direct(
        "A write that always conflicts", Reason.REQUEST_FAILING, write_messages.conflict_without_end(_CONFLICT, _SERVED)
    )
    yield from _contested()
    for title, manager in (
        ("A pod template with a field that a person has set", "kubectl-rollout"),
        ("A pod template with a field of a GitOps tool", "kustomize-controller"),
    ):
        cluster = AdmittingCluster()
        cluster.settle()
        cluster.edit_as(manager, lambda spec: spec["template"]["spec"].update(nodeSelector={"disk": "ssd"}))
        cluster.settle(operator=False)
        yield _now(title, cluster)
    for title, exists in (("A write that is refused", True), ("A Service that is refused at first", False)):
        message = messages.write_refused("Service", NAME, _FORBIDDEN, _SERVED, exists=exists)
        yield _direct(title, Reason.WRITE_REFUSED, message)
    yield _direct(
        "A Job that is refused",
        Reason.WRITE_REFUSED,
        messages.write_refused("Job", f"{NAME}-fetch-1", _FORBIDDEN, _SERVED, exists=False),
    )
    yield _direct(
        "A backup that is refused",
        Reason.WRITE_REFUSED,
        messages.backup_refused(_DOWNGRADE, _FORBIDDEN, _SERVED),
    )
    yield from _about_revisions()


def _about_revisions() -> Iterator[Text]:
    yield _direct(
        "A revision that is refused at the start of a change",
        Reason.WRITE_REFUSED,
        revision_messages.revision_refused(f"{NAME}-r3-0123456789", _FORBIDDEN, _SERVED, _DOWNGRADE),
    )
    yield _direct(
        "A revision that is refused at rest",
        Reason.WRITE_REFUSED,
        revision_messages.revision_refused(f"{NAME}-r3-0123456789", _FORBIDDEN, _SERVED, None),
    )
    yield _direct(
        "A change whose rollback would be refused",
        Reason.WAY_BACK_REFUSED,
        revision_messages.way_back_refused(_DOWNGRADE, f"Deployment {NAME}", _FORBIDDEN, _SERVED),
    )
    cluster = installed()
    cluster.deployment["metadata"]["annotations"][names.REVISION] = "forged"
    plan = cluster.plan()
    (found,) = [one for one in plan.findings if one.reason is Reason.RECORD_RESTORED]
    yield _direct("A record that somebody changed", Reason.RECORD_RESTORED, found.message)


def _contested() -> Iterator[Text]:
    image = "spec.template.spec.containers[name=agent].image"
    for title, kind, field, writer, at_once in (
        ("A number of replicas that an autoscaler raises", "Deployment", "spec.replicas", "keda", True),
        ("A field of the pod template that GitOps changes too", "Deployment", image, "argocd-controller", False),
        ("A field of the Service that GitOps changes too", "Service", "spec.type", "argocd-controller", False),
        ("A budget that another program deletes", "PodDisruptionBudget", "missing", "", False),
    ):
        message = write_messages.field_contested(
            kind, NAME, field, writer, at_once=at_once, stops_first=False if field == image else None
        )
        yield _direct(title, Reason.FIELD_CONTESTED, message)


def troubles() -> Iterator[Text]:
    """Rollouts that are blocked, have failed, or were rolled back; agents that do not serve."""
    pull = ("ImagePullBackOff", "ErrImagePull: registry.example.org/medplum-agent:5.1.15: not found")
    for reason, words in (
        pull,
        ("CreateContainerConfigError", 'secret "lab-credentials" not found'),
        ("CrashLoopBackOff", "back-off 40s restarting failed container"),
    ):
        cluster = installed("5.1.14", handoff=HOLD)
        cluster.troubles["5.1.15"] = (reason, words)
        cluster.edit(version="5.1.15").reconcile()
        cluster.tick()
        cluster.tick()
        yield _now(f"A handoff, its container in {reason}", cluster)
    cluster = installed("5.1.14").cordon("node-1", "node-2").edit(version="5.1.15")
    cluster.reconcile()
    cluster.tick()
    yield _now("A handoff, no node accepts the pod", cluster)
    cluster = installed().cordon("node-1", "node-2")
    cluster.reconcile()
    cluster.tick()
    yield _now("A move off a cordoned node, no other node accepts the pod", cluster)
    cluster.tick(61)
    yield _now("The same after its deadline", cluster)
    cluster = changing("5.1.14", "5.1.15", handoff=HOLD)
    cluster.deployment["status"]["conditions"].append(
        {
            "type": "ReplicaFailure",
            "status": "True",
            "message": "exceeded quota: pods=2",
            "lastTransitionTime": "2026-09-01T12:00:00Z",
        }
    )
    yield _now("A handoff, a quota refuses the pod", cluster)
    yield _now(
        "A handoff that missed its deadline, on Hold", changing("5.1.14", "5.1.15", handoff=HOLD).wait_for_deadline()
    )
    failed = changing("5.1.14", "5.1.15", handoff=HOLD).wait_for_deadline()
    pods = tuple(pod for pod in failed.observe().pods if pod.version == failed.observe().last_active)
    yield _now("The same, and the cluster reports no reason", failed, pods=pods)
    cluster = changing("5.1.14", "5.1.15")
    yield _of("A handoff is rolled back", _rolling_back(cluster))
    yield _now("A handoff was rolled back", changing("5.1.14", "5.1.15").wait_for_deadline())
    yield _of("A recreate is rolled back", _rolling_back(changing("4.2.3", "5.1.15")))
    yield _now("A recreate whose image does not exist", _unpulled())
    cluster = _unpulled(handoff=HOLD)
    cluster.tick(61)
    yield _now("The same on Hold", cluster)
    yield _now("The same, latched", _unpulled().wait_for_deadline())
    cluster = installed("5.1.15")
    cluster.never_ready.add("5.1.15")
    cluster.evict().settle()
    yield _now("An agent that does not get ready again", cluster)
    cluster = installed()
    cluster.never_ready.add("5.1.15")
    cluster.restart_pods().tick()
    cluster.settle().tick(61)
    yield _now("A restart that failed", cluster)
    yield _now("A lost node, from 4.2.4 on", installed().lose_node("node-1").settle())
    yield _now("A lost node, before 4.2.4", installed("4.2.3").lose_node("node-1").settle())


def _rolling_back(cluster: SimulatedCluster) -> Plan:
    cluster.settle()
    cluster.tick(61)
    for _ in range(5):
        plan = cluster.reconcile()
        if plan.begins is not None:
            return plan
        cluster.tick()
    raise AssertionError(cluster.status.plan)


def _unpulled(**spec: Any) -> SimulatedCluster:
    cluster = installed("4.2.3", **spec)
    cluster.never_pulled.add("5.1.15")
    cluster.edit(version="5.1.15").reconcile()
    cluster.tick()
    return cluster


def gates() -> Iterator[Text]:
    """What is said about a gate, beside everything else."""
    cluster = installed(**GATED)
    yield _now("A gate that never came", _later(cluster))
    serves = {**cluster.observe().children, "GateDeployment": _gate_deployment()}
    yield _now(
        "A gate that does not serve", _later(cluster), children={**serves, "GateDeployment": _gate_deployment(0)}
    )
    stuck = _gate_deployment()
    stuck["status"]["conditions"] = [
        {
            "type": "Progressing",
            "status": "False",
            "reason": "ProgressDeadlineExceeded",
            "message": "ReplicaSet has timed out progressing.",
        }
    ]
    yield _now("A gate that cannot be updated", cluster, children={**serves, "GateDeployment": stuck})
    silent = Traffic(gates=1, channels={"adt": Channel("adt", silent_since=NOW)})
    yield _now("An agent that answers nothing", cluster, children=serves, traffic=silent)
    other = gate_messages.pending_update(cluster.observe().agent, "spec.containers[name=agent].env", "")
    yield Text("A newer operator release", "status.waitingForNextChange", other)
    nothing = Traffic(gates=0)
    old = installed("4.2.3", **GATED).edit(version="5.1.15")
    yield _now(
        "A recreate behind gates that serve",
        old,
        children={**old.observe().children, "GateDeployment": _gate_deployment()},
    )
    refused = _gate_deployment(0)
    refused["status"]["conditions"] = [
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods=2"}
    ]
    yield _now("Gates that the cluster refuses", cluster, children={**serves, "GateDeployment": refused})
    yield _now("Gates that the operator cannot reach", cluster, children=serves, traffic=nothing)


def _later(cluster: SimulatedCluster) -> SimulatedCluster:
    cluster.tick(3600)
    return cluster


def _gate_deployment(available: int = 2) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": f"{NAME}-gate", "resourceVersion": "1", "ownerReferences": [_owner("agent-1")]},
        "status": {"availableReplicas": available},
    }


def _owner(uid: str) -> dict[str, Any]:
    return {"kind": "MedplumAgent", "name": NAME, "uid": uid, "controller": True}


_ELSEWHERE: Final = {**SERVER, "baseUrl": "https://other.example.org/"}
_DOWNGRADE: Final = RolloutRecord(
    change=Change.DOWNGRADE,
    from_version="5.1.15",
    to="4.2.3",
    strategy=Strategy.RECREATE,
    started_at=NOW,
    approval="4.2.3 CHG-1042",
    backup=f"{NAME}-backup-1",
)
_SERVED: Final = Availability(("5.1.15",))
_FAILED: Final = Failure(
    version="5.1.15",
    spec="1",
    reason=Reason.PORT_NOT_READY,
    message="Pod lab-7c9d8-x2k4p runs but does not listen on port 2575.",
    fix="Check spec.server and Secret lab-credentials.",
)
_UNANSWERED = "PATCH /api/v1/namespaces/clinic/services/lab was answered with 500 InternalError: Internal error occurred: failed calling webhook."
_CONFLICT = "PATCH /apis/apps/v1/namespaces/clinic/deployments/lab was answered with 409 Conflict: the object has been modified."
_FORBIDDEN: Final = "forbidden: exceeded quota: objects, requested: 1, used: 10, limited: 10."
CHAPTERS: Final = {
    "Rollouts": rollouts,
    "Downgrades": downgrades,
    "Waits": waits,
    "Waits for others": waiting_for_others,
    "Refusals": refusals,
    "Troubles": troubles,
    "Gates": gates,
}
