"""The story as a picture for README: what the recording console remembers, as SVG. Called by `__main__` once it is told.

The picture must show anywhere, without the network: rich's own template fetches a font, this one takes the reader's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.terminal_theme import SVG_EXPORT_THEME

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

TITLE: Final = "make demo"

# rich fills in the names in braces; they are documented with Console.export_svg.
TEMPLATE: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<!-- Made by the demo itself (tests.tools.demo); do not edit. -->
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
  <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def save(recorded: Console, path: Path) -> None:
    """Write what was recorded as SVG."""
    drawn = recorded.export_svg(title=TITLE, theme=SVG_EXPORT_THEME, code_format=TEMPLATE, unique_id="demo")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n", encoding="utf-8")
