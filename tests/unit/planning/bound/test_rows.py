"""Greedies of supply and capacity rows: exact integers, compiled floats and brute force agree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac import estate as estates
from evac.derive.planning_instance import derive
from evac.model.scenario import lose
from evac.planning.bound import ascent, bound
from evac.planning.bound.supply import Curve, Work, busy_times, by_density, waits_of
from tests.web.rooms import ESTATE

jobs = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 25), st.integers(0, 9)), min_size=1, max_size=7)


def _busy_by_ticks(
    order: list[tuple[int, Work]], weights: dict[int, int], speed: int, horizon: int
) -> list[int]:
    """The same greedy one unit of work at a time."""
    left = [w.amount for _, w in order]
    total = [0] * len(order)
    clock = 0
    while any(left):
        ready = [k for k, (_, w) in enumerate(order) if left[k] and speed * w.release <= clock]
        if ready:
            chosen = max(ready, key=lambda k: (weights[order[k][0]] / order[k][1].amount, -k))
            left[chosen] -= 1
            end = speed * horizon
            total[chosen] += 2 * clock + 1 if clock < end else 2 * end
        clock += 1
    return total


@given(jobs, st.integers(1, 4), st.integers(1, 60))
def test_busy_times_are_the_greedy_unit_by_unit(
    drawn: list[tuple[int, int, int]], speed: int, horizon: int
) -> None:
    order = [(k, Work(amount, 0, min(release, horizon))) for k, (amount, release, _) in enumerate(drawn)]
    weights = {k: weight for k, (_, _, weight) in enumerate(drawn)}
    found = busy_times(order, weights, speed, horizon)
    assert [found[k] for k in range(len(order))] == _busy_by_ticks(order, weights, speed, horizon)


@given(jobs, st.integers(1, 4), st.integers(1, 60))
@settings(deadline=None)
def test_the_compiled_greedy_is_the_exact_one(
    drawn: list[tuple[int, int, int]], speed: int, horizon: int
) -> None:
    order = [(k, Work(amount, 0, min(release, horizon))) for k, (amount, release, _) in enumerate(drawn)]
    weights = {k: weight for k, (_, _, weight) in enumerate(drawn)}
    exact = busy_times(order, weights, speed, horizon)
    count = len(order)
    release = np.array([float(w.release) for _, w in order])
    out = np.zeros(count)
    ascent.busy_times(
        np.array([float(weights[k]) for k in range(count)]),
        np.array([float(w.amount) for _, w in order]),
        release,
        np.argsort(release, kind="stable").astype(np.int64),
        float(speed),
        float(horizon),
        np.zeros(count, np.int64),
        np.zeros(count),
        out,
    )
    value = sum(weights[k] * exact[k] / (2 * speed * w.amount) for k, w in order)
    assert float(np.dot(out, [weights[k] for k in range(count)])) == pytest.approx(value)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=5),
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 15)), max_size=4),
)
@settings(deadline=None)
def test_no_order_waits_less_for_capacity_than_by_weight_per_size(
    drawn: list[tuple[int, int]], first: int, events: list[tuple[int, int]]
) -> None:
    sizes = {k: size for k, (size, _) in enumerate(drawn)}
    weights = {k: weight for k, (_, weight) in enumerate(drawn)}
    gains: dict[int, int] = {}
    for tick, gain in events:
        gains[tick] = gains.get(tick, 0) + gain
    curve, horizon = Curve(first, tuple(sorted(gains.items()))), 40

    def cost(order: list[int]) -> float:
        waits = waits_of(order, sizes, curve, horizon)
        return sum(weights[k] * waits[k] / sizes[k] for k in order)

    order = by_density(sorted(sizes), weights, sizes)
    best = min(cost(list(p)) for p in itertools.permutations(sizes))
    assert cost(order) == pytest.approx(best)
    out = np.zeros(len(drawn))
    ticks = sorted(gains)
    ascent.capacity_waits(
        np.array([float(weights[k]) for k in sizes]),
        np.array([float(sizes[k]) for k in sizes]),
        float(first),
        np.array([float(t) for t in ticks]),
        np.array([float(gains[t]) for t in ticks]),
        float(horizon),
        out,
    )
    assert float(np.dot(out, [weights[k] for k in sizes])) == pytest.approx(best)


def test_work_beyond_the_horizon_counts_at_the_horizon() -> None:
    order = [(0, Work(10, 0, 0))]
    assert busy_times(order, {0: 1}, 1, 4) == {0: 4 * 4 + 2 * 6 * 4}
    assert waits_of([0], {0: 10}, Curve(4, ()), 7) == {0: 6 * 7}


def test_a_bound_leaves_the_instance_as_it_was() -> None:
    """Of a single row even a table that was turned on its side is the instance's own."""
    instance = derive(estates.load(ESTATE), lose("south"))
    assert len(instance.rows) == 1
    used = instance.rows.used.copy()
    bound(instance, work=10)
    assert (instance.rows.used == used).all()
