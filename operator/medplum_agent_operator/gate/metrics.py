"""The gate's Prometheus metrics: numbers for each channel, and the addresses of devices. Never any content of a message.

Made by `__main__`; the relays count here. Names follow https://prometheus.io/docs/practices/naming/.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from medplum_agent_operator.gate.budget import Budget
from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.reports import ChannelReport
from medplum_agent_operator.gate.routes import Life
from medplum_agent_operator.gate.takeovers import Takeovers

PREFIX: Final = "medplum_agent_gate_"
"""Prefix of every metric name."""
PAGE_SECONDS: Final = 1.0
"""How old the page for Prometheus may be."""
_ANSWER_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_HELD_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30)
_COUNTERS: Final = {
    Kind.SENT: ("messages_sent", "Messages that the gate wrote to an agent."),
    Kind.SENT_SILENT: (
        "messages_silent",
        "Of the messages that the gate wrote to an agent: those whose MSH-15 and MSH-16 allow it not to answer.",
    ),
    Kind.LATE: (
        "answers_late",
        "Answers that no message waited for: application acknowledgements after a commit, repeated answers, and answers after the time-out.",
    ),
    Kind.UNANSWERED: (
        "messages_unanswered",
        "Messages without an answer in time; the gate then sent the next message.",
    ),
    Kind.REPEATED: (
        "messages_repeated",
        "Messages that the gate sent again to the next agent, because an agent stopped without answering.",
    ),
    Kind.MOVED: ("moves", "Device connections that moved to another agent."),
    Kind.MISSED: ("answers_missed", "Application acknowledgements that did not arrive because their link was closed."),
    Kind.JUNK: ("junk_bytes", "Bytes from devices or agents outside any frame, which the gate dropped."),
    Kind.EMPTY: ("frames_empty", "Frames without an HL7 header, which the gate dropped."),
    Kind.BATCH: (
        "batches",
        "Batches and files of messages (BHS, FHS), which no agent takes, so the gate dropped them.",
    ),
    Kind.CUT: ("frames_cut", "Frames that a device or an agent did not complete, which the gate dropped."),
    Kind.UNDELIVERED: (
        "messages_undelivered",
        "Lost messages: complete messages of disconnected devices that went to no agent.",
    ),
    Kind.DROPPED: (
        "messages_dropped",
        "Complete messages that went to no agent because the gate closed their connection. Devices that wait for answers send them again.",
    ),
}


class Metrics:
    """The metrics of a gate."""

    def __init__(self, *, answer_seconds: float) -> None:
        """`answer_seconds`: an agent that received a message and answered nothing for so long is silent."""
        self.registry = CollectorRegistry()
        self.takeovers = Takeovers()
        self._answer_seconds = answer_seconds
        self._reports: list[ChannelReport] = []
        self._page: tuple[float, bytes] | None = None
        self._counters = {kind: self._counter(name, text) for kind, (name, text) in _COUNTERS.items()}
        self._answered = self._histogram(
            "answer", "Time from writing a message to an agent to its first answer, in seconds.", _ANSWER_SECONDS
        )
        self._held = self._histogram(
            "held", "How long the gate held messages that had to wait for an agent, in seconds.", _HELD_SECONDS
        )
        self._longest_held = self._gauge(
            "longest_held_seconds", "Longest time that the gate has held a message since it started, in seconds."
        )
        self._last_answer = self._gauge(
            "last_answer_timestamp_seconds", "When a message last got its first answer, as a Unix timestamp in seconds."
        )
        self._devices = self._gauge("devices", "Open device connections.")
        self._message_bytes = self._gauge("message_bytes", "Memory that messages above 16 KiB use, in bytes.")
        self._waiting = self._gauge("connections_waiting", "Device connections that wait for memory.")
        self._addresses = _Addresses()
        self.registry.register(self._addresses)
        self._refusals = self._counter(
            "connections_refused", "Device connections that the gate refused: over a limit, or while the gate stopped."
        )
        self._closed = Counter(
            f"{PREFIX}connections_closed",
            "Device connections that the gate closed, by reason.",
            ["channel", "reason"],
            registry=self.registry,
        )

    def channel(self, name: str) -> "ChannelMetrics":
        """Return the counters of one channel."""
        report = ChannelReport(name, answer_seconds=self._answer_seconds)
        self._reports.append(report)
        return ChannelMetrics(
            name=name,
            report=report,
            devices=self._devices.labels(name),
            message_bytes=self._message_bytes.labels(name),
            waiting=self._waiting.labels(name),
            addresses=self._addresses,
            counted={kind: counter.labels(name) for kind, counter in self._counters.items()},
            answered=self._answered.labels(name),
            held=self._held.labels(name),
            longest_held=self._longest_held.labels(name),
            last_answer=self._last_answer.labels(name),
            refusals=self._refusals.labels(name),
            takeovers=self.takeovers,
            closed={why: self._closed.labels(name, why.name.lower()) for why in Ending},
        )

    def status(self) -> dict[str, Any]:
        """Return the JSON object for `/status`, which the operator reads."""
        return {"channels": [report.as_json() for report in self._reports], "takeovers": self.takeovers.as_json()}

    def text(self) -> bytes:
        """Return the page for Prometheus. It is made once a second at most: each costs time in which no message passes."""
        now = time.monotonic()
        if self._page is None or now >= self._page[0] + PAGE_SECONDS:
            self._page = (now, generate_latest(self.registry))
        return self._page[1]

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"{PREFIX}{name}", text, ["channel"], registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{PREFIX}{name}", text, ["channel"], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}{name}_seconds", text, ["channel"], buckets=buckets, registry=self.registry)


class _Addresses(Collector):
    """Device connections by address, counted at each scrape, so that addresses without a connection disappear."""

    def __init__(self) -> None:
        self.channels: dict[str, Callable[[], Mapping[str, int]]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield one sample for each channel and address."""
        family = GaugeMetricFamily(
            f"{PREFIX}device_connections",
            "Open device connections by device address. The agent sees only the gate's address.",
            labels=["channel", "address"],
        )
        for channel, connected in self.channels.items():
            for address, number in connected().items():
                family.add_metric([channel, address], number)
        yield family


