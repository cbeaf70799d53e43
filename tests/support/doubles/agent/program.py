"""The agent from login to its last moment: log in, open the WebSocket, read the configuration, and only then bind ports.

Called by `__main__`, after the PID file. It ends only through faults that end upstream's agent too.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tests.support.doubles.agent.addresses import AgentConfigError, ChannelAddress, channel_addresses
from tests.support.doubles.agent.link import LoginError, ServerLink, UnreadableError
from tests.support.doubles.agent.listeners import ByteStreamChannel, Channel, DicomChannel, Hl7Channel
from tests.support.doubles.agent.logs import Logs
from tests.support.doubles.agent.pushes import Pushes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.doubles.agent.properties import AgentSettings
    from tests.support.doubles.agent.switches import Switches
    from tests.support.doubles.agent.version import AgentTraits

_BUSY_PORT_SECONDS: Final = 0.05


class Agent:
    """One run of the agent. `leave` ends the process at once with an exit code."""

    def __init__(
        self, settings: AgentSettings, traits: AgentTraits, switches: Switches, leave: Callable[[int], NoReturn]
    ) -> None:
        self._settings = settings
        self._traits = traits
        self._switches = switches
        self._leave = leave
        self._link = ServerLink(settings, traits, switches)
        self._pushes = Pushes(traits, idle_seconds=switches.heartbeat_ms / 1000)
        self._channels: dict[str, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_active = False
        self._reloading = asyncio.Lock()

    async def run(self) -> None:
        """Run for ever. Cancelled, as in tests that keep it in their own process, it closes what it opened."""
        try:
            await self._run()
        finally:
            for channel in self._channels.values():
                channel.close()
            self._pushes.close()
            for task in self._tasks:
                task.cancel()
            await self._link.close()

    async def _run(self) -> None:
        await self._log_in()
        try:
            self._logs = Logs(self._settings)
        except OSError:
            # Upstream dies here of an uncaught error that its own logger should have written: without a word.
            self._leave(1)
        self._logs.main.info("Medplum service starting...")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.run(self._logs.main, self._on_command, self._pushes.close_idle))
            await self._link.wait_until_opened()
            if self._switches.exit_after_ms >= 0:
                asyncio.get_running_loop().call_later(
                    self._switches.exit_after_ms / 1000, self._leave, self._switches.exit_code
                )
            if self._traits.reports_success_unbound:
                self._logs.main.info("Medplum service started successfully")
            try:
                await self._reload()
            except (UnreadableError, AgentConfigError) as error:
                # Nor JSON: an error that nobody catches.
                _say(f"Error: {error}")
                self._leave(1)
            if not self._traits.reports_success_unbound:
                self._logs.main.info("Medplum service started successfully")

    async def _log_in(self) -> None:
        """Before 4.1.3 one failure ends the agent, with exit code 0."""
        while True:
            try:
                return await self._link.log_in()
            except LoginError as error:
                # Not JSON: upstream has no logger yet.
                _say(f"Failed to login {{ err: '{error}' }}")
                if not self._traits.retries_login:
                    self._leave(0)
                _say(f"Retrying login in {self._switches.retry_ms / 1000:g} seconds...")
                await asyncio.sleep(self._switches.retry_ms / 1000)

    def _on_command(self, command: dict[str, Any]) -> None:
        match command.get("type"):
            case "agent:transmit:response" | "transmit" if self._is_active:
                self._answer(command)
            case "agent:push" | "push" | "agent:transmit:request" if self._is_active:
                self._start(self._push(command))
            case "agent:reloadconfig:request":
                self._start(self._reload_for_server(command))
            case other:
                # A push that comes before the configuration was read ends here, too; so does everything for an agent that is off.
                self._link.send(
                    {"type": "agent:error", "body": f"Cannot do {other} now", "callback": command.get("callback")}
                )

    def _answer(self, command: dict[str, Any]) -> None:
        if int(command.get("statusCode") or 200) >= 400:
            self._logs.main.error(f"Error during handling transmit request: {command.get('body')}")
        elif (channel := self._channels.get(str(command.get("channel")))) is not None:
            channel.answer(command)

    async def _push(self, command: dict[str, Any]) -> None:
        self._link.send(await self._pushes.deliver(command))

    async def _reload_for_server(self, command: dict[str, Any]) -> None:
        callback = command.get("callback")
        try:
            await self._reload()
        except (UnreadableError, AgentConfigError) as error:
            self._link.send({"type": "agent:error", "body": str(error), "callback": callback})
        else:
            self._link.send({"type": "agent:reloadconfig:response", "statusCode": 200, "callback": callback})

    async def _reload(self) -> None:
        """Read Agent and Endpoints, one by one, and bind what they say; if they cannot be used, everything stays as it is."""
        async with self._reloading:
            agent = await self._link.read(f"Agent/{self._settings.agent_id}")
            endpoints = [
                await self._link.read(channel["endpoint"]["reference"]) for channel in agent.get("channel", ())
            ]
            wanted = channel_addresses(agent, endpoints)
            self._is_active = agent.get("status") == "active"
            for name, channel in list(self._channels.items()):
                if channel.address not in wanted:
                    self._channels.pop(name).close()
            if not self._switches.never_ready:
                await asyncio.gather(*(self._open(each) for each in wanted if each.name not in self._channels))

    async def _open(self, address: ChannelAddress) -> None:
        channel = self._make(address)
        if channel is None:
            return
        self._channels[address.name] = channel
        is_open = False
        while not is_open:
            try:
                await channel.listen()
                is_open = True
            except OSError as error:
                await self._survive(channel, error)

    def _make(self, address: ChannelAddress) -> Channel | None:
        agent_id, link, logs = self._settings.agent_id, self._link, self._logs
        match address.scheme:
            case "mllp":
                return Hl7Channel(
                    address,
                    agent_id=agent_id,
                    link=link,
                    logs=logs,
                    traits=self._traits,
                    memory_ms=self._switches.memory_ms,
                )
            case "dicom":
                return DicomChannel(address, agent_id=agent_id, link=link, logs=logs)
            case "tcp" if self._traits.has_byte_streams:
                try:
                    return ByteStreamChannel(
                        address, agent_id=agent_id, link=link, logs=logs, die=lambda: self._leave(1)
                    )
                except ValueError as error:
                    logs.main.error(str(error))
                    return None
            case "tcp" | "other":
                logs.main.error(f"Unsupported endpoint type: {address.url}")
                return None

    async def _survive(self, channel: Channel, error: OSError) -> None:
        """Return when it is time to try the port again, if this version does."""
        if error.errno == errno.EADDRINUSE:
            if not (channel.keeps_a_busy_port_in_mind and self._traits.waits_for_a_busy_port):
                self._leave(1)
            await asyncio.sleep(_BUSY_PORT_SECONDS)
            return
        match self._traits.bind_fault:
            case "dies silently":
                self._leave(1)
            case "dies with a message":
                self._logs.main.error(f"{channel.prefix} Failed to listen: {error}")
                self._leave(1)
            case "hangs":
                await asyncio.Event().wait()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
