"""The story: each chapter runs the commands that a cluster admin would type, and checks the result.

Played by `run`, in the order of CHAPTERS. A chapter relies on the chapters before it, never on how long something takes.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.operator_process import ROOT
from tests.tools.demo import excerpts
from tests.tools.demo.devices import Notice
from tests.tools.demo.faults import StepFailedError
from tests.tools.demo.pods import WATCH, PodWatch
from tests.tools.demo.stage import AGENT, CREDENTIAL, NAMESPACE, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = Path("agent.yaml")
APPROVAL = "4.2.3 CHG-1042"
SECOND_APPROVAL = "4.2.3 CHG-1043"
GATE_PODS = ("get", "pods", "-l", f"agents.medplum.com/gate-of={AGENT}")
PODS = ("get", "pods", "-l", "agents.medplum.com/agent", "-L", "agents.medplum.com/version")
PLAN = ("get", "mpa", AGENT, "-o", "jsonpath={.status.plan}")
READY = ("wait", f"mpa/{AGENT}", "--for=condition=Ready", "--timeout=60s")
FINGERPRINTS = (
    "get",
    "deployment,pod",
    "-l",
    f"app.kubernetes.io/instance={AGENT}",
    "-o",
    "custom-columns=KIND:.kind,UID:.metadata.uid,RESOURCEVERSION:.metadata.resourceVersion",
)
EVENTS = (
    "get",
    "events",
    "--field-selector",
    "type=Warning,involvedObject.kind=MedplumAgent",
    "-o",
    "custom-columns=TYPE:.type,OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message",
)
CHILDREN = "deployment,service,poddisruptionbudget,serviceaccount,replicaset,pod"
OWNED = ("get", CHILDREN, "-l", f"app.kubernetes.io/instance={AGENT}")
HISTORY = (
    "get",
    "mpa",
    AGENT,
    "-o",
    (
        "go-template={{range .status.history}}{{.to}}{{with .from}} after {{.}}{{end}}: {{with .strategy}}{{.}}{{else}}Install{{end}}, {{.outcome}}"
        "{{with .gapSeconds}}, {{.}} s without a ready agent{{end}}"
        "{{with .approval}}, approved by {{.text}}{{end}}{{println}}{{end}}"
    ),
)
OUR_EVENTS = (
    "get",
    "events",
    "--sort-by=.metadata.creationTimestamp",
    "--field-selector=involvedObject.kind=MedplumAgent",
    "-o",
    "custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message",
)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the story: its title, a sentence for the audience, and what it does."""

    title: str
    why: str
    play: Callable[[Stage], None]
    pictured: bool = True
    devices: Notice = Notice.NOTHING
    """What devices may notice during this chapter."""


def sample_agent(version: str) -> dict[str, Any]:
    """Return the sample agent with this version, without a gate, and with a quick handoff."""
    sample: dict[str, Any] = yaml.safe_load((ROOT / "manifests" / "samples" / "agent.yaml").read_text(encoding="utf-8"))
    sample["spec"]["version"] = version
    sample["spec"]["gate"] = {"enabled": False}  # a later chapter enables it
    sample["spec"]["handoff"] = {"minReadySeconds": 3, "drainSeconds": 2}
    return sample


def install(stage: Stage) -> None:
    """Install 5.1.14 into its own namespace."""
    stage.kubectl("create", "namespace", NAMESPACE, pictured=False)
    stage.kubectl("config", "set-context", "--current", f"--namespace={NAMESPACE}", pictured=False)
    furnished = stage.tier.furnish(NAMESPACE)
    if furnished:
        stage.terminal.output(furnished, pictured=False)
    credentials = (f"--from-literal=clientId={CREDENTIAL}", f"--from-literal=clientSecret={CREDENTIAL}")
    stage.kubectl("create", "secret", "generic", AGENT, *credentials, pictured=False)
    agent = stage.tier.placed(sample_agent("5.1.14"))
    FILE.write_text(yaml.safe_dump(agent, sort_keys=False), encoding="utf-8")
    stage.terminal.output(f"agent.yaml:\n{excerpts.indented(FILE.read_text(encoding='utf-8'))}", pictured=False)
    stage.kubectl("apply", "-f", str(FILE))
    stage.kubectl(*READY, pictured=False)
    stage.kubectl("get", "mpa")
    children = stage.kubectl(*OWNED, "-o", "name", pictured=False)
    kinds = {line.partition("/")[0].partition(".")[0] for line in children.splitlines()}
    stage.check(kinds == set(CHILDREN.split(",")), "the operator created every child object", found=children)
    _check_one_pod(stage, "5.1.14")
    stage.let_devices_send()


