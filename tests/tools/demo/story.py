"""The story: each chapter runs the commands that a cluster admin would type and checks what they led to.

Told by `run`, in the order of CHAPTERS. A chapter relies on the ones before it, never on how long something takes.
"""

from __future__ import annotations

import re
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
    """A part of the story: what it is about, why anybody should care, and what happens."""

    title: str
    why: str
    tell: Callable[[Stage], None]
    pictured: bool = True
    devices: Notice = Notice.NOTHING
    """What the devices that send meanwhile may notice of it."""


def sample_agent(version: str) -> dict[str, Any]:
    """Return the sample agent with this version, and with a handoff that is quick enough to look on."""
    sample: dict[str, Any] = yaml.safe_load((ROOT / "manifests" / "samples" / "agent.yaml").read_text(encoding="utf-8"))
    sample["spec"]["version"] = version
    sample["spec"]["gate"] = {"enabled": False}  # at first, to show what it is for
    sample["spec"]["handoff"] = {"minReadySeconds": 3, "drainSeconds": 2}
    return sample


def install(stage: Stage) -> None:
    """5.1.14 is installed into a namespace of its own."""
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
    stage.check(kinds == set(CHILDREN.split(",")), "everything that it needs was made for it", found=children)
    _check_one_pod(stage, "5.1.14")
    stage.let_devices_send()


def hand_off(stage: Stage) -> None:
    """5.1.15 takes over from 5.1.14 side by side."""
    _ask_for(stage, "5.1.15")
    beside = stage.wait_until(lambda: _side_by_side(stage), what="both agents are ready side by side")
    stage.terminal.command(*PODS)
    stage.terminal.output(beside)
    stage.check(beside, "both run: the old agent serves until the new one has been ready for 3 seconds")
    stage.kubectl(*READY, pictured=False)
    _wait_for_one_pod(stage, "5.1.15")
    stage.kubectl(*PODS)
    _check_one_pod(stage, "5.1.15")
    gap = stage.status()["history"][0].get("gapSeconds")
    stage.check(
        gap == 0, "there was no moment without a ready agent, as the operator saw it", found=f"gapSeconds {gap}"
    )


def refuse(stage: Stage) -> None:
    """4.2.3 is refused, with words, and nothing changes."""
    before = stage.kubectl(*FINGERPRINTS)
    _ask_for(stage, "4.2.3")
    stage.kubectl("wait", f"mpa/{AGENT}", "--for=condition=ApprovalRequired", "--timeout=30s", pictured=False)
    stage.kubectl("get", "mpa")
    plan = stage.kubectl(*PLAN, brief=excerpts.first_and_command)
    stage.check(
        "Nothing was changed; 5.1.15 goes on serving" in plan, "the answer says why, and what to do", found=plan
    )
    event = stage.wait_until(lambda: _event(stage, "DowngradeNotApproved"), what="a Warning Event tells of the refusal")
    stage.terminal.command(*EVENTS, pictured=False)
    stage.terminal.output(excerpts.cropped(event), pictured=False)
    stage.check(plan in event, "an Event of type Warning says the same, word for word", found=event)
    after = stage.kubectl(*FINGERPRINTS)
    stage.check(before == after, "Deployment and pod are the very same, down to the resourceVersion", found=after)


def approve_wrongly(stage: Stage) -> None:
    """An approval that names no version approves nothing."""
    before = stage.kubectl(*FINGERPRINTS, shown=False)
    stage.kubectl("annotate", "mpa", AGENT, "agents.medplum.com/force-downgrade=true")
    correction = "The annotation says 'true'"
    stage.wait_until(lambda: correction in stage.status()["plan"], what="the operator answers the approval")
    plan = stage.kubectl(*PLAN, brief=lambda text: excerpts.text(text, correction))
    stage.check(
        "it must begin with the version to go down to, 4.2.3" in plan,
        "the answer says what to write instead",
        found=plan,
    )
    after = stage.kubectl(*FINGERPRINTS, shown=False)
    stage.check(before == after, "still nothing has changed", found=after)


