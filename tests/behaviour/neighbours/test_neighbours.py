"""Other programs in users' clusters. For every row: its end, its reason, its words, a working agent is not stopped, and rest costs no writes.

The recorder judges that two agents never run at the same time where one is before 4.2.4.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import yaml

from tests.behaviour.neighbours.policies import GROUP, served_version
from tests.behaviour.neighbours.table import NEIGHBOURS, Neighbour, manifest
from tests.support.audit import writes_of_the_operator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster
    from tests.support.world import World

IN_FORCE_SECONDS = 1.0
"""How long the API server needs at most to load a policy or a webhook that it has stored."""
QUIET_SECONDS = 3.0


@contextmanager
def present(world: World, row: Neighbour) -> Iterator[None]:
    """Let the neighbour's objects be in force."""
    made = [] if row.objects is None else row.objects(world.cluster, world.namespace)
    if made:
        world.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(made))
        pause(world, IN_FORCE_SECONDS)
    try:
        yield
    finally:
        if made:
            world.cluster.kubectl("delete", "--ignore-not-found", "-f", "-", input=yaml.safe_dump_all(made))


def pause(world: World, seconds: float) -> None:
    """Wait."""
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    world.wait(lambda: datetime.now(UTC) > until, "some seconds")


def change(world: World, row: Neighbour) -> None:
    """Change the spec, with the approval of a downgrade."""
    if row.change.get("version") == "4.2.3":
        world.approve("4.2.3 CHG-7")
    if row.change:
        world.patch(dict(row.change))


def is_said(world: World, row: Neighbour) -> bool:
    """Whether status and Events say what the row expects."""
    status = world.status()
    reasons = {each["reason"] for each in status.get("conditions", [])}
    said = not row.reason or row.reason in reasons or bool(world.events(row.reason))
    return said and row.says in status.get("plan", "")


@pytest.mark.parametrize("row", NEIGHBOURS, ids=str)
def test_a_neighbour_is_lived_with(world: World, row: Neighbour) -> None:
    """The row's end, and what must hold for every neighbour."""
    serving: set[str] = set()
    if row.before is not None:
        world.apply(manifest(row))
        world.wait_for_phase("Running", row.before)
        serving = {pod["metadata"]["uid"] for pod in world.pods()}
    with present(world, row):
        if row.before is None:
            world.apply(manifest(row))
        elif row.acts is not None:
            row.acts(world)
        change(world, row)
        world.wait_for_phase(row.phase)
        world.wait(lambda: is_said(world, row), f"{row.reason} {row.says}")
        if row.phase != "Running":
            assert serving <= {pod["metadata"]["uid"] for pod in world.pods()}, "a working agent was stopped"
        if row.rests and row.phase == "Running":
            assert_rest(world)
    if row.heals:
        world.wait_for_phase("Running", seconds=90)
    assert world.recorder.most_running.get("front-desk", 0) <= row.pods
    assert 200 == world.operators[0].get("/healthz")[0]


def assert_rest(world: World) -> None:
    """Once the last Event is written, there are no writes."""
    pause(world, 1.0)
    since = datetime.now(UTC)
    pause(world, QUIET_SECONDS)
    assert [] == writes_of_the_operator(world, since)


@dataclass(frozen=True, slots=True)
class Server:
    """An API server that serves the kind in these versions of its group."""

    versions: tuple[str, ...]

    def kubectl(self, *arguments: str) -> SimpleNamespace:
        """Answer `get --raw`: v1 of the group is always there, for the older kinds of policies."""
        path = arguments[-1]
        known = [{"version": version} for version in ("v1", "v1beta1", "v1alpha1")]
        kinds = [
            "ValidatingAdmissionPolicy",
            *(["MutatingAdmissionPolicy"] if path.rpartition("/")[2] in self.versions else []),
        ]
        answer = {"groups": [{"name": GROUP, "versions": known}], "resources": [{"kind": kind} for kind in kinds]}
        return SimpleNamespace(stdout=json.dumps(answer))


@pytest.mark.parametrize(
    ("versions", "found"),
    [(("v1", "v1beta1"), "v1"), (("v1alpha1", "v1beta1"), "v1beta1"), (("v1alpha1",), "v1alpha1"), ((), None)],
)
def test_what_is_served_is_used(versions: tuple[str, ...], found: str | None) -> None:
    """The newest version; without any, the rows with such a policy are skipped, with the reason."""
    server = cast("Cluster", Server(versions))
    if found is None:
        with pytest.raises(pytest.skip.Exception, match="serves no MutatingAdmissionPolicy"):
            served_version(server)
    else:
        assert f"{GROUP}/{found}" == served_version(server)
