"""Draws what devices saw while the agent changed: `python -m tests.support.traffic.picture`. The benches call `draw`.

The only module here that needs more than Python's own library: matplotlib, which only `draw` imports. The same input
gives the same bytes. One panel for each run, all with the same scale: messages acknowledged per 100 ms, stacked by shape;
above them what went wrong; beneath them the life of each agent process.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHAPE_COLOURS: Final = {"long-lived": "#0072B2", "slow": "#56B4E9", "reconnecting": "#B8C4CE", "push": "#CC79A7"}
"""Okabe and Ito's colours, which colour-blind people can distinguish; they also differ in lightness."""
SHAPE_NAMES: Final = {
    "long-lived": "long-lived connections",
    "slow": "slow devices",
    "reconnecting": "new connection per message",
    "push": "pushes to a device",
}
TROUBLES: Final = {
    "refused": ("refused", "x", "#D55E00"),
    "broken": ("closed or reset", "|", "#3A3A3A"),
    "timeouts": ("no ACK in time", "s", "#D55E00"),
    "repeated": ("arrived again", "o", "#B07D00"),
    "lost": ("lost", "v", "#000000"),
}
"""What is marked above the messages: name, marker, colour. Marker and row distinguish them without colour."""
LEGEND_INCHES: Final = 0.95
MESSAGES_INCHES: Final = 1.25
"""Of the tallest bar."""
ROW: Final = 0.15
"""Of one kind of trouble, in heights of the tallest bar."""
STARTING: Final = "#E3E7EA"
READY: Final = "#009E73"
TERMINATING: Final = "#E69F00"
INK: Final = "#24292F"
FAINT: Final = "#6E7781"
STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.hashsalt": "medplum-agent-operator",
    "svg.fonttype": "path",
    "path.simplify": False,
}


@dataclass(frozen=True, slots=True)
class Life:
    """One agent process. Times are seconds since 1970, as container runtimes say them; None: not reached."""

    name: str
    started: float
    ready: float | None = None
    terminating: float | None = None
    ended: float | None = None
    connected: tuple[tuple[float, float | None], ...] = ()
    """From when to when it had a WebSocket to the server."""

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Read one from JSON."""
        connected = tuple((start, end) for start, end in document.get("connected", ()))
        return cls(**{**document, "connected": connected})


@dataclass(frozen=True, slots=True)
class Panel:
    """One run. `series` is what the generator wrote with --series."""

    title: str
    series: dict[str, Any]
    lives: tuple[Life, ...] = ()
    subtitle: str = ""
    window: tuple[float, float] | None = None
    """Seconds of the run to show; all by default. Second 0 of the picture is the first mark in it, or its start."""

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Read one from JSON: title, series, lives, subtitle, window."""
        lives = tuple(Life.of(life) for life in document.get("lives", ()))
        window = document.get("window")
        return cls(**{**document, "lives": lives, "window": None if window is None else (window[0], window[1])})

    @property
    def span(self) -> tuple[float, float]:
        """The seconds of the run that are shown."""
        return self.window or (0.0, self.series["seconds"])

    @property
    def zero(self) -> float:
        """The second of the run that is 0 in the picture."""
        start, end = self.span
        return min((m["at"] for m in self.series["marks"] if start <= m["at"] <= end), default=start)


def draw(panels: Sequence[Panel], *paths: Path) -> None:
    """Draw the panels beneath each other, into each of the files (.svg, .png)."""
    import matplotlib as mpl  # noqa: PLC0415 - the generator must run without it

    figure = figure_of(panels)
    with mpl.rc_context(STYLE):
        for path in paths:
            metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
            figure.savefig(path, dpi=160, metadata=metadata)


def figure_of(panels: Sequence[Panel]) -> Figure:
    """The drawing, before it goes to a file."""
    import matplotlib as mpl  # noqa: PLC0415 - see draw
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(STYLE):
        heights = [height for panel in panels for height in _heights(panel)]
        heights[-1] = 0.3
        total = sum(heights) + LEGEND_INCHES
        figure = Figure(figsize=(9.6, total), facecolor="white")
        FigureCanvasAgg(figure)
        margins = {"left": 0.085, "right": 0.98, "top": 1 - LEGEND_INCHES / total, "bottom": 0.0}
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights, hspace=0, **margins)
        left = min(panel.span[0] - panel.zero for panel in panels)
        right = max(panel.span[1] - panel.zero for panel in panels)
        tallest = max(_tallest(panel) for panel in panels)
        for row, panel in enumerate(panels):
            upper = figure.add_subplot(grid[3 * row])
            lower = figure.add_subplot(grid[3 * row + 1], sharex=upper)
            _messages(upper, panel, tallest)
            _lives(lower, panel, right)
            upper.set_xlim(left, right)
            _marks(upper, lower, panel)
        _legend(figure, panels)
    return figure


def _heights(panel: Panel) -> tuple[float, float, float]:
    """In inches: messages with what went wrong above them, lives, space to the next panel."""
    return MESSAGES_INCHES * _headroom(panel), 0.36 * max(1, len(panel.lives)) + 0.12, 0.85


def _headroom(panel: Panel) -> float:
    """How high the axes are, in heights of the tallest bar of all panels: so all panels have one scale."""
    return 1.22 + ROW * len(_troubles(panel))


def _stack(panel: Panel) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = panel.series["acknowledged"]
    return {shape: counts[shape] for shape in SHAPE_COLOURS if shape in counts}


