"""The agent's software version, and 4.2.4, the version that decides whether two agents may run side by side.

Only X.Y.Z is compared. A running agent reports `5.1.15-abc1234`, whose suffix is a build id and not a pre-release: plain
semver would put `4.2.4-abc1234` below `4.2.4`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from packaging.version import Version

from medplum_agent_operator.api.annotations import VERSION_LABEL

_FULL: Final = re.compile(
    r"(?P<release>(?:0|[1-9]\d{0,8})(?:\.(?:0|[1-9]\d{0,8})){2})(?:-[0-9A-Za-z]{1,40})?", re.ASCII
)
_TAG: Final = re.compile(r"v?(?P<release>\d{1,9}\.\d{1,9}\.\d{1,9})(?![0-9.]).*", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """A version such as `5.1.15` or `5.1.15-abc1234`.

    >>> AgentVersion.parse("4.2.40") > AgentVersion.parse("4.2.4-abc1234")
    True
    >>> AgentVersion.parse("4.2.4-abc1234").same_release(AgentVersion.parse("4.2.4"))
    True
    >>> AgentVersion.parse("4.2.3").hands_over
    False
    """

    text: str
    release: Version = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a version as users write it.

        Raises:
            ValueError: if the text is not `X.Y.Z` or `X.Y.Z-suffix`; the message has valid examples.
        """
        match = _FULL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not a version such as 5.1.15 or 5.1.15-abc1234")
        return cls(text=text, release=Version(match["release"]))

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Read a version from the cluster; None if it is missing or invalid."""
        match = _FULL.fullmatch(text or "")
        return None if match is None else cls(text=match[0], release=Version(match["release"]))

    @classmethod
    def of_image_tag(cls, image: str) -> Self | None:
        """The version in an image's tag; None if the tag is not a version or is missing.

        >>> AgentVersion.of_image_tag("registry:5000/agent:v4.2.3-debian@sha256:00").text
        '4.2.3'
        """
        name = image.partition("@")[0].rpartition("/")[2]
        match = _TAG.fullmatch(name.partition(":")[2])
        return None if match is None else cls.read(match["release"])

    @property
    def hands_over(self) -> bool:
        """Whether an agent of this version can hand over to, or take over from, one that runs beside it.

        Source: https://github.com/medplum/medplum/issues/6958 (threshold 4.2.4, as upstream uses it).
        """
        return self.release >= ZERO_DOWNTIME.release

    def same_release(self, other: "AgentVersion") -> bool:
        """Whether both are equal apart from the build id."""
        return self.release == other.release

    def __lt__(self, other: "AgentVersion") -> bool:
        return self.release < other.release

    def __gt__(self, other: "AgentVersion") -> bool:
        return self.release > other.release

    def __str__(self) -> str:
        return self.text


ZERO_DOWNTIME: Final = AgentVersion.parse("4.2.4")
"""The first version whose agents hand over without downtime."""


def lowest_version(labels: Mapping[str, str], image: str) -> AgentVersion | None:
    """The lower of the versions that a template's label and its image's tag say; None if neither is a version."""
    found = (AgentVersion.read(labels.get(VERSION_LABEL)), AgentVersion.of_image_tag(image))
    return min((version for version in found if version is not None), default=None)


def version_of(labels: Mapping[str, str], image: str) -> AgentVersion | None:
    """The version that a template or a pod runs: its label, unless the image's tag is a different version.

    After a manual edit of the image the label is stale, and the tag shows what runs. None if neither is a version.
    """
    labelled = AgentVersion.read(labels.get(VERSION_LABEL))
    tagged = AgentVersion.of_image_tag(image)
    if tagged is None or (labelled is not None and labelled.same_release(tagged)):
        return labelled
    return tagged