def hand_off(stage: Stage) -> None:
    """Hand off from 5.1.14 to 5.1.15, side by side."""
    _ask_for(stage, "5.1.15")
    beside = stage.wait_until(lambda: _side_by_side(stage), what="both agents are ready side by side")
    stage.terminal.command(*PODS)
    stage.terminal.output(beside)
    stage.check(beside, "both agents run: the old one serves until the new one has been ready for 3 seconds")
    stage.kubectl(*READY, pictured=False)
    _wait_for_one_pod(stage, "5.1.15")
    stage.kubectl(*PODS)
    _check_one_pod(stage, "5.1.15")
    gap = stage.status()["history"][0].get("gapSeconds")
    stage.check(gap == 0, "an agent was ready at every moment, as the operator saw it", found=f"gapSeconds {gap}")


def refuse(stage: Stage) -> None:
    """Ask for 4.2.3: the operator refuses, explains, and changes nothing."""
    before = stage.kubectl(*FINGERPRINTS)
    _ask_for(stage, "4.2.3")
    stage.kubectl("wait", f"mpa/{AGENT}", "--for=condition=ApprovalRequired", "--timeout=30s", pictured=False)
    stage.kubectl("get", "mpa")
    plan = stage.kubectl(*PLAN, brief=excerpts.first_and_command)
    said = excerpts.first_line(plan)
    stage.check(
        "5.1.15" in said and "4.2.3" in said and excerpts.approval_command(plan),
        "status.plan says what is refused, and which command approves it",
        found=plan,
    )
    event = stage.wait_until(lambda: _event(stage, "DowngradeNotApproved"), what="a Warning Event about the refusal")
    stage.terminal.command(*EVENTS, pictured=False)
    stage.terminal.output(excerpts.cropped(event), pictured=False)
    stage.check(said in event, "an Event of type Warning has the same first line", found=event)
    after = stage.kubectl(*FINGERPRINTS)
    stage.check(before == after, "Deployment and pod are unchanged, down to the resourceVersion", found=after)


def approve_wrongly(stage: Stage) -> None:
    """Approve without naming the version: that approves nothing."""
    before, refusal = stage.kubectl(*FINGERPRINTS, shown=False), stage.status()["plan"]
    stage.kubectl("annotate", "mpa", AGENT, "agents.medplum.com/force-downgrade=true")
    stage.wait_until(lambda: stage.status()["plan"] != refusal, what="status.plan answers the approval")
    plan = stage.kubectl(*PLAN, brief=excerpts.first_and_command)
    stage.check(
        "true" in plan and '"4.2.3' in excerpts.approval_command(plan),
        "status.plan says that 'true' approves nothing, and what to write instead",
        found=plan,
    )
    after = stage.kubectl(*FINGERPRINTS, shown=False)
    stage.check(before == after, "Deployment and pod are still unchanged", found=after)


def approve(stage: Stage) -> None:
    """Approve with the command from status.plan and a ticket: the old pod ends, then the new one starts."""
    offered = excerpts.approval_command(stage.status()["plan"])
    if not offered:
        raise StepFailedError("status.plan offers no command to copy.")
    command = shlex.split(offered.replace('"4.2.3"', f'"{APPROVAL}"'))
    with PodWatch(stage.cluster) as watch:
        stage.kubectl(*command)
        stage.kubectl(*READY, pictured=False)
    stage.terminal.command(*WATCH)
    stage.terminal.output("\n".join(watch.census.lines), brief=excerpts.turning_points)
    most = watch.census.most
    stage.check(most == 1, "never more than 1 live pod: the old one had ended before the new one started", found=most)
    _check_overlap(stage)
    _check_one_pod(stage, "4.2.3")
    status = stage.status()
    spent = (status["history"][0]["approval"]["text"], status["spentApprovals"])
    stage.check(spent == (APPROVAL, [APPROVAL]), "the history shows the approval, and it is spent", found=spent)


