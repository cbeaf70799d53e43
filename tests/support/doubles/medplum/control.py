"""The control API: tests control the server and read its records. Everything is JSON below `/control/`.

Made by `server`. It needs no credentials, so the port belongs on a loopback or into a test cluster, nowhere else.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from tests.support.doubles.medplum.directory import SettingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.doubles.medplum.server import MedplumServer

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LIMIT: Final = 100_000
_HOW: Final = ("503", "refuse")


class Control:
    """The handlers."""

    def __init__(self, server: MedplumServer) -> None:
        self._server = server

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/control/health", self._health),
            web.put("/control/clients/{id}", self._put_client),
            web.put("/control/agents/{id}", self._put_agent),
            web.delete("/control/agents/{id}", self._delete_agent),
            web.get("/control/agents", self._get_agents),
            web.get("/control/settings", self._get_settings),
            web.put("/control/settings", self._put_settings),
            web.get("/control/messages", self._get_messages),
            web.delete("/control/messages", self._delete_messages),
            web.get("/control/counts", self._get_counts),
            web.get("/control/connections", self._get_connections),
            web.post("/control/disconnect", self._disconnect),
            web.post("/control/away", self._away),
            web.post("/control/push", self._push),
            web.get("/control/pushes", self._get_pushes),
        ]

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"now": time.time()})

    async def _put_client(self, request: web.Request) -> web.Response:
        secret = (await _body(request)).get("secret")
        if not isinstance(secret, str):
            raise _bad("a client needs a secret")
        self._server.directory.clients[request.match_info["id"]] = secret
        return web.json_response({})

    async def _put_agent(self, request: web.Request) -> web.Response:
        try:
            agent = self._server.directory.put_agent(request.match_info["id"], await _body(request))
        except SettingError as error:
            raise _bad(str(error)) from error
        return web.json_response(agent.resource)

    async def _delete_agent(self, request: web.Request) -> web.Response:
        self._server.directory.agents.pop(request.match_info["id"], None)
        return web.json_response({})

    async def _get_agents(self, _request: web.Request) -> web.Response:
        return web.json_response({key: asdict(agent) for key, agent in self._server.directory.agents.items()})

    async def _get_settings(self, _request: web.Request) -> web.Response:
        return web.json_response(asdict(self._server.behaviour))

    async def _put_settings(self, request: web.Request) -> web.Response:
        try:
            self._server.behaviour.change(await _body(request))
        except SettingError as error:
            raise _bad(str(error)) from error
        self._server.book.keeps_bodies = self._server.behaviour.keepBodies
        return await self._get_settings(request)

    async def _get_messages(self, request: web.Request) -> web.Response:
        """Rows from number `since` on, at most `limit`; ask again with `since=next`."""
        book = self._server.book
        since, limit = int(request.query.get("since", 0)), int(request.query.get("limit", _LIMIT))
        rows = book.messages[since : since + limit]
        answer: dict[str, Any] = {
            "columns": ["controlId", "receivedAt", "connection", "agent", "channel", "remote"],
            "messages": rows,
            "next": since + len(rows),
            "total": len(book.messages),
        }
        if request.query.get("bodies"):
            answer["bodies"] = book.bodies[since : since + limit]
        return web.json_response(answer)

    async def _delete_messages(self, _request: web.Request) -> web.Response:
        self._server.book.forget_messages()
        return web.json_response({})

    async def _get_counts(self, _request: web.Request) -> web.Response:
        return web.json_response({**self._server.book.counts(), "now": time.time()})

    async def _get_connections(self, _request: web.Request) -> web.Response:
        rows = [
            {
                "number": each.number,
                "agent": each.agent,
                "version": each.version,
                "peer": each.peer,
                "connectedAt": each.connected_at,
                "disconnectedAt": each.disconnected_at,
                "closeCode": each.close_code,
                "messages": each.messages,
                "heartbeats": each.heartbeats,
            }
            for each in self._server.book.connections
        ]
        return web.json_response({"connections": rows, "now": time.time()})

    async def _disconnect(self, _request: web.Request) -> web.Response:
        self._server.sockets.cut_all()
        return web.json_response({})

    async def _away(self, request: web.Request) -> web.Response:
        wanted = await _body(request)
        seconds, how = wanted.get("seconds"), wanted.get("how", "503")
        if not isinstance(seconds, int | float) or how not in _HOW:
            raise _bad('away needs {"seconds": 20, "how": "503" or "refuse"}')
        self._server.go_away(float(seconds), how)
        return web.json_response({})

    async def _push(self, request: web.Request) -> web.Response:
        wanted = await _body(request)
        try:
            agent, remote, body = str(wanted["agent"]), str(wanted["remote"]), str(wanted["body"])
        except KeyError as error:
            raise _bad('a push needs {"agent", "remote": "mllp://host:port", "body", "channel"?}') from error
        push = await self._server.sockets.push(agent, remote=remote, body=body, channel=wanted.get("channel"))
        return web.json_response(asdict(push))

    async def _get_pushes(self, request: web.Request) -> web.Response:
        since = int(request.query.get("since", 0))
        rows = self._server.book.pushes[since:]
        return web.json_response({"pushes": [asdict(push) for push in rows], "next": since + len(rows)})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except json.JSONDecodeError as error:
        raise _bad(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _bad("a JSON object is expected")
    return found


def _bad(text: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=json.dumps({"error": text}), content_type="application/json")
