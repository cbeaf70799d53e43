"""One identity, one agent, across objects: who holds it, what the other is told, and that passes that meet end with one."""

from __future__ import annotations

import asyncio
import copy
import itertools
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.findings import Severity
from medplum_agent_operator.core.observed.identity import (
    Claim,
    Identity,
    applied,
    claimant,
    claims_on,
    normalised,
    other_holder,
    running_as,
    wanted,
)
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.identity_messages import identity_taken
from medplum_agent_operator.core.policy.verdict import Refused, decide
from medplum_agent_operator.core.rollout.actions import newly_claimed
from medplum_agent_operator.errors import ClusterError, ConflictError
from medplum_agent_operator.handlers import rivals
from medplum_agent_operator.observe import LiveAgents
from tests.support.builders import CONFIG, NOW, SERVER, Raw, agent, observed, parsed, spec_of
from tests.support.ports import Stage
from tests.support.several import ELSEWHERE, SeveralAgents, named
from tests.support.simulated_cluster import SimulatedCluster, installed

if TYPE_CHECKING:
    from medplum_agent_operator.core.plan import Plan

AGENT_ID = SERVER["agentId"]
HERE = Identity("https://api.medplum.com", AGENT_ID)
THERE = Identity("https://other.example.org", AGENT_ID)
OLD, YOUNG = ("a", "old"), ("b", "young")


# What is the same server.


@pytest.mark.parametrize(
    ("url", "same"),
    [
        pytest.param("https://api.medplum.com", True, id="without the slash at the end"),
        pytest.param("https://API.Medplum.COM/", True, id="the host in other letters"),
        pytest.param("https://api.medplum.com:443/", True, id="with the default port"),
        pytest.param("https://api.medplum.com:/", True, id="with an empty port"),
        pytest.param("https://api.medplum.com:80/", False, id="another port"),
        pytest.param("https://api.medplum.com:4430/", False, id="a port that begins with the default one"),
        pytest.param("http://api.medplum.com/", False, id="another scheme, hence another port"),
        pytest.param("https://api.medplum.com/fhir/", False, id="another path"),
        pytest.param("https://api.medplum.org/", False, id="another host"),
        pytest.param("https://api.medplum.com/x://y", False, id="another path, in which there is a scheme"),
    ],
)
def test_a_server_is_the_same_however_it_is_written(url: str, *, same: bool) -> None:
    """Letters of the host, the default port and a slash at the end make no other server."""
    assert same is (normalised("https://api.medplum.com/") == normalised(url))


def test_what_matters_in_a_url_stays() -> None:
    """A path keeps its letters, IPv6 its brackets, and of http port 80 is the default."""
    assert "http://10.0.0.5/Fhir" == normalised("http://10.0.0.5:80/Fhir//")
    assert "https://[fe80::443]" == normalised("https://[FE80::443]:443")
    assert "https://a/FHIR-X" == normalised("https://a/FHIR-X/")
    assert "https://a/X://y" == normalised("https://A/X://y")


def test_a_scheme_that_no_schema_lets_through_is_read_all_the_same() -> None:
    """Somebody may have written it into the note on a Deployment."""
    assert "ftp://a:21/x" == normalised("ftp://A:21/x")


# What an object tells.


def test_spec_deployment_and_pod_tell_the_same_identity() -> None:
    """What is rendered is read back: from the spec, the note on the Deployment, and the agent's own configuration in the pod."""
    server = {**SERVER, "baseUrl": "https://API.medplum.com:443/a$(b)/"}
    cluster = installed(server=server, channels=[{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}])
    (pod,) = [pod.raw() for pod in cluster.pods]
    expected = Identity("https://api.medplum.com/a$(b)", AGENT_ID)
    assert [expected] * 3 == [wanted(cluster.agent), applied(cluster.deployment), running_as(pod)]
    assert (("clinic", "lab"), expected) == claimant("Pod", pod)
    assert (("clinic", "lab"), expected) == claimant("Deployment", cluster.deployment)
    assert (("clinic", "lab"), expected) == claimant(KIND, cluster.agent)


