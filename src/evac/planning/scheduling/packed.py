"""Serial schedule generation for small instances: a profile by time, all resources in one 64-bit word.

Each resource has a field of `64 // resources` bits that holds what is free, with the top bit of the field
always set as a guard. `word - demand` then borrows into a guard bit exactly when a resource has too little,
so one subtraction and one mask test every resource at once. Holds are those of whole tasks (offset 0, hold =
duration).

Sources: serial generation, Kelley (1963); double justification, Valls, Ballestin, Quintanilla (EJOR 165,
2005).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import inner, kernel
from evac.planning.scheduling.anneal import Goal
from evac.planning.scheduling.serial import Net

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
RESOURCES_MOST = 8
SPAN_MOST = 20_000
TASKS_MOST = 2_000


class Side(NamedTuple):
    """The tasks seen in one direction of time: forward, or mirrored for the backward pass."""

    duration: Ints
    release: Ints
    before_ptr: Ints
    before: Ints
    demand: Words  # [tasks] units of every resource, in their fields
    full: np.uint64  # all capacities, guards set
    guard: np.uint64


class Scratch(NamedTuple):
    """What one schedule generation writes over."""

    free: Words  # [latest end + 1]
    finish: Ints
    mirrored: Ints
    order: Ints
    buckets: Ints  # [latest end + 2]


def packable(net: Net) -> bool:
    """Whether the kernels here can take the tasks."""
    resources, widths = _fields(net)
    span = _span(net)
    task = np.repeat(np.arange(net.duration.size), np.diff(net.use_ptr))
    return bool(
        net.duration.size <= TASKS_MOST
        and span <= SPAN_MOST
        and resources.size <= RESOURCES_MOST
        and np.all(net.capacity[resources] < (1 << (widths - 1)))
        and np.all(net.offset == 0)
        and np.all(net.hold == net.duration[task])
    )


def sides(net: Net, goal: Goal) -> tuple[Side, Side]:
    """The tasks forward and mirrored; the mirror has no releases, for they only order its tasks worse."""
    resources, width = _fields(net)
    task = np.repeat(np.arange(net.duration.size), np.diff(net.use_ptr))
    demand = np.zeros(net.duration.size, np.uint64)
    full = guard = 0
    for field, resource in enumerate(resources.tolist()):
        shift = width * field
        guard |= 1 << (shift + width - 1)
        full |= int(net.capacity[resource]) << shift
        rows = net.resource == resource
        demand[task[rows]] |= net.units[rows].astype(np.uint64) << np.uint64(shift)
    forward = Side(
        net.duration,
        net.release,
        net.before_ptr,
        net.before,
        demand,
        np.uint64(full | guard),
        np.uint64(guard),
    )
    mirrored = forward._replace(
        release=np.zeros_like(net.release), before_ptr=goal.after_ptr, before=goal.after
    )
    return forward, mirrored


def scratch_for(net: Net) -> Scratch:
    """Scratch space for the tasks."""
    span, count = _span(net), net.duration.size
    return Scratch(
        np.zeros(span + 1, np.uint64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(span + 2, np.int64),
    )


def _fields(net: Net) -> tuple[Ints, int]:
    resources = np.unique(net.resource)
    return resources, 64 // max(1, resources.size)


def _span(net: Net) -> int:
    return int(net.release.max(initial=0)) + int(net.duration.sum())


@kernel
def generate(side: Side, order: Ints, free: Words, finish: Ints) -> int:
    """Place each task of `order` (predecessors first) as early as it fits; fills `finish`, returns the
    makespan.
    """
    free[:] = side.full
    guard = side.guard
    makespan = 0
    for index in range(order.size):
        task = order[index]
        start = side.release[task]
        for arc in range(side.before_ptr[task], side.before_ptr[task + 1]):
            start = max(start, finish[side.before[arc]])
        need = side.demand[task]
        length = side.duration[task]
        if need != 0 and length > 0:
            # Read the window from its end: a conflict moves the window past it, and what was read stays read.
            known = start
            at = start + length - 1
            while at >= known:
                if ((free[at] - need) & guard) != guard:
                    known = start + length
                    start = at + 1
                    at = start + length - 1
                else:
                    at -= 1
            for at in range(start, start + length):
                free[at] -= need
        finish[task] = start + length
        makespan = max(makespan, start + length)
    return makespan


@kernel
def justify(forward: Side, mirrored: Side, scratch: Scratch, order: Ints) -> int:
    """Schedule `order`, push all tasks right, then left again; `order` and `scratch.finish` become the
    result's.

    The makespan, which is returned, is never longer than that of the first of the three schedules.
    """
    makespan = generate(forward, order, scratch.free, scratch.finish)
    _last_first(scratch.finish, order, makespan, scratch.buckets, scratch.order)
    length = generate(mirrored, scratch.order, scratch.free, scratch.mirrored)
    _last_first(scratch.mirrored, scratch.order, length, scratch.buckets, order)
    makespan = generate(forward, order, scratch.free, scratch.finish)
    for index in range(order.size):
        scratch.order[index] = order[index]
    by_start(forward.duration, scratch.finish, scratch.order, makespan, scratch.buckets, order)
    return makespan


@inner
def _last_first(finish: Ints, ties: Ints, makespan: int, buckets: Ints, order: Ints) -> None:
    """Fill `order` with the tasks by falling finish; equal ones in the reverse of `ties`, which keeps arcs
    true.
    """
    buckets[: makespan + 2] = 0
    for task in range(finish.size):
        buckets[makespan - finish[task] + 1] += 1
    for at in range(1, makespan + 2):
        buckets[at] += buckets[at - 1]
    for index in range(ties.size - 1, -1, -1):
        task = ties[index]
        slot = makespan - finish[task]
        order[buckets[slot]] = task
        buckets[slot] += 1


@kernel
def by_start(duration: Ints, finish: Ints, ties: Ints, makespan: int, buckets: Ints, order: Ints) -> None:
    """Fill `order` with the tasks by rising start, equal ones as in `ties`."""
    buckets[: makespan + 2] = 0
    for task in range(finish.size):
        buckets[finish[task] - duration[task] + 1] += 1
    for at in range(1, makespan + 2):
        buckets[at] += buckets[at - 1]
    for index in range(ties.size):
        task = ties[index]
        slot = finish[task] - duration[task]
        order[buckets[slot]] = task
        buckets[slot] += 1
