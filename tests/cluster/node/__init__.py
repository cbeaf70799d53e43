"""Real nodes for the local cluster: kubelet, containerd and kube-proxy in namespaces of their own on this machine.

`cluster_with_nodes` (tests/cluster/real.py) puts them together with the control plane of tests/cluster/kwok.py. Needs root
and some of Debian's packages; `missing` says what is not there.
"""

from __future__ import annotations

from tests.cluster.node.machine import Machine
from tests.cluster.node.needs import missing

__all__ = ["Machine", "missing"]
