"""Give a build the machine's own way to the package index, without a word of it in a Dockerfile or an image.

`buildah` calls this. Where packages come from (an index, a certificate, a time-out) is in the machine's pip configuration
and in PIP_* variables. Both are merged into one file, which is mounted over /etc/pip.conf for the build alone.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CACHE: Final = "/var/cache/pip"
"""Where the build finds the cache folder of pip."""
CARRIED: Final = ("index-url", "extra-index-url", "trusted-host", "cert", "proxy", "timeout", "retries")
"""Options that say how to reach the index. Paths of this machine, such as find-links, mean nothing in a build."""


def merged(files: Sequence[str], environment: Mapping[str, str]) -> str:
    r"""The configuration for the build; a variable counts more than a file, as with pip itself.

    >>> print(merged(["[global]\ntimeout = 15\nfind-links = /wheels"], {"PIP_TIMEOUT": "60"}), end="")
    [global]
    timeout = 60
    cache-dir = /var/cache/pip
    """
    parser = configparser.RawConfigParser()
    for text in files:
        parser.read_string(text)
    found = dict(parser["global"]) if parser.has_section("global") else {}
    for option in CARRIED:
        name = "PIP_" + option.replace("-", "_").upper()
        value = environment.get(name)
        if value:
            found[option] = value
    lines = [f"{option} = {_indented(found[option])}" for option in CARRIED if option in found]
    return "\n".join(("[global]", *lines, f"cache-dir = {CACHE}", ""))


def configuration() -> str:
    """The same, of this machine."""
    home = Path.home()
    places = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"]
    if named := os.environ.get("PIP_CONFIG_FILE"):
        places.append(Path(named))
    return merged([place.read_text(encoding="utf-8") for place in places if place.is_file()], os.environ)


def _indented(value: str) -> str:
    return "\n    ".join(value.split())
