"""Show headings, commands, output and check marks, on the screen and in the picture for README.

Used by `stage` and `run`. It runs no command and makes no decision. The picture is a second, recording console that gets
fewer lines: it never shows a line that the screen did not show.
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
"""Columns of the picture, and of output to a file: wide enough for `kubectl get`."""


def screen(file: io.TextIOBase | None = None) -> Console:
    """Make a console as wide as the terminal, or WIDTH if the output is a file."""
    console = Console(file=file, highlight=False)  # type: ignore[arg-type] # rich asks for IO[str], which StringIO is
    if not console.is_terminal:
        console.width = WIDTH
    return console


def recording() -> Console:
    """Make a console that shows nothing and records everything in colour, for the picture."""
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
    """The screen, and the picture if one is requested."""

    screen: Console
    picture: Console | None = None
    pictured: bool = True
    """Whether the current chapter is in the picture."""
    live: Callable[[], str] | None = None
    """Returns the current line about traffic, shown beside what the demo waits for."""
    _chapters: int = field(default=0, init=False)

    def say(self, text: str, *, style: str = "", pictured: bool = False) -> None:
        """Show text outside of a chapter."""
        self._show(Text(text, style=style), pictured=pictured)

    def heading(self, title: str, why: str) -> None:
        """Begin a chapter."""
        self._chapters += 1
        heading = Text(f"\n{self._chapters}. {title}", style="bold cyan")
        self._show(heading, pictured=True)
        self._show(Text(why, style="dim"), pictured=True)

    def command(self, *arguments: str, pictured: bool = True) -> None:
        """Show a command before it runs."""
        line = Text.assemble(("$ ", "bold green"), (typed(*arguments), "bold"))
        # No line break of ours: people copy the command.
        self._show(line, pictured=pictured, soft_wrap=True)

    def output(self, text: str, *, brief: Callable[[str], str] | None = None, pictured: bool = True) -> None:
        """Show the output of a command; `brief` shortens it for the picture."""
        text = text.rstrip("\n")
        if not text:
            return
        self._show(Text(text), brief=Text(brief(text)) if brief else None, pictured=pictured)

    def passed(self, text: str) -> None:
        """Show a check that passed."""
        self._show(Text.assemble(("✓ ", "bold green"), (text, "green")), pictured=True)

    def traffic(self, text: str) -> None:
        """Show the traffic of the step that ends."""
        self._show(Text.assemble(("⇄ ", "bold magenta"), (f"devices: {text}", "magenta")), pictured=True)

    def failed(self, reason: str, log: str) -> None:
        """Show why the demo ends here, and the end of the operator's log."""
        self._show(Text.assemble(("✗ ", "bold red"), (reason, "red")), pictured=False)
        if log:
            self._show(Text("The end of the operator's log:", style="bold"), pictured=False)
            self._show(Text(log, style="dim"), pictured=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show on a terminal, during the block, what the demo waits for."""
        if not self.screen.is_terminal:
            yield
            return
        with self.screen.status(_Waiting(what, self.live or str)):
            yield

    def _show(self, text: Text, *, brief: Text | None = None, pictured: bool, soft_wrap: bool = False) -> None:
        self.screen.print(text, soft_wrap=soft_wrap)
        if pictured and self.pictured and self.picture is not None:
            self.picture.print(brief or text)
