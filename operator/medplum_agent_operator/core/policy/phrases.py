"""Phrases that several messages share. Called by the message modules of this wing and of `report`; they must never decide anything."""

from collections.abc import Sequence
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent

NOTHING_NEEDED: Final = "None needed; the rollout continues automatically."


def seconds(count: int) -> str:
    """Write a number of seconds with its unit.

    >>> seconds(1), seconds(5)
    ('1 second', '5 seconds')
    """
    return "1 second" if count == 1 else f"{count} seconds"


def capital(text: str) -> str:
    """Begin the text with a capital letter.

    >>> capital("both versions can hand over")
    'Both versions can hand over'
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