def test_a_pod_that_has_ended_is_nobody() -> None:
    """It runs with no identity any more, however long it is kept."""
    (pod,) = [pod.raw() for pod in installed().pods]
    pod["status"]["phase"] = "Succeeded"
    assert running_as(pod) is None


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        pytest.param(KIND, {"spec": {}}, id="an agent without server"),
        pytest.param(KIND, {"spec": {"server": {"baseUrl": 7, "agentId": "a"}}}, id="a server that is a number"),
        pytest.param("Deployment", {}, id="a Deployment without the note, as a gate's"),
        pytest.param(
            "Deployment",
            {"spec": {"template": {"spec": {"containers": [{"name": "agent"}]}}}},
            id="a Deployment without arguments",
        ),
        pytest.param("Pod", {"spec": {"containers": [{"name": "gate"}]}}, id="a gate's pod"),
        pytest.param("Pod", {"spec": {"containers": [{"name": "agent"}]}}, id="a pod without arguments"),
        pytest.param("Service", {}, id="another kind"),
    ],
)
def test_what_cannot_be_told_is_no_claim(kind: str, broken: Raw) -> None:
    """What somebody broke holds nobody up, and ends no watch."""
    raw = {**broken, "metadata": {"name": "lab", "namespace": "clinic", **broken.get("metadata", {})}}
    raw["metadata"]["labels"] = {names.AGENT_LABEL: "lab"}
    assert claimant(kind, raw) is None


# Who comes first.

FIRST = "2026-01-01T00:00:00Z"
LATER = "2026-02-01T00:00:00Z"
REMAINS = Claim(*OLD, runs=True)


@pytest.mark.parametrize(
    ("other", "own", "first"),
    [
        pytest.param(Claim(*OLD, "1", FIRST), Claim(*YOUNG, "2", LATER), OLD, id="of two that do not run the older"),
        pytest.param(Claim(*OLD, "1", FIRST), Claim(*YOUNG, "2", LATER, runs=True), YOUNG, id="who runs, before older"),
        pytest.param(
            Claim(*OLD, "1", FIRST, runs=True),
            Claim(*YOUNG, "2", LATER, runs=True),
            OLD,
            id="of two that run the older",
        ),
        pytest.param(Claim(*OLD, "9", FIRST), Claim(*YOUNG, "2", FIRST), YOUNG, id="of the same second the lesser uid"),
        pytest.param(REMAINS, Claim(*YOUNG, "2", LATER), OLD, id="what is left of a deleted one, while it is there"),
        pytest.param(REMAINS, Claim(*YOUNG, "2", LATER, runs=True), YOUNG, id="but not before one that runs too"),
    ],
)
def test_one_comes_first_and_both_know_which(other: Claim, own: Claim, first: tuple[str, str]) -> None:
    """Running, then age, then uid: seen from either side it is the same one."""
    for claims in ([other, own], [own, other]):
        assert (None if first == YOUNG else other) == other_holder(claims, YOUNG)
        assert (None if first == OLD else own) == other_holder(claims, OLD)


def test_nobody_else_claims_it_as_a_rule() -> None:
    """Then there is no holder but oneself."""
    assert other_holder([], OLD) is None
    assert other_holder([Claim(*OLD, "1", FIRST)], OLD) is None


def test_claims_are_those_that_want_it_and_those_that_run_with_it() -> None:
    """One that wants another by now and still runs counts; one that has gone has neither uid nor age."""
    agents = [named("a", "wants"), named("a", "left", url=ELSEWHERE), named("a", "other", url=ELSEWHERE)]
    found = claims_on(HERE, agents, {("a", "left"), ("a", "gone")})
    assert [("gone", True, True), ("left", True, False), ("wants", False, False)] == [
        (claim.name, claim.runs, claim.is_leftover) for claim in found
    ]


def test_a_claim_is_as_old_as_its_agent() -> None:
    """What has gone has no age, and neither has what says none."""
    dated, undated = named("a", "dated"), named("a", "undated")
    dated["metadata"]["creationTimestamp"] = FIRST
    undated["metadata"].pop("creationTimestamp", None)
    found = claims_on(HERE, [dated, undated], {("a", "gone")})
    assert [("dated", FIRST), ("gone", ""), ("undated", "")] == [(claim.name, claim.created) for claim in found]


# What is decided.


def contested(cluster: SimulatedCluster, *claims: Claim, runs: bool = False) -> Plan:
    """The plan where others claim what the agent's spec asks for, too."""
    own = Claim("clinic", "lab", "agent-1", LATER, runs=runs)
    return make_plan(replace(cluster.observe(), claims=(*claims, own)), config=CONFIG, now=NOW)