@dataclass(slots=True)
class ChannelMetrics:
    """The counters of one channel."""

    name: str
    report: ChannelReport
    devices: Gauge
    message_bytes: Gauge
    waiting: Gauge
    addresses: _Addresses
    counted: Mapping[Kind, Counter]
    answered: Histogram
    held: Histogram
    longest_held: Gauge
    last_answer: Gauge
    refusals: Counter
    closed: Mapping[Ending, Counter]
    takeovers: Takeovers
    longest_hold_seconds: float = 0

    def count_devices(self, connected: Callable[[], Mapping[str, int]]) -> None:
        """`connected`: returns the number of connections by address; called at each scrape and for each report."""
        self.devices.set_function(lambda: sum(connected().values()))
        self.addresses.channels[self.name] = connected
        self.report.count_devices(connected)

    def count_memory(self, budget: Budget) -> None:
        """`budget`: asked at each scrape."""
        self.message_bytes.set_function(lambda: budget.used_by(self.name))
        self.waiting.set_function(lambda: budget.waiting_in(self.name))

    def note(self, kind: Kind, number: float, agent: Life | None = None) -> None:
        """Count an event. `agent`: the one that a message was written to, where the kind concerns one."""
        self.report.note(kind)
        if agent is not None:
            self.takeovers.count(agent.pod.name, kind, number)
        match kind:
            case Kind.ANSWERED:
                self.answered.observe(number)
                self.last_answer.set_to_current_time()
            case Kind.HELD:
                self.held.observe(number)
                self.longest_hold_seconds = max(self.longest_hold_seconds, number)
                self.longest_held.set(self.longest_hold_seconds)
            case _:
                self.counted[kind].inc(number)
                if kind is Kind.SENT_SILENT:
                    self.counted[Kind.SENT].inc(number)

    def connection_closed(self, why: Ending) -> None:
        """Count a device's connection that the gate closed."""
        self.closed[why].inc()

    def connection_refused(self) -> None:
        """Count a device's connection that the gate refused."""
        self.refusals.inc()
