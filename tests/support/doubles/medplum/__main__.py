"""Start and end of the server stand-in's process."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.doubles.medplum.server import MedplumServer

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or Ctrl-C. One line on standard output says where: `{"port": …, "controlPort": …}`."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.doubles.medplum", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8103, help="port; 0: the system chooses (default: %(default)s)")
    parser.add_argument("--control-port", type=int, help="a second port that has the control API alone")
    parser.add_argument(
        "--config",
        default=os.environ.get("MEDPLUM_DOUBLE_CONFIG", "{}"),
        help='JSON, or @ and a file: {"clients": {id: secret}, "agents": {id: {"channels": [{"name", "address"}]}}, "settings": {}}',
    )
    options = parser.parse_args(arguments)
    text: str = options.config
    configuration: dict[str, Any] = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else text)
    asyncio.run(_serve(MedplumServer(configuration), options.host, options.port, options.control_port))


async def _serve(server: MedplumServer, host: str, port: int, control_port: int | None) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await server.start(host, port, control_port)
    sys.stdout.write(json.dumps({"port": server.port, "controlPort": server.control_port or None}) + "\n")
    sys.stdout.flush()
    await ended.wait()
    await server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