def test_a_second_agent_of_an_identity_is_not_made() -> None:
    """The refusal names the holder, when the installation starts, and both ways out; the plan has no action."""
    plan = contested(SimulatedCluster(), Claim("ward", "front-desk", "0", FIRST))
    assert (Phase.FAILED, Reason.IDENTITY_TAKEN, ()) == (plan.phase, plan.reason, plan.actions)
    for words in (
        f"asks for agent {AGENT_ID} on https://api.medplum.com/.",
        "The identity in spec.server belongs to MedplumAgent ward/front-desk.",
        "This MedplumAgent is not installed and serves no devices.",
        "If ward/front-desk is not needed, delete it: its devices have no agent then, and the installation starts automatically when its pods are gone.",
        "create another Agent in Medplum and a new MedplumAgent with its id",
        "If you do not need this MedplumAgent, delete it.",
    ):
        assert words in plan.text


def test_who_is_refused_gets_a_warning() -> None:
    """Somebody has to do something."""
    plan = contested(SimulatedCluster(agent()), Claim(*OLD, "agent-0", FIRST))
    assert [Severity.WARNING] == [finding.severity for finding in plan.findings]


def test_the_holder_is_not_concerned() -> None:
    """Its plan is the same as if it were alone."""
    young = Claim("ward", "front-desk", "9", "2026-03-01T00:00:00Z")
    assert contested(SimulatedCluster()) == contested(SimulatedCluster(), young)


def test_what_is_left_of_a_deleted_agent_is_waited_for() -> None:
    """Its pods may run: the message says so and has the command that deletes them."""
    plan = contested(SimulatedCluster(), Claim("ward", "front-desk", runs=True))
    assert Reason.IDENTITY_TAKEN is plan.reason
    assert plan.message.summary.startswith("The deleted MedplumAgent ward/front-desk still has this identity: ")
    assert "kubectl -n ward delete deployment front-desk" == plan.message.command


def test_an_edit_that_would_take_an_identity_over_changes_nothing() -> None:
    """The agent keeps its server, drift from the applied spec is repaired, and the message says how to stay."""
    cluster = installed().edit(server={**SERVER, "baseUrl": ELSEWHERE}, service={"type": "NodePort"})
    holder = Claim("ward", "front-desk", "0", "2026-03-01T00:00:00Z", runs=True)
    plan = contested(cluster, holder)
    assert (Phase.FAILED, Reason.IDENTITY_TAKEN, ()) == (plan.phase, plan.reason, plan.actions)
    assert "Nothing was changed; this agent keeps running with https://api.medplum.com/." in plan.text
    assert 'To stay, set spec.server.baseUrl back to "https://api.medplum.com/".' in plan.text
    cluster.delete("Service")
    (action,) = contested(cluster, holder).actions
    assert ("Service", "ClusterIP") == (action.kind, action.body["spec"]["type"])
    assert contested(cluster).actions, "without the holder the edit is made"


def test_of_two_that_run_already_the_younger_is_refused_and_neither_is_stopped() -> None:
    """As after the upgrade of an operator that allowed it: edits of the younger wait, and its pod stays."""
    plan = contested(installed("5.1.14").edit(version="5.1.15"), Claim("ward", "old", "0", FIRST, runs=True), runs=True)
    assert (Phase.FAILED, Reason.IDENTITY_TAKEN, ()) == (plan.phase, plan.reason, plan.actions)
    assert (
        "Both agents run and neither was stopped; devices may receive messages twice. Edits of this spec wait."
        in plan.text
    )


def test_a_taken_identity_is_told_before_an_approval_is_asked_for() -> None:
    """Or somebody would approve a downgrade that cannot be made."""
    cluster = installed("5.1.15").edit(version="4.2.3", server={**SERVER, "baseUrl": ELSEWHERE})
    claims = (Claim("ward", "front-desk", "0", FIRST, runs=True), Claim("clinic", "lab", "agent-1", LATER))
    verdict = decide(replace(cluster.observe(), claims=claims), CONFIG)
    assert isinstance(verdict, Refused)
    assert (Reason.IDENTITY_TAKEN, Severity.WARNING) == (verdict.refusal.reason, verdict.refusal.severity)
    assert None is verdict.approval


