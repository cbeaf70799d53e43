"""What agents and the operator see of the server: login, FHIR reads, `$status`, `$reload-config`, the agents' WebSocket.

Made by `__main__` and by tests. `control` adds what only tests see. Away means: no new request is served (503, or no listener
at all), and every WebSocket was cut.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from aiohttp import web

from tests.support.doubles.medplum.control import Control
from tests.support.doubles.medplum.directory import Behaviour, Directory
from tests.support.doubles.medplum.records import Book
from tests.support.doubles.medplum.sockets import Sockets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HowAway = Literal["503", "refuse"]
RELOAD_SECONDS: Final = 10.0


class MedplumServer:
    """One server."""

    def __init__(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Take `{"clients": {id: secret}, "agents": {id: {...}}, "settings": {...}}`, as the control API does."""
        configuration = configuration or {}
        self.directory = Directory(clients=dict(configuration.get("clients", {})))
        self.behaviour = Behaviour()
        self.behaviour.change(configuration.get("settings", {}))
        self.book = Book(keeps_bodies=self.behaviour.keepBodies)
        self.sockets = Sockets(self.directory, self.behaviour, self.book)
        for agent_id, wanted in configuration.get("agents", {}).items():
            self.directory.put_agent(agent_id, wanted)
        self.port = 0
        self.control_port = 0
        self._host = ""
        self._away_until = 0.0
        self._runner: web.AppRunner | None = None
        self._control_runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._return: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, control_port: int | None = None) -> None:
        """Listen. With port 0 the system chooses. The control API is on `port`, and on a port of its own if there is one."""
        control = Control(self)
        app = web.Application(middlewares=[self._absence])
        app.router.add_routes(
            [
                web.post("/oauth2/token", self._token),
                web.get("/auth/me", self._me),
                web.get("/ws/agent", self.sockets.serve),
                web.get("/healthcheck", self._health),
                web.get("/fhir/R4/Agent/{id}", self._agent),
                web.get("/fhir/R4/Endpoint/{id}", self._endpoint),
                web.get("/fhir/R4/Agent/{id}/$status", self._status),
                web.get("/fhir/R4/Agent/{id}/$reload-config", self._reload),
                *control.routes(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._host = host
        await self._listen(port)
        if control_port is not None:
            control_app = web.Application()
            control_app.router.add_routes(control.routes())
            self._control_runner = web.AppRunner(control_app, access_log=None)
            await self._control_runner.setup()
            await web.TCPSite(self._control_runner, host, control_port).start()
            self.control_port = self._control_runner.addresses[0][1]

    async def stop(self) -> None:
        """Close everything."""
        if self._return is not None:
            self._return.cancel()
        if self._listener is not None:
            self._listener.close()
        self.sockets.cut_all()
        for runner in (self._runner, self._control_runner):
            if runner is not None:
                await runner.cleanup()

    def go_away(self, seconds: float, how: HowAway) -> None:
        """Cut every WebSocket and serve no agent for so long. Again while away: the new time counts."""
        if self._return is not None:
            self._return.cancel()
        self._away_until = time.monotonic() + seconds
        if how == "refuse" and self._listener is not None:
            self._listener.close()
            self._listener = None
        self.sockets.cut_all()
        self._return = asyncio.create_task(self._come_back(seconds))

    async def _come_back(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._away_until = 0.0
        if self._listener is None:
            await self._listen(self.port)

    async def _listen(self, port: int) -> None:
        if self._runner is None or self._runner.server is None:
            raise RuntimeError("start first")
        # No TCPSite: stopping one also waits for its open connections, and the request that says `refuse` is one of them.
        self._listener = await asyncio.get_running_loop().create_server(self._runner.server, self._host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    @web.middleware
    async def _absence(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if time.monotonic() < self._away_until and not request.path.startswith("/control/"):
            return web.json_response({"error": "away"}, status=503)
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        client_id, secret = str(form.get("client_id")), form.get("client_secret")
        known = self.directory.clients.get(client_id)
        if self.behaviour.refuseTokens or form.get("grant_type") != "client_credentials" or known is None:
            return web.json_response({"error": "invalid_request", "error_description": "Invalid client"}, status=400)
        if known != secret:
            return web.json_response({"error": "invalid_request", "error_description": "Invalid secret"}, status=400)
        seconds = self.behaviour.tokenSeconds
        return web.json_response(
            self.directory.give_token(client_id, now=int(time.time()), seconds=seconds, login=str(uuid.uuid4()))
        )

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.directory.tokens:
            raise web.HTTPUnauthorized(text='{"resourceType":"OperationOutcome"}', content_type="application/fhir+json")

    async def _me(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response(
            {
                "project": {"resourceType": "Project", "id": "stand-in"},
                "membership": {"resourceType": "ProjectMembership", "id": "stand-in"},
                "profile": {"resourceType": "ClientApplication", "id": "stand-in"},
                "config": {},
                "accessPolicy": {},
            }
        )

    async def _agent(self, request: web.Request) -> web.Response:
        self._check(request)
        agent = self.directory.agents.get(request.match_info["id"])
        return self._read(agent.resource if agent is not None else None)

    async def _endpoint(self, request: web.Request) -> web.Response:
        self._check(request)
        return self._read(self.directory.endpoint(request.match_info["id"]))

    def _read(self, resource: dict[str, Any] | None) -> web.Response:
        """The answer to a read of an Agent or Endpoint."""
        if self.behaviour.readStatus != HTTPStatus.OK:
            return web.json_response({"resourceType": "OperationOutcome"}, status=self.behaviour.readStatus)
        return _resource(resource)

    async def _status(self, request: web.Request) -> web.Response:
        self._check(request)
        agent = self.directory.agents.get(request.match_info["id"])
        return _resource(agent.status_parameters() if agent is not None else None)

    async def _reload(self, request: web.Request) -> web.Response:
        self._check(request)
        answer = await self.sockets.reload(request.match_info["id"], seconds=RELOAD_SECONDS)
        status = 200 if answer is not None and answer.get("statusCode") == 200 else 400
        return web.json_response(
            {"resourceType": "OperationOutcome", "id": "ok" if status == 200 else "error"}, status=status
        )


def _resource(resource: dict[str, Any] | None) -> web.Response:
    if resource is None:
        return web.json_response({"resourceType": "OperationOutcome", "id": "not-found"}, status=404)
    return web.json_response(resource, content_type="application/fhir+json")