def upgrade(stage: Stage) -> None:
    """Upgrade from 4.2.3: the old agent stops first here too."""
    with PodWatch(stage.cluster) as watch:
        _ask_for(stage, "5.1.15")
        stage.wait_until(lambda: stage.status().get("phase") == "Recreating", what="the rollout begins")
        plan, how = stage.kubectl(*PLAN, brief=excerpts.first_and_command), stage.status().get("strategy")
        stage.kubectl(*READY)
    stage.check("4.2.3" in plan and how == "Recreate", "status.plan explains the rollout: Recreate", found=(how, plan))
    stage.check(watch.census.most == 1, "never more than 1 live pod", found=watch.census.lines)
    _check_overlap(stage)
    _check_one_pod(stage, "5.1.15")


def put_a_gate_in_front(stage: Stage) -> None:
    """Enable the gate: two gate pods, the Service selects them, and a handoff, because the drain differs behind a gate."""
    stage.kubectl("patch", "mpa", AGENT, "--type=merge", "-p", '{"spec":{"gate":{"enabled":true}}}')
    stage.wait_until(lambda: _leads_to_gates(stage), what="the Service selects the gates")
    stage.kubectl(*GATE_PODS)
    stage.wait_until(lambda: stage.status().get("phase") == "Running", what="the handoff ends")
    _check_one_pod(stage, "5.1.15")
    # One gate may still be starting. Both must be ready before the next change.
    ready = stage.kubectl("rollout", "status", f"deployment/{AGENT}-gate", "--timeout=60s", pictured=False)
    stage.check("successfully rolled out" in ready, "the Service sends devices to two gates", found=ready)


def approve_behind_a_gate(stage: Stage) -> None:
    """Downgrade once more, approved with another ticket."""
    approval = f'agents.medplum.com/force-downgrade="{SECOND_APPROVAL}"'
    with PodWatch(stage.cluster) as watch:
        stage.kubectl("annotate", "mpa", AGENT, "--overwrite", *shlex.split(approval), pictured=False)
        _ask_for(stage, "4.2.3")
        stage.wait_until(lambda: stage.status().get("activeVersion") == "4.2.3", what="4.2.3 serves")
        stage.kubectl(*READY, pictured=False)
    stage.check(watch.census.most == 1, "never more than 1 live pod", found=watch.census.lines)
    _check_overlap(stage)
    _check_one_pod(stage, "4.2.3")


def look_back(stage: Stage) -> None:
    """Check the history, the Events, and that every message arrived."""
    stage.kubectl(*HISTORY)
    history = [(e.get("from"), e["to"], e.get("strategy"), e["outcome"]) for e in stage.status()["history"]]
    expected = [
        ("4.2.3", "5.1.15", "Recreate", "Completed"),
        ("5.1.15", "4.2.3", "Recreate", "Completed"),
        ("5.1.15", "5.1.15", "RollingHandoff", "Completed"),
        ("4.2.3", "5.1.15", "Recreate", "Completed"),
        ("5.1.15", "4.2.3", "Recreate", "Completed"),
        ("5.1.14", "5.1.15", "RollingHandoff", "Completed"),
        (None, "5.1.14"),
    ]
    shape = [entry if entry[0] else entry[:2] for entry in history]
    stage.check(
        shape == expected, "seven rollouts, the latest first; both downgrades with their approvals", found=history
    )
    stage.terminal.command(*OUR_EVENTS)
    events = stage.kubectl(*OUR_EVENTS, shown=False)
    stage.terminal.output(excerpts.cropped(events))
    expected_reasons = {
        "Installing",
        "HandingOff",
        "DowngradeNotApproved",
        "ApprovalMalformed",
        "DowngradeApproved",
        "Recreating",
    }
    stage.check(expected_reasons <= set(events.split()), "the Events show the same rollouts", found=events)
    stage.stop_devices()
    if stage.tallies:
        _check_devices(stage)


def delete(stage: Stage) -> None:
    """Delete the MedplumAgent: its children are deleted too."""
    finalizers = stage.agent()["metadata"].get("finalizers", [])
    stage.kubectl("delete", "mpa", AGENT)
    stage.wait_until(
        lambda: not stage.cluster.kubectl(*OWNED, "-o", "name").stdout, what="garbage collection deletes the children"
    )
    left = stage.kubectl(*OWNED)
    stage.check("No resources found" in left, "all children are gone, by garbage collection", found=left)
    stage.check(not finalizers, "no finalizer delayed the deletion", found=finalizers)


