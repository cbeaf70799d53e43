"""Whatever stands in a MedplumAgent or on its objects: the operator never crashes, and never makes two agents of it.

`INPUTS=20000 python -m pytest tests/property/test_inputs.py` makes up so many new ones.
"""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.core.observed.version import AgentVersion
from tests.support.builders import agent
from tests.support.inputs import json_values, specs, statuses, texts
from tests.support.simulated_cluster import SimulatedCluster, changing, installed

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS = int(os.environ.get("INPUTS", "0"))
CHOSEN = settings(
    max_examples=INPUTS or 60,
    derandomize=not INPUTS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
WRITTEN_BY_PEOPLE = (names.FORCE_DOWNGRADE, names.NOW, names.RETRY, names.REFRESH)
WRITTEN_BY_US = (names.REVISION, names.ROLLOUT, names.APPLIED_SPEC)
LONG = st.sampled_from(["x" * 200_000, "4.2.3 " + "y" * 200_000, "\n" * 200_000])


@CHOSEN
@given(specs)
def test_any_spec_that_the_schema_lets_through_is_read_or_told(spec: dict[str, Any]) -> None:
    """It is acted on, or it does not fit the model; and what it leads to is one agent at the most."""
    raw = agent()
    raw["spec"] = spec
    try:
        parsed = MedplumAgent.parse(raw)
    except ValidationError:
        return
    if AgentVersion.read(parsed.spec.version) is None:
        return  # the CRD's CEL rule keeps such a version out
    cluster = SimulatedCluster(raw)
    for _ in range(8):
        cluster.reconcile()
        cluster.tick()
    assert 1 >= len(cluster.running)


@CHOSEN
@given(specs)
def test_any_edit_of_a_running_agent_ends_with_one(spec: dict[str, Any]) -> None:
    """5.1.15 serves; then somebody writes this spec. I1 and I2 are asserted at every turn."""
    cluster = installed("5.1.15")
    raw = copy.deepcopy(cluster.agent)
    raw["spec"] = {**spec, "server": raw["spec"]["server"]}
    try:
        if AgentVersion.read(MedplumAgent.parse(raw).spec.version) is None:
            return
    except ValidationError:
        return
    cluster.agent["spec"] = raw["spec"]
    cluster.edit(paused=False)
    cluster.agent["metadata"]["generation"] += 1
    for _ in range(25):
        cluster.tick()
        cluster.reconcile()
    assert 2 >= len(cluster.running)


@CHOSEN
@given(st.dictionaries(st.sampled_from(WRITTEN_BY_PEOPLE), st.one_of(texts, LONG), min_size=1))
def test_any_annotation_of_people_is_read_or_ignored(marks: dict[str, str]) -> None:
    """Two hundred thousand characters, line breaks, nothing: a refused downgrade stays one, and comes to rest."""
    cluster = installed("5.1.15")
    cluster.agent["metadata"]["annotations"] |= marks
    cluster.edit(version="4.2.3").settle()
    approved = marks.get(names.FORCE_DOWNGRADE, "").split(maxsplit=1)[:1] == ["4.2.3"]
    assert ["4.2.3" if approved else "5.1.15"] == cluster.running
    assert len(json.dumps(cluster.agent["status"])) < 60_000
    assert len(json.dumps(cluster.deployment["metadata"])) < 60_000


ABYSSES = (
    pytest.param("[" * 100_000, id="a nest"),
    pytest.param("[" * 900 + "]" * 900, id="a nest just below the limit"),
    pytest.param("9" * 5_000, id="a number"),
)


@CHOSEN
@given(
    st.dictionaries(st.sampled_from(WRITTEN_BY_US), st.one_of(texts, json_values.map(json.dumps)), min_size=1),
    st.sampled_from([lambda: installed("5.1.15"), lambda: changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1")]),
    st.sampled_from(["5.1.15", "4.2.3", "5.1.16"]),
)
def test_any_note_on_the_deployment_is_read_or_taken_for_absent(
    marks: dict[str, str], start: Callable[[], SimulatedCluster], target: str
) -> None:
    """Somebody overwrote what the operator remembers: it goes on, and goes nowhere unapproved (I1 and I2 are asserted)."""
    overwritten(start(), marks, target)


@pytest.mark.parametrize("text", ABYSSES)
@pytest.mark.parametrize("name", WRITTEN_BY_US)
def test_a_note_that_no_parser_gets_through_is_taken_for_absent(name: str, text: str) -> None:
    """Valid JSON by its grammar: nested too deep for any stack, a number of too many digits."""
    overwritten(changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1"), {name: text}, "4.2.3")


def overwritten(cluster: SimulatedCluster, marks: dict[str, str], target: str) -> None:
    """Play it."""
    cluster.deployment["metadata"]["annotations"] |= marks
    cluster.count += 1
    cluster.edit(version=target)
    for _ in range(90):
        cluster.tick()
        cluster.reconcile()
    assert 2 >= len(cluster.running)


@CHOSEN
@given(statuses)
def test_any_status_is_overwritten_by_a_true_one(status: Any) -> None:
    """By hand, by another release, of another shape: what cannot be read is taken for absent, and then it is right again."""
    cluster = installed("5.1.15")
    cluster.agent["status"] = status
    cluster.edit(version="5.1.16").settle()
    assert ("5.1.16", ["5.1.16"]) == (cluster.status.active_version, cluster.running)
    assert "5.1.16" == cluster.status.history[0].to


@pytest.mark.parametrize("name", WRITTEN_BY_PEOPLE)
def test_an_annotation_of_200_kb_costs_no_more_than_its_own_size(name: str) -> None:
    """What is kept of it is a fingerprint, and it converges."""
    cluster = installed("5.1.15").mark(name, "4.2.3 " + "x" * 200_000).edit(version="4.2.3").settle()
    writes = list(cluster.writes)
    cluster.tick(60)
    assert writes == cluster.settle().writes
    assert len(json.dumps([cluster.agent["status"], cluster.deployment["metadata"]])) < 60_000
