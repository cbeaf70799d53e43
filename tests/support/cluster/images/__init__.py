"""The images of the node tier: a pause program, a base, the operator, and what stands in for an agent and a server.

`image("operator")` returns the archive and the reference; `python -m tests.support.cluster.images` builds all.
"""

from tests.support.cluster.images.build import Image, build, image
from tests.support.cluster.images.errors import ImageError

__all__ = ["Image", "ImageError", "build", "image"]
