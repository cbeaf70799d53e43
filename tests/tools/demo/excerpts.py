"""What is shown of a long output: shorter, with dots wherever something is left out. Pure; used by `story`."""

from __future__ import annotations


def indented(text: str) -> str:
    """Return the text two columns to the right."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def cropped(text: str, width: int = 100) -> str:
    """Return the lines cut at a width, with dots where they are."""
    return "\n".join(line if len(line) <= width else line[:width] + " …" for line in text.splitlines())


def sentence(text: str, beginning: str) -> str:
    """Return the sentence that begins so, with dots where the rest is left out."""
    return f"… {text[text.index(beginning) :].partition('. ')[0]}. …"


def first_and_command(text: str) -> str:
    """Return the first sentences of a refusal and the command at its end."""
    first, _, rest = text.partition(" Why: ")
    return f"{first} …\n… {rest[rest.index('To go ahead') :]}"


def turning_points(lines: str) -> str:
    r"""Return of a pod watch the header and each pod's coming, getting ready, being told to end, having ended, and going.

    >>> print(turning_points("EVENT NAME\nADDED a 0/1 Pending\nMODIFIED a 0/1 Running\nMODIFIED a 1/1 Running\nMODIFIED a 1/1 Running"))
    EVENT NAME
    ADDED a 0/1 Pending
    MODIFIED a 1/1 Running
    """
    header, *events = lines.splitlines()
    kept: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for line in events:
        event, *state = line.split()[:4]
        turning = event != "MODIFIED" or not {"1/1", "Completed", "Error"}.isdisjoint(state)
        if turning and (event == "DELETED" or tuple(state) not in seen):
            kept.append(line)
        seen.add(tuple(state))
    return "\n".join([header, *kept])
