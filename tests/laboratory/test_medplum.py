"""The server stand-in by what others see of it: HTTP, and the control API."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import aiohttp
import pytest

from tests.support.doubles.medplum.records import Book, Message
from tests.support.doubles.stage import ROOT, arrived, device, free_port, hl7, medplum, running_agent, until

LOGIN = {"grant_type": "client_credentials", "client_id": "client", "client_secret": "secret"}


async def call(port: int, method: str, path: str, body: Any = None, *, token: str = "", status: int = 200) -> Any:
    """One request; the JSON of its answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"http://127.0.0.1:{port}{path}", json=body, headers=headers) as response,
    ):
        assert status == response.status, await response.text()
        return await response.json(content_type=None)


async def log_in(port: int, **changes: str) -> tuple[int, dict[str, Any]]:
    """Ask for a token; status and answer."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"http://127.0.0.1:{port}/oauth2/token", data={**LOGIN, **changes}) as response,
    ):
        return response.status, await response.json()


async def test_login() -> None:
    """A token for the right secret; 400 for anything else."""
    async with medplum() as server:
        status, answer = await log_in(server.port)
        assert (200, "Bearer", 3) == (status, answer["token_type"], len(answer["access_token"].split(".")))
        for wrong in ({"client_secret": "x"}, {"client_id": "x"}, {"grant_type": "x"}):
            status, answer = await log_in(server.port, **wrong)
            assert (400, "invalid_request") == (status, answer["error"])


async def test_fhir() -> None:
    """Agent, Endpoint and `$status` for who has a token; 401 without, 404 for what there is not."""
    async with medplum("mllp://0.0.0.0:2575") as server:
        _, answer = await log_in(server.port)
        token = answer["access_token"]
        agent = await call(server.port, "GET", "/fhir/R4/Agent/a1", token=token)
        assert ("active", "c0") == (agent["status"], agent["channel"][0]["name"])
        endpoint = await call(
            server.port, "GET", f"/fhir/R4/{agent['channel'][0]['endpoint']['reference']}", token=token
        )
        assert ("hl7-mllp", "mllp://0.0.0.0:2575") == (endpoint["connectionType"]["code"], endpoint["address"])
        status = await call(server.port, "GET", "/fhir/R4/Agent/a1/$status", token=token)
        assert {"name": "status", "valueCode": "unknown"} == status["parameter"][0]
        await call(server.port, "GET", "/auth/me", token=token)
        await call(server.port, "GET", "/fhir/R4/Agent/a2", token=token, status=404)
        await call(server.port, "GET", "/fhir/R4/Agent/a1", status=401)


async def test_two_sockets_of_one_agent() -> None:
    """Both live; when one closes, `$status` says `disconnected` although the other one is there: the last writer is right."""
    async with medplum(heartbeatMs=60_000) as server, running_agent(server, "5.1.15"):
        agent = server.directory.agents["a1"]
        async with running_agent(server, "5.1.14"):
            await until(lambda: 2 == server.book.counts()["open"])
            assert "connected" == agent.status
        await until(lambda: 1 == server.book.counts()["open"])
        assert "disconnected" == agent.status


async def test_control_messages_and_counts() -> None:
    """Rows from a number on, in order; how often an id came; who brought it."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}") as server,
        running_agent(server, "5.1.15-abc1234", heartbeat_ms=60_000),
        device(port) as one,
    ):
        before = time.time()
        for control_id in ("M1", "M2", "M1"):
            await one.send_message(control_id)
            await one.receive()
        page = await call(server.port, "GET", "/control/messages?since=1&limit=1&bodies=1")
        row = dict(zip(page["columns"], page["messages"][0], strict=True))
        assert ("M2", 0, "a1") == tuple(row[key] for key in ("controlId", "connection", "agent"))
        assert before <= row["receivedAt"] <= time.time()
        assert ([hl7("M2")], 2, 3) == (page["bodies"], page["next"], page["total"])
        counts = await call(server.port, "GET", "/control/counts")
        assert (3, 2, 1, {"unknown": 3}) == tuple(
            counts[key] for key in ("messages", "distinct", "repeated", "byVersion")
        )
        server.book.connections[0].version = "5.1.15-abc1234"  # as the first heartbeat's answer says
        assert {"5.1.15-abc1234": 3} == (await call(server.port, "GET", "/control/counts"))["byVersion"]
        (connection,) = (await call(server.port, "GET", "/control/connections"))["connections"]
        assert (0, "a1", None, 3) == tuple(connection[key] for key in ("number", "agent", "disconnectedAt", "messages"))
        await call(server.port, "DELETE", "/control/messages")
        assert 0 == (await call(server.port, "GET", "/control/counts"))["messages"]


