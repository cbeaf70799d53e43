"""The one table of kinds: where each lives in the API, how it is watched, and what the cache keeps of it.

Read by `handlers`, `resync`, `cache`, `observe` and `adapters.kube`. Pure values: it makes no request and knows no object.
A new kind is one row here, plus the rights in `manifests/base/rbac.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import GROUP, KIND, PLURAL, VERSION

OWN_OBJECTS: Final = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"
"""Selects pods. Those of agents and those that fetch an image have no label of our own domain in common."""

OF_AGENTS: Final = names.AGENT_LABEL
"""Selects the children of agents by a label of our own domain. `app.kubernetes.io/managed-by` belongs to everybody: policies rewrite it."""

POD: Final = "Pod"
DEPLOYMENT: Final = "Deployment"
JOB: Final = "Job"
NODE: Final = "Node"
REVISION: Final = "ControllerRevision"

REDUCED: Final = "reduced"
"""The mark of a cached object of which only the nameplate is kept."""


class Cached(StrEnum):
    """What the cache keeps of an object. Managed fields go in every case but one."""

    OBJECT = "the object"
    AGENT = "the object, and the managed fields of its metadata: they show who set an approval"
    POD = "metadata and status; of the spec the node, and the name and image of each container"
    STATUS = "metadata and status"
    PACKED = "metadata, and the data of a revision, compressed"
    CORDON = "whether the node is cordoned, its taints that keep pods away, and since when its kubelet does not report"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object.

    Attributes:
        name: as in the `kind` field of an object.
        group: API group; empty for the core group.
        version: API version.
        plural: resource name in URLs.
        watched: whether the operator watches and lists it.
        selector: label selector of its watch and LIST; empty for all objects.
        namespaced: whether its objects live in namespaces.
        awaited: whether a rollout waits for objects of this kind; these are listed more often while one is under way.
        cached: what the cache keeps of its objects.
    """

    name: str
    group: str
    version: str
    plural: str
    watched: bool = True
    selector: str = OWN_OBJECTS
    namespaced: bool = True
    awaited: bool = False
    cached: Cached = Cached.OBJECT

    @property
    def api_version(self) -> str:
        """Group and version as objects carry them: `apps/v1`, `v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> tuple[str, str, str]:
        """Group, version and plural: how Kopf names a resource."""
        return self.group, self.version, self.plural

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Build the URL path of one object, of the objects of a namespace, or of all objects.

        >>> KINDS["Deployment"].path("clinic", "lab")
        '/apis/apps/v1/namespaces/clinic/deployments/lab'
        >>> KINDS["Pod"].path(None)
        '/api/v1/pods'
        """
        root = "/apis/" if self.group else "/api/"
        where = f"/namespaces/{namespace}" if namespace else ""
        parts = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{self.api_version}{where}/{self.plural}{parts}"


_ROWS: Final = (
    Kind(KIND, GROUP, VERSION, PLURAL, selector="", cached=Cached.AGENT),
    Kind(DEPLOYMENT, "apps", "v1", "deployments", selector=OF_AGENTS, awaited=True),
    Kind(POD, "", "v1", "pods", awaited=True, cached=Cached.POD),
    Kind("Service", "", "v1", "services", selector=OF_AGENTS),
    Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", selector=OF_AGENTS),
    Kind("ServiceAccount", "", "v1", "serviceaccounts", selector=OF_AGENTS),
    Kind("RoleBinding", "rbac.authorization.k8s.io", "v1", "rolebindings", selector=OF_AGENTS),
    Kind(JOB, "batch", "v1", "jobs", selector=names.FETCH_LABEL, awaited=True, cached=Cached.STATUS),
    Kind(NODE, "", "v1", "nodes", selector="", namespaced=False, cached=Cached.CORDON),
    Kind("Event", "", "v1", "events", watched=False),
    Kind(REVISION, "apps", "v1", "controllerrevisions", selector=OF_AGENTS, cached=Cached.PACKED),
)
"""In the order in which they are watched and listed."""

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _ROWS})
"""Every kind that the operator sends requests for, by name."""

AWAITED: Final = tuple(kind for kind in _ROWS if kind.awaited)
"""The kinds that a rollout waits for: an old pod ends, a new one becomes ready."""


def watched(*, nodes: bool) -> list[Kind]:
    """The kinds to watch and list. `nodes`: the setting `watch_nodes`."""
    return [kind for kind in _ROWS if kind.watched and (nodes or kind.name != NODE)]
