"""A tiny in-memory **model** of a cluster with one MedplumAgent, to tell whole stories in milliseconds. Not an API server.

What it plays, one small turn each `tick`: server-side apply of the few kinds (fields that we no longer apply go, lists are
replaced as wholes, a few defaults are added), the Deployment controller (RollingUpdate with surge 1 and unavailable 0, Recreate,
its `Progressing` condition with the traps that the real one has), ReplicaSets, a scheduler on two nodes (required pod
anti-affinity, host ports, cordons), a kubelet (a started agent is ready a second later, or never). The operator's part is the real
core: `make_plan`, then `project`. Whether the real parts do the same is what the tests on a real API server ask.

Two invariants are checked at every turn, by books of its own that the operator's code has no hand in: I1, no two running
agents where one is before 4.2.4; I2, no write goes below the version that was active last without an approval that has not
been used.
"""

from tests.support.simulated_cluster.cluster import OperatorDiedError, SimulatedCluster
from tests.support.simulated_cluster.situations import changing, installed

__all__ = ["OperatorDiedError", "SimulatedCluster", "changing", "installed"]