def test_a_deployment_that_was_deleted_is_not_made_again_where_another_has_become_the_agent() -> None:
    """A refused downgrade makes it again as it was; with an identity that is taken by now it does not."""
    cluster = installed("5.1.15").edit(version="4.2.3").settle().delete("Deployment")
    assert cluster.plan().actions
    assert () == contested(cluster, Claim("ward", "front-desk", "0", LATER, runs=True)).actions


def test_without_the_note_of_what_was_applied_nothing_is_touched() -> None:
    """The edit is refused and the applied spec is unknown: the message says both."""
    cluster = installed().as_before_revisions().edit(server={**SERVER, "baseUrl": ELSEWHERE})
    cluster.deployment["metadata"]["annotations"][names.APPLIED_SPEC] = "{"
    plan = contested(cluster, Claim("ward", "front-desk", "0", FIRST))
    assert (Reason.IDENTITY_TAKEN, ()) == (plan.reason, plan.actions)
    assert "Nothing was changed. Other edits" in plan.text


def test_a_pause_speaks_before_a_taken_identity() -> None:
    """Paused, nothing is made in any case."""
    assert Reason.PAUSED is contested(SimulatedCluster(agent(paused=True)), Claim("a", "old", "0", FIRST)).reason


def test_the_message_names_both_servers_of_an_edit() -> None:
    """The server that the spec asks for, and the server that the agent keeps."""
    message = identity_taken(
        parsed(server={**SERVER, "baseUrl": ELSEWHERE}),
        Claim("ward", "x", "1", FIRST),
        available=Availability(("5.1.15",)),
        before=spec_of(),
    )
    assert "The identity in spec.server belongs to MedplumAgent ward/x." == message.summary
    assert f"asks for agent {AGENT_ID} on {ELSEWHERE}." in message.cause
    assert "5.1.15 keeps serving devices." in message.impact
    assert "keeps running with https://api.medplum.com/." in message.impact


@pytest.mark.parametrize(
    ("cluster", "claimed"),
    [
        pytest.param(SimulatedCluster(), HERE, id="an installation"),
        pytest.param(installed().edit(server={**SERVER, "baseUrl": ELSEWHERE}), THERE, id="another server"),
        pytest.param(installed().delete("Deployment"), HERE, id="a Deployment that somebody deleted"),
        pytest.param(installed("5.1.14").edit(version="5.1.15"), None, id="another version"),
        pytest.param(
            installed().edit(server={**SERVER, "baseUrl": "https://API.medplum.com"}), None, id="the same server"
        ),
        pytest.param(installed().delete("Service"), None, id="drift"),
        pytest.param(installed().edit(gate={"enabled": True}), None, id="a gate"),
    ],
)
def test_an_identity_is_claimed_by_the_deployment_that_is_first_to_have_it(
    cluster: SimulatedCluster, claimed: Identity | None
) -> None:
    """Whatever else is written makes the agent nobody else."""
    assert claimed == newly_claimed(cluster.plan().actions)


# What the watches know.


def deployment_of(raw: Raw) -> Raw:
    """A Deployment that was applied for an agent."""
    metadata = {**copy.deepcopy(raw["metadata"]), "uid": "d", "labels": {names.AGENT_LABEL: raw["metadata"]["name"]}}
    server = raw["spec"]["server"]
    text = f"baseUrl={server['baseUrl']}\nagentId={server['agentId']}"
    pod = {"containers": [{"name": "agent", "args": ["write", text]}]}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"template": {"spec": pod}}}


def at(raw: Raw, version: int) -> Raw:
    """The object at a resource version."""
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(version)}}


def test_the_cache_knows_who_claims_an_identity() -> None:
    """From specs and Deployments of every namespace; what goes or changes is known at once."""
    cache = Cache()
    old, young = named(*OLD), named(*YOUNG, created=1)
    for raw in (old, young, deployment_of(old)):
        cache.put(raw["kind"], raw)
    assert [("old", True), ("young", False)] == [(claim.name, claim.runs) for claim in cache.claims(HERE)]
    cache.put(KIND, at({**old, "spec": named(*OLD, url=ELSEWHERE)["spec"]}, 7))
    assert [("old", True), ("young", False)] == [(claim.name, claim.runs) for claim in cache.claims(HERE)]
    assert [("old", False)] == [(claim.name, claim.runs) for claim in cache.claims(THERE)]
    cache.drop("Deployment", deployment_of(old))
    assert ["young"] == [claim.name for claim in cache.claims(HERE)]
    cache.replace(KIND, None, [], as_of="99")
    assert ((), ()) == (cache.claims(HERE), cache.claims(THERE))


