"""The kernels against slow readings of what they promise: profiles, orders, the two schedule generators."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.planning.schedule import Tasks, schedule, tasks_of
from evac.planning.scheduling import density, packed
from evac.planning.scheduling.chance import below
from evac.planning.scheduling.net import net_of, successors
from evac.planning.scheduling.ordering import closed, heads, tails, topological
from evac.planning.scheduling.profile import EVER, clear, earliest, empty, hold
from evac.planning.scheduling.saved import no_states, restore, save
from evac.planning.scheduling.search import _problem
from evac.planning.scheduling.serial import generate
from tests.unit.planning.scheduling.reference import assert_sound, predecessors_of, problems, projects

SPAN = 400
HOLDS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 90), st.integers(1, 3)), max_size=120)


@given(HOLDS, st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50), st.integers(0, 6)), max_size=20))
def test_a_profile_finds_what_a_plain_array_finds(
    holds: list[tuple[int, int, int]], asked: list[tuple[int, int, int]]
) -> None:
    profile = empty(np.array([1, len(holds)], np.int64))
    clear(profile)
    plain = np.zeros(SPAN + 50, np.int64)
    for start, length, units in holds:
        hold(profile, 1, start, start + length, units)
        plain[start : start + length] += units
    for start, length, limit in asked:
        expected = next(t for t in range(start, SPAN) if plain[t : t + length].max() <= limit)
        assert earliest(profile, 1, start, length, limit) == expected


def test_a_saved_profile_comes_back_as_it_was() -> None:
    profile, floor = empty(np.array([200], np.int64)), np.array([-EVER], np.int64)
    clear(profile)
    saved = no_states(profile, floor, tasks=100)
    for start in range(60):
        hold(profile, 0, start * 3, start * 3 + 50, 1)
    save(saved, 1, profile, floor)
    before = [earliest(profile, 0, 0, 5, limit) for limit in range(20)]
    for start in range(60):
        hold(profile, 0, start, start + 500, 2)
    restore(saved, 1, profile, floor)
    assert [earliest(profile, 0, 0, 5, limit) for limit in range(20)] == before


@given(problems())
def test_orders_keep_predecessors_first(tasks: Tasks) -> None:
    net = net_of(tasks)
    order = topological(net, *successors(net))
    for candidate in (order, closed(net, order[::-1].copy(), heads(net, order))):
        assert sorted(candidate.tolist()) == list(range(tasks.count))
        place = {task: index for index, task in enumerate(candidate.tolist())}
        assert all(place[b] < place[task] for task in place for b in predecessors_of(tasks, task))


@given(problems())
def test_heads_and_tails_meet_on_the_longest_chain(tasks: Tasks) -> None:
    tasks.release[:] = 0
    net = net_of(tasks)
    order = topological(net, *successors(net))
    through = heads(net, order) + tails(net, order)
    longest = heads(net, order).max(initial=0)
    assert through.max(initial=0) == longest


@given(projects())
def test_the_packed_generator_agrees_with_the_general_one(tasks: Tasks) -> None:
    problem = _problem(tasks)
    net, order = problem.net, problem.topological
    assert packed.packable(net)
    forward, _ = packed.sides(net, problem.goal)
    scratch = packed.scratch_for(net)
    packed.generate(forward, order, scratch.free, scratch.finish)
    profile = empty(np.bincount(net.resource, minlength=net.capacity.size))
    clear(profile)
    finish = np.zeros(order.size, np.int64)
    floor = np.full(int(net.kind.max(initial=-1)) + 1, -EVER, np.int64)
    generate(net, profile, floor, order, 0, order.size, finish)
    assert scratch.finish.tolist() == finish.tolist()


@given(projects())
def test_justification_never_lengthens(tasks: Tasks) -> None:
    tasks.release[:] = 0
    problem = _problem(tasks)
    forward, mirrored = packed.sides(problem.net, problem.goal)
    scratch = packed.scratch_for(problem.net)
    order = problem.topological.copy()
    once = packed.generate(forward, order, scratch.free, scratch.finish)
    assert packed.justify(forward, mirrored, scratch, order) <= once
    place = {task: index for index, task in enumerate(order.tolist())}
    assert all(place[b] < place[task] for task in place for b in predecessors_of(tasks, task))


@given(problems(tasks_most=40))
@settings(max_examples=30)
def test_trials_resumed_from_saved_states_keep_every_rule(tasks: Tasks) -> None:
    # With forty tasks there are saved states; a wrong one would overfill a resource or cost something else.
    if tasks.count:
        assert_sound(tasks, schedule(tasks, work=200, seed=3))


def test_densities_respect_the_graph() -> None:
    # 0 serves 1 and 2; alone 3 looks better than either, together they beat it.
    lengths = [10, 1, 1, 10]
    uses = [[(0, 1, 0, length)] for length in lengths]
    tasks = tasks_of(lengths, [[], [0], [0], []], uses, [1], weight=[0, 12, 12, 15])
    problem = _problem(tasks)
    goal = problem.goal
    order = density.by_density(problem.net, goal.after_ptr, goal.after, problem.topological, goal.weight)
    assert order.tolist() == [1, 2, 3]


def test_chance_is_even_and_repeats() -> None:
    state, again = np.array([5], np.uint64), np.array([5], np.uint64)
    numbers = [below(state, 10) for _ in range(2000)]
    assert numbers == [below(again, 10) for _ in range(2000)]
    assert min(np.bincount(numbers, minlength=10)) > 150