def approve(stage: Stage) -> None:
    """The command from the answer, with a ticket in it, lets the downgrade go ahead: the old pod ends, the new one starts."""
    offered = re.search(r'kubectl (annotate .*?".*?")', stage.status()["plan"])
    if offered is None:
        raise StepFailedError("The answer holds no command to copy.")
    command = shlex.split(offered[1].replace('"4.2.3"', f'"{APPROVAL}"'))
    with PodWatch(stage.cluster) as watch:
        stage.kubectl(*command)
        stage.kubectl(*READY, pictured=False)
    stage.terminal.command(*WATCH)
    stage.terminal.output("\n".join(watch.census.lines), brief=excerpts.turning_points)
    most = watch.census.most
    stage.check(
        most == 1, "there was never more than 1 pod alive: the old one had ended before the new one came", found=most
    )
    _check_processes(stage)
    _check_one_pod(stage, "4.2.3")
    status = stage.status()
    kept = (status["history"][0]["approval"]["text"], status["spentApprovals"])
    stage.check(kept == (APPROVAL, [APPROVAL]), "the history keeps the approval, and it is spent", found=kept)


def upgrade(stage: Stage) -> None:
    """The way back up from 4.2.3 is made by stopping first too."""
    with PodWatch(stage.cluster) as watch:
        _ask_for(stage, "5.1.15")
        stage.wait_until(lambda: stage.status().get("phase") == "Recreating", what="the operator begins")
        plan = stage.kubectl(*PLAN)
        stage.kubectl(*READY)
    stage.check("by stopping first, because" in plan, "the plan says how, and why so", found=plan)
    stage.check(watch.census.most == 1, "there was never more than 1 pod alive", found=watch.census.lines)
    _check_processes(stage)
    _check_one_pod(stage, "5.1.15")


def put_a_gate_in_front(stage: Stage) -> None:
    """Two gates are made, devices are led to them, and the agent is handed over: its drain is another one behind a gate."""
    stage.kubectl("patch", "mpa", AGENT, "--type=merge", "-p", '{"spec":{"gate":{"enabled":true}}}')
    stage.wait_until(lambda: _leads_to_gates(stage), what="the Service leads to the gates")
    stage.kubectl(*GATE_PODS)
    stage.wait_until(lambda: stage.status().get("phase") == "Running", what="the agent is handed over")
    _check_one_pod(stage, "5.1.15")
    # The other gate may still be starting; both are to be there before the agent is changed.
    ready = stage.kubectl("rollout", "status", f"deployment/{AGENT}-gate", "--timeout=60s", pictured=False)
    stage.check("successfully rolled out" in ready, "the Service leads devices to two gates", found=ready)


def approve_behind_a_gate(stage: Stage) -> None:
    """The same downgrade once more, approved by another ticket."""
    approval = f'agents.medplum.com/force-downgrade="{SECOND_APPROVAL}"'
    with PodWatch(stage.cluster) as watch:
        stage.kubectl("annotate", "mpa", AGENT, "--overwrite", *shlex.split(approval), pictured=False)
        _ask_for(stage, "4.2.3")
        stage.wait_until(lambda: stage.status().get("activeVersion") == "4.2.3", what="4.2.3 serves")
        stage.kubectl(*READY, pictured=False)
    stage.check(watch.census.most == 1, "there was never more than 1 pod alive", found=watch.census.lines)
    _check_processes(stage)
    _check_one_pod(stage, "4.2.3")


def look_back(stage: Stage) -> None:
    """All rollouts are on record, and no message is missing."""
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
        shape == expected, "seven rollouts, the latest first; the forced ones with their approvals", found=history
    )
    stage.terminal.command(*OUR_EVENTS)
    events = stage.kubectl(*OUR_EVENTS, shown=False)
    stage.terminal.output(excerpts.cropped(events))
    told = {"Installing", "HandingOff", "DowngradeNotApproved", "ApprovalMalformed", "DowngradeApproved", "Recreating"}
    stage.check(told <= set(events.split()), "the Events tell the same story, to whoever looks there", found=events)
    stage.stop_devices()
    if stage.tallies:
        _check_devices(stage)


