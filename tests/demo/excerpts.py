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
    """Return of a pod watch the header and the lines that begin or end a pod's life, or tell that it is ready."""
    header, *events = lines.splitlines()
    return "\n".join([header, *(e for e in events if not e.startswith("MODIFIED") or " 1/1 " in e)])
