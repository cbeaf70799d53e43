"""`make demo` on a real node, as root with the packages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.laboratory.test_demo import STORY, in_order, said, started
from tests.support.cluster.images import image
from tests.support.real_nodes.clinic import IMAGES
from tests.tools.demo.story import CHAPTERS

if TYPE_CHECKING:
    from pathlib import Path

LINE = re.compile(r"⇄ devices: [\d,]+ messages, (\d+) messages/s, lost (\d+), refused (\d+), longest pause [\d,]+ ms")


@pytest.mark.timeout(450)
@pytest.mark.usefixtures("real_nodes")
def test_the_demo_on_a_real_node_under_traffic(tmp_path: Path) -> None:
    """The same chapters as on simulated pods, with devices that send all the time: no message is lost."""
    for name in IMAGES:
        image(name)
    with started("tests.tools.demo", "--svg", "demo.svg", folder=tmp_path) as demo:
        code = demo.wait(400)
    story = said(tmp_path)
    assert code == 0, story
    assert story.startswith("The cluster is real: ")
    in_order(story, STORY)
    in_order(story, ("every one arrived: lost 0", "Traffic as the devices saw it", *(c.title for c in CHAPTERS[1:-1])))
    assert story.count("as the container runtime saw it") == 4
    lines = LINE.findall(story)
    assert len(CHAPTERS) - 1 == len(lines)
    assert {"0"} == {lost for _, lost, _ in lines}
    assert all(int(per_second) > 0 for per_second, _, _ in lines)
    handoff, refused, careless, forced, back, gate, forced_behind, back_behind, the_end = lines[1:]
    unnoticed = (handoff, refused, careless, gate, forced_behind, back_behind, the_end)
    assert {"0"} == {line[2] for line in unnoticed}
    assert all(int(line[2]) > 0 for line in (forced, back)), "without a gate devices are refused in between"
    assert ["demo.svg", "output"] == sorted(path.name for path in tmp_path.iterdir())
    assert "devices" in (tmp_path / "demo.svg").read_text(encoding="utf-8")