def delete(stage: Stage) -> None:
    """The agent goes, and what was made for it goes with it."""
    finalizers = stage.agent()["metadata"].get("finalizers", [])
    stage.kubectl("delete", "mpa", AGENT)
    stage.wait_until(
        lambda: not stage.cluster.kubectl(*OWNED, "-o", "name").stdout, what="garbage collection removes the children"
    )
    left = stage.kubectl(*OWNED)
    stage.check("No resources found" in left, "all gone, by garbage collection", found=left)
    stage.check(not finalizers, "it had no finalizer that could hold it up", found=finalizers)


CHAPTERS = (
    Chapter("Install 5.1.14", "One MedplumAgent is one identity and one running agent.", install),
    Chapter(
        "Upgrade to 5.1.15: a handoff",
        "From 4.2.4 on, agents can run side by side: the new one starts first, and the old one stops when it has taken over.",
        hand_off,
        devices=Notice.RECONNECT,
    ),
    Chapter(
        "Ask for 4.2.3: refused",
        "An agent older than 4.2.4 cannot run beside another one; going back to it costs downtime and may cost messages.",
        refuse,
    ),
    Chapter("A careless approval", "Somebody in a hurry sets the annotation to true.", approve_wrongly),
    Chapter(
        "The right approval: stopped first, then started",
        "A cluster admin copies the command from the answer and puts in the change ticket.",
        approve,
        devices=Notice.PAUSE,
    ),
    Chapter(
        "Back up to 5.1.15",
        "An upgrade needs no approval; but 4.2.3 cannot hand over, so it is stopped first as well.",
        upgrade,
        pictured=False,
        devices=Notice.PAUSE,
    ),
    Chapter(
        "A gate in front of it",
        "Devices connect to a small relay, which holds their messages while no agent runs. It is there unless it is switched off, as it was so far.",
        put_a_gate_in_front,
        pictured=False,
        devices=Notice.LED_ELSEWHERE,
    ),
    Chapter(
        "The same downgrade behind the gate",
        "One agent stops before the other starts, as before; to a device it is one slow answer.",
        approve_behind_a_gate,
    ),
    Chapter("Back up behind the gate", "And once more.", upgrade, pictured=False),
    Chapter("What happened", "Status remembers the last ten rollouts.", look_back, pictured=False),
    Chapter("Delete", "Everything that the operator made belongs to the MedplumAgent.", delete, pictured=False),
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
    """Return what `kubectl get pods` says, if just now it shows both agents ready: the moment is too short to ask twice."""
    listed = stage.cluster.kubectl(*PODS).stdout
    serving = [line.split()[-1] for line in listed.splitlines() if " 1/1 " in line and " Running " in line]
    return listed if sorted(serving) == ["5.1.14", "5.1.15"] else ""


def _check_one_pod(stage: Stage, version: str) -> None:
    _wait_for_one_pod(stage, version)
    stage.terminal.passed(f"one pod, {version}, and it is ready")
    active = stage.status().get("activeVersion")
    if active != version:
        raise StepFailedError(f"The status should say that {version} is active. Found: {active}")


def _wait_for_one_pod(stage: Stage, version: str) -> None:
    # What is ready may still have an old pod beside it, which serves nobody any more and is about to go.
    stage.wait_until(
        lambda: _ready_versions(stage) == [version] and len(stage.pods()) == 1, what=f"one pod is left, {version}"
    )


def _check_processes(stage: Stage) -> None:
    met = stage.tier.processes_that_met()
    if met is not None:
        stage.check(not met, "nor were there ever two agent processes, as the container runtime saw it", found=met)


def _check_devices(stage: Stage) -> None:
    allowed = {chapter.title: chapter.devices for chapter in CHAPTERS}
    total = sum(tally.messages for tally in stage.tallies)
    lost = sum(tally.lost + tally.unacknowledged for tally in stage.tallies)
    stage.check(lost == 0, f"{total:,} messages acknowledged, every one arrived: lost 0", found=stage.tallies)
    objections = [tally.objection(allowed.get(tally.step, Notice.NOTHING)) for tally in stage.tallies]
    stage.check(
        not any(objections),
        "the handoff refused nobody; of the refusals, and of what happened behind the gate, no device noticed anything but slow answers",
        found="; ".join(filter(None, objections)),
    )


def _event(stage: Stage, reason: str) -> str:
    events = stage.cluster.kubectl(*EVENTS).stdout.rstrip("\n")
    return events if reason in events else ""
