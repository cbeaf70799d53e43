"""A small in-memory **model** of a cluster with one MedplumAgent, which plays whole rollouts in milliseconds. Not an API server.

Each `tick` is one small step of:

- server-side apply of a few kinds: fields that the operator no longer applies are removed, lists are replaced, a few defaults are added;
- the Deployment controller: RollingUpdate with surge 1 and unavailable 0, Recreate, and the traps of the real `Progressing` condition;
- ReplicaSets;
- a scheduler on two nodes: required pod anti-affinity, host ports, cordons, taints;
- a kubelet: a started agent is ready a second later, or never.

The operator is the real core: `make_plan`, then `project`. `tests/behaviour/test_model.py` compares the model with the real controllers.

Every step checks two invariants, from `books` that do not use the operator's decisions. I1: no two agents run at the same time if one is
before 4.2.4. I2: no write goes below the active version without an unused approval.
"""

from tests.support.simulated_cluster.cluster import OperatorDiedError, SimulatedCluster
from tests.support.simulated_cluster.situations import changing, installed, is_revision, kinds_of

__all__ = ["OperatorDiedError", "SimulatedCluster", "changing", "installed", "is_revision", "kinds_of"]
