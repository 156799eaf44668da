"""Comparisons of traffic are exact, and most of them need no exact sum."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.derive.traffic import Load

PART = st.tuples(
    st.one_of(st.integers(0, 9), st.integers(0, 2**70)), st.integers(0, 4), st.integers(1, 3_000_000_019)
)
PARTS = st.lists(PART, max_size=12)


def load(parts: list[tuple[int, int, int]]) -> Load:
    """parts: the peak, count and share of each service."""
    rows = np.arange(len(parts), dtype=np.int64)
    counts, shares = (np.array([part[column] for part in parts], np.int64) for column in (1, 2))
    peaks = np.array([part[0] for part in parts], object)
    silent = np.zeros(len(parts), np.bool_)
    return Load(("a",), "bandwidth", None, rows, rows, counts, shares, peaks, silent)


def summed(parts: list[tuple[int, int, int]]) -> Fraction:
    return sum((Fraction(peak * count, share) for peak, count, share in parts), Fraction(0))


@given(PARTS, st.integers(-2, 2))
def test_a_load_is_above_exactly_the_limits_below_its_sum(
    parts: list[tuple[int, int, int]], near: int
) -> None:
    exact, found = summed(parts), load(parts)
    low, high = found.bounds
    assert low <= exact <= high
    assert found.exact == exact
    for limit in (floor(exact) + near, ceil(exact) + near, 0, 2 * ceil(exact) + 1):
        assert found.is_above(limit) == (exact > limit), limit


@given(PARTS, PARTS, st.integers(1, 10**9))
def test_one_load_is_more_than_another_exactly_if_its_sum_is(
    parts: list[tuple[int, int, int]], others: list[tuple[int, int, int]], share: int
) -> None:
    """Loads that differ by less than floats can tell included."""
    for other in (others, parts, [*parts, (1, 1, share)], parts[::-1]):
        assert load(parts).is_more_than(load(other)) == (summed(parts) > summed(other))
        assert load(other).is_more_than(load(parts)) == (summed(other) > summed(parts))


def test_an_exact_sum_is_only_made_where_a_rounded_one_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Load] = []
    monkeypatch.setattr(Load, "exact", property(lambda self: asked.append(self) or Fraction(10, 3) * 3))
    thirds = load([(10, 1, 3)] * 3)
    assert thirds.is_above(9)
    assert not thirds.is_above(11)
    assert load([(11, 1, 1)]).is_more_than(thirds)
    assert not thirds.is_more_than(load([(11, 1, 1)]))
    assert asked == []
    assert not thirds.is_above(10)
    assert asked == [thirds]
