"""Versions: an order by three numbers, blind to what follows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME, AgentVersion

numbers = st.integers(0, 999_999_999)
suffixes = st.from_regex(r"(-[0-9A-Za-z]{1,40})?", fullmatch=True)
releases = st.tuples(numbers, numbers, numbers)


@st.composite
def near_the_threshold(draw: st.DrawFn) -> tuple[int, int, int]:
    """Releases around 4.2.4, where a mistake would cost most."""
    return draw(st.integers(3, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 50))


def version(release: tuple[int, int, int], suffix: str = "") -> AgentVersion:
    """A version of these numbers."""
    return AgentVersion.parse(".".join(map(str, release)) + suffix)


@given(releases, suffixes)
def test_parsing_what_was_written_gives_the_same(release: tuple[int, int, int], suffix: str) -> None:
    """`parse` after `str` changes nothing, and `read` agrees with `parse`."""
    one = version(release, suffix)
    assert one == AgentVersion.parse(str(one))
    assert one == AgentVersion.read(str(one))


@given(releases | near_the_threshold(), releases | near_the_threshold(), suffixes, suffixes)
def test_the_order_is_that_of_the_three_numbers(
    a: tuple[int, int, int], b: tuple[int, int, int], one: str, other: str
) -> None:
    """Older, the same release, newer: exactly one holds, and whatever follows the numbers has no say in it."""
    x, y = version(a, one), version(b, other)
    assert (a < b, a > b, a == b) == (x < y, x > y, x.same_release(y))


@given(releases | near_the_threshold(), suffixes)
def test_handing_over_depends_on_the_three_numbers_alone(release: tuple[int, int, int], suffix: str) -> None:
    """From 4.2.4 on, with or without a build id."""
    assert (release >= (4, 2, 4)) is version(release, suffix).hands_over
    assert not ZERO_DOWNTIME > version((4, 2, 4), suffix)


@given(
    releases | near_the_threshold(),
    suffixes,
    st.sampled_from(["agent", "registry:5000/a/agent", "h.example.org/agent"]),
)
def test_a_version_survives_the_way_through_an_image_tag(
    release: tuple[int, int, int], suffix: str, repository: str
) -> None:
    """What was rendered as a tag is read back as the same release."""
    one = version(release, suffix)
    found = AgentVersion.of_image_tag(f"{repository}:{one}@sha256:00")
    assert found is not None
    assert one.same_release(found)


@given(st.text(max_size=80))
def test_any_text_is_a_version_or_is_refused_with_a_good_one(text: str) -> None:
    """Nothing else can come out, whatever comes in."""
    if AgentVersion.read(text) is not None:
        assert text == AgentVersion.parse(text).text
        return
    with pytest.raises(ValueError, match=r"is not a version such as 5\.1\.15"):
        AgentVersion.parse(text)


@given(st.text(max_size=80))
def test_no_image_name_makes_reading_its_tag_fail(text: str) -> None:
    """An image that somebody else wrote may be anything."""
    AgentVersion.of_image_tag(text)
