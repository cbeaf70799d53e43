"""Two minutes of chaos on real nodes; `make chaos` is ten, and takes other figures on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.tools.chaos.figures import bars
from tests.tools.chaos.plan import Kind, draw
from tests.tools.chaos.run import run

if TYPE_CHECKING:
    from tests.support.cluster import Cluster
    from tests.support.real_nodes.lives import LifeRecorder

pytestmark = pytest.mark.timeout(600)

SEED: Final = 2080
"""Draws every kind of event within two minutes, and a 4.2.3 at both ends."""
SECONDS: Final = 120.0


def test_it_ends_well_whatever_happens(node_cluster: Cluster, lives: LifeRecorder | None) -> None:
    """Changes, failures, kills of operator, agent and gates, API server restarts, a drain: nothing is lost, two agents never meet, it converges."""
    if lives is None:
        pytest.skip("parts of a cluster that the tests did not start cannot be ended")
    found = run(node_cluster, lives, draw(SEED, SECONDS))
    figures = found.figures
    assert [] == [bar for bar in bars(figures) if not bar.kept], f"{found.traffic}\n{figures}\n{found.journal}"
    assert figures.messages["sent"] > 1000, found.traffic
    assert {kind: 0 for kind in _ALWAYS if not figures.events.get(kind)} == {}
    assert figures.rollouts
    assert figures.old_lives > 0, "no agent ran that may not run beside another"


_ALWAYS: Final = (Kind.VERSION, Kind.KILL_OPERATOR, Kind.DELETE_OPERATOR, Kind.API_SERVER, Kind.DRAIN, Kind.UNCORDON)
