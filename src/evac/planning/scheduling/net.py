"""From the tasks of a caller to what the kernels read: uses that never bind left out, overlapping uses
merged.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.model.errors import Infeasible
from evac.planning.scheduling.serial import Net
from evac.planning.scheduling.tasks import Tasks

Ints = NDArray[np.int64]


class Uses(NamedTuple):
    """The uses of all tasks, one row each, sorted by task."""

    task: Ints
    resource: Ints
    units: Ints
    offset: Ints
    hold: Ints


def net_of(tasks: Tasks) -> Net:
    """The tasks for the kernels. Raises `Infeasible` if uses of one task overlap beyond a capacity."""
    uses = _that_bind(_merged(_that_hold(tasks), tasks.capacity), tasks.capacity)
    return Net(
        duration=np.ascontiguousarray(tasks.duration),
        release=np.ascontiguousarray(tasks.release),
        before_ptr=np.ascontiguousarray(tasks.predecessor_ptr),
        before=np.ascontiguousarray(tasks.predecessor),
        use_ptr=np.searchsorted(uses.task, np.arange(tasks.count + 1)).astype(np.int64),
        resource=uses.resource,
        units=uses.units,
        offset=uses.offset,
        hold=uses.hold,
        kind=_kinds(uses),
        capacity=np.ascontiguousarray(tasks.capacity),
    )


def successors(net: Net) -> tuple[Ints, Ints]:
    """CSR of the successors of each task, ascending."""
    count = net.duration.size
    order = np.argsort(net.before, kind="stable")
    task = np.repeat(np.arange(count), np.diff(net.before_ptr))
    return np.searchsorted(net.before[order], np.arange(count + 1)).astype(np.int64), task[order].astype(
        np.int64
    )


def _that_hold(tasks: Tasks) -> Uses:
    kept = np.flatnonzero((tasks.use_units > 0) & (tasks.use_hold > 0))
    task = np.repeat(np.arange(tasks.count), np.diff(tasks.use_ptr)).astype(np.int64)
    columns = (task, tasks.use_resource, tasks.use_units, tasks.use_offset, tasks.use_hold)
    return Uses(*(np.ascontiguousarray(column[kept]) for column in columns))


def _merged(uses: Uses, capacity: Ints) -> Uses:
    """Uses of one resource by one task, which may overlap, become disjoint pieces; the search treats uses
    singly.
    """
    order = np.lexsort((uses.resource, uses.task))
    task, resource = uses.task[order], uses.resource[order]
    again = (task[1:] == task[:-1]) & (resource[1:] == resource[:-1])
    if not again.any():
        return uses
    shared = np.zeros(task.size, bool)
    shared[order[1:][again]] = True
    shared[order[:-1][again]] = True
    groups: dict[tuple[int, int], list[int]] = {}
    for use in np.flatnonzero(shared).tolist():
        groups.setdefault((int(uses.task[use]), int(uses.resource[use])), []).append(use)
    rows = [row for key, members in groups.items() for row in _pieces(key, members, uses, capacity)]
    kept = np.flatnonzero(~shared)
    pieces = np.array(rows, np.int64).reshape(-1, 5)
    columns = [np.concatenate([column[kept], pieces[:, k]]) for k, column in enumerate(uses)]
    by_task = np.argsort(columns[0], kind="stable")
    return Uses(*(np.ascontiguousarray(column[by_task]) for column in columns))


def _pieces(
    key: tuple[int, int], members: list[int], uses: Uses, capacity: Ints
) -> list[tuple[int, int, int, int, int]]:
    task, resource = key
    spans = [(int(uses.offset[u]), int(uses.offset[u] + uses.hold[u]), int(uses.units[u])) for u in members]
    edges = sorted({edge for begin, end, _ in spans for edge in (begin, end)})
    rows = []
    for left, right in pairwise(edges):
        units = sum(amount for begin, end, amount in spans if begin <= left and right <= end)
        if units > capacity[resource]:
            raise Infeasible(
                "schedule-over-capacity",
                f"The uses of task {task} together need {units} of resource {resource}, "
                f"which has {int(capacity[resource])}.",
                "Split the task or raise the capacity.",
            )
        if units:
            rows.append((task, resource, units, left, right - left))
    return rows


def _that_bind(uses: Uses, capacity: Ints) -> Uses:
    # As floats the sums cannot wrap around; an error of 1e-16 of a capacity only keeps a use that could go.
    total = np.bincount(uses.resource, weights=uses.units.astype(np.float64), minlength=capacity.size)
    kept = np.flatnonzero((total >= capacity)[uses.resource])
    return Uses(*(np.ascontiguousarray(column[kept]) for column in uses))


def _kinds(uses: Uses) -> Ints:
    """Uses of equal resource, units and hold get one number, counted from 0."""
    key = uses.resource
    for column in (uses.units, uses.hold):
        values, number = np.unique(column, return_inverse=True)
        key = key * max(1, values.size) + number
    return np.unique(key, return_inverse=True)[1].astype(np.int64).ravel()
