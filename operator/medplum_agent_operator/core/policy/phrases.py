"""Phrases that several messages share. Called by the message modules of this wing and of `report`; they must never decide anything."""

from collections.abc import Iterable, Sequence
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec

NOTHING_NEEDED: Final = "None needed; the rollout continues automatically."


def seconds(count: int) -> str:
    """Write a number of seconds with its unit.

    >>> seconds(1), seconds(5)
    ('1 second', '5 seconds')
    """
    return "1 second" if count == 1 else f"{count} seconds"


def in_between(spec: MedplumAgentSpec) -> str:
    """What happens to messages while no agent runs."""
    if spec.gated:
        return f"messages wait in the gate for up to {seconds(spec.gate.hold_seconds)}"
    return "devices cannot deliver messages in between"


def capital(text: str) -> str:
    """Begin the text with a capital letter.

    >>> capital("both sides can hand over")
    'Both sides can hand over'
    """
    return text[:1].upper() + text[1:]


def reported(by: str, words: str) -> str:
    """The words of a part of Kubernetes, as a sentence.

    >>> reported("The kubelet", 'secret "lab" not found.')
    'The kubelet reports: secret "lab" not found.'
    """
    return f"{by} reports: {words.strip().rstrip('.')}."


def listed(items: Sequence[str]) -> str:
    """Items in a sentence.

    >>> listed(["Service"]), listed(["Service", "Role", "Job"])
    ('Service', 'Service, Role and Job')
    """
    return " and ".join((", ".join(items[:-1]), items[-1]) if len(items) > 1 else items)


def who_serves(versions: Iterable[str]) -> str:
    """Which versions serve, as the beginning of an impact.

    >>> who_serves(["5.1.15", "5.1.14"]), who_serves([])
    ('5.1.14 and 5.1.15 keep serving.', 'No agent serves right now.')
    """
    alive = sorted(set(versions))
    if not alive:
        return "No agent serves right now."
    return f"{' and '.join(alive)} {'keeps' if len(alive) == 1 else 'keep'} serving."


def numbered(*points: str) -> str:
    """Number the points below a label, one a line.

    >>> print("Points:" + numbered("Stop.", "Start."))
    Points:
      1. Stop.
      2. Start.
    """
    return "".join(f"\n  {number}. {point}" for number, point in enumerate(points, start=1))


def annotate(agent: MedplumAgent, annotation: str, value: str) -> str:
    """The command that sets an annotation of a MedplumAgent."""
    return f'kubectl annotate medplumagent {agent.name} -n {agent.namespace} --overwrite {annotation}="{value}"'
