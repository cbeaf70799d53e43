"""Start and end of the agent stand-in's process: the signal, the PID file, the configuration; then `program`.

What is slow to import comes last, as late as possible: an agent listens 160 to 390 ms after its start.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from tests.support.doubles.agent.pidfile import AlreadyRunningError, PidFile
from tests.support.doubles.agent.properties import FILE, MissingArgumentsError, read_settings
from tests.support.doubles.agent.switches import SwitchError, Switches
from tests.support.doubles.agent.version import AgentTraits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_DEAF_SECONDS: Final = 0.1
_USAGE: Final = 64


def _age_seconds() -> float:
    """How long ago this process was started, by the kernel's own book."""
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(after_name[19]) / ticks_per_second


def _is_lost(traits: AgentTraits, *, pid: int, age_seconds: float) -> bool:
    """Whether PID 1 never learns of SIGTERM: the kernel drops it while there is no handler."""
    return pid == 1 and (not traits.handles_sigterm_as_pid_1 or age_seconds < _DEAF_SECONDS)


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the agent; the process never comes back from here."""
    try:
        traits, switches, positional = _options(arguments)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_USAGE)
    pid_file = PidFile()

    def leave(code: int) -> NoReturn:
        """End at once: no drain, no answer, no close frame. The kernel closes what is open."""
        pid_file.release()
        sys.stdout.flush()
        os._exit(code)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM and _is_lost(traits, pid=os.getpid(), age_seconds=_age_seconds()):
            return
        leave(0)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    time.sleep(switches.start_delay_ms / 1000)
    try:
        pid_file.claim()
    except AlreadyRunningError:
        sys.exit(1)
    try:
        settings = read_settings(
            positional,
            lambda: Path(FILE).read_text(encoding="utf-8") if Path(FILE).exists() else None,
            traits=traits,
            program_folder=os.environ.get("MEDPLUM_AGENT_DOUBLE_PROGRAM_FOLDER", "."),
        )
    except MissingArgumentsError as error:
        sys.stdout.write(f"Missing arguments: {error}\n")
        leave(1)

    if settings.base_url.startswith("http://"):
        # aiohttp reads the machine's certificates when it is imported, which takes longer than all the rest of the start.
        os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
    import asyncio  # noqa: PLC0415 - slow, see above

    from tests.support.doubles.agent.program import Agent  # noqa: PLC0415 - same

    async def run() -> None:
        await Agent(settings, traits, switches, leave).run()

    asyncio.run(run())
    raise AssertionError("an agent runs for ever")


def _options(arguments: Sequence[str]) -> tuple[AgentTraits, Switches, list[str]]:
    """The stand-in's own options, each with its value behind it, and what is left for the agent; SwitchError if they are wrong."""
    own = {
        "--agent-version": os.environ.get("MEDPLUM_AGENT_DOUBLE_VERSION", ""),
        "--switches": os.environ.get("MEDPLUM_AGENT_DOUBLE_SWITCHES", ""),
    }
    positional = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            positional.append(argument)
        elif argument in own:
            own[argument] = next(rest, "")
        else:
            raise SwitchError(f"there is no option {argument}; there are {', '.join(own)}")
    if not own["--agent-version"]:
        raise SwitchError("which version? Set MEDPLUM_AGENT_DOUBLE_VERSION, or give --agent-version 5.1.15")
    traits = AgentTraits.parse(own["--agent-version"])
    switches = Switches.parse(own["--switches"], lambda path: Path(path).read_text(encoding="utf-8"), traits)
    return traits, switches, positional


if __name__ == "__main__":
    main(sys.argv[1:])
