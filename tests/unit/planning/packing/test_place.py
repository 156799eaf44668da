"""`place` keeps every rule, never does worse than first-fit, and gives the same answer again."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.model.errors import InvalidInput
from evac.planning.packing.construct import first_fit_order
from evac.planning.packing.prices import FEW, NEVER, _score
from evac.planning.place import PackingProblem, Placement, fluid_bound, place
from tests.unit.planning.packing.instances import (
    best_score,
    rows_of,
    small_problem,
    tier_weights,
    tight_problem,
    violations,
)

SEEDS = st.integers(0, 10_000)


def _same(one: Placement, other: Placement) -> bool:
    names = ("service", "server", "count", "placed")
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in names)


@given(seed=SEEDS, work=st.sampled_from([0, 1]))
def test_no_rule_is_broken(seed: int, work: int) -> None:
    problem = small_problem(seed)
    placement = place(problem, work=work, seed=seed)
    assert violations(problem, rows_of(placement)) == []
    counted = np.bincount(placement.service, placement.count, problem.services)
    assert placement.placed.tolist() == counted.tolist()


@given(seed=SEEDS)
def test_rows_are_sorted_and_merged(seed: int) -> None:
    placement = place(small_problem(seed))
    keys = list(zip(placement.service.tolist(), placement.server.tolist(), strict=True))
    assert keys == sorted(set(keys))


@given(seed=SEEDS)
def test_what_is_left_over_fits_nowhere(seed: int) -> None:
    problem = small_problem(seed)
    placement = place(problem)
    rows = rows_of(placement)
    for service in np.flatnonzero(placement.placed < problem.count):
        for server in range(problem.servers):
            assert violations(problem, np.vstack([rows, [service, server, 1]]))


@given(seed=SEEDS)
def test_the_same_input_gives_the_same_bytes(seed: int) -> None:
    problem = small_problem(seed)
    assert _same(place(problem, work=1, seed=3), place(problem, work=1, seed=3))


@pytest.mark.parametrize("seed", range(6))
def test_never_worse_than_first_fit(seed: int) -> None:
    problem = tight_problem(seed, replicas=1200, servers=400)
    plain = place(problem, order=first_fit_order(problem))
    built, improved = place(problem), place(problem, work=20)
    scores = [tier_weights(problem, p.placed) for p in (plain, built, improved)]
    assert scores == sorted(scores)
    for placement in (plain, built, improved):
        assert violations(problem, rows_of(placement)) == []


@pytest.mark.parametrize("seed", range(3))
def test_tight_packings_come_near_the_fluid_bound(seed: int) -> None:
    problem = tight_problem(seed, replicas=1200, servers=400)
    bound = fluid_bound(problem).weight
    plain = place(problem, order=first_fit_order(problem)).weight(problem)
    improved = place(problem, work=20).weight(problem)
    assert improved <= bound
    # First-fit leaves a tenth and more of what the room could carry; most of that can be had.
    assert bound - improved < 0.6 * (bound - plain)


def test_half_empty_servers_take_everything() -> None:
    problem = tight_problem(1, replicas=1200, servers=400, fill=0.5)
    assert place(problem).placed.tolist() == problem.count.tolist()


def _tiny(seed: int) -> PackingProblem:
    problem = small_problem(seed, services=2 + seed % 2, servers=3 - seed % 2)
    return dataclasses.replace(problem, count=np.minimum(problem.count, 2))


def test_tiny_problems_are_mostly_solved_to_the_best_of_all_packings() -> None:
    hits = 0
    for seed in range(40):
        problem = _tiny(seed)
        placement = place(problem, work=1)
        score, best = tier_weights(problem, placement.placed), best_score(problem)
        assert score <= best
        assert placement.weight(problem) <= fluid_bound(problem).weight
        assert sum(best) <= fluid_bound(problem).weight
        hits += score == best
    assert hits >= 38


def test_an_order_is_kept_to_the_letter() -> None:
    problem = _one_server(free=[10], demand=[[10], [6]], count=[1, 1], tier=[0, 1])
    assert place(problem).placed.tolist() == [1, 0]
    assert place(problem, order=np.array([1, 0])).placed.tolist() == [0, 1]


def test_a_higher_tier_takes_the_room_of_a_lower_one() -> None:
    # Both want the one server; the lower is smaller and worth more, and still gives way.
    problem = _one_server(free=[10], demand=[[10], [5]], count=[1, 2], tier=[0, 1], weight=[1, 50])
    assert place(problem, work=1).placed.tolist() == [1, 0]


def test_present_replicas_count_for_spread_and_stay() -> None:
    problem = dataclasses.replace(
        _one_server(free=[100], demand=[[1]], count=[5], tier=[0]),
        max_per_server=np.array([3]),
        present_service=np.array([0]),
        present_server=np.array([0]),
        present_count=np.array([2]),
    )
    placement = place(problem)
    assert rows_of(placement).tolist() == [[0, 0, 1]]


def test_a_pool_that_schedules_itself_knows_no_limit_per_server() -> None:
    problem = dataclasses.replace(
        _one_server(free=[100], demand=[[3]], count=[50], tier=[0]), is_pool=np.array([True])
    )
    assert place(problem).placed.tolist() == [33]


def test_nothing_to_place_and_nowhere_to_place_it() -> None:
    empty = _one_server(free=[5], demand=[[1]], count=[0], tier=[0])
    assert place(empty).placed.tolist() == [0]
    nowhere = dataclasses.replace(
        _one_server(free=[5], demand=[[1]], count=[4], tier=[0]), eligible=np.zeros((1, 1), np.bool_)
    )
    assert place(nowhere, work=1).placed.tolist() == [0]
    assert fluid_bound(nowhere).weight == 0


def test_no_servers_at_all() -> None:
    problem = _one_server(free=[], demand=[[1]], count=[4], tier=[0])
    assert place(problem, work=1).placed.tolist() == [0]


def test_arrays_that_contradict_each_other_are_named() -> None:
    problem = _one_server(free=[5], demand=[[1]], count=[1], tier=[0])
    with pytest.raises(InvalidInput, match="rack has shape") as caught:
        place(dataclasses.replace(problem, rack=np.zeros(2, np.int32)))
    assert caught.value.code == "packing-input"
    with pytest.raises(InvalidInput, match="demand holds a negative number"):
        place(dataclasses.replace(problem, demand=np.array([[-1]])))
    with pytest.raises(InvalidInput, match="pool names a pool"):
        place(dataclasses.replace(problem, pool=np.array([1], np.int32)))


def _one_server(
    *,
    free: list[int],
    demand: list[list[int]],
    count: list[int],
    tier: list[int],
    weight: list[int] | None = None,
) -> PackingProblem:
    """Servers in one pool with one resource, and services that may go there, twice on one server."""
    services, servers = len(count), len(free)
    unbounded = np.full(services, 1 << 40)
    nowhere = np.full(servers, -1, np.int32)
    return PackingProblem(
        free=np.array(free, np.int64).reshape(servers, 1),
        rack=nowhere,
        feed=nowhere,
        site=nowhere,
        pool=np.zeros(servers, np.int32),
        is_pool=np.zeros(servers, np.bool_),
        demand=np.array(demand),
        count=np.array(count),
        max_per_server=np.full(services, 2),
        rack_cap=unbounded,
        feed_cap=unbounded,
        site_cap=unbounded,
        eligible=np.ones((services, 1), np.bool_),
        group=np.full(services, -1, np.int32),
        weight=np.array(weight or [1] * services),
        tier=np.array(tier),
    )


@pytest.mark.parametrize("thrifty", [True, False])
def test_many_columns_are_scored_as_each_by_itself(thrifty: bool) -> None:
    rng = np.random.default_rng(7)
    columns, room = 4 * FEW, np.array([5, 0, 900, -3])
    needs = np.floor(rng.random((4, columns)) * np.array([[8.0], [1.2], [1_000.0], [0.0]]))
    needs[3] = np.where(rng.random(columns) < 0.5, -3.0, 0.0)
    value = rng.random(columns)
    value[::5] = NEVER
    many, cost, one = np.zeros(columns), np.zeros(columns), np.zeros(1)
    _score(many, cost, value, needs, room, columns, thrifty)
    for k in range(columns):
        _score(one, cost, value[k : k + 1], np.ascontiguousarray(needs[:, k : k + 1]), room, 1, thrifty)
        assert many[k] == one[0]
    assert {np.isneginf(score) for score in many} == {True, False}
