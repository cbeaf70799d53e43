"""Real nodes for the local cluster: kubelet, containerd and kube-proxy in namespaces of their own on this machine.

`cluster_with_nodes` (tests/support/cluster/real.py) puts them together with the control plane of tests/support/cluster/kwok.py. Needs root
and some of Debian's packages; `missing` says what is not there.
"""

from __future__ import annotations

from tests.support.cluster.node.machine import Machine
from tests.support.cluster.node.needs import missing

__all__ = ["Machine", "missing"]
