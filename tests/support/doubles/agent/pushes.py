"""Messages from the server to a device: connect, send, wait for the ACK, answer the server. `program` starts one task each.

One connection for each message (upstream's `keepAlive` is not simulated), and no time-out.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from tests.support.doubles import hl7
from tests.support.doubles.agent.framers import END, VT, frame


async def deliver(command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one push; return the answer for the server."""
    answer = {
        "type": "agent:transmit:response",
        "channel": command.get("channel"),
        "remote": command.get("remote"),
        "callback": command.get("callback"),
    }
    try:
        body = await _exchange(str(command.get("remote")), str(command.get("body", "")))
    except (OSError, EOFError, ValueError) as error:
        return {**answer, "contentType": "text/plain", "statusCode": 400, "body": str(error)}
    return {**answer, "contentType": hl7.CONTENT_TYPE, "statusCode": 200, "body": body}


async def _exchange(remote: str, body: str) -> str:
    target = urlsplit(remote)
    if target.scheme != "mllp" or not target.hostname or not target.port:
        raise ValueError(f"Invalid remote: {remote}")
    reader, writer = await asyncio.open_connection(target.hostname, target.port, limit=2**26)
    try:
        writer.write(frame(body))
        await writer.drain()
        received = await reader.readuntil(END)
    finally:
        writer.close()
    return received[received.find(VT) + 1 : -len(END)].decode("utf-8", "replace")
