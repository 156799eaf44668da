"""Quantities as a tired person reads them."""

from __future__ import annotations

import pytest

from evac.views import words


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (None, "not within the horizon"),
        (0, "0 s"),
        (250, "250 ms"),
        (45_000, "45 s"),
        (60_000, "1 min"),
        (750_000, "12 min 30 s"),
        (11_100_000, "3 h 05 min"),
        (7_200_000, "2 h"),
        (187_200_000, "2 d 04 h"),
    ],
)
def test_durations(milliseconds: int | None, said: str) -> None:
    assert words.duration(milliseconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(999_999, "999,999"), (47_000_000, "47 million"), (1_249_999, "1.2 million")]
)
def test_people(count: int, said: str) -> None:
    assert words.people(count) == said


@pytest.mark.parametrize(
    ("permille", "said"), [(0, "0 %"), (3, "under 1 %"), (995, "over 99 %"), (1000, "100 %"), (421, "42 %")]
)
def test_odds_are_never_rounded_to_certainty(permille: int, said: str) -> None:
    assert words.share(permille) == said


def test_lists_say_how_many_they_leave_out() -> None:
    assert words.listed(["a", "b", "c"], 2) == "a, b and 1 more"


def test_the_times_of_a_plan_count_from_what_it_answers() -> None:
    assert words.since("lose") == "after the loss"
    assert words.since("restore") == "after power is back"
    assert words.since("evacuate") == "after the deadline"
    assert words.since("failback") == "after the start"


@pytest.mark.parametrize(
    ("permille", "said"),
    [
        (0, "0 % above"),
        (47, "4.7 % above"),
        (1_999, "199.9 % above"),
        (2_000, "3 times"),
        (20_100, "22 times"),
    ],
)
def test_a_large_distance_is_said_as_a_multiple(permille: int, said: str) -> None:
    """Rounded up: the distance is at most that."""
    assert words.above(permille) == said
