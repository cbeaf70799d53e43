"""What the audience sees: headings, commands, their output and check marks, on the screen and in the picture for README.

Written to by `stage` and `run`; it runs nothing and decides nothing. The picture is a second, recording console that gets
the same story in fewer lines: it never shows what the screen did not.
"""

from __future__ import annotations

import io
import shlex
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDTH = 120
"""Columns of the picture, and of the screen where it is a file: `kubectl get` fits."""


def screen(file: io.TextIOBase | None = None) -> Console:
    """Make a console for a person: as wide as the terminal, or WIDTH where the output goes into a file."""
    console = Console(file=file, highlight=False)  # type: ignore[arg-type] # rich asks for IO[str], which StringIO is
    if not console.is_terminal:
        console.width = WIDTH
    return console


def recording() -> Console:
    """Make a console that shows nothing and remembers everything in colour, for the picture."""
    return Console(
        file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor", highlight=False
    )


def typed(*arguments: str) -> str:
    r"""Spell a kubectl command as a person would type it, ready to paste into a shell.

    >>> typed("get", "mpa", "-o", "jsonpath={.status.plan}")
    "kubectl get mpa -o jsonpath='{.status.plan}'"
    >>> typed("annotate", "mpa", "a/b=4.2.3 CHG-1042")
    'kubectl annotate mpa a/b="4.2.3 CHG-1042"'
    """
    return " ".join(["kubectl", *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if shlex.quote(argument) == argument:
        return argument
    if not equals or shlex.quote(name) != name:
        name, equals, value = "", "", argument
    simple = not set(value) & set('"$`\\!{')
    return name + equals + (f'"{value}"' if simple else shlex.quote(value))


@dataclass(frozen=True, slots=True)
class _Waiting:
    what: str
    live: Callable[[], str]

    def __rich__(self) -> Text:
        """Called by rich at every frame."""
        return Text.assemble((self.what, "dim"), "  ", (self.live(), "magenta"))


@dataclass(slots=True)
class Terminal:
    """The screen, and the picture if one is wanted."""

    screen: Console
    picture: Console | None = None
    pictured: bool = True
    """Whether the chapter being told is in the picture."""
    live: Callable[[], str] | None = None
    """What is shown of the traffic, anew every moment, beside what is being waited for."""
    _spoken: int = field(default=0, init=False)

    def say(self, text: str, *, style: str = "", pictured: bool = False) -> None:
        """Say something that belongs to no chapter."""
        self._show(Text(text, style=style), pictured=pictured)

    def heading(self, title: str, why: str) -> None:
        """Begin a chapter."""
        self._spoken += 1
        heading = Text(f"\n{self._spoken}. {title}", style="bold cyan")
        self._show(heading, pictured=True)
        self._show(Text(why, style="dim"), pictured=True)

    def command(self, *arguments: str, pictured: bool = True) -> None:
        """Show a command before it is run."""
        line = Text.assemble(("$ ", "bold green"), (typed(*arguments), "bold"))
        # The terminal may break the line, we must not: it is there to be copied.
        self._show(line, pictured=pictured, soft_wrap=True)

    def output(self, text: str, *, brief: Callable[[str], str] | None = None, pictured: bool = True) -> None:
        """Show what a command said; `brief` makes of it what the picture shows."""
        text = text.rstrip("\n")
        if not text:
            return
        self._show(Text(text), brief=Text(brief(text)) if brief else None, pictured=pictured)

    def passed(self, text: str) -> None:
        """Show what was checked and found to be so."""
        self._show(Text.assemble(("✓ ", "bold green"), (text, "green")), pictured=True)

    def traffic(self, text: str) -> None:
        """Show how the devices have fared in the step that ends."""
        self._show(Text.assemble(("⇄ ", "bold magenta"), (f"devices: {text}", "magenta")), pictured=True)

    def failed(self, reason: str, log: str) -> None:
        """Show why the story ends here, and the end of the operator's log."""
        self._show(Text.assemble(("✗ ", "bold red"), (reason, "red")), pictured=False)
        if log:
            self._show(Text("The end of the operator's log:", style="bold"), pictured=False)
            self._show(Text(log, style="dim"), pictured=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show on a terminal, for as long as the block lasts, what is being waited for."""
        if not self.screen.is_terminal:
            yield
            return
        with self.screen.status(_Waiting(what, self.live or str)):
            yield

    def _show(self, text: Text, *, brief: Text | None = None, pictured: bool, soft_wrap: bool = False) -> None:
        self.screen.print(text, soft_wrap=soft_wrap)
        if pictured and self.pictured and self.picture is not None:
            self.picture.print(brief or text)
