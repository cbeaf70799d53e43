"""The other processes of the benchmark: an agent that answers at once, and the gate with a fixed route.

The agent only answers, so that the benchmark measures the gate. The gate is the program itself, with everything that it
imports. Only its pods come from an argument instead of the API server.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from medplum_agent_operator.gate.__main__ import Gate
from medplum_agent_operator.gate.flags import parse
from medplum_agent_operator.gate.routes import Pod, Pods
from medplum_agent_operator.telemetry import set_up_logging


class Answering(asyncio.Protocol):
    """Answers each frame with one prepared answer. Its MSA-2 is missing, so it answers the current message."""

    ANSWER = b"\x0bMSH|^~\\&|M|P|D|L|20261125||ACK|1|P|2.5\rMSA|AA\x1c\r"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with an empty buffer."""
        self.transport = transport
        self.last = b""

    def data_received(self, data: bytes) -> None:
        """Answer the frames that end in these bytes, also one whose last two bytes arrive in two reads."""
        ends = (self.last + data).count(b"\x1c\r")
        self.last = data[-1:] if data.endswith(b"\x1c") else b""
        if ends:
            self.transport.write(self.ANSWER * ends)  # type: ignore[attr-defined]


async def agent() -> None:
    """Listen, print the port, run until killed."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the benchmark reads it
    await server.serve_forever()


async def gate(agent_port: int) -> None:
    """Listen with the program's defaults, print the port, run until SIGTERM."""
    running = Gate(
        parse(["--namespace", "x", "--service", "x", "--channel", "adt:HL7:0", "--max-connections-per-address", "2000"])
    )
    running.update_pods({"adt": Pods(frozenset({Pod("agent", "127.0.0.1", agent_port)}))})
    [relay] = running.relays
    print(await relay.start("127.0.0.1", 0), flush=True)  # noqa: T201 - the benchmark reads it
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    set_up_logging(as_json=True, level="warning")
    asyncio.run(agent() if sys.argv[1] == "agent" else gate(int(sys.argv[2])))