def test_a_pod_holds_its_identity_until_it_has_ended() -> None:
    """Although its agent and its Deployment have gone, and although the cache keeps no configuration of pods."""
    cache = Cache()
    (pod,) = [at(pod.raw(), 1) for pod in installed().pods]
    cache.put("Pod", pod)
    assert [Claim("clinic", "lab", runs=True)] == list(cache.claims(HERE))
    cache.drop("Pod", at({**pod, "status": {"phase": "Succeeded"}}, 2))
    assert () == cache.claims(HERE)
    assert [("clinic", pod["metadata"]["name"])] == cache.names("Pod")


@pytest.mark.parametrize(
    "happen",
    [
        pytest.param(lambda c: c.put(KIND, named("c", "third")), id="a third one comes"),
        pytest.param(lambda c: c.drop(KIND, named(*OLD)), id="the other goes"),
        pytest.param(lambda c: c.put(KIND, at(named(*OLD, url=ELSEWHERE), 9)), id="the other changes its server"),
        pytest.param(lambda c: c.put("Deployment", deployment_of(named(*OLD))), id="the other gets a Deployment"),
        pytest.param(lambda c: c.replace(KIND, "a", [], as_of="99"), id="a LIST finds the other gone"),
        pytest.param(
            lambda c: c.put(KIND, {**named(*OLD), "metadata": {**named(*OLD)["metadata"], "uid": "new"}}),
            id="the other is made anew",
        ),
    ],
)
def test_what_happens_to_an_identity_is_news_for_those_who_wait_for_it(happen: Any) -> None:
    """They are looked at again, once; so a refusal clears by itself, without a look at the clock."""
    cache = Cache()
    cache.put(KIND, at(named(*OLD), 1))
    cache.put(KIND, at(named(*YOUNG), 2))
    assert {Key(*OLD), Key(*YOUNG)} == rivals(cache)
    happen(cache)
    assert Key(*YOUNG) in rivals(cache)
    assert set() == rivals(cache)


@pytest.mark.parametrize(
    "happen",
    [
        pytest.param(lambda c: c.put(KIND, at(named(*OLD, version="5.1.16"), 9)), id="another version"),
        pytest.param(lambda c: c.put("Service", at(named(*OLD), 9)), id="another kind"),
        pytest.param(lambda c: c.put(KIND, named("c", "third", url=ELSEWHERE)), id="one of another identity"),
    ],
)
def test_what_changes_no_claim_is_no_news_for_others(happen: Any) -> None:
    """Only the agent itself is looked at."""
    cache = Cache()
    cache.put(KIND, at(named(*OLD), 1))
    cache.put(KIND, at(named(*YOUNG), 2))
    rivals(cache)
    happen(cache)
    assert set() == rivals(cache)


def test_one_that_is_alone_wakes_nobody() -> None:
    """As nearly all are: the echo of its own Deployment leads to no pass."""
    cache = Cache()
    cache.put(KIND, named(*OLD))
    cache.put("Deployment", deployment_of(named(*OLD)))
    assert set() == rivals(cache)


# Passes that meet.


async def test_two_passes_at_once_end_with_one_deployment() -> None:
    """The older gets it, the younger is told; nothing at all is made for the younger."""
    server = SeveralAgents(named(*OLD), named(*YOUNG, created=1))
    await server.passes(YOUNG, OLD)
    assert [OLD] == server.deployments
    assert [] == [request for request in server.requests if request.startswith("apply") and request.endswith("young")]
    assert "IdentityTaken" in str(server.status(*YOUNG)["conditions"])
    assert "MedplumAgent a/old" in server.status(*YOUNG)["plan"]


@pytest.mark.parametrize("first", [0, 1])
async def test_two_of_one_second_end_with_the_same_one_whoever_comes_first(first: int) -> None:
    """The API server counts in seconds: then the uid decides."""
    both = [("a", "one"), ("b", "two")]
    server = SeveralAgents(named("a", "one"), named("b", "two"))
    await server.passes(both[first], both[1 - first])
    assert [("a", "one")] == server.deployments


