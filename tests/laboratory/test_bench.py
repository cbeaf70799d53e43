"""That the bench works and counts rightly, with few agents. Timings are not asserted: a test run is no place to measure them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.local import EXISTING
from tests.tools.bench import report
from tests.tools.bench.audit import BENCH_AGENT, OPERATOR, Call
from tests.tools.bench.figures import AgentWrites, Spread, Writes
from tests.tools.bench.phases import Handoff
from tests.tools.bench.run import Options, run

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 1, 1, tzinfo=UTC)


def call(
    what: str, name: str, *, user: str = OPERATOR, user_agent: str = "", code: int = 200, at_ms: float = 0
) -> Call:
    """Return a call that took one millisecond."""
    verb, _, path = what.partition(" ")
    resource, _, subresource = path.partition("/")
    received = START + timedelta(milliseconds=at_ms)
    answered = received + timedelta(milliseconds=1)
    return Call(user, user_agent, verb, resource, subresource, "bench", name, code, received, answered)


def test_an_agents_writes_are_told_apart() -> None:
    """Reads, other people's writes and other agents' writes do not count; refused writes have their own count."""
    seen = [
        call("patch deployments", "agent-001"),
        call("patch medplumagents/status", "agent-001"),
        call("patch medplumagents/status", "agent-001", code=409),
        call("patch medplumagents/status", "agent-001"),
        call("create events", "agent-001.0a1b2c"),
        call("patch services", "agent-001"),
        call("get deployments", "agent-001"),
        call("patch deployments", "agent-002"),
        call("patch deployments", "agent-001", user="kwok-admin"),
    ]
    expected = AgentWrites(deployment=1, revisions=0, status=2, events=1, other=1, refused=1)
    assert expected == AgentWrites.of(seen, "agent-001")


def test_the_bar_holds_for_the_agent_that_took_most() -> None:
    """Three status writes are within the bar, a fourth one of a single agent is not."""
    seen = [call("patch deployments", name) for name in ("agent-000", "agent-001")]
    seen += [call("patch medplumagents/status", "agent-000")] * 3
    assert Writes.of(seen, ["agent-000", "agent-001"]).within_bar
    seen.append(call("patch medplumagents/status", "agent-000"))
    assert not Writes.of(seen, ["agent-000", "agent-001"]).within_bar


def test_a_handoff_is_the_first_accepted_write_of_each() -> None:
    """A Deployment PATCH that lost a race is no Deployment written; the next one is."""
    controller = "kube-controller-manager/v1.37.2 (linux/amd64) kubernetes/abc/deployment-controller"
    change = call("patch medplumagents", "agent-000", user="admin", user_agent=BENCH_AGENT)
    lost = call("patch deployments", "agent-000", code=409, at_ms=5)
    written = call("patch deployments", "agent-000", at_ms=9)
    followed = call("create replicasets", "agent-000-75f", user="admin", user_agent=controller, at_ms=12)
    assert Handoff(change, written, followed) == Handoff.of([change, lost, written, followed], "agent-000")


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """Nearest rank: no value is made up between two others."""
    assert Spread(samples=10, p50=5, p90=9, p99=10, max=10) == Spread.of(range(1, 11))


@pytest.mark.cluster
@pytest.mark.timeout(180)
@pytest.mark.skipif(EXISTING in os.environ, reason="the bench reads the audit log of a cluster of its own")
def test_a_small_run_counts_the_writes_and_writes_every_figure(tmp_path: Path) -> None:
    """Five agents: one Deployment and at most three status a change, none when converged, and results.json is whole."""
    results = run(Options(agents=5, changes=3, seconds=3.0, out=tmp_path))
    figures = results.figures

    for changed in (figures.idle.writes, figures.burst.writes):
        assert changed.within_bar, changed
    assert figures.downgrade.down.deployment == 1
    assert figures.downgrade.up.deployment == 2
    assert {} == figures.converged.writes
    assert {} == figures.restart.writes

    assert all(column.header for column in report._writes(figures).columns), "each number has its heading"
    written = json.loads(report.write(results, tmp_path).read_text(encoding="utf-8"))
    assert {
        "date",
        "agents",
        "changes",
        "spacing",
        "seconds",
        "gates",
        "machine",
        "versions",
        "figures",
        "bars",
    } == written.keys()
    phases = {"install", "idle", "downgrade", "converged", "restart", "burst", "process"}
    assert phases == written["figures"].keys()
    spread = {"samples", "p50", "p90", "p99", "max"}
    for latency in (
        written["figures"]["idle"]["change_to_deployment_ms"],
        written["figures"]["idle"]["deployment_to_replicaset_ms"],
        written["figures"]["burst"]["change_to_deployment_ms"],
    ):
        assert {"received": spread, "written": spread} == {name: values.keys() for name, values in latency.items()}
    assert [3, 5] == [
        written["figures"][phase]["change_to_deployment_ms"]["written"]["samples"] for phase in ("idle", "burst")
    ]
    assert 6 == len(written["bars"])
    for bar in results.bars:
        assert f"| {bar.promise} | {bar.bar} | {bar.measured} |" in (tmp_path / report.SUMMARY).read_text(
            encoding="utf-8"
        )
