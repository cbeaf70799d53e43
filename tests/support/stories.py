"""Random stories: what people, pods and a dying operator may do to one agent, in any order. Drawn by `test_stories`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from medplum_agent_operator.api import annotations as names
from tests.support.builders import agent
from tests.support.simulated_cluster import OperatorDiedError, SimulatedCluster
from tests.support.simulated_cluster.admission import AdmittingCluster
from tests.support.simulated_cluster.apply import copied

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.builders import Raw

VERSIONS: Final = ("4.1.12", "4.2.3", "4.2.3-abc1234", "4.2.4", "5.1.14", "5.1.15", "5.1.15-abc1234", "5.1.16")
APPROVALS: Final = (
    None,
    "true",
    "4.2.3 CHG-1",
    "4.2.3 CHG-2",
    "4.1.12 CHG-1",
    "4.2.4 CHG-1",
    "5.1.14 CHG-1",
    "5.1.15 " + "x" * 300,
)
CHANNELS: Final = (
    [{"name": "adt", "port": 2575}],
    [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}],
    [{"name": "adt", "port": 2575, "hostPort": 2575}],
)
WINDOWS: Final[tuple[list[dict[str, str]], ...]] = (
    [],
    [{"schedule": "* * * * *", "duration": "1m"}],
    [{"schedule": "0 3 29 2 *", "duration": "1m"}],
    [
        {"schedule": "*/2 * * * *", "duration": "1m"},
        {"schedule": "0 3 * * *", "duration": "1m", "timeZone": "No/Where"},
    ],
)
"""None; always open; not open for years; open every second minute, beside one that cannot be read."""
TROUBLES: Final = (
    ("ImagePullBackOff", "ErrImagePull: not found"),
    ("ImagePullBackOff", "ErrImagePull: i/o timeout"),
    ("CreateContainerConfigError", 'secret "lab" not found'),
    ("CrashLoopBackOff", "back-off restarting failed container"),
)
QUICK: Final = {"minReadySeconds": 1, "drainSeconds": 1, "progressDeadlineSeconds": 20}


@dataclass(frozen=True)
class Step:
    """Something that happens, and how it reads in a failing story."""

    text: str
    happen: Callable[[SimulatedCluster], object]

    def __repr__(self) -> str:
        return self.text


def _reconcile(cluster: SimulatedCluster, *, dies_after: int | None = None) -> None:
    try:
        cluster.reconcile(dies_after=dies_after)
    except OperatorDiedError:
        return


def _pass_time(cluster: SimulatedCluster, seconds: int, *, operator: bool) -> None:
    for _ in range(seconds):
        cluster.tick()
        if operator:
            cluster.reconcile()


def _edit(**spec: Any) -> Step:
    return Step(f"edit {spec}", lambda cluster: cluster.edit(**spec))


def _mark(name: str, text: str | None) -> Step:
    return Step(f"annotate {name}={text}", lambda cluster: cluster.mark(name, text))


def _trouble(version: str, trouble: tuple[str, str]) -> Step:
    def happen(cluster: SimulatedCluster) -> None:
        cluster.troubles[version] = trouble
        cluster.count += 1

    return Step(f"{version} waits with {trouble}", happen)


def _break(version: str) -> Step:
    return Step(f"{version} never gets ready", lambda cluster: cluster.never_ready.add(version))


def _cannot_be_pulled(version: str) -> Step:
    return Step(f"the image of {version} cannot be pulled", lambda cluster: cluster.never_pulled.add(version))


def _delete(cluster: SimulatedCluster, kind: str) -> None:
    # Noticed only by an operator that is there: what it never saw, a deleted Deployment takes with it.
    cluster.settle()
    cluster.delete(kind)


def _approve_and_change(version: str) -> Step:
    text = f"{version} in one apply"

    def happen(cluster: SimulatedCluster) -> None:
        cluster.annotate(text)
        cluster.edit(version=version)

    return Step(f"approve and change to {version} in one step", happen)


def _change_and_rest(version: str) -> Step:
    def happen(cluster: SimulatedCluster) -> None:
        _approve_and_change(version).happen(cluster)
        cluster.settle()

    return Step(f"approve and change to {version}, all comes to rest", happen)


_rest: Final = Step("all comes to rest", lambda c: c.settle())


def _reload(cluster: SimulatedCluster) -> None:
    """A variable that is not ours gets another value."""
    variable = {"name": "STAKATER_LAB_SECRET", "value": str(cluster.count)}

    def edit(template: Raw) -> None:
        container = template["spec"]["containers"][0]
        others = [each for each in container.get("env", []) if each["name"] != variable["name"]]
        container["env"] = [*others, variable]

    cluster.edit_template(edit)


def _forge(cluster: SimulatedCluster, name: str, text: str | None) -> None:
    """Somebody edits the operator's annotations on the Deployment."""
    if "Deployment" in cluster.objects:
        cluster.deployment["metadata"]["annotations"].update({name: text} if text is not None else {})
        if text is None:
            cluster.deployment["metadata"]["annotations"].pop(name, None)
        cluster.count += 1


def _save(cluster: SimulatedCluster) -> None:
    """A backup tool saves the Deployment."""
    if "Deployment" in cluster.objects:
        cluster.saved = copied(cluster.deployment)


def _restore(cluster: SimulatedCluster) -> None:
    """It puts its annotations back and, if that changes no version, its pod template: with another version, I1 would be its own fault."""
    saved = cluster.saved
    if saved is None or "Deployment" not in cluster.objects:
        return
    cluster.deployment["metadata"]["annotations"] = copied(saved["metadata"]["annotations"])
    label = saved["spec"]["template"]["metadata"]["labels"][names.VERSION_LABEL]
    if label == cluster.applied_version:
        cluster.edit_template(lambda template: template.update(copied(saved["spec"]["template"])))
    cluster.count += 1


