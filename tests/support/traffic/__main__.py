"""`python -m tests.support.traffic`: send until Ctrl-C, SIGTERM or --seconds, then print the report. Exit code 1: lost some."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.traffic.config import TrafficConfig
from tests.support.traffic.generator import Traffic
from tests.support.traffic.report import as_text

if TYPE_CHECKING:
    from collections.abc import Sequence

LIVE_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the generator. Returns the exit code: 0, 1 when an acknowledged message was lost, 2 for wrong arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        config = _config(options)
        traffic = Traffic(config)
        asyncio.run(_run(traffic, options))
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(as_text(traffic.report) + "\n")
    for path, document in ((options.output, traffic.report.as_json()), (options.series, traffic.series.as_json())):
        if path is not None:
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lost = [figures.lost for figures in (traffic.report.overall, *traffic.report.shapes.values())]
    return 1 if any(lost) else 0


async def _run(traffic: Traffic, options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    live = sys.stderr.isatty() or options.live or options.live_json
    end = None if options.seconds is None else loop.time() + options.seconds
    async with traffic, asyncio.TaskGroup() as group:
        marking = group.create_task(_mark(traffic)) if options.marks else None
        while not stop.is_set() and (end is None or loop.time() < end):
            left = LIVE_SECONDS if end is None else min(LIVE_SECONDS, end - loop.time())
            try:
                async with asyncio.timeout(max(0.0, left)):
                    await stop.wait()
            except TimeoutError:
                if live:
                    now = traffic.snapshot()
                    _show(json.dumps(asdict(now)) + "\n" if options.live_json else str(now))
        if marking is not None:
            marking.cancel()
        if live:
            _show("stopping: what is unacknowledged is sent again ...\n")


async def _mark(traffic: Traffic) -> None:
    """Make a mark of each line on stdin, so that another process can mark what it does."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        traffic.mark(line.decode().strip())


def _show(line: str) -> None:
    text = f"\r\x1b[K{line}" if sys.stderr.isatty() else line.rstrip("\n") + "\n"
    sys.stderr.write(text)
    sys.stderr.flush()


def _config(options: argparse.Namespace) -> TrafficConfig:
    host, _, port = options.target.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{options.target!r} is no target: HOST:PORT, such as 192.0.2.7:2575")
    listen_host, _, listen_port = options.listen.rpartition(":")
    long_lived, _, per_second = options.long_lived.partition(":")
    slow, _, every = options.slow.partition(":")
    chosen = {} if options.run is None else {"run": options.run}
    return TrafficConfig(
        host=host.strip("[]"),
        port=int(port),
        reconnecting_per_second=options.reconnecting,
        long_lived_connections=int(long_lived),
        long_lived_per_second=float(per_second or 20),
        slow_connections=int(slow),
        slow_every_seconds=float(every or 3),
        push_per_second=options.push,
        pipeline=options.pipeline,
        wait_for_application=options.wait_for == "application",
        sources=tuple(part for part in options.source.split(",") if part),
        connect_seconds=options.connect_timeout,
        acknowledge_seconds=options.ack_timeout,
        retry_seconds=options.retry,
        finish_seconds=options.finish,
        settle_seconds=options.settle,
        server_url=options.server,
        agent_id=options.agent_id,
        listen_host=listen_host.strip("[]"),
        listen_port=int(listen_port),
        push_host=options.push_host,
        **chosen,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.traffic",
        description="Sends HL7 v2 messages over MLLP as devices do, and says what became of each. "
        "For test systems: the messages are about a patient who does not exist, but they are real messages.",
        epilog="Ctrl-C or SIGTERM ends it in order: what is unacknowledged is sent again for --finish seconds, then the "
        "report is printed. Exit code 1: a message that was acknowledged never arrived.",
    )
    add = parser.add_argument
    add("target", metavar="HOST:PORT", help="where the agent's HL7 channel listens")
    add("--seconds", type=float, metavar="S", help="stop after this long (default: at Ctrl-C)")
    add(
        "--reconnecting",
        type=float,
        default=20.0,
        metavar="RATE",
        help="new connections a second, one message each (default 20)",
    )
    add(
        "--long-lived",
        default="8:20",
        metavar="N[:RATE]",
        help="connections that stay open, messages a second on each (default 8:20)",
    )
    add(
        "--slow",
        default="30:3",
        metavar="N[:S]",
        help="connections that stay open, seconds between two messages on each (default 30:3)",
    )
    add(
        "--push",
        type=float,
        default=0.0,
        metavar="RATE",
        help="pushes a second that the server is asked for (default 0; needs --server, --agent-id)",
    )
    add(
        "--pipeline",
        type=int,
        default=1,
        metavar="N",
        help="unacknowledged messages that a connection may have (default 1)",
    )
    add(
        "--wait-for",
        choices=("any", "application"),
        default="any",
        help="what settles a message: any positive answer (default), or AA only",
    )
    add("--source", default="", metavar="A[,B...]", help="local addresses to connect from, in turn")
    add(
        "--ack-timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds without an answer before the device reconnects and sends again (default 10)",
    )
    add("--connect-timeout", type=float, default=5.0, metavar="S", help="(default 5)")
    add("--retry", type=float, default=0.2, metavar="S", help="from a failure to the next try (default 0.2)")
    add(
        "--finish",
        type=float,
        default=10.0,
        metavar="S",
        help="at the end: how long to send again what is unacknowledged (default 10)",
    )
    add(
        "--settle",
        type=float,
        default=5.0,
        metavar="S",
        help="then: how long to wait until what was acknowledged has arrived (default 5)",
    )
    add("--server", metavar="URL", help="the test server's control API: what arrived is asked there")
    add("--agent-id", metavar="ID", help="the agent that pushes go through")
    add(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where the device for pushes listens (default 127.0.0.1, any port)",
    )
    add(
        "--push-host",
        metavar="HOST",
        help="the address under which the agent reaches that device (default: that of --listen)",
    )
    add("--run", metavar="ID", help="six characters that begin every control id (default: random)")
    add("--output", type=Path, metavar="FILE", help="write the report as JSON")
    add("--series", type=Path, metavar="FILE", help="write the run over time as JSON, for the picture")
    add("--marks", action="store_true", help="each line on stdin names a moment; report and live line count from there")
    add("--live", action="store_true", help="a line a second on stderr, also when that is no terminal")
    add("--live-json", action="store_true", help="the same line for a program: one JSON object each")
    return parser


if __name__ == "__main__":
    sys.exit(main())