CHAPTERS = (
    Chapter("Install 5.1.14", "One MedplumAgent is one identity and one running agent.", install),
    Chapter(
        "Upgrade to 5.1.15: a handoff",
        "From 4.2.4 on, agents can run side by side: the new agent starts first, and the old one stops once the new one is ready.",
        hand_off,
        devices=Notice.RECONNECT,
    ),
    Chapter(
        "Downgrade to 4.2.3: refused",
        "An agent older than 4.2.4 cannot run beside another agent. The downgrade costs downtime and may cost messages.",
        refuse,
    ),
    Chapter("A careless approval", "An admin in a hurry sets the annotation to true.", approve_wrongly),
    Chapter(
        "The right approval: stop, then start",
        "A cluster admin copies the command from status.plan and adds the change ticket.",
        approve,
        devices=Notice.PAUSE,
    ),
    Chapter(
        "Back up to 5.1.15",
        "An upgrade needs no approval. 4.2.3 cannot hand off, so it stops before 5.1.15 starts.",
        upgrade,
        pictured=False,
        devices=Notice.PAUSE,
    ),
    Chapter(
        "A gate in front of the agent",
        "Devices connect to a small relay that holds their messages while no agent runs. It is on by default; this agent had it off.",
        put_a_gate_in_front,
        pictured=False,
        devices=Notice.LED_ELSEWHERE,
    ),
    Chapter(
        "The same downgrade behind the gate",
        "Again one agent stops before the other starts. A device sees one slow answer.",
        approve_behind_a_gate,
    ),
    Chapter("Back up behind the gate", "The upgrade from 4.2.3 again, now behind the gate.", upgrade, pictured=False),
    Chapter("What happened", "status.history shows the last ten rollouts.", look_back, pictured=False),
    Chapter("Delete", "The MedplumAgent owns everything that the operator created for it.", delete, pictured=False),
)


def _ask_for(stage: Stage, version: str) -> None:
    stage.kubectl("patch", "mpa", AGENT, "--type=merge", "-p", f'{{"spec":{{"version":"{version}"}}}}')


def _ready_versions(stage: Stage) -> list[str]:
    ready = (
        pod
        for pod in stage.pods()
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    )
    return sorted(pod["metadata"]["labels"]["agents.medplum.com/version"] for pod in ready)


def _leads_to_gates(stage: Stage) -> bool:
    asked = ("get", "service", AGENT, "-o", "jsonpath={.spec.selector}")
    return "gate-of" in stage.cluster.kubectl(*asked).stdout


def _side_by_side(stage: Stage) -> str:
    """Return the output of `kubectl get pods` if it shows both agents ready. The moment is too short to ask twice."""
    listed = stage.cluster.kubectl(*PODS).stdout
    serving = [line.split()[-1] for line in listed.splitlines() if " 1/1 " in line and " Running " in line]
    return listed if sorted(serving) == ["5.1.14", "5.1.15"] else ""


def _check_one_pod(stage: Stage, version: str) -> None:
    _wait_for_one_pod(stage, version)
    stage.terminal.passed(f"one pod, {version}, and it is ready")
    active = stage.status().get("activeVersion")
    if active != version:
        raise StepFailedError(f"status.activeVersion should be {version}. Found: {active}")


def _wait_for_one_pod(stage: Stage, version: str) -> None:
    # An old pod may still be terminating beside the ready one.
    stage.wait_until(
        lambda: _ready_versions(stage) == [version] and len(stage.pods()) == 1,
        what=f"only the pod of {version} is left",
    )


def _check_overlap(stage: Stage) -> None:
    overlapping = stage.tier.overlapping_processes()
    if overlapping is not None:
        stage.check(
            not overlapping, "never two agent processes at once, as the container runtime saw it", found=overlapping
        )


def _check_devices(stage: Stage) -> None:
    allowed = {chapter.title: chapter.devices for chapter in CHAPTERS}
    total = sum(tally.messages for tally in stage.tallies)
    lost = sum(tally.lost + tally.unacknowledged for tally in stage.tallies)
    stage.check(lost == 0, f"{total:,} messages acknowledged, and every one arrived: lost 0", found=stage.tallies)
    objections = [tally.objection(allowed.get(tally.step, Notice.NOTHING)) for tally in stage.tallies]
    stage.check(
        not any(objections),
        "the handoff refused no connection; refused downgrades, and rollouts behind the gate, cost devices slow answers at most",
        found="; ".join(filter(None, objections)),
    )


def _event(stage: Stage, reason: str) -> str:
    events = stage.cluster.kubectl(*EVENTS).stdout.rstrip("\n")
    return events if reason in events else ""