async def test_an_older_one_that_edits_its_server_meanwhile_does_not_come_in_between() -> None:
    """The younger has looked and begins to write; the older has to wait until that is done, and then finds it running."""
    server = SeveralAgents(named(*OLD, url=ELSEWHERE))
    await server.passes(OLD)
    server.store(named(*YOUNG, created=1))
    server.held = (f"apply ServiceAccount {'/'.join(YOUNG)}", asyncio.Event(), asyncio.Event())
    younger = asyncio.create_task(server.passes(YOUNG))
    await server.held[1].wait()
    server.edit(*OLD, url=SERVER["baseUrl"])
    older = asyncio.create_task(server.passes(OLD))
    await server.turns()
    server.held[2].set()
    await asyncio.gather(younger, older)
    assert [THERE, HERE] == [applied(server.objects["Deployment", *name]) for name in (OLD, YOUNG)]
    assert "MedplumAgent b/young" in server.status(*OLD)["plan"]


async def test_one_that_runs_and_that_no_watch_has_told_of_keeps_its_identity() -> None:
    """Of those that the live LIST shows, the Deployment is read live too."""
    young = named(*YOUNG, created=1)
    server = SeveralAgents(young, seen=False)
    server.store(deployment_of(young), seen=False)
    server.store(named(*OLD))
    await server.passes(OLD)
    assert [YOUNG] == server.deployments


async def test_an_agent_whose_own_claim_the_watches_do_not_know_is_judged_on_live_reads() -> None:
    """It has just been given the server that a younger one asks for too: it is not refused for what only the watches lack."""
    server = SeveralAgents(named(*OLD, url=ELSEWHERE), named(*YOUNG, created=1))
    server.edit(*OLD, url=SERVER["baseUrl"], seen=False)
    await server.passes(OLD)
    assert [OLD] == server.deployments


async def test_an_older_one_that_no_watch_has_told_of_comes_first() -> None:
    """MedplumAgents are read live before an identity is claimed."""
    server = SeveralAgents(named(*OLD), seen=False)
    server.store(named(*YOUNG, created=1))
    await server.passes(YOUNG)
    assert [] == server.deployments
    assert "MedplumAgent a/old" in server.status(*YOUNG)["plan"]


async def test_a_deployment_whose_write_was_not_answered_counts() -> None:
    """The younger came first and was cut off; the older, created before it but seen later, does not start beside it."""
    server = SeveralAgents(named(*YOUNG, created=1))
    server.lose_answers_of.add("Deployment")
    with pytest.raises(TimeoutError):
        await server.passes(YOUNG)
    server.store(named(*OLD))
    await server.passes(OLD)
    assert [YOUNG] == server.deployments
    assert "MedplumAgent b/young" in server.status(*OLD)["plan"]


async def test_passes_for_different_identities_do_not_wait_for_each_other() -> None:
    """The lock is one for each identity, and is forgotten with its last user."""
    server = SeveralAgents(named(*OLD), named(*YOUNG, url=ELSEWHERE))
    await server.passes(OLD, YOUNG)
    assert {OLD, YOUNG} == set(server.deployments)
    order = [request.rpartition("/")[2] for request in server.requests if request.startswith("apply")]
    assert order != sorted(order), "one waited for the other"
    assert {} == dict(server.reconciler._being_claimed)


async def test_the_identity_of_a_deleted_agent_is_free_when_its_last_pod_has_gone() -> None:
    """MedplumAgent, Deployment, pod: as long as one of them is there the other waits; no look at the clock is needed."""
    server = SeveralAgents(named(*OLD), named(*YOUNG, created=1))
    await server.passes(OLD)
    await server.passes(YOUNG)
    template = server.objects[("Deployment", *OLD)]["spec"]["template"]
    pod = {"kind": "Pod", **copy.deepcopy(template), "status": {"phase": "Running"}}
    pod["metadata"] |= {"namespace": "a", "name": "old-1", "uid": "p"}
    server.store(pod)
    for gone in ((KIND, *OLD), ("Deployment", *OLD)):
        rivals(server.cache)
        server.remove(*gone)
        assert Key(*YOUNG) in rivals(server.cache)
        await server.passes(YOUNG)
        assert YOUNG not in server.deployments
        assert "The deleted MedplumAgent a/old still has this identity" in server.status(*YOUNG)["plan"]
    server.remove("Pod", "a", "old-1")
    assert {Key(*YOUNG)} == rivals(server.cache)
    await server.passes(YOUNG)
    assert [YOUNG] == server.deployments


