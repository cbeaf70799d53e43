"""The configuration files of a node's programs, as values. Called by `machine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

REGISTRY: Final = "registry.test"
PAUSE_IMAGE: Final = f"{REGISTRY}/pause:1"
BRIDGE: Final = "cni0"
"""What a node's pods hang on."""


def containerd(folder: Path) -> str:
    """Containerd 2.x, configuration version 3: our runc, our network plugins, our pause image, nothing that is not needed."""
    return f"""\
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "{folder}/registries"

[plugins."io.containerd.cri.v1.runtime"]
# The harness itself may not be allowed to be as dear to the kernel as a kubelet wants its pods to be.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{folder}/cni"]
conf_dir = "{folder}/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{folder}/bin/runc"
SystemdCgroup = false
"""


def registry_hosts(address: str) -> str:
    """Where the images of `registry.test` are: at the run's own registry, without TLS."""
    return f"""\
server = "{address}"

[host."{address}"]
capabilities = ["pull", "resolve"]
"""


def pod_network(pods: str) -> dict[str, Any]:
    """A bridge for the node's pods, routed, never translated: a pod's address is its own everywhere."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet(*, cgroup: str, client_ca: Path, folder: Path) -> dict[str, Any]:
    """A kubelet that is quick to notice things; the rest is what a cluster has by default."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": str(client_ca)}, "anonymous": {"enabled": False}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi"},
        "resolvConf": str(folder / "resolv.conf"),
        "syncFrequency": "1s",
        "volumePluginDir": str(folder / "volume-plugins"),
    }


def kube_proxy(*, kubeconfig: Path, node: str) -> dict[str, Any]:
    """kube-proxy by nftables; conntrack's own size is the machine's and not to be touched from a namespace.

    What comes from pods it knows by the bridge: no range of addresses holds all pods and no node, and a node that counts as a pod is led past
    `externalTrafficPolicy: Local`.
    """
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "detectLocalMode": "BridgeInterface",
        "detectLocal": {"bridgeInterface": BRIDGE},
        "conntrack": {"maxPerCore": 0},
        "hostnameOverride": node,
        "mode": "nftables",
    }
