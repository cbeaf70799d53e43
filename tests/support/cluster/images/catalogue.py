"""The images: what each is made of, and its name.

The image builder asks. Everything that decides what is in an image is named here, because the hash of it is the image's
key in the cache: an image is built again when one of its inputs changes, and at no other time.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster.images import rootfs
from tests.support.cluster.images.buildah import Build
from tests.support.cluster.images.oci import architecture, file_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[4]
VERSION: Final[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
"""The operator's own."""
REGISTRY: Final = "registry.test"
"""A name that never resolves (RFC 6761): a node that has not been given the image cannot find it anywhere."""
FORMAT: Final = "2"
"""To be raised when this package writes other images from the same inputs."""
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class FromLayer:
    """An image of one layer that a function writes."""

    reference: str
    write: Callable[[Path, Path], None]
    """Given the tar file to write and a folder to work in."""
    config: Mapping[str, Any]
    decided_by: Callable[[], str]
    """What decides the content of the layer."""

    @property
    def references(self) -> Sequence[str]:
        """Its one name."""
        return (self.reference,)


@dataclass(frozen=True, slots=True)
class FromDockerfile:
    """An image that a Dockerfile describes, and its variants, which differ in environment variables alone."""

    reference: str
    build: Build
    inputs: Sequence[Path]
    """Files and folders whose content decides what comes out."""
    base: str = "base"
    """The name in the catalogue of what it stands on."""
    base_argument: str = "PYTHON_IMAGE"
    """The build argument that names the base."""
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further references, each with the variables that it adds."""

    @property
    def references(self) -> Sequence[str]:
        """Its names: the one that is built, then its variants."""
        return (self.reference, *self.variants)

    def on(self, base: str) -> Build:
        """The build, with its base named."""
        return replace(self.build, arguments={**self.build.arguments, self.base_argument: base})


Recipe = FromLayer | FromDockerfile


def name_of(image: str, tag: str) -> str:
    """The full reference of an image of these tests.

    >>> name_of("medplum-agent", "5.1.15")
    'registry.test/medplum-agent:5.1.15'
    """
    return f"{REGISTRY}/{image}:{tag}"


PAUSE: Final = FromLayer(
    reference=name_of("pause", "1"),
    write=rootfs.write_pause,
    config={"Entrypoint": ["/sleep", "2147483647"], "User": "65532:65532"},
    decided_by=lambda: file_digest(rootfs.busybox()),
)
BASE: Final = FromLayer(
    reference=name_of("python-base", rootfs.SUITE),
    write=rootfs.write_base,
    config={"Env": [PATH], "Cmd": ["python3"]},
    decided_by=lambda: " ".join(rootfs.mmdebstrap(Path("layer.tar"))),
)
OPERATOR: Final = FromDockerfile(
    reference=name_of("medplum-agent-operator", VERSION),
    build=Build(dockerfile=ROOT / "Dockerfile", context=ROOT, arguments={"VERSION": VERSION}),
    inputs=[
        ROOT / each
        for each in (
            *("Dockerfile", "requirements.txt", "requirements-dev.txt", "pyproject.toml", "LICENSE"),
            "operator",
        )
    ],
)

DOUBLES: Final = ROOT / "tests" / "support" / "doubles"
TRAFFIC: Final = ROOT / "tests" / "support" / "traffic"
AGENT_VERSIONS: Final[Mapping[str, str]] = {
    "4.2.3": "{}",
    "5.1.14": "{}",
    "5.1.15": "{}",
    "5.1.16": '{"never_ready": true}',
}
"""Which agents there are, and the switches of each (docs/internals/stand-ins.md)."""

DOUBLES_BASE: Final = FromDockerfile(
    reference=name_of("doubles-base", "1"),
    build=Build(dockerfile=DOUBLES / "base.Dockerfile", context=ROOT),
    inputs=[ROOT / "requirements.txt"],
)
AGENT: Final = FromDockerfile(
    reference=name_of("medplum-agent", "0.0.0"),
    build=Build(
        dockerfile=DOUBLES / "Dockerfile", context=DOUBLES, arguments={"AGENT_VERSION": "0.0.0"}, target="agent"
    ),
    inputs=[DOUBLES],
    base="doubles-base",
    base_argument="BASE",
    variants={
        name_of("medplum-agent", version): {
            "MEDPLUM_AGENT_DOUBLE_VERSION": version,
            "MEDPLUM_AGENT_DOUBLE_SWITCHES": switches,
        }
        for version, switches in AGENT_VERSIONS.items()
    },
)
MEDPLUM_SERVER: Final = FromDockerfile(
    reference=name_of("medplum-server", "1"),
    build=Build(dockerfile=DOUBLES / "Dockerfile", context=DOUBLES, target="medplum"),
    inputs=[DOUBLES],
    base="doubles-base",
    base_argument="BASE",
)
TRAFFIC_GENERATOR: Final = FromDockerfile(
    reference=name_of("traffic", "1"),
    build=Build(dockerfile=TRAFFIC / "Dockerfile", context=TRAFFIC),
    inputs=[TRAFFIC],
    base_argument="BASE",
)

RECIPES: Final[Mapping[str, Recipe]] = {
    "pause": PAUSE,
    "base": BASE,
    "operator": OPERATOR,
    "doubles-base": DOUBLES_BASE,
    "agent": AGENT,
    "medplum-server": MEDPLUM_SERVER,
    "traffic": TRAFFIC_GENERATOR,
}


def key(recipe: Recipe) -> str:
    """What decides the image, as a short hash."""
    parts = [FORMAT, architecture()]
    if isinstance(recipe, FromLayer):
        parts += [recipe.reference, repr(sorted(recipe.config.items())), recipe.decided_by()]
    else:
        arguments = sorted(recipe.build.arguments.items())
        variants = [(name, sorted(added.items())) for name, added in recipe.variants.items()]
        parts += [
            recipe.reference,
            key(RECIPES[recipe.base]),
            repr((arguments, recipe.build.target, variants)),
            recipe.base_argument,
        ]
        parts += [each for path in (recipe.build.dockerfile, *recipe.inputs) for each in content(path)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def content(path: Path) -> Iterator[str]:
    """Name, mode and sum of each file there; what a run leaves behind is no input."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    for file in files:
        if "__pycache__" not in file.parts:
            yield f"{file.relative_to(path.parent)} {file.stat().st_mode & 0o111} {file_digest(file)}"
