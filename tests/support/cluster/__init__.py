"""A real Kubernetes control plane on this machine, for tests: `with local_cluster() as cluster:`.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real ones, built from pinned sources; nodes and
pods are played by kwok, as `Behaviour` and `simulate` say.
"""

from __future__ import annotations

from tests.support.cluster.cluster import Cluster, wait_for
from tests.support.cluster.errors import ClusterStartError, KubectlError
from tests.support.cluster.local import local_cluster
from tests.support.cluster.simulation import Behaviour, simulate

__all__ = ["Behaviour", "Cluster", "ClusterStartError", "KubectlError", "local_cluster", "simulate", "wait_for"]
