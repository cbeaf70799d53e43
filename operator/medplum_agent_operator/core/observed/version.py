"""The agent's software version, and the one number in upstream's history that decides how two of them may meet.

Compared by X.Y.Z alone: a running agent reports `5.1.15-abc1234`, whose suffix is a build id and not a pre-release, so
plain semver would put `4.2.4-abc1234` below `4.2.4`.
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
            ValueError: when the text is not `X.Y.Z` or `X.Y.Z-suffix`; the message shows a good one.
        """
        match = _FULL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not a version such as 5.1.15 or 5.1.15-abc1234")
        return cls(text=text, release=Version(match["release"]))

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Read a version back from the cluster, where it may be missing or broken: then None."""
        match = _FULL.fullmatch(text or "")
        return None if match is None else cls(text=match[0], release=Version(match["release"]))

    @classmethod
    def of_image_tag(cls, image: str) -> Self | None:
        """The version that an image's tag claims, or None where the tag is no version (or there is only a digest).

        >>> AgentVersion.of_image_tag("registry:5000/agent:v4.2.3-debian@sha256:00").text
        '4.2.3'
        """
        name = image.partition("@")[0].rpartition("/")[2]
        match = _TAG.fullmatch(name.partition(":")[2])
        return None if match is None else cls.read(match["release"])

    @property
    def hands_over(self) -> bool:
        """Whether this version can take over from, or hand over to, another that runs beside it.

        Source: https://github.com/medplum/medplum/issues/6958 (threshold 4.2.4, as upstream uses it).
        """
        return self.release >= ZERO_DOWNTIME.release

    def same_release(self, other: "AgentVersion") -> bool:
        """Equal but for the build id."""
        return self.release == other.release

    def __lt__(self, other: "AgentVersion") -> bool:
        return self.release < other.release

    def __gt__(self, other: "AgentVersion") -> bool:
        return self.release > other.release

    def __str__(self) -> str:
        return self.text


ZERO_DOWNTIME: Final = AgentVersion.parse("4.2.4")
"""The first version whose agents hand over with zero downtime."""


def version_of(labels: Mapping[str, str], image: str) -> AgentVersion | None:
    """The version that a template or a pod runs: its label, unless the image's tag plainly says another one.

    Somebody who edits an image by hand leaves the label as it was; the tag is then what runs.
    """
    labelled = AgentVersion.read(labels.get(VERSION_LABEL))
    tagged = AgentVersion.of_image_tag(image)
    if tagged is None or (labelled is not None and labelled.same_release(tagged)):
        return labelled
    return tagged