async def test_control_agents_clients_and_settings() -> None:
    """Made and changed while it runs; what cannot be is refused, and nothing is changed."""
    async with medplum() as server:
        wanted = {"channels": [{"name": "adt", "address": "mllp://0.0.0.0:2575"}], "status": "off"}
        await call(server.port, "PUT", "/control/agents/a2", wanted)
        await call(server.port, "PUT", "/control/clients/other", {"secret": "s2"})
        assert 200 == (await log_in(server.port, client_id="other", client_secret="s2"))[0]
        assert "off" == (await call(server.port, "GET", "/control/agents"))["a2"]["resource"]["status"]
        await call(server.port, "PUT", "/control/settings", {"answerDelayMs": 7, "answer": "500"})
        for wrong in (
            {"answerDelayMs": "7"},
            {"nonsense": 1},
            {"answer": "maybe"},
            {"answerDelayMs": 9, "answer": "x"},
        ):
            await call(server.port, "PUT", "/control/settings", wrong, status=400)
        settings = await call(server.port, "GET", "/control/settings")
        assert (7, "500") == (settings["answerDelayMs"], settings["answer"])
        await call(server.port, "PUT", "/control/agents/a3", {"channels": [{"name": "adt"}]}, status=400)


async def test_control_push() -> None:
    """It says how many sockets got it; the answers are asked for later."""
    async with medplum() as server, running_agent(server, "5.1.15"):
        await until(lambda: 1 == len(server.book.connections))
        await asyncio.sleep(0.1)
        wanted = {"agent": "a1", "remote": f"mllp://127.0.0.1:{free_port()}", "body": hl7("P1")}
        push = await call(server.port, "POST", "/control/push", wanted)
        assert (1, "P1") == (push["sockets"], push["control_id"])
        await until(lambda: bool(server.book.pushes[0].answers))
        (found,) = (await call(server.port, "GET", "/control/pushes"))["pushes"]
        assert (push["callback"], 400) == (found["callback"], found["answers"][0]["statusCode"])
        await call(server.port, "POST", "/control/push", {}, status=400)


@pytest.mark.parametrize("how", ["503", "refuse"])
async def test_control_away(how: str) -> None:
    """Sockets are cut, agents find no server, and after that time they reconnect automatically."""
    async with medplum() as server, running_agent(server, "5.1.15"):
        await until(lambda: 1 == len(server.book.connections))
        await call(server.port, "POST", "/control/away", {"seconds": 0.3, "how": how})
        if how == "503":
            await call(server.port, "GET", "/auth/me", status=503)
        else:
            with pytest.raises(aiohttp.ClientConnectorError):
                await call(server.port, "GET", "/auth/me")
        await until(lambda: 2 == len(server.book.connections))
        first, second = server.book.connections
        assert first.disconnected_at is not None
        assert second.connected_at - first.disconnected_at > 0.25
        await call(server.port, "POST", "/control/away", {"seconds": "soon"}, status=400)


async def test_reload_config_by_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 once the agent has done it; 400 if no agent is connected."""
    async with medplum() as server:
        _, answer = await log_in(server.port)
        path, token = "/fhir/R4/Agent/a1/$reload-config", answer["access_token"]
        async with running_agent(server, "5.1.15"):
            await until(lambda: 1 == len(server.book.connections))
            await call(server.port, "GET", path, token=token)
        await until(lambda: server.book.connections[0].disconnected_at is not None)
        monkeypatch.setattr("tests.support.doubles.medplum.server.RELOAD_SECONDS", 0.2)
        await call(server.port, "GET", path, token=token, status=400)


async def test_a_hundred_thousand_messages_are_asked_for_by_the_page() -> None:
    """The book is asked often, and while traffic runs: what was read is not sent again."""
    async with medplum() as server:
        book: Book = server.book
        book.connect(agent="a1", peer="", at=0)
        for number in range(100_000):
            book.write(Message(f"M{number}", 0.0, 0, "a1", "c0", "r"), "")
        page = await call(server.port, "GET", "/control/messages?since=50000")
        assert (50_000, 100_000) == (len(page["messages"]), page["next"])
        assert 100_000 == (await call(server.port, "GET", "/control/counts"))["distinct"]


async def test_as_a_program() -> None:
    """Started by its module: one line says where it listens, the control API has a port of its own, SIGTERM ends it with 0."""
    configuration = {
        "clients": {"client": "secret"},
        "agents": {"a1": {"channels": []}},
        "settings": {"answerDelayMs": 5},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.doubles.medplum", "--port", "0", "--control-port", "0"),
        *("--config", json.dumps(configuration)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(10):
        where = json.loads(await process.stdout.readline())
    assert 5 == (await call(where["controlPort"], "GET", "/control/settings"))["answerDelayMs"]
    assert 200 == (await log_in(where["port"]))[0]
    process.terminate()
    async with asyncio.timeout(5):
        assert 0 == await process.wait()


async def test_everything_that_arrived_is_kept_across_connections() -> None:
    """An agent that reconnects is a new connection of the same identity; the record continues."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server:
        for version in ("4.2.3", "5.1.15"):
            async with running_agent(server, version), device(port) as one:
                await one.send_message(version)
                await one.receive()
        assert ["4.2.3", "5.1.15"] == arrived(server)
        assert [0, 1] == [message.connection for message in server.book.messages]
