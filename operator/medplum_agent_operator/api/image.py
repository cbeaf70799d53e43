"""The agent's container image: `spec.image`.

Read by `spec`, which adds the rule between tag and version. Must only describe: `core.objects.agent_pod` builds the reference.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, Matching
from medplum_agent_operator.api.pod import Name

_PATH_PART: Final = "[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"


class PullPolicy(StrEnum):
    """When the kubelet pulls the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class LocalReference(ApiModel):
    """An object in the same namespace."""

    name: Name = Field(description="Name of the object.")


class ImageSpec(ApiModel):
    """The agent's container image. Upstream publishes none; docs/how-to/build-an-agent-image.md shows how to build one."""

    repository: (
        Annotated[
            str,
            Field(max_length=255),
            Matching(
                rf"([A-Za-z0-9.-]+(:[0-9]+)?/)?{_PATH_PART}(/{_PATH_PART})*",
                "spec.image.repository must be an image name without tag and digest, such as registry.example.org/medplum-agent; "
                "put the tag in spec.image.tag and the digest in spec.image.digest",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Image repository, without tag and digest. If absent, the repository in the operator's settings.",
    )
    tag: (
        Annotated[
            str,
            Field(max_length=128),
            Matching(
                "[A-Za-z0-9_][A-Za-z0-9_.-]*",
                "spec.image.tag must consist of letters, digits, '_', '.' and '-', such as 5.1.15-debian",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Image tag. If absent, spec.version. A tag that is a version must equal spec.version. The operator trusts any other tag to contain that "
        "version: it judges upgrades, downgrades and approvals by spec.version alone.",
    )
    digest: (
        Annotated[
            str,
            Field(max_length=128),
            Matching(
                "sha256:[0-9a-f]{64}",
                "spec.image.digest must be sha256: followed by 64 hexadecimal digits in lower case",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Image digest: sha256: followed by 64 hexadecimal digits. The agent runs exactly this image, even if the tag points to another one. "
        "Change it together with spec.version, or each version runs the same image.",
    )
    pull_policy: PullPolicy = Field(
        default=PullPolicy.IF_NOT_PRESENT,
        description="When a node pulls the image: IfNotPresent (default), Always or Never. With Always, a pod cannot start again while the registry is "
        "down.",
    )
    pull_secrets: tuple[LocalReference, ...] = Field(
        default=(),
        description="Secrets of type kubernetes.io/dockerconfigjson for pulling the image.",
        max_length=16,
    )
    command: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] = Field(
        default=("/srv/medplum-agent",),
        description="The agent's program in the image, and its arguments. Default /srv/medplum-agent, where upstream's Dockerfile puts it. It runs as PID 1 "
        "and reads agent.properties from its working directory. A script must end with exec of the agent, or the agent never receives the signal to stop.",
        min_length=1,
        max_length=16,
    )
