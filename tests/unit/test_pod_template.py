"""What a rendered pod guarantees. How it looks as a whole: tests/golden; what its scripts do: test_start_scripts."""

from __future__ import annotations

from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.core.objects.agent_pod import image_reference, render_pod_template
from tests.support.builders import Raw, parsed, spec_of

DIGEST = "sha256:" + "0" * 64
TWO = [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}]
MINE = {"labelSelector": {"matchLabels": {"app": "noisy"}}, "topologyKey": "kubernetes.io/hostname"}


def template(version: str = "5.1.15", **spec: Any) -> Raw:
    """A rendered pod template."""
    agent = parsed(version, **spec)
    return render_pod_template(agent, agent.spec, image=image_reference(agent.spec, "agent"))


def containers(raw: Raw) -> list[Raw]:
    """Every container of a template."""
    found: list[Raw] = raw["spec"]["containers"]
    return found


def agent_container(raw: Raw) -> Raw:
    """The container that runs the agent."""
    found = containers(raw)[0]
    assert "agent" == found["name"]
    return found


def test_every_container_keeps_pod_security_restricted() -> None:
    """No root, no capabilities, no escalation, a read-only root, the runtime's seccomp profile, no token."""
    pod = template(channels=TWO)["spec"]
    assert (True, {"type": "RuntimeDefault"}) == (
        pod["securityContext"]["runAsNonRoot"],
        pod["securityContext"]["seccompProfile"],
    )
    assert (False, False) == (pod["automountServiceAccountToken"], pod["enableServiceLinks"])
    for container in containers({"spec": pod}):
        assert {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        } == container["securityContext"]


def test_the_agent_becomes_pid_1_with_the_commands_own_arguments() -> None:
    """The start script's own arguments come before, and it takes them off; a `$` is doubled, so that the kubelet leaves it alone."""
    container = agent_container(template(image={"command": ["/opt/agent", "--flag=$(HOME)"]}))
    assert ["sh", "-c"] == container["command"][:2]
    assert ["/opt/agent", "--flag=$$(HOME)"] == container["args"][4:]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_starts_before_the_agent(count: int) -> None:
    """No init container and no native sidecar: each would cost up to a second in which, after a stop, nobody serves."""
    raw = template(channels=[{"name": f"c{n}", "port": 1000 + n} for n in range(count)])
    assert "initContainers" not in raw["spec"]
    assert ["agent", *(f"ready-c{n}" for n in range(1, count))] == [c["name"] for c in containers(raw)]


def test_credentials_come_from_the_secret_by_reference_to_the_agents_container_alone() -> None:
    """The start script writes them into a file in memory, and takes them out of the environment (test_start_scripts)."""
    raw = template(channels=TWO)
    assert {"CLIENT_ID": "clientId", "CLIENT_SECRET": "clientSecret"} == {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]["key"]
        for container in containers(raw)
        for variable in container.get("env", ())
        if "valueFrom" in variable
    }
    assert ["agent"] == [container["name"] for container in containers(raw) if "env" in container]
    assert {"medium": "Memory", "sizeLimit": "1Mi"} == raw["spec"]["volumes"][0]["emptyDir"]


def test_every_folder_is_private_to_the_pod() -> None:
    """Nothing that a second agent could meet."""
    raw = template()
    assert all(set(volume) == {"name", "emptyDir"} for volume in raw["spec"]["volumes"])
    mounted = {mount["name"] for mount in agent_container(raw)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in raw["spec"]["volumes"]}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_channel_port_has_a_readiness_probe_of_its_own(count: int) -> None:
    """The first is the agent container's, each further one a sleeping container's."""
    raw = template(channels=[{"name": f"c{n}", "port": 1000 + n} for n in range(count)])
    probed = [c["readinessProbe"]["tcpSocket"]["port"] for c in containers(raw) if "readinessProbe" in c]
    assert sorted(probed) == [1000 + n for n in range(count)]
    assert 1000 == agent_container(raw)["readinessProbe"]["tcpSocket"]["port"]


def test_nothing_restarts_an_agent_whose_server_is_away() -> None:
    """No liveness and no startup probe anywhere."""
    assert not any(
        {"livenessProbe", "startupProbe"} & set(container) for container in containers(template(channels=TWO))
    )


@pytest.mark.parametrize(
    ("drain", "hook", "grace"),
    [
        pytest.param(
            7, {"preStop": {"sleep": {"seconds": 7}}}, 17, id="a drain of 7 s, and time for the signal after it"
        ),
        pytest.param(0, None, 10, id="no drain: no hook, which Kubernetes 1.30 would refuse with 0"),
    ],
)
def test_the_drain_comes_before_the_signal(drain: int, hook: Raw | None, grace: int) -> None:
    """SIGTERM does not drain in any version: the pause is the preStop hook's, in all containers, or the pod would not stay ready."""
    raw = template(handoff={"drainSeconds": drain}, channels=TWO)
    assert [hook, hook] == [container.get("lifecycle") for container in containers(raw)]
    assert grace == raw["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("version", "logging", "level", "channel"),
    [
        pytest.param("5.1.15", {}, "INFO", "WARN", id="by default channel logs, which hold patient data, are quieter"),
        pytest.param("4.3.14", {"level": "DEBUG"}, "DEBUG", "WARN", id="from 4.3.14 on each has its own level"),
        pytest.param("4.3.13", {"level": "DEBUG"}, "WARN", "WARN", id="before 4.3.14 the stricter rules all"),
        pytest.param(
            "4.2.3", {"level": "ERROR", "channelLevel": "INFO"}, "ERROR", "INFO", id="before, whichever is stricter"
        ),
        pytest.param(
            "4.3.13-zzz", {"level": "INFO", "channelLevel": "INFO"}, "INFO", "INFO", id="a build id makes no difference"
        ),
    ],
)
def test_log_levels(version: str, logging: dict[str, str], level: str, channel: str) -> None:
    """Both log folders are named in any version, or the agent ends without a word."""
    arguments = agent_container(template(version, logging=logging))["args"][3].splitlines()
    assert {f"logger.main.logLevel={level}", f"logger.channel.logLevel={channel}"} <= set(arguments)
    # From 4.3.14 on the one level for all would replace both: channel logs hold whole messages.
    one_level = [f"logLevel={level}"] if version.startswith(("4.2.", "4.3.13")) else []
    assert one_level == [line for line in arguments if line.startswith("logLevel=")]
    assert {"logger.main.logDir=/var/log/medplum-agent", "logger.channel.logDir=/var/log/medplum-agent"} <= set(
        arguments
    )


