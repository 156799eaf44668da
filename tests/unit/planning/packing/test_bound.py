"""The fluid bound is never below what any packing places, and its prices prove it by themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evac.planning.place import fluid_bound, place
from tests.unit.planning.packing.instances import small_problem, tight_problem


@given(seed=st.integers(0, 10_000), groups=st.sampled_from([1, 4, 64]))
def test_no_packing_is_above_the_bound(seed: int, groups: int) -> None:
    problem = small_problem(seed)
    assert place(problem, work=1).weight(problem) <= fluid_bound(problem, groups=groups).weight


def test_what_fits_with_ease_is_bound_by_its_own_weight() -> None:
    problem = tight_problem(1, replicas=1200, servers=400, fill=0.5)
    everything = int((problem.weight * problem.count).sum())
    assert everything <= fluid_bound(problem).weight <= everything * 1.0001


def test_prices_bind_where_room_is_short() -> None:
    problem = tight_problem(1, replicas=1200, servers=400, fill=1.3)
    bound = fluid_bound(problem)
    assert bound.weight < 0.999 * int((problem.weight * problem.count).sum())
    assert bound.price.shape == (int(bound.group.max()) + 1, problem.resources)
    assert bound.price.min() >= 0
    assert bound.price.any()
    # By hand, from the prices alone: what a unit of weight must earn over the dearest use of its room.
    group_room = np.zeros_like(bound.price)
    np.add.at(group_room, bound.group, np.maximum(problem.free, 0))
    cost = problem.demand @ bound.price.T
    earned = np.maximum(problem.weight[:, None] * bound.scale - cost, 0).max(axis=1)
    value = sum(int(p) * int(c) for p, c in zip(bound.price.ravel(), group_room.ravel(), strict=True))
    value += sum(int(e) * int(n) for e, n in zip(earned, problem.count, strict=True))
    assert bound.weight <= value // bound.scale


def test_more_groups_make_the_bound_no_weaker_by_much() -> None:
    problem = tight_problem(2, replicas=1200, servers=400, fill=1.1)
    coarse, fine = (fluid_bound(problem, groups=groups).weight for groups in (4, 40))
    assert fine <= coarse * 1.0001
