"""A whole rollout as a story: what somebody does, then a block for each pass of the operator that saw or did something new.

`tests/golden/test_rollouts.py` compares the stories with files. They are played on the simulated cluster: nodes, kubelet and
Deployment controller are a model, the operator's core is the real one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tests.support.builders import NAME, agent
from tests.support.simulated_cluster import SimulatedCluster
from tests.support.simulated_cluster.situations import QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medplum_agent_operator.core.plan import Plan
    from tests.support.simulated_cluster.pods import SimulatedPod

_GENERATED: Final = re.compile(rf"{NAME}-(?:backup|fetch)-[0-9a-f]{{10}}")


class Story(SimulatedCluster):
    """A cluster that writes down what happens in it.

    Attributes:
        lines: the story so far.
    """

    def __init__(self, title: str, version: str, **spec: Any) -> None:
        super().__init__(agent(version, **{"handoff": QUICK, **spec}))
        self.lines = [f"# {title}"]
        self._pod_names: dict[str, str] = {}
        self._last = ""
        self.settle()
        self.lines = [f"# {title}", "", *self._state()]

    def tell(self, sentence: str) -> Story:
        """Write down what somebody does next."""
        self.lines += ["", f"== {sentence}"]
        return self

    def reconcile(self, *, dies_after: int | None = None) -> Plan:
        """One pass, written down if it saw, did or said something new."""
        writes, before = len(self.writes), self._state()
        plan = super().reconcile(dies_after=dies_after)
        written = self.writes[writes:]
        says = "nothing yet" if plan.defer_reporting else f"{plan.phase}: {plan.message.summary}"
        block = [
            *before,
            *self._line("writes", ", ".join(written)),
            *self._line("says", _GENERATED.sub(f"{NAME}-backup-1", says)),
        ]
        if written or "\n".join(block) != self._last:
            self.lines += ["", f"{self.now:%H:%M:%S}", *block]
        self._last = "\n".join(block)
        return plan

    def _state(self) -> list[str]:
        live = self.objects.get("Deployment")
        running = ", ".join(self._pod(pod) for pod in self.pods)
        wanted = "" if live is None else f"{self.applied_version}, {live['spec']['strategy']['type']}"
        return [*self._line("Deployment", wanted), *self._line("pods", running)]

    def _line(self, name: str, text: str) -> Iterator[str]:
        if text:
            yield f"  {name:<11} {text}"

    def _pod(self, pod: SimulatedPod) -> str:
        name = self._pod_names.setdefault(pod.name, f"pod-{len(self._pod_names) + 1}")
        where = pod.node or "no node"
        if pod.told_to_go is not None:
            state = "ended" if pod.ended is not None else "terminating"
        elif pod.ready_since is not None:
            state = "ready"
        else:
            state = "starting"
        return f"{name} ({pod.version}, {where}, {state})"

    @property
    def text(self) -> str:
        """The whole story."""
        history = [
            f"  {entry.from_version or '-'} -> {entry.to} {entry.strategy or 'Install'} {entry.outcome}"
            + (f", gap {entry.gap_seconds:g} s" if entry.gap_seconds is not None else "")
            + (f", approved by {entry.approval.text!r}" if entry.approval is not None else "")
            for entry in self.status.history
        ]
        return "\n".join((*self.lines, "", "history, newest first", *history, ""))
