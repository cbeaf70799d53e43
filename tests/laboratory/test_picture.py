"""The picture: what is in the numbers is in the drawing, and the same numbers give the same bytes."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.traffic import picture
from tests.support.traffic.picture import Life, Panel

if TYPE_CHECKING:
    from pathlib import Path

EPOCH = 1_800_000_000.0


def series(gap: tuple[float, float] | None = None, **troubles: list[float]) -> dict[str, Any]:
    """Fifteen seconds of traffic with a gap, in the form that the generator writes."""
    chance = random.Random(4)  # noqa: S311 - an example, no secret
    bins = range(150)

    def counts(mean: float) -> list[int]:
        quiet = {n for n in bins if gap and gap[0] <= n / 10 < gap[1]}
        return [0 if n in quiet else round(max(0.0, chance.gauss(mean, 0.8))) for n in bins]

    return {
        "run": "a1b2c3",
        "started_epoch": EPOCH,
        "seconds": 15.0,
        "bin_seconds": 0.1,
        "acknowledged": {"reconnecting": counts(2), "long-lived": counts(16), "slow": counts(1)},
        **{name: troubles.get(name, []) for name in ("refused", "reset", "closed", "timeouts", "repeated", "lost")},
        "marks": [{"name": "version changed", "at": 3.0}],
    }


def panels() -> list[Panel]:
    """A handoff, a refused downgrade, a forced one."""
    at = EPOCH
    return [
        Panel(
            "Rolling handoff 5.1.14 to 5.1.15",
            series(closed=[9.3 + n / 400 for n in range(38)], repeated=[9.32]),
            (
                Life("5.1.14", at - 60, at - 59, at + 9.2, at + 14.3, ((at - 59, at + 14.3),)),
                Life("5.1.15", at + 3.6, at + 4.2, connected=((at + 3.9, None),)),
            ),
            "2,820 sent, 0 lost, 0 refused, longest pause 48 ms",
        ),
        Panel(
            "Downgrade to 4.2.3 without approval: refused",
            series(),
            (Life("5.1.15", at - 60, at - 59, connected=((at - 59, None),)),),
            "2,850 sent, no device notices",
        ),
        Panel(
            "Downgrade to 4.2.3, approved",
            series(
                (3.2, 5.4),
                refused=[3.4 + n / 20 for n in range(40)],
                closed=[3.2 + n / 500 for n in range(38)],
                timeouts=[4.9],
                lost=[3.19],
            ),
            (
                Life("5.1.15", at - 60, at - 59, at + 3.1, at + 3.3, ((at - 59, at + 3.3),)),
                Life("4.2.3", at + 4.5, at + 5.3, connected=((at + 4.9, None),)),
            ),
            "2,410 sent, 1 lost, 40 refused, longest pause 2.2 s",
        ),
    ]


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    """A picture changes only when its numbers do, so that a diff of the repository means something."""
    for name in ("one", "two"):
        picture.draw(panels()[2:], tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for suffix in (".svg", ".png"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "one.svg").read_bytes()


def test_other_numbers_give_another_picture(tmp_path: Path) -> None:
    """One refused connection more shows."""
    picture.draw([Panel("t", series())], tmp_path / "one.svg")
    picture.draw([Panel("t", series(refused=[4.0]))], tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() != (tmp_path / "two.svg").read_bytes()


def test_from_files(tmp_path: Path) -> None:
    """The command draws from JSON; times that were not reached may be left out."""
    life = {"name": "5.1.15", "started": EPOCH + 1, "connected": [[EPOCH + 2, None]]}
    source = tmp_path / "panels.json"
    source.write_text(json.dumps([{"title": "t", "series": series(), "lives": [life], "window": [1, 9]}]))
    assert 0 == picture.main([str(source), str(tmp_path / "out.png")])
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_panels_share_a_scale() -> None:
    """A second, and a message, are as long in each panel: gaps can be compared by eye."""
    upper = [axes for axes in picture.figure_of(panels()).axes if axes.get_ylabel()]
    scales = {(axes.get_xlim(), round(axes.get_ylim()[1] / axes.get_position().height, 6)) for axes in upper}
    assert 3 == len(upper)
    assert 1 == len(scales)


@pytest.mark.parametrize(
    ("window", "zero"), [(None, 3.0), ((1.0, 9.0), 3.0), ((4.0, 9.0), 4.0)], ids=["all", "with the mark", "after it"]
)
def test_second_zero_is_the_first_mark(window: tuple[float, float] | None, zero: float) -> None:
    """Panels line up at what happened, not at when the generator was started."""
    assert zero == Panel("t", series(), window=window).zero