async def test_an_edited_server_that_another_runs_with_is_not_taken_over() -> None:
    """Whatever the ages: the younger runs with it, the older's Deployment stays as it is, and nobody writes but to status."""
    server = SeveralAgents(named(*OLD), named(*YOUNG, created=1, url=ELSEWHERE))
    await server.passes(OLD, YOUNG)
    before = copy.deepcopy({name: server.objects["Deployment", *name] for name in (OLD, YOUNG)})
    server.edit(*OLD, url=ELSEWHERE)
    server.requests.clear()
    await server.passes(OLD, YOUNG)
    assert before == {name: server.objects["Deployment", *name] for name in (OLD, YOUNG)}
    assert [] == [request for request in server.requests if request.startswith("apply")]
    assert "belongs to MedplumAgent b/young" in server.status(*OLD)["plan"]


async def test_an_edit_of_the_server_gives_the_other_one_free_when_the_rollout_is_over() -> None:
    """While a pod of the server before runs, its identity is held; the waiting one is woken by our own write's echo, and by the pod."""
    server = SeveralAgents(named(*OLD), named(*YOUNG, created=1))
    await server.passes(OLD)
    await server.passes(YOUNG)
    template = server.objects[("Deployment", *OLD)]["spec"]["template"]
    pod = {"kind": "Pod", **copy.deepcopy(template), "status": {"phase": "Running"}}
    pod["metadata"] |= {"namespace": "a", "name": "old-1", "uid": "p"}
    server.store(pod)
    server.edit(*OLD, url=ELSEWHERE)
    await server.passes(OLD)
    assert THERE == applied(server.objects[("Deployment", *OLD)])
    assert Key(*YOUNG) in rivals(server.cache)
    await server.passes(YOUNG)
    assert [OLD] == server.deployments
    assert "MedplumAgent a/old" in server.status(*YOUNG)["plan"]
    server.remove("Pod", "a", "old-1")
    await server.passes(YOUNG)
    assert {OLD, YOUNG} == set(server.deployments)


@pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])
async def test_a_change_of_the_server_that_failed_is_taken_back(version: str) -> None:
    """The new agent never opens its port; what comes back is another one than the spec asks for."""
    stage = Stage(installed(version))
    cluster = stage.simulated
    cluster.edit(server={**SERVER, "baseUrl": ELSEWHERE})
    cluster.troubles[version] = ("CreateContainerConfigError", 'secret "x" not found')
    for _ in range(8):
        cluster.tick()
        stage.watch()
        await stage.one_pass()
    cluster.troubles.clear()
    for _ in range(80):
        cluster.tick()
        stage.watch()
        await stage.one_pass()
    assert (Phase.FAILED, version, [version]) == (
        cluster.status.phase,
        cluster.record.rolled_back_from,
        cluster.running,
    )
    assert HERE == applied(cluster.deployment)


def told(server: SeveralAgents, reason: str, available: int) -> None:
    """What the Deployment controller says of the older one's Deployment."""
    deployment = copy.deepcopy(server.objects["Deployment", *OLD])
    numbers = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), available)
    condition = {"type": "Progressing", "status": "True", "reason": reason}
    server.store({**deployment, "status": {"observedGeneration": 99, "conditions": [condition], **numbers}})


async def test_what_failed_is_not_taken_back_to_an_identity_that_another_has_by_now() -> None:
    """The older one left it for a server where it never starts, and the younger one got it meanwhile: that is said, and nothing is changed."""
    server = SeveralAgents(named(*OLD), named(*YOUNG, created=1))
    await server.passes(OLD)
    told(server, "NewReplicaSetAvailable", 1)
    await server.passes(OLD)
    server.now += timedelta(hours=1)
    server.edit(*OLD, url=ELSEWHERE)
    await server.passes(OLD)
    await server.passes(YOUNG)
    assert {OLD, YOUNG} == set(server.deployments)
    told(server, "ProgressDeadlineExceeded", 0)
    server.now += timedelta(hours=1)
    await server.passes(OLD)
    assert THERE == applied(server.objects["Deployment", *OLD])
    status = server.status(*OLD)
    assert "Failed" == status["phase"]
    assert "MedplumAgent b/young now has the previous identity" in status["plan"]
    server.remove("Deployment", *YOUNG)
    server.remove(KIND, *YOUNG)
    await server.passes(OLD)
    assert HERE == applied(server.objects["Deployment", *OLD])


