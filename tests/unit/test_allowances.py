"""What the operator's settings let agents use: each limit, and what a refusal leaves as it is."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.scope import Limits
from medplum_agent_operator.core.policy import allowances
from medplum_agent_operator.core.policy.allowances import not_allowed
from medplum_agent_operator.settings import Settings
from tests.support.builders import CONFIG, REPOSITORY, SERVER, agent, observed
from tests.support.simulated_cluster import SimulatedCluster, installed

MIRROR = {"repository": "mirror.example.org/agent"}
ELSEWHERE = {**SERVER, "baseUrl": "https://elsewhere.example.org/"}


def test_examples() -> None:
    """The examples in the docstrings are right."""
    failed, tried = doctest.testmod(allowances)
    assert (0, True) == (failed, tried > 0)


@pytest.mark.parametrize(
    ("spec", "limits", "field"),
    [
        pytest.param({"image": MIRROR}, {"image_repositories": ("mirror.example.org/*",)}, None, id="a repository with the prefix"),
        pytest.param({"image": MIRROR}, {"image_repositories": ("mirror.example.org/agent",)}, None, id="exactly this repository"),
        pytest.param({"image": MIRROR}, {"image_repositories": ("mirror.example.org/age",)}, "spec.image.repository", id="a beginning without *"),
        pytest.param({"image": MIRROR}, {"image_repositories": ("other/*", "another/*")}, "spec.image.repository", id="another repository"),
        pytest.param({}, {"image_repositories": ("other/*",)}, None, id="the operator's default is always allowed"),
        pytest.param({"image": {"repository": REPOSITORY}}, {"image_repositories": ("other/*",)}, None, id="the default, written out"),
        pytest.param({}, {"servers": (SERVER["baseUrl"].upper().replace("HTTPS", "https"),)}, None, id="the server, in another form"),
        pytest.param({"server": ELSEWHERE}, {"servers": (SERVER["baseUrl"],)}, "spec.server.baseUrl", id="another server"),
        pytest.param({"server": ELSEWHERE}, {"servers": ("https://elsewhere.example.org/*",)}, None, id="a prefix that ends with a slash"),
        pytest.param({"server": ELSEWHERE}, {"servers": ("https://elsewhere.*",)}, None, id="a prefix of the server"),
        pytest.param({}, {"secrets": ("lab-*",)}, None, id="a Secret with the prefix"),
        pytest.param({}, {"secrets": ("ward-*",)}, "spec.server.credentialsSecretRef.name", id="another Secret"),
        pytest.param({"image": {"pullSecrets": [{"name": "theirs"}]}}, {"secrets": ("lab-*",)}, "spec.image.pullSecrets[].name", id="another Secret for pulls"),
        pytest.param({"podTemplate": {"serviceAccountName": "admin"}}, {"service_accounts": ("agent",)}, "spec.podTemplate.serviceAccountName", id="another service account"),
        pytest.param({}, {"service_accounts": ("agent",)}, None, id="the agent's own service account"),
        pytest.param({"podTemplate": {"priorityClassName": "system-node-critical"}}, {"priority_classes": ("clinic",)}, "spec.podTemplate.priorityClassName", id="another priority class"),
        pytest.param({}, {"priority_classes": ("clinic",)}, None, id="no priority class"),
        pytest.param({"podTemplate": {"hostNetwork": True}}, {"node_ports": False}, "spec.podTemplate.hostNetwork", id="the network of the node"),
        pytest.param({"channels": [{"name": "adt", "port": 2575, "hostPort": 2575}]}, {"node_ports": False}, "spec.channels[].hostPort", id="a port of the node"),
        pytest.param({"podTemplate": {"hostNetwork": True}}, {}, None, id="no limit"),
    ],
)  # fmt: skip
def test_what_is_allowed(spec: dict[str, Any], limits: dict[str, Any], field: str | None) -> None:
    """The message names the field and the setting."""
    found = not_allowed(observed(agent(**spec)), replace(CONFIG, limits=Limits(**limits)))
    assert field == (None if found is None else found.summary.partition(" ")[0])
    if found is not None:
        assert "The setting --allow" in found.cause
        assert "--allow" in found.fix


def test_a_refused_spec_leaves_the_applied_one_in_force() -> None:
    """Nothing is replaced; drift is repaired; an allowed spec goes on."""
    cluster = installed("5.1.14")
    before = [pod.name for pod in cluster.pods]
    cluster.config = replace(CONFIG, limits=Limits(image_repositories=("mirror.example.org/*",)))
    cluster.edit(version="5.1.15", image={"repository": "ghcr.io/somebody/agent"}).delete("Service").settle()
    assert ("True", "NotAllowed") == cluster.condition("Stalled")
    assert before == [pod.name for pod in cluster.pods]
    assert "Service" in cluster.objects
    cluster.edit(image=MIRROR).settle()
    assert ["5.1.15"] == cluster.running


def test_a_limit_that_comes_later_stops_no_agent() -> None:
    """The agent runs on, and the refusal is reported."""
    cluster = installed("5.1.14", image={"repository": "ghcr.io/somebody/agent"})
    before = [pod.name for pod in cluster.pods]
    cluster.config = replace(CONFIG, limits=Limits(image_repositories=("mirror.example.org/*",)))
    cluster.count += 1
    cluster.settle()
    assert (before, "NotAllowed") == ([pod.name for pod in cluster.pods], cluster.condition("Stalled")[1])


@pytest.mark.parametrize("deleted", [False, True])
def test_what_is_not_allowed_is_never_created(*, deleted: bool) -> None:
    """A first installation, and one whose Deployment was deleted: the applied spec is then a guess from the user's."""
    spec: dict[str, Any] = {"image": {"repository": "ghcr.io/somebody/agent"}}
    cluster = installed("5.1.15", **spec) if deleted else SimulatedCluster(agent(**spec))
    if deleted:
        cluster.delete("Deployment")
    cluster.config = replace(CONFIG, limits=Limits(image_repositories=("mirror.example.org/*",)))
    plan = cluster.plan()
    assert (Reason.NOT_ALLOWED, ()) == (plan.reason, plan.actions)


def test_the_settings_are_the_limits() -> None:
    """Each has its place."""
    flags = {
        "image-repositories": "a/*,b",
        "servers": "https://a/",
        "secrets": "s",
        "service-accounts": "sa",
        "priority-classes": "p",
    }
    found = Settings.load([f"--allowed-{name}={value}" for name, value in flags.items()] + ["--no-allow-host-ports"])
    assert Limits(("a/*", "b"), ("https://a/",), ("s",), ("sa",), ("p",), node_ports=False) == found.limits
    assert Limits() == Settings.load([]).limits
