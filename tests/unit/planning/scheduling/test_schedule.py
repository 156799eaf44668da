"""What callers of the scheduler rely on: sound, repeatable, never worse than its first order, best where
small.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.model.errors import EvacError, Infeasible, InvalidInput
from evac.planning.schedule import Tasks, schedule, tasks_of, warm
from tests.unit.planning.scheduling.reference import assert_sound, is_beaten, problems, projects, shuffled


@given(problems(), st.integers(0, 9))
def test_every_schedule_is_sound(tasks: Tasks, seed: int) -> None:
    assert_sound(tasks, schedule(tasks, work=30, seed=seed))


@given(projects(), st.integers(0, 9))
def test_every_makespan_schedule_is_sound(tasks: Tasks, seed: int) -> None:
    assert_sound(tasks, schedule(tasks, work=100, seed=seed))


@given(problems(tasks_most=4, long=3))
@settings(max_examples=40)
def test_small_problems_are_solved_best(tasks: Tasks) -> None:
    found = schedule(tasks, work=300, seed=1)
    assert not is_beaten(tasks, found.objective, latest=found.makespan + 3)


@given(projects(tasks_most=5, long=3))
@settings(max_examples=40)
def test_small_makespans_are_shortest(tasks: Tasks) -> None:
    found = schedule(tasks, work=600, seed=1)
    assert not is_beaten(tasks, found.objective, latest=found.makespan)


@given(st.one_of(problems(), projects()), st.integers(0, 9))
@settings(max_examples=20)
def test_same_input_same_bytes(tasks: Tasks, seed: int) -> None:
    one, other = (schedule(tasks, work=60, seed=seed) for _ in range(2))
    assert one.start.tobytes() == other.start.tobytes()
    assert (one.objective, one.makespan, one.work) == (other.objective, other.makespan, other.work)


@given(st.one_of(problems(), projects()), st.integers(1, 40))
@settings(max_examples=20)
def test_work_is_a_budget(tasks: Tasks, work: int) -> None:
    # A local search counts whole generations and may end inside one.
    assert 1 <= schedule(tasks, work=work, seed=0).work <= work + 1


@given(st.one_of(problems(), projects()), st.data())
@settings(max_examples=30)
def test_a_given_order_is_never_made_worse(tasks: Tasks, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(tasks.count))), np.int64)
    alone = schedule(tasks, work=1, seed=0, start_order=order)
    assert alone.work == 1
    assert schedule(tasks, work=40, seed=0, start_order=order).objective <= alone.objective


@given(problems(tasks_most=4, long=3), st.data())
@settings(max_examples=20)
def test_numbers_of_tasks_do_not_matter_where_the_best_is_found(tasks: Tasks, data: st.DataObject) -> None:
    renumbered = shuffled(tasks, data.draw(st.permutations(range(tasks.count))))
    found, again = (schedule(each, work=300, seed=1).objective for each in (tasks, renumbered))
    assert found == again


def test_a_rate_limit_is_a_hold_longer_than_the_task() -> None:
    # At most 2 starts in any 30 s; each task lasts 1 s.
    tasks = tasks_of([1] * 6, [[]] * 6, [[(0, 1, 0, 30)]] * 6, [2], weight=[1] * 6)
    assert sorted(schedule(tasks, work=1, seed=0).start.tolist()) == [0, 0, 30, 30, 60, 60]


def test_a_use_inside_a_task_lets_the_rest_overlap() -> None:
    # The image is copied from second 2 to 5 of a boot of 10 s; one copy at a time.
    tasks = tasks_of([10] * 3, [[]] * 3, [[(0, 1, 2, 3)]] * 3, [1], weight=[1] * 3)
    found = schedule(tasks, work=1, seed=0)
    assert sorted(found.start.tolist()) == [0, 3, 6]
    assert found.makespan == 16


def test_weights_of_dependents_are_pushed_down() -> None:
    # The platform (task 0) has no weight of its own, but a heavy service waits for it.
    tasks = tasks_of([5, 5, 1], [[], [], [0]], [[(0, 1, 0, 5)], [(0, 1, 0, 5)], []], [1], weight=[0, 10, 100])
    assert schedule(tasks, work=1, seed=0).start.tolist() == [0, 5, 5]


def test_what_ends_after_the_horizon_costs_what_the_horizon_does() -> None:
    tasks = tasks_of([10, 10], [[], []], [[(0, 1, 0, 10)]] * 2, [1], weight=[3, 2], horizon=12)
    assert schedule(tasks, work=50, seed=0).objective == 3 * 10 + 2 * 12


def test_overlapping_uses_of_one_resource_count_together() -> None:
    both = [[(0, 2, 0, 4), (0, 2, 2, 4)], [(0, 1, 0, 6)]]
    tasks = tasks_of([6, 6], [[], []], both, [4], weight=[1, 1])
    found = schedule(tasks, work=20, seed=0)
    assert_sound(tasks, found)
    # Beside the first task one unit is free for 2 s only, so the other waits for the middle to pass.
    assert sorted(found.start.tolist()) == [0, 4]


def test_uses_of_one_task_that_overlap_beyond_the_capacity_are_refused() -> None:
    tasks = tasks_of([6], [[]], [[(0, 3, 0, 4), (0, 3, 2, 4)]], [4], weight=[1])
    with pytest.raises(Infeasible, match="together need 6 of resource 0"):
        schedule(tasks, work=1, seed=0)


def test_no_tasks_are_a_schedule() -> None:
    found = schedule(tasks_of([], [], [], [1], weight=[]), work=5, seed=0)
    assert (found.start.size, found.objective, found.makespan) == (0, 0, 0)


def _plain(**changes: object) -> Tasks:
    tasks = tasks_of([2, 2], [[], [0]], [[(0, 1, 0, 2)], []], [1], weight=[1, 1])
    return dataclasses.replace(tasks, **changes)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("tasks", "code"),
    [
        (_plain(duration=_ints(2, -1)), "schedule-out-of-range"),
        (_plain(weight=_ints(1, -1)), "schedule-out-of-range"),
        (_plain(predecessor=_ints(7)), "schedule-out-of-range"),
        (_plain(use_resource=_ints(1)), "schedule-out-of-range"),
        (_plain(release=_ints(0)), "schedule-array-shape"),
        (_plain(duration=np.array([2.0, 2.0])), "schedule-array-shape"),
        (_plain(predecessor_ptr=_ints(0, 2, 1)), "schedule-pointers"),
        (_plain(horizon=-1), "schedule-horizon-negative"),
        (_plain(use_units=_ints(2)), "schedule-over-capacity"),
        (_plain(predecessor_ptr=_ints(0, 1, 2), predecessor=_ints(1, 0)), "schedule-cycle"),
        (_plain(predecessor_ptr=_ints(0, 1, 1), predecessor=_ints(0)), "schedule-cycle"),
        (_plain(duration=_ints(1 << 58, 1)), "schedule-time-overflow"),
        (_plain(duration=_ints(1 << 40, 1), weight=_ints(1 << 40, 1)), "schedule-cost-overflow"),
    ],
)
def test_what_is_no_problem_is_refused_with_a_code(tasks: Tasks, code: str) -> None:
    with pytest.raises(EvacError) as refused:
        schedule(tasks, work=1, seed=0)
    assert refused.value.code == code
    assert refused.value.hint


def test_work_and_start_order_are_checked() -> None:
    with pytest.raises(InvalidInput, match="work is 0"):
        schedule(_plain(), work=0, seed=0)
    for order in (_ints(0), _ints(0, 0), _ints(0, 2)):
        with pytest.raises(InvalidInput, match="each of the 2 tasks once"):
            schedule(_plain(), work=1, seed=0, start_order=order)


def test_importing_the_scheduler_compiles_nothing() -> None:
    code = "import sys, evac.planning.schedule; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_warming_runs_both_searches() -> None:
    warm()
    assert {"evac.planning.scheduling.anneal", "evac.planning.scheduling.genetic"} <= set(sys.modules)