def _labels(kind: str, raw: Raw) -> None:
    """A policy that labels every object and pod."""
    raw["metadata"].setdefault("labels", {})["team"] = "integration"
    if kind == "Deployment":
        raw["spec"]["template"]["metadata"]["labels"]["team"] = "integration"


def _variables(kind: str, raw: Raw) -> None:
    """A policy that adds a variable to every container."""
    if kind == "Deployment":
        for container in raw["spec"]["template"]["spec"]["containers"]:
            others = [each for each in container.get("env", []) if each["name"] != "PROXY"]
            container["env"] = [*others, {"name": "PROXY", "value": "http://proxy"}]


POLICIES: Final = {"no policy": None, "a policy labels": _labels, "a policy adds a variable": _variables}
FORGERIES: Final = (
    *((name, text) for name in (names.REVISION, names.ROLLOUT, names.APPLIED_SPEC) for text in (None, "{", "forged")),
    (names.REVISION, "lab-r1-0123456789"),
    (names.REVISION, f"lab-r{10**12}-0123456789"),
)


def _under(word: str) -> Step:
    def happen(cluster: SimulatedCluster) -> None:
        assert isinstance(cluster, AdmittingCluster)
        cluster.policy = POLICIES[word]

    return Step(word, happen)


orderly_steps: Final = st.one_of(
    st.sampled_from(VERSIONS).map(lambda version: _edit(version=version)),
    st.sampled_from(VERSIONS).map(_approve_and_change),
    st.sampled_from(VERSIONS).map(_change_and_rest),
    st.sampled_from(APPROVALS).map(lambda text: Step(f"annotate {text!r:.20}", lambda c: c.annotate(text))),
    st.sampled_from(CHANNELS).map(lambda channels: _edit(channels=channels)),
    st.booleans().map(lambda paused: _edit(paused=paused)),
    st.sampled_from(["Always", "BelowZeroDowntime"]).map(lambda how: _edit(downgradePolicy={"approval": how})),
    st.just(Step("one pass", _reconcile)),
    st.integers(0, 4).map(lambda n: Step(f"killed after {n} writes", lambda c: _reconcile(c, dies_after=n))),
    st.integers(1, 6).map(lambda n: Step(f"{n} s go by", lambda c: _pass_time(c, n, operator=True))),
    st.integers(1, 6).map(lambda n: Step(f"{n} s go by without operator", lambda c: _pass_time(c, n, operator=False))),
    st.just(_rest),
    st.sampled_from(VERSIONS).map(_break),
    st.sampled_from(VERSIONS).map(_cannot_be_pulled),
    st.builds(_trouble, st.sampled_from(VERSIONS), st.sampled_from(TROUBLES)),
    st.sampled_from(["Rollback", "Hold"]).map(lambda how: _edit(handoff={**QUICK, "onFailure": how})),
    st.sampled_from(WINDOWS).map(lambda windows: _edit(maintenanceWindows=windows)),
    st.builds(_mark, st.just(names.NOW), st.sampled_from([None, *VERSIONS, "4.2.3 CHG-9"])),
    st.builds(_mark, st.sampled_from([names.RETRY, names.REFRESH]), st.sampled_from([None, "one", "two"])),
    st.just(Step("all images can be pulled", lambda c: c.never_pulled.clear())),
    st.just(Step("all pods get ready", lambda c: c.mend())),
    st.just(Step("21 s without progress", lambda c: c.tick(21))),
    st.just(Step("kubectl rollout restart", lambda c: c.restart_pods() if "Deployment" in c.objects else None)),
    st.just(Step("a reloader edits the template", lambda c: _reload(c) if "Deployment" in c.objects else None)),
)
"""What people and the operator do, and rollouts that fail."""

steps: Final = st.one_of(
    orderly_steps,
    st.just(Step("pods are evicted", lambda c: c.evict())),
    st.sampled_from([("node-1",), ("node-2",), ("node-1", "node-2")]).map(
        lambda nodes: Step(f"cordon {' and '.join(nodes)}", lambda c: c.cordon(*nodes))
    ),
    st.just(Step("uncordon", lambda c: c.uncordon())),
    st.sampled_from(["node-1", "node-2"]).map(lambda node: Step(f"{node} is lost", lambda c: c.lose_node(node))),
    st.just(Step("lost nodes come back", lambda c: c.find_nodes())),
    st.just(Step("five minutes go by", lambda c: c.tick(300))),
    st.sampled_from(FORGERIES).map(
        lambda forged: Step(f"somebody sets {forged[0]} to {forged[1]}", lambda c: _forge(c, *forged))
    ),
    st.just(Step("a backup tool saves the Deployment", _save)),
    st.just(Step("a backup tool restores the Deployment", _restore)),
    st.sampled_from(["Service", "PodDisruptionBudget", "Deployment"]).map(
        lambda kind: Step(f"{kind} deleted", lambda c: _delete(c, kind))
    ),
)
"""The same, and pods and objects that go without anybody asking the operator."""

policies: Final = st.sampled_from(sorted(POLICIES)).map(_under)
"""Admission policies that come and go; only an `AdmittingCluster` has them."""

first_versions: Final = st.sampled_from(VERSIONS)
orderly_stories: Final = st.lists(orderly_steps, min_size=1, max_size=14)
stories: Final = st.lists(steps, min_size=1, max_size=14)


def beginning(version: str, kind: type[SimulatedCluster] = SimulatedCluster) -> SimulatedCluster:
    """Return the cluster with which a story begins: the first agent serves."""
    return kind(agent(version, handoff=QUICK)).settle()
