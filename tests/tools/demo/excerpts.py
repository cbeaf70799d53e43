"""Shorten long output for the picture. Pure; used by `story`."""

from __future__ import annotations

import re

COMMAND = re.compile(r"kubectl (annotate [^\n]*?force-downgrade=\"[^\"\n]*\")")
"""The command that approves a downgrade, as `status.plan` offers it."""


def indented(text: str) -> str:
    """Return the text two columns to the right."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def cropped(text: str, width: int = 100) -> str:
    """Return the lines cut at a width, with an ellipsis where text is missing."""
    return "\n".join(line if len(line) <= width else line[:width] + " …" for line in text.splitlines())


def first_line(text: str) -> str:
    r"""Return the first line of a message: what happened.

    >>> first_line("Downgrade refused.\nImpact: none.")
    'Downgrade refused.'
    """
    return text.partition("\n")[0]


def first_and_command(text: str, width: int = 120) -> str:
    r"""Return the first line of `status.plan`, and its command if it offers one.

    >>> print(first_and_command("Downgrade refused.\nImpact: none.\nCommand: kubectl annotate x"))
    Downgrade refused.
    …
    Command: kubectl annotate x
    >>> print(first_and_command("Installing 5.1.14.\nImpact: none."))
    Installing 5.1.14.
    …
    >>> print(first_and_command("Running."))
    Running.
    """
    first, *others = text.splitlines() or [""]
    shown = [cropped(first, width)]
    commands = [line for line in others if line.startswith("Command:")]
    if len(others) > len(commands):
        shown.append("…")
    return "\n".join(shown + commands)


def approval_command(text: str) -> str:
    r"""Return the arguments of the kubectl command that approves a downgrade; "" if the message offers none.

    >>> approval_command('Refused.\nCommand: kubectl annotate mpa x a.b/force-downgrade="4.2.3"')
    'annotate mpa x a.b/force-downgrade="4.2.3"'
    >>> approval_command("Running.")
    ''
    """
    found = COMMAND.search(text)
    return found[1] if found else ""


def turning_points(lines: str) -> str:
    r"""Return from a pod watch the header and, for each pod, the lines where it appears, becomes ready, ends or goes.

    >>> print(turning_points("EVENT NAME\nADDED a 0/1 Pending\nMODIFIED a 0/1 Running\nMODIFIED a 1/1 Running\nMODIFIED a 1/1 Running"))
    EVENT NAME
    ADDED a 0/1 Pending
    MODIFIED a 1/1 Running
    """
    header, *events = lines.splitlines()
    chosen: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for line in events:
        event, *state = line.split()[:4]
        turning = event != "MODIFIED" or not {"1/1", "Completed", "Error"}.isdisjoint(state)
        if turning and (event == "DELETED" or tuple(state) not in seen):
            chosen.append(line)
        seen.add(tuple(state))
    return "\n".join([header, *chosen])