async def test_only_watched_namespaces_are_listed() -> None:
    """There are no rights elsewhere."""
    server = SeveralAgents(named(*OLD), namespaces=("a", "c"))
    await server.passes(OLD)
    assert [f"list {KIND} a/", f"list {KIND} c/"] == [r for r in server.requests if r.startswith(f"list {KIND}")]


async def test_installations_at_once_share_a_look_at_the_others() -> None:
    """One that is begun after each of them has asked: the first's, and one more for all who came meanwhile."""
    agents = [named("a", f"agent-{number}") for number in range(8)]
    for number, raw in enumerate(agents):
        raw["spec"]["server"] = {**SERVER, "agentId": f"id-{number}"}
    server = SeveralAgents(*agents)
    await server.passes(*(("a", raw["metadata"]["name"]) for raw in agents))
    assert 8 == len(server.deployments)
    assert 2 == server.requests.count(f"list {KIND} /")


async def test_a_look_that_was_begun_before_an_identity_was_asked_for_does_not_do() -> None:
    """What was created since would not be in it: the next one looks anew."""
    server = SeveralAgents(named("a", "first", url=ELSEWHERE), named(*YOUNG, created=1))
    await server.passes(("a", "first"))
    server.store(named(*OLD), seen=False)
    await server.passes(YOUNG)
    assert [("a", "first")] == server.deployments
    assert 2 == server.requests.count(f"list {KIND} /")


async def test_a_look_that_failed_is_made_again_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who came before it began goes on with neither that one nor the one before."""
    server, looks = SeveralAgents(), itertools.count(1)

    async def look(kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[Raw], str]:
        del kind, namespace, selector
        number = next(looks)
        await server.turns(5)
        if number == 2:
            raise ClusterError("busy", status=429)
        return [named("a", f"seen-by-look-{number}")], "1"

    monkeypatch.setattr(server, "list", look)
    agents = LiveAgents(server, ())
    one, two, three = await asyncio.gather(*(agents.listed() for _ in range(3)), return_exceptions=True)
    assert isinstance(two, ClusterError)
    assert [{Key("a", "seen-by-look-1")}, {Key("a", "seen-by-look-3")}] == [set(one), set(three)]  # type: ignore[arg-type]


async def test_a_refused_agent_costs_no_request_once_it_was_told() -> None:
    """Nor does the holder: nothing is done until something changes."""
    server = SeveralAgents(named(*OLD), named(*YOUNG, created=1))
    await server.passes(OLD, YOUNG)
    server.requests.clear()
    await server.passes(OLD, YOUNG)
    assert [] == server.requests
    assert await server.reconciler(Key(*YOUNG)) is None, "no look by the clock"


async def test_an_agent_that_is_deleted_while_it_waits_for_its_turn_is_left_alone() -> None:
    """Nothing is made for it."""
    server = SeveralAgents(named(*OLD))
    lock = server.reconciler._being_claimed.setdefault(HERE, asyncio.Lock())
    async with lock:
        waiting = asyncio.create_task(server.passes(OLD))
        await server.turns()
        server.remove(KIND, *OLD)
    await waiting
    assert [] == server.deployments


async def test_an_agent_whose_server_changes_while_it_waits_for_its_turn_decides_anew() -> None:
    """It would be another identity's turn: the pass starts again."""
    server = SeveralAgents(named(*OLD))
    lock = server.reconciler._being_claimed.setdefault(HERE, asyncio.Lock())
    async with lock:
        waiting = asyncio.create_task(server.passes(OLD))
        await server.turns()
        server.edit(*OLD, url=ELSEWHERE)
    with pytest.raises(ConflictError):
        await waiting
    assert [] == server.deployments
    await server.passes(OLD)
    assert THERE == applied(server.objects[("Deployment", *OLD)])


def test_who_is_not_known_to_claim_anything_is_judged_when_it_acts() -> None:
    """An `Observed` without claims holds nobody up."""
    assert observed(agent()).holder is None
