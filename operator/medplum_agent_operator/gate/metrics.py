"""What a gate has seen, for Prometheus: numbers for each channel, never a word of a message. Of devices, their addresses.

Made by `__main__`; `relay` and `streams` count here. Names follow https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.reports import ChannelReport
from medplum_agent_operator.gate.routes import Life
from medplum_agent_operator.gate.takeovers import Takeovers

PREFIX: Final = "medplum_agent_gate_"
"""Of every metric's name."""
_ANSWER_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_HELD_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30)
_COUNTED: Final = {
    Kind.SENT: ("messages_sent", "Messages written to an agent."),
    Kind.LATE: (
        "answers_late",
        "Answers to messages that needed none any more: the application's after a commit, repeats, late ones.",
    ),
    Kind.UNANSWERED: ("messages_unanswered", "Messages that got no answer in time, after which the next went on."),
    Kind.REPEATED: (
        "messages_repeated",
        "Messages that died unanswered with an agent and were sent again to the next.",
    ),
    Kind.MOVED: ("moves", "Connections of devices that went on with another agent."),
    Kind.MISSED: ("answers_missed", "Application's answers that did not come, because their agent ended."),
    Kind.JUNK: ("junk_bytes", "Bytes of devices or agents that belonged to no frame and were left out."),
    Kind.EMPTY: ("frames_empty", "Frames without a header of HL7 that were left out."),
    Kind.CUT: ("frames_cut", "Frames that a device or an agent did not finish and that were left out."),
    Kind.UNDELIVERED: (
        "messages_undelivered",
        "Whole messages of devices that had gone, for which no agent came in time: lost.",
    ),
}


class Metrics:
    """The metrics of a gate."""

    def __init__(self, *, answer_seconds: float) -> None:
        """`answer_seconds`: an agent that has answered nothing for so long is silent."""
        self.registry = CollectorRegistry()
        self.takeovers = Takeovers()
        self._answer_seconds = answer_seconds
        self._reports: list[ChannelReport] = []
        self._counters = {kind: self._counter(name, text) for kind, (name, text) in _COUNTED.items()}
        self._answered = self._histogram("answer", "From writing a message to its first answer.", _ANSWER_SECONDS)
        self._held = self._histogram("held", "How long messages waited for an agent.", _HELD_SECONDS)
        self._longest_held = Gauge(
            f"{PREFIX}longest_held_seconds",
            "The longest that a message has waited for an agent since the gate's start.",
            ["channel"],
            registry=self.registry,
        )
        self._last_answer = Gauge(
            f"{PREFIX}last_answer_timestamp_seconds",
            "When a message was last answered.",
            ["channel"],
            registry=self.registry,
        )
        self._devices = Gauge(f"{PREFIX}devices", "Connections of devices.", ["channel"], registry=self.registry)
        self._addresses = _Addresses()
        self.registry.register(self._addresses)
        self._refusals = self._counter("connections_refused", "Connections that were over a limit.")
        self._closed = Counter(
            f"{PREFIX}connections_closed",
            "Connections of devices that the gate closed, and why.",
            ["channel", "reason"],
            registry=self.registry,
        )

    def channel(self, name: str) -> "ChannelMetrics":
        """Return what one channel counts with."""
        report = ChannelReport(name, answer_seconds=self._answer_seconds)
        self._reports.append(report)
        return ChannelMetrics(
            name=name,
            report=report,
            devices=self._devices.labels(name),
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
        """What the operator asks for."""
        return {"channels": [report.as_json() for report in self._reports], "takeovers": self.takeovers.as_json()}

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"{PREFIX}{name}", text, ["channel"], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}{name}_seconds", text, ["channel"], buckets=buckets, registry=self.registry)


class _Addresses(Collector):
    """Connections by the address that they come from, counted when somebody asks: those that have gone leave nothing behind."""

    def __init__(self) -> None:
        self.channels: dict[str, Callable[[], Mapping[str, int]]] = {}

    def collect(self) -> Iterator[Metric]:
        """One sample for each channel and address."""
        family = GaugeMetricFamily(
            f"{PREFIX}device_connections",
            "Connections of devices, by address: the agent sees the gate's own.",
            labels=["channel", "address"],
        )
        for channel, connected in self.channels.items():
            for address, number in connected().items():
                family.add_metric([channel, address], number)
        yield family


@dataclass(slots=True)
class ChannelMetrics:
    """Counts for one channel."""

    name: str
    report: ChannelReport
    devices: Gauge
    addresses: _Addresses
    counted: Mapping[Kind, Counter]
    answered: Histogram
    held: Histogram
    longest_held: Gauge
    last_answer: Gauge
    refusals: Counter
    closed: Mapping[Ending, Counter]
    takeovers: Takeovers
    longest: float = 0

    def count_devices(self, connected: Callable[[], Mapping[str, int]]) -> None:
        """`connected` tells how many are, by address, whenever that is asked."""
        self.devices.set_function(lambda: sum(connected().values()))
        self.addresses.channels[self.name] = connected
        self.report.count_devices(connected)

    def note(self, kind: Kind, number: float, agent: Life | None = None) -> None:
        """Something happened; with a message to an agent, which one."""
        self.report.note(kind)
        if agent is not None:
            self.takeovers.note(agent.pod.name, kind, number)
        match kind:
            case Kind.ANSWERED:
                self.answered.observe(number)
                self.last_answer.set_to_current_time()
            case Kind.HELD:
                self.held.observe(number)
                self.longest = max(self.longest, number)
                self.longest_held.set(self.longest)
            case _:
                self.counted[kind].inc(number)

    def ended(self, why: Ending) -> None:
        """A device's connection was closed by the gate."""
        self.closed[why].inc()

    def refused(self) -> None:
        """A device's connection was not taken."""
        self.refusals.inc()
