"""Agent processes as the container runtime reports them: the proof that no two overlap if either is before 4.2.4.

`LifeRecorder` listens to containerd's own events on every node, so neither the API server nor the kubelet is in between. A
life is a task's, from its start to its exit; the agent is PID 1 of it (its start script ends by `exec`), hence alive no
longer than that.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tests.support.recorder import ZERO_DOWNTIME, release

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.support.cluster.node import Machine

_EVENT = re.compile(r"^(\S+ \S+) \+0000 UTC k8s\.io (/tasks/(?:start|exit)) (.*)$")
_AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Life:
    """One run of one agent's container.

    Attributes:
        namespace: the pod's.
        agent: the name of the MedplumAgent, from the pod's name.
        pod: the pod's name.
        node: where it ran.
        version: the tag of its image.
        started: when the runtime started the process.
        ended: when the process had exited; None while it runs.
    """

    namespace: str
    agent: str
    pod: str
    node: str
    version: str
    started: datetime
    ended: datetime | None = None

    @property
    def end(self) -> datetime:
        """When it ended; AssertionError if it still runs."""
        assert self.ended is not None, f"{self} has not ended"
        return self.ended

    def overlaps(self, other: Life) -> bool:
        """Whether both were alive at one moment."""
        return (other.ended is None or self.started < other.ended) and (
            self.ended is None or other.started < self.ended
        )

    def __str__(self) -> str:
        end = "now" if self.ended is None else f"{self.ended:%H:%M:%S.%f}"
        return f"{self.pod} ({self.version}) on {self.node} from {self.started:%H:%M:%S.%f} to {end}"


def violations(lives: Iterable[Life]) -> list[str]:
    """Return every pair of lives of one agent that overlap although one of them is before 4.2.4."""
    found = []
    for one, other in combinations(lives, 2):
        same = (one.namespace, one.agent) == (other.namespace, other.agent)
        both_hand_over = all(release(life.version) >= ZERO_DOWNTIME for life in (one, other))
        if same and not both_hand_over and one.overlaps(other):
            found.append(f"{one} beside {other}")
    return found


def parse_event(line: str) -> tuple[datetime, str, dict[str, Any]] | None:
    """Read one line of `ctr events`: time, topic, content; None if it is not about a task.

    >>> parse_event('2026-11-25 00:54:00.123456789 +0000 UTC k8s.io /tasks/start {"container_id":"c","pid":7}')
    (datetime.datetime(2026, 11, 25, 0, 54, 0, 123456, tzinfo=datetime.timezone.utc), '/tasks/start', {'container_id': 'c', 'pid': 7})
    """
    match = _EVENT.match(line)
    if match is None:
        return None
    stamp, topic, content = match.groups()
    day, _, fraction = stamp.partition(".")
    moment = datetime.fromisoformat(f"{day}.{(fraction + '000000')[:6]}").replace(tzinfo=UTC)
    return moment, topic, json.loads(content)


@dataclass
class LifeRecorder:
    """Listens on every node after `start`; `lives` has the agents seen so far."""

    machines: Sequence[Machine]
    _lives: dict[str, Life] = field(default_factory=dict)
    _listeners: list[subprocess.Popen[str]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _faults: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Begin to listen; what runs already is not seen."""
        for machine in self.machines:
            command = machine.command(str(machine.folder / "bin" / "ctr"), "--namespace", "k8s.io", "events")
            listener = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            thread = threading.Thread(target=self._listen, args=(machine, listener), daemon=True)
            thread.start()
            self._listeners.append(listener)
            self._threads.append(thread)

    def stop(self) -> None:
        """End the listeners."""
        for listener in self._listeners:
            listener.kill()
            listener.wait()
        for thread in self._threads:
            thread.join(10)

    @property
    def lives(self) -> list[Life]:
        """The lives of agents, oldest first."""
        with self._lock:
            return sorted(self._lives.values(), key=lambda life: life.started)

    def of(self, namespace: str) -> list[Life]:
        """The lives in one namespace, oldest first."""
        return [life for life in self.lives if life.namespace == namespace]

    @property
    def faults(self) -> list[str]:
        """Lines that the recorder could not read; its result is valid only if this is empty."""
        return list(self._faults)

    def _listen(self, machine: Machine, listener: subprocess.Popen[str]) -> None:
        if listener.stdout is None:
            raise TypeError("the listener has no pipe")
        with listener.stdout as lines:
            for line in lines:
                event = parse_event(line)
                if event is None:
                    continue
                moment, topic, content = event
                container = content["container_id"]
                if topic == "/tasks/start":
                    self._began(machine, container, moment)
                elif content.get("id", container) == container:  # else a process that was started in it later
                    with self._lock:
                        if container in self._lives:
                            self._lives[container] = replace(self._lives[container], ended=moment)

    def _began(self, machine: Machine, container: str, moment: datetime) -> None:
        try:
            found = json.loads(machine.ctr("containers", "info", container))
        except (RuntimeError, json.JSONDecodeError) as fault:
            self._faults.append(f"{container} on {machine.name}: {fault}")
            return
        labels = found["Labels"]
        # The pod that fetches an image has a container of the same name, in which `true` runs and no agent.
        if labels.get("io.kubernetes.container.name") != _AGENT or found["Spec"]["process"]["args"] == ["true"]:
            return
        pod = labels["io.kubernetes.pod.name"]
        life = Life(
            namespace=labels["io.kubernetes.pod.namespace"],
            agent=pod.rsplit("-", 2)[0],
            pod=pod,
            node=machine.name,
            version=found["Image"].rsplit(":", 1)[1],
            started=moment,
        )
        with self._lock:
            self._lives[container] = life
