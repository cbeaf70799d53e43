"""The package hl7 (python-hl7): its blocking client, and its server on asyncio. The roles are those of `conversation.cjs`."""

import asyncio
import hashlib
import json
import sys
from contextlib import suppress
from pathlib import Path

from hl7.client import MLLPClient
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server

LONGEST = 2**25


async def answer(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
    """Serve one connection."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            message = await reader.readmessage()
            text = str(message).encode()
            print(hashlib.sha256(text).hexdigest(), message.segment("MSH")[10], flush=True)
            writer.writemessage(message.create_ack())
            await writer.drain()
    writer.close()


async def serve() -> None:
    """Listen on a free port."""
    server = await start_hl7_server(answer, "127.0.0.1", 0, limit=LONGEST, encoding="utf-8")
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def send(port: int, plan: dict[str, object]) -> None:
    """Send the messages of a plan."""
    messages = plan["messages"]
    assert isinstance(messages, list)
    client = None
    for text in messages:
        client = client or MLLPClient("127.0.0.1", port)
        if plan["waits"]:
            said = client.send_message(text)
            assert said.endswith(b"\x1c\r"), said
            print(said.decode().split("\r")[1].rstrip("\x1c"))
        else:
            client.socket.sendall(f"\x0b{text}\x1c\r".encode())
        if plan["each"]:
            client.close()
            client = None
    if client is not None:
        client.close()


if __name__ == "__main__":
    if sys.argv[1] == "server":
        asyncio.run(serve())
    else:
        send(int(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text(encoding="utf-8")))
