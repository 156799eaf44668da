"""An independent, slow reading of schedules: what one breaks, and whether any other beats it."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import strategies as st

from evac.planning.schedule import Schedule, Tasks, tasks_of


def uses_of(tasks: Tasks, task: int) -> list[tuple[int, int, int, int]]:
    """The uses of a task as (resource, units, offset, hold)."""
    rows = range(tasks.use_ptr[task], tasks.use_ptr[task + 1])
    columns = (tasks.use_resource, tasks.use_units, tasks.use_offset, tasks.use_hold)
    return [tuple(int(column[row]) for column in columns) for row in rows]  # type: ignore[misc]


def predecessors_of(tasks: Tasks, task: int) -> list[int]:
    return tasks.predecessor[tasks.predecessor_ptr[task] : tasks.predecessor_ptr[task + 1]].tolist()


def broken(tasks: Tasks, start: list[int]) -> list[str]:
    """Every rule that the starts break, in words."""
    found = []
    used: dict[tuple[int, int], int] = {}
    for task, begin in enumerate(start):
        if begin < tasks.release[task]:
            found.append(f"{task} starts before its release")
        for other in predecessors_of(tasks, task):
            if begin < start[other] + tasks.duration[other]:
                found.append(f"{task} starts before {other} ends")
        for resource, units, offset, hold in uses_of(tasks, task):
            for tick in range(begin + offset, begin + offset + hold):
                used[resource, tick] = used.get((resource, tick), 0) + units
    over = [key for key, units in used.items() if units > tasks.capacity[key[0]]]
    return found + [f"resource {resource} is overfull at {tick}" for resource, tick in sorted(over)]


def cost_of(tasks: Tasks, start: list[int]) -> int:
    return sum(
        int(tasks.weight[task]) * min(begin + int(tasks.duration[task]), tasks.horizon)
        for task, begin in enumerate(start)
    )


def assert_sound(tasks: Tasks, schedule: Schedule) -> None:
    """The schedule breaks nothing and its figures are those of its starts."""
    start = schedule.start.tolist()
    assert broken(tasks, start) == []
    assert schedule.objective == cost_of(tasks, start)
    assert schedule.makespan == max(
        (s + d for s, d in zip(start, tasks.duration.tolist(), strict=True)), default=0
    )


def is_beaten(tasks: Tasks, objective: int, latest: int) -> bool:
    """Whether some schedule with starts up to `latest` costs less than `objective`; tries them all.

    Tasks must be numbered so that predecessors come first.
    """
    weight, duration = tasks.weight.tolist(), tasks.duration.tolist()
    used = Counter[tuple[int, int]]()

    def cells(task: int, begin: int) -> Counter[tuple[int, int]]:
        held = Counter[tuple[int, int]]()
        for resource, units, offset, hold in uses_of(tasks, task):
            for tick in range(begin + offset, begin + offset + hold):
                held[resource, tick] += units
        return held

    def tried(start: list[int], cost: int) -> bool:
        task = len(start)
        if task == tasks.count:
            return cost < objective
        ready = [start[other] + duration[other] for other in predecessors_of(tasks, task)]
        for begin in range(max([int(tasks.release[task]), *ready]), latest + 1):
            total = cost + weight[task] * min(begin + duration[task], tasks.horizon)
            if total >= objective:
                break
            held = cells(task, begin)
            if all(used[key] + units <= tasks.capacity[key[0]] for key, units in held.items()):
                used.update(held)
                better = tried([*start, begin], total)
                used.subtract(held)
                if better:
                    return True
        return False

    return tried([], 0)


@st.composite
def problems(draw: st.DrawFn, tasks_most: int = 8, long: int = 6) -> Tasks:
    """Problems with holds shorter and longer than their tasks, offsets of both signs, releases and zero
    durations.
    """
    count = draw(st.integers(0, tasks_most))
    capacity = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    small = st.integers(0, long)
    use = st.integers(0, len(capacity) - 1).flatmap(
        lambda resource: st.tuples(
            st.just(resource), st.integers(0, capacity[resource]), st.integers(-2, 3), small
        )
    )
    uses = [draw(st.lists(use, max_size=3, unique_by=lambda row: row[0])) for _ in range(count)]
    before = [
        draw(st.lists(st.integers(0, task - 1), max_size=2, unique=True)) if task else []
        for task in range(count)
    ]
    per_task = {"min_size": count, "max_size": count}
    return tasks_of(
        duration=draw(st.lists(small, **per_task)),
        predecessors=before,
        uses=uses,
        capacity=capacity,
        weight=draw(st.lists(st.integers(0, 9), **per_task)),
        release=draw(st.lists(st.integers(0, 4), **per_task)),
        horizon=draw(st.sampled_from([1 << 58, 12])),
    )


@st.composite
def projects(draw: st.DrawFn, tasks_most: int = 9, long: int = 6) -> Tasks:
    """Classic project scheduling: whole-task holds and one weighted sink after all else."""
    count = draw(st.integers(1, tasks_most - 1))
    capacity = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    duration = [draw(st.integers(0, long)) for _ in range(count)]
    uses = [
        [(resource, draw(st.integers(0, most)), 0, length) for resource, most in enumerate(capacity)]
        for length in duration
    ]
    before = [
        draw(st.lists(st.integers(0, task - 1), max_size=2, unique=True)) if task else []
        for task in range(count)
    ]
    return tasks_of(
        duration=[*duration, 0],
        predecessors=[*before, list(range(count))],
        uses=[*uses, []],
        capacity=capacity,
        weight=[0] * count + [draw(st.integers(1, 3))],
        release=[draw(st.integers(0, 3)) for _ in range(count)] + [0],
    )


def shuffled(tasks: Tasks, order: list[int]) -> Tasks:
    """The same tasks under new numbers: task `order[i]` becomes task i."""
    new = {old: index for index, old in enumerate(order)}
    return tasks_of(
        duration=[int(tasks.duration[old]) for old in order],
        predecessors=[[new[other] for other in predecessors_of(tasks, old)] for old in order],
        uses=[uses_of(tasks, old) for old in order],
        capacity=tasks.capacity.tolist(),
        weight=[int(tasks.weight[old]) for old in order],
        release=np.asarray([int(tasks.release[old]) for old in order]).tolist(),
        horizon=tasks.horizon,
    )
