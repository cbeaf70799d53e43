"""Versions: what is one, how two compare, and what a cluster says that runs."""

from __future__ import annotations

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME, AgentVersion, version_of
from tests.support.builders import v


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("5.1.15", id="three numbers"),
        pytest.param("0.0.0", id="zeros"),
        pytest.param("5.1.15-abc1234", id="with the build id that a running agent reports"),
        pytest.param("4.1.12-2", id="with a rebuild's number"),
        pytest.param("999999999.0.1", id="a number of nine digits"),
        pytest.param("5.1.15-" + "a" * 40, id="with a whole commit as build id"),
    ],
)
def test_a_version_is_read_and_written_back_as_it_was(text: str) -> None:
    """What users and agents write as a version is one, and its text is kept to the letter."""
    assert text == str(AgentVersion.parse(text))
    assert text == AgentVersion.parse(text).text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("latest", id="a moving tag"),
        pytest.param("v5.1.15", id="a v in front"),
        pytest.param("5.1", id="two numbers"),
        pytest.param("5.1.15.2", id="four numbers"),
        pytest.param("5.1.15\n", id="a line break behind"),
        pytest.param(" 5.1.15", id="a space in front"),
        pytest.param("5.1.015", id="a leading zero"),
        pytest.param("5.1.15-", id="an empty build id"),
        pytest.param("5.1.15-a.b", id="a dotted build id"),
        pytest.param("5.1.15-" + "a" * 41, id="a build id longer than a commit"),
        pytest.param("5.1.15+abc", id="a semver build"),
        pytest.param("\N{ARABIC-INDIC DIGIT FIVE}.1.15", id="a digit of another script"),
        pytest.param("1000000000.0.0", id="a number of ten digits"),
    ],
)
def test_what_is_no_version_is_refused_with_a_good_one(text: str) -> None:
    """Parsing raises with an example to copy; reading back from the cluster gives nothing."""
    with pytest.raises(ValueError, match=r"is not a version such as 5\.1\.15 or 5\.1\.15-abc1234"):
        AgentVersion.parse(text)
    assert AgentVersion.read(text) is None


def test_a_monstrous_text_does_not_flood_the_message() -> None:
    """A wrong version of any length is shown by its beginning only."""
    with pytest.raises(ValueError, match="is not a version") as fault:
        AgentVersion.parse("5." * 100_000)
    assert len(str(fault.value)) < 150


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        pytest.param("4.2.3", "4.2.4", id="by the last number"),
        pytest.param("4.2.4", "4.2.40", id="4.2.40 is newer than 4.2.4: numbers, not letters"),
        pytest.param("4.2.9", "4.2.10", id="10 is more than 9"),
        pytest.param("4.9.9", "5.0.0", id="by the first number before the others"),
        pytest.param("5.1.15-zzz", "5.1.16-aaa", id="whatever the build ids say"),
    ],
)
def test_versions_compare_by_their_three_numbers(older: str, newer: str) -> None:
    """Older is older, newer is newer, and they are not the same release."""
    assert v(older) < v(newer)
    assert v(newer) > v(older)
    assert not v(older).same_release(v(newer))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("4.2.4", "4.2.4-abc1234", id="a build id is no pre-release"),
        pytest.param("4.2.4-abc1234", "4.2.4-1", id="two build ids are one release"),
    ],
)
def test_a_build_id_neither_raises_nor_lowers_a_version(one: str, other: str) -> None:
    """Two builds of one release are neither older nor newer than each other, and hand over alike."""
    assert v(one).same_release(v(other))
    assert not v(one) < v(other)
    assert not v(one) > v(other)
    assert v(one).hands_over == v(other).hands_over


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("4.2.3", False, id="4.2.3 does not hand over"),
        pytest.param("4.2.3-zzz9999", False, id="no build id lifts 4.2.3 over the threshold"),
        pytest.param("4.2.4", True, id="4.2.4 is the first that does"),
        pytest.param("4.2.4-abc1234", True, id="4.2.4 with a build id does too"),
        pytest.param("4.2.30", True, id="4.2.30 does: 30 is more than 4"),
        pytest.param("3.9.9", False, id="3.9.9 does not"),
        pytest.param("5.0.0", True, id="5.0.0 does"),
    ],
)
def test_agents_hand_over_from_4_2_4_on(text: str, expected: bool) -> None:  # noqa: FBT001 - a column of the table
    """The one number that decides whether two agents may overlap."""
    assert expected is v(text).hands_over
    assert "4.2.4" == ZERO_DOWNTIME.text


def test_of_what_is_no_version_the_beginning_is_shown() -> None:
    """60 characters."""
    with pytest.raises(ValueError, match=f"^'{'x' * 60}' is not a version such as 5.1.15 or 5.1.15-abc1234$"):
        AgentVersion.parse("x" * 61)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param("agent:5.1.15", "5.1.15", id="the tag is the version"),
        pytest.param("agent:v5.1.15", "5.1.15", id="a tag with a v"),
        pytest.param("registry:5000/agent:4.2.3-debian", "4.2.3", id="a registry with a port, a tag with a flavour"),
        pytest.param("registry:5000/agent", None, id="a registry's port is no tag"),
        pytest.param("agent:latest", None, id="a moving tag tells nothing"),
        pytest.param("agent:5.1", None, id="two numbers tell nothing"),
        pytest.param("agent:5.1.15.2", None, id="four numbers tell nothing"),
        pytest.param("agent:5.1.15.", None, id="a trailing dot tells nothing"),
        pytest.param("agent@sha256:0123", None, id="a digest alone tells nothing"),
        pytest.param("agent:4.2.3@sha256:0123", "4.2.3", id="the tag counts beside a digest"),
        pytest.param("registry/4.2.3", None, id="a name that looks like a version is no tag"),
        pytest.param("", None, id="no image"),
    ],
)
def test_an_image_tag_tells_a_version_or_nothing(image: str, expected: str | None) -> None:
    """A tag that plainly is a version is read as one; anything else is not guessed at."""
    found = AgentVersion.of_image_tag(image)
    assert expected == (None if found is None else found.text)


@pytest.mark.parametrize(
    ("label", "image", "expected"),
    [
        pytest.param(
            "5.1.15-abc1234", "agent:5.1.15", "5.1.15-abc1234", id="label and tag agree: the label, with its build id"
        ),
        pytest.param("5.1.15", "agent:4.2.3", "4.2.3", id="the image was edited by hand: the tag is what runs"),
        pytest.param("5.1.15", "agent:stable", "5.1.15", id="the tag tells nothing: the label"),
        pytest.param("junk", "agent:4.2.3", "4.2.3", id="a broken label: the tag"),
        pytest.param(None, "agent:stable", None, id="neither tells: unknown"),
    ],
)
def test_what_runs_is_told_by_the_label_unless_the_tag_contradicts(
    label: str | None, image: str, expected: str | None
) -> None:
    """A template's version is its label's; somebody who edits an image by hand leaves the label as it was."""
    found = version_of({} if label is None else {names.VERSION_LABEL: label}, image)
    assert expected == (None if found is None else found.text)
