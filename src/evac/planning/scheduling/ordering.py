"""Orders of tasks that keep every predecessor first, and the shortest times that the graph alone allows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evac.model.errors import InvalidInput
from evac.planning.compiled import allocating_kernel
from evac.planning.scheduling.serial import Net

Ints = NDArray[np.int64]


def topological(net: Net, after_ptr: Ints, after: Ints) -> Ints:
    """All tasks, predecessors first. Raises `InvalidInput` if tasks wait for each other in a circle."""
    order, placed = _topological(net.before_ptr, after_ptr, after)
    if placed < order.size:
        raise InvalidInput(
            "schedule-cycle",
            f"{order.size - placed} tasks wait for each other in a circle, or for one that does.",
            "Remove an arc of the circle, or merge its tasks into one.",
        )
    return order


@allocating_kernel
def _topological(before_ptr: Ints, after_ptr: Ints, after: Ints) -> tuple[Ints, int]:
    count = before_ptr.size - 1
    waits = np.empty(count, np.int64)
    order = np.empty(count, np.int64)
    filled = 0
    for task in range(count):
        waits[task] = before_ptr[task + 1] - before_ptr[task]
        if waits[task] == 0:
            order[filled] = task
            filled += 1
    read = 0
    while read < filled:
        task = order[read]
        read += 1
        for arc in range(after_ptr[task], after_ptr[task + 1]):
            waits[after[arc]] -= 1
            if waits[after[arc]] == 0:
                order[filled] = after[arc]
                filled += 1
    return order, filled


@allocating_kernel
def heads(net: Net, order: Ints) -> Ints:
    """The earliest completion of each task if no resource bound; `order` is topological."""
    finish = np.zeros(order.size, np.int64)
    for index in range(order.size):
        task = order[index]
        start = net.release[task]
        for arc in range(net.before_ptr[task], net.before_ptr[task + 1]):
            start = max(start, finish[net.before[arc]])
        finish[task] = start + net.duration[task]
    return finish


@allocating_kernel
def tails(net: Net, order: Ints) -> Ints:
    """The longest chain of durations that must follow each task; `order` is topological."""
    tail = np.zeros(order.size, np.int64)
    for index in range(order.size - 1, -1, -1):
        task = order[index]
        for arc in range(net.before_ptr[task], net.before_ptr[task + 1]):
            other = net.before[arc]
            tail[other] = max(tail[other], tail[task] + net.duration[task])
    return tail


def closed(net: Net, wanted: Ints, rank: Ints) -> Ints:
    """The tasks in the order of `wanted`, each preceded by those of its predecessors that have not come yet.

    Predecessors pulled forward come lower `rank` first. `wanted` holds distinct tasks; a task that is neither
    in it nor needed by one in it is left out.
    """
    task = np.repeat(np.arange(net.duration.size), np.diff(net.before_ptr))
    by_rank = np.lexsort((rank[net.before], task))
    return _closed(net.before_ptr, net.before[by_rank], wanted)


@allocating_kernel
def _closed(before_ptr: Ints, before: Ints, wanted: Ints) -> Ints:
    count = before_ptr.size - 1
    listed = np.zeros(count, np.bool_)
    order = np.empty(count, np.int64)
    stack = np.empty(count + 1, np.int64)
    next_arc = before_ptr[:-1].copy()
    filled = 0
    for index in range(wanted.size):
        stack[0] = wanted[index]
        depth = 0 if listed[wanted[index]] else 1
        while depth > 0:
            task = stack[depth - 1]
            if next_arc[task] < before_ptr[task + 1]:
                other = before[next_arc[task]]
                next_arc[task] += 1
                if not listed[other]:
                    stack[depth] = other
                    depth += 1
            else:
                depth -= 1
                listed[task] = True
                order[filled] = task
                filled += 1
    return order[:filled]
