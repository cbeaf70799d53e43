"""Which pods take connections, as EndpointSlices say."""

from __future__ import annotations

from typing import Any

import pytest
from lightkube.models.core_v1 import ObjectReference
from lightkube.models.discovery_v1 import Endpoint, EndpointConditions, EndpointPort
from lightkube.resources.discovery_v1 import EndpointSlice

from medplum_agent_operator.gate.endpoints import ready_pods
from medplum_agent_operator.gate.routes import Pod


def endpoint(name: str, address: str = "10.0.0.1", **conditions: bool | None) -> Endpoint:
    """A pod in a slice."""
    return Endpoint([address], EndpointConditions(**conditions), targetRef=ObjectReference(kind="Pod", name=name))


def piece(*endpoints: Endpoint, family: str = "IPv4", **ports: int) -> EndpointSlice:
    """A slice."""
    named = [EndpointPort(name=name, port=port) for name, port in (ports or {"adt": 2575}).items()]
    return EndpointSlice(addressType=family, endpoints=list(endpoints), ports=named)


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": None}, True),
        ({"ready": False, "serving": False, "terminating": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "serving": True, "terminating": True}, False),
    ],
)
def test_a_pod_is_taken_if_it_is_ready_and_not_about_to_end(conditions: dict[str, Any], taken: bool) -> None:  # noqa: FBT001
    """One that drains still serves, and gets nothing new all the same."""
    assert {"adt": {Pod("a", "10.0.0.1", 2575)} if taken else set()} == (
        ready_pods([piece(endpoint("a", **conditions))]) or {"adt": set()}
    )


def test_each_port_has_its_own_pods() -> None:
    """By the name of the Service's port."""
    found = ready_pods([piece(endpoint("a", ready=True), adt=2575, lab=2576)])
    assert {"adt": {Pod("a", "10.0.0.1", 2575)}, "lab": {Pod("a", "10.0.0.1", 2576)}} == found


def test_a_pod_with_both_families_is_one_pod() -> None:
    """IPv4 is taken, in whatever order the slices come; where there is none, IPv6."""
    four, six = piece(endpoint("a")), piece(endpoint("a", "fd00::1"), endpoint("b", "fd00::2"), family="IPv6")
    both = {"adt": {Pod("a", "10.0.0.1", 2575), Pod("b", "fd00::2", 2575)}}
    assert both == ready_pods([four, six]) == ready_pods([six, four])


def test_a_slice_may_be_empty() -> None:
    """The API server sends null for what is not there."""
    nobody = EndpointSlice(addressType="IPv4", endpoints=None, ports=None)
    assert {} == ready_pods(
        [nobody, EndpointSlice(addressType="IPv4", endpoints=[Endpoint([])], ports=[EndpointPort()])]
    )