@pytest.mark.parametrize(
    ("version", "alone"), [("4.2.3", True), ("4.2.3-zzz", True), ("4.2.4", False), ("5.1.15", False)]
)
def test_before_4_2_4_the_scheduler_itself_keeps_agents_apart(version: str, *, alone: bool) -> None:
    """A required anti-affinity to the own agent over a topology that all nodes share; the user's terms stay."""
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [MINE]}}
    raw = template(version, podTemplate={"affinity": affinity})
    terms = raw["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    own = {
        "labelSelector": {"matchLabels": {names.NAME_LABEL: "medplum-agent", names.AGENT_LABEL: "lab"}},
        "topologyKey": "kubernetes.io/os",
    }
    assert [MINE, *([own] if alone else [])] == terms
    labels = raw["metadata"]["labels"]
    assert own["labelSelector"]["matchLabels"].items() <= labels.items()  # type: ignore[index]


def test_the_operators_labels_win_over_the_users() -> None:
    """An identity cannot be given away, whatever the CRD lets in."""
    labels = {names.VERSION_LABEL: "9.9.9", names.AGENT_LABEL: "other", "team": "lab"}
    found = template(podTemplate={"labels": labels})["metadata"]["labels"]
    assert ("5.1.15", "lab", "lab") == (found[names.VERSION_LABEL], found[names.AGENT_LABEL], found["team"])


def test_what_the_operator_guarantees_cannot_be_set_by_the_user() -> None:
    """Only the user's ids of the security context count."""
    pod = template(podTemplate={"securityContext": {"runAsUser": 1234, "runAsNonRoot": False}})["spec"]
    assert (1234, 5678, True) == (
        pod["securityContext"]["runAsUser"],
        pod["securityContext"]["runAsGroup"],
        pod["securityContext"]["runAsNonRoot"],
    )


def test_resources_are_sensible_until_somebody_says_otherwise() -> None:
    """512 Mi requested; what the user writes counts as a whole, numbers as numbers."""
    assert "512Mi" == agent_container(template())["resources"]["requests"]["memory"]
    wanted = {"limits": {"cpu": 2, "memory": "1Gi"}}
    assert wanted == agent_container(template(podTemplate={"resources": wanted}))["resources"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param({}, "repo/agent:5.1.15", id="the tag is the version"),
        pytest.param({"tag": "5.1.15-debian"}, "repo/agent:5.1.15-debian", id="a tag of its own"),
        pytest.param(
            {"digest": DIGEST},
            f"repo/agent:5.1.15@{DIGEST}",
            id="a digest beside the tag, which still tells the version",
        ),
    ],
)
def test_image_names(image: dict[str, str], expected: str) -> None:
    """Repository, tag, digest."""
    assert expected == image_reference(spec_of(image=image), "repo/agent")


def test_host_ports_are_noticed() -> None:
    """In the node's network, or by a channel's hostPort."""
    assert not spec_of().uses_host_ports
    assert spec_of(podTemplate={"hostNetwork": True}).uses_host_ports
    assert spec_of(channels=[*TWO, {"name": "x", "port": 1, "hostPort": 1}]).uses_host_ports


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"logging": {"level": "DEBUG"}}, id="a log level"),
        pytest.param({"podTemplate": {"annotations": {"a": "b"}}}, id="an annotation"),
        pytest.param({"handoff": {"drainSeconds": 6}}, id="the drain"),
        pytest.param({"channels": TWO}, id="a channel"),
    ],
)
def test_the_fingerprint_changes_with_what_a_pod_is(change: dict[str, Any]) -> None:
    """So that a field that is no longer rendered is noticed too."""
    assert _hash(template()) != _hash(template(**change))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"paused": True}, id="paused"),
        pytest.param({"service": {"type": "NodePort"}}, id="the Service"),
        pytest.param({"handoff": {"progressDeadlineSeconds": 301, "minReadySeconds": 6}}, id="deadlines"),
        pytest.param({"downgradePolicy": {"approval": "BelowZeroDowntime"}}, id="the policy"),
    ],
)
def test_what_is_no_part_of_a_pod_replaces_none(change: dict[str, Any]) -> None:
    """The template is the same to the letter."""
    assert template() == template(**change)


def _hash(raw: Raw) -> str:
    return str(raw["metadata"]["annotations"][names.TEMPLATE_HASH])
