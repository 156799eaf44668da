"""The compiled sweep over all rows for one service: what fits where, and its sums."""

from __future__ import annotations

from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.planning.compiled import kernel


@kernel
def fill_fit(
    room: IntColumn,
    demand: IntColumn,
    eligible: BoolColumn,
    here: IntColumn,
    keeps_room: bool,
    per_server: int,
    most: int,
    mark: bool,
    cell: IndexColumn,
    cell_pool: IndexColumn,
    cell_is_pool: BoolColumn,
    cell_most: IntColumn,
    cell_total: IntColumn,
    fit: IntColumn,
    wanted: BoolColumn,
) -> None:
    """Fills fit (V) and its sums by cell (C), rows alike in all that sums are taken by; 64-bit integers.

    keeps_room: what stands here of the service is not in `room` and is added back; mark: note rows
    where something fits in `wanted`; cell_most: scratch.
    """
    for c in range(len(cell_total)):
        cell_total[c] = 0
        cell_most[c] = most if cell_is_pool[c] else min(most, per_server)
        if not eligible[cell_pool[c]]:
            cell_most[c] = -1
    for v in range(len(fit)):
        found = here[v]
        limit = cell_most[cell[v]]
        if limit == 1:
            found = max(found, _holds_one(room[v], demand, found if keeps_room else 0))
        elif limit > found:
            found = max(found, _fit(room[v], demand, found if keeps_room else 0, limit))
        fit[v] = found
        cell_total[cell[v]] += found
    if mark:
        for v in range(len(fit)):
            wanted[v] |= fit[v] > 0


@kernel
def _holds_one(
    room: IntColumn,
    demand: IntColumn,
    own: int,
) -> int:
    """1 where a row can hold a replica, without a branch: whether it can is hard to foresee."""
    holds = 1
    for r in range(len(demand)):
        holds &= room[r] + own * demand[r] >= demand[r]
    return holds


@kernel
def _fit(
    room: IntColumn,
    demand: IntColumn,
    own: int,
    most: int,
) -> int:
    """Replicas a row can hold; divides only where a resource is short."""
    for r in range(len(demand)):
        free = room[r] + own * demand[r]
        if demand[r] > 0 and free < most * demand[r]:
            most = free // demand[r]
    return most


@kernel
def sum_cells(
    cell_total: IntColumn,
    pool: IndexColumn,
    dark: BoolColumn,
    rack_key: IndexColumn,
    feed_key: IndexColumn,
    total: IntColumn,
    rack_total: IntColumn,
    rack_outside: IntColumn,
    feed_total: IntColumn,
    feed_outside: IntColumn,
) -> int:
    """Sums of cells by pool, (rack, pool) and (feed group, pool). Returns the sum over powered cells."""
    total[:] = 0
    rack_total[:] = 0
    rack_outside[:] = 0
    feed_total[:] = 0
    feed_outside[:] = 0
    powered = 0
    for c in range(len(cell_total)):
        found = cell_total[c]
        total[pool[c]] += found
        if not dark[c]:
            powered += found
        if rack_key[c] >= 0:
            rack_total[rack_key[c]] += found
        else:
            rack_outside[pool[c]] += found
        if feed_key[c] >= 0:
            feed_total[feed_key[c]] += found
        else:
            feed_outside[pool[c]] += found
    return powered