def _tallest(panel: Panel) -> int:
    start, end = (round(second / panel.series["bin_seconds"]) for second in panel.span)
    totals = [sum(column) for column in zip(*_stack(panel).values(), strict=True)][start:end]
    return max(totals, default=1)


def _troubles(panel: Panel) -> dict[str, list[float]]:
    series, (start, end) = panel.series, panel.span
    found = {**series, "broken": sorted([*series["reset"], *series["closed"]])}
    shown = {name: [at - panel.zero for at in found[name] if start <= at <= end] for name in TROUBLES}
    return {name: moments for name, moments in shown.items() if moments}


def _messages(axes: Axes, panel: Panel, tallest: int) -> None:
    width = panel.series["bin_seconds"]
    stack = _stack(panel)
    edges = [n * width - panel.zero for n in range(len(next(iter(stack.values()), [])) + 1)]
    bottom = [0] * (len(edges) - 1)
    for shape, counts in stack.items():
        top = [below + count for below, count in zip(bottom, counts, strict=True)]
        axes.stairs(top, edges, baseline=bottom, fill=True, color=SHAPE_COLOURS[shape], linewidth=0)
        bottom = top
    start, end = (second - panel.zero for second in panel.span)
    row = tallest * (1 + 0.7 * ROW)
    for name, moments in _troubles(panel).items():
        label, marker, colour = TROUBLES[name]
        thin = {"x": 1.2, "|": 1.0}.get(marker, 0.0)
        axes.plot(moments, [row] * len(moments), marker, color=colour, markersize=5, markeredgewidth=thin)
        late = max(moments) > start + 0.75 * (end - start)
        axes.annotate(
            f"{len(moments):,} {label}",
            (min(moments) if late else max(moments), row),
            (-7 if late else 7, 0),
            textcoords="offset points",
            ha="right" if late else "left",
            va="center",
            fontsize=7.5,
        )
        row += tallest * ROW
    axes.set_ylim(0, tallest * _headroom(panel))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= tallest * 1.02 and tick == int(tick)])
    axes.set_ylabel(f"ACKs per {width * 1000:.0f} ms", fontsize=8)
    axes.yaxis.set_label_coords(-0.05, 0.5 / _headroom(panel))
    axes.tick_params(labelbottom=False, length=2, labelsize=8)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["left"].set_bounds(0, tallest)
    axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", pad=14)
    axes.annotate(
        panel.subtitle,
        (0, 1),
        (0, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8.5,
        color=FAINT,
    )


def _lives(axes: Axes, panel: Panel, right: float) -> None:
    def second(epoch: float | None) -> float:
        return right if epoch is None else epoch - panel.series["started_epoch"] - panel.zero

    for row, life in enumerate(panel.lives):
        stops = [life.ready, life.terminating, life.ended]
        for colour, begin, end in (
            (STARTING, life.started, _first(stops)),
            (READY, life.ready, _first(stops[1:])),
            (TERMINATING, life.terminating, life.ended),
        ):
            if begin is not None:
                axes.barh(row, second(end) - second(begin), 0.5, second(begin), color=colour, linewidth=0)
        for begin, until in life.connected:
            axes.barh(row + 0.36, second(until) - second(begin), 0.12, second(begin), color=INK, linewidth=0)
    axes.set_yticks(range(len(panel.lives)), [life.name for life in panel.lives])
    axes.set_ylim(len(panel.lives) - 0.35, -0.55)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.tick_params(axis="x", length=2, labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s".replace("-", "\N{MINUS SIGN}"))


def _first(times: Sequence[float | None]) -> float | None:
    return next((time for time in times if time is not None), None)


def _marks(upper: Axes, lower: Axes, panel: Panel) -> None:
    start, end = panel.span
    for mark in panel.series["marks"]:
        if start <= mark["at"] <= end:
            at = mark["at"] - panel.zero
            for axes in (upper, lower):
                axes.axvline(at, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5 if axes is lower else 3)
            upper.annotate(
                mark["name"],
                (at, 1),
                (4, -3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize=8,
            )


def _legend(figure: Figure, panels: Sequence[Panel]) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 - see draw

    shapes = [shape for shape in SHAPE_COLOURS if any(shape in panel.series["acknowledged"] for panel in panels)]
    messages = [Patch(color=SHAPE_COLOURS[shape], label=SHAPE_NAMES[shape], linewidth=0) for shape in shapes]
    life = ((STARTING, "starting"), (READY, "ready"), (TERMINATING, "terminating"), (INK, "connected to the server"))
    bars = [Patch(color=colour, label=label, linewidth=0) for colour, label in life]
    for handles, title, line in ((messages, "Messages", 0), (bars, "Agent", 1)):
        y = 1 - (0.06 + 0.22 * line) / figure.get_figheight()
        figure.text(0.02, y - 0.075 / figure.get_figheight(), title, fontsize=8.5, fontweight="bold", va="center")
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.1, y),
            ncols=max(1, len(handles)),
            frameon=False,
            fontsize=8.5,
            handlelength=1.1,
            handleheight=0.8,
            columnspacing=1.6,
            borderpad=0,
            borderaxespad=0,
            handletextpad=0.5,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw from files. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.traffic.picture", description=draw.__doc__)
    parser.add_argument("panels", type=Path, help="JSON: a list of panels: title, series, lives, subtitle, window")
    parser.add_argument("pictures", type=Path, nargs="+", help="files to write: .svg, .png")
    options = parser.parse_args(arguments)
    panels = [Panel.of(document) for document in json.loads(options.panels.read_text(encoding="utf-8"))]
    draw(panels, *options.pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
