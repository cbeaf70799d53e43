"""The other processes of the benchmark: an agent that answers at once, and the gate with a fixed route.

The agent only answers, so that the benchmark measures the gate. The gate is the program itself, with everything that it
imports. Only its pods come from an argument instead of the API server.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from medplum_agent_operator.gate.__main__ import Gate
from medplum_agent_operator.gate.flags import parse
from medplum_agent_operator.gate.routes import Pod, Pods
from medplum_agent_operator.telemetry import set_up_logging

if TYPE_CHECKING:
    from lightkube import AsyncClient


class Answering(asyncio.Protocol):
    """Answers each frame with one prepared answer. Its MSA-2 is missing, so it answers the current message."""

    ANSWER = b"\x0bMSH|^~\\&|M|P|D|L|20261125||ACK|1|P|2.5\rMSA|AA\x1c\r"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with an empty buffer."""
        self.transport = transport
        self.last = b""
        self.mute = False
        """Whether a message with the control id `MUTE` came: nothing is answered any more."""

    def data_received(self, data: bytes) -> None:
        """Answer the frames that end in these bytes, also one whose last two bytes arrive in two reads."""
        self.mute = self.mute or b"|MUTE|" in data
        ends = (self.last + data).count(b"\x1c\r")
        self.last = data[-1:] if data.endswith(b"\x1c") else b""
        if ends and not self.mute:
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


async def whole_gate(agent_port: int) -> None:
    """Run a gate with two channels and its HTTP port, as the program does. There is no API server."""
    channels = ("--channel", "adt:HL7:0", "--channel", "oru:HL7:0")
    running = Gate(parse(["--namespace", "x", "--service", "x", *channels, "--host", "127.0.0.1", "--http-port", "0"]))
    running.update_pods({name: Pods(frozenset({Pod("agent", "127.0.0.1", agent_port)})) for name in ("adt", "oru")})

    def nowhere() -> AsyncClient:
        raise OSError("there is no API server")

    await running.run(nowhere, asyncio.Event())


if __name__ == "__main__":
    set_up_logging(as_json=True, level="info" if sys.argv[1] == "whole-gate" else "warning")
    match sys.argv[1]:
        case "agent":
            asyncio.run(agent())
        case "gate":
            asyncio.run(gate(int(sys.argv[2])))
        case _:
            asyncio.run(whole_gate(int(sys.argv[2])))
