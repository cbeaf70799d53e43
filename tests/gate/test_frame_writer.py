"""An agent that reads late reads complete frames."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from medplum_agent_operator.gate.frame_writer import READ_BYTES, FrameWriter


def read_late(server: socket.socket, length: int) -> list[bytes]:
    """Read `length` bytes like a busy Node.js: each time after a pause, at most `READ_BYTES` at once. Returns the reads."""
    connection, _ = server.accept()
    with connection:
        reads: list[bytes] = []
        while sum(map(len, reads)) < length:
            time.sleep(0.2)
            reads.append(connection.recv(READ_BYTES))
        return reads


@pytest.mark.parametrize("reads", [1, 2])
async def test_the_end_of_a_frame_is_read_in_one_piece(reads: int) -> None:
    """Also if the earlier reads would split it: then an agent before 5.0.0 would wait forever."""
    frame = bytearray(b"\x0b" + b"x" * (reads * READ_BYTES - 2) + b"\x1c\r")
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        reading = loop.run_in_executor(None, read_late, server, len(frame))
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.getsockname())
        FrameWriter(transport, loop.call_later).write(frame)
        found = await reading
        transport.close()
    assert frame == b"".join(found)
    assert found[-1].endswith(b"\x1c\r")
