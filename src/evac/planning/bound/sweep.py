"""The compiled sweep over all rows for one service: what fits where, and its sums."""

from __future__ import annotations

from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.planning.compiled import fill, inner, kernel


@kernel
def fill_fit(
    shape_capacity: IntColumn,
    shape_pool: IndexColumn,
    shape_is_pool: BoolColumn,
    shape_fit: IntColumn,
    shape_wanted: BoolColumn,
    shape: IndexColumn,
    row: IndexColumn,
    cell: IndexColumn,
    pool_first: IntColumn,
    demand: IntColumn,
    eligible: BoolColumn,
    per_server: int,
    most: int,
    mark: bool,
    cell_total: IntColumn,
    fit: IntColumn,
) -> None:
    """Fills fit (V) and its sums by cell (C) with what rows hold on which nothing stands of the service.

    Rows alike in pool and capacity are one shape (H), and looked at once; shape, row, cell: of each row,
    pool by pool from pool_first on. mark: note shapes where something fits in shape_wanted. 64-bit integers.
    """
    fill(cell_total, 0)
    fill(fit, 0)
    for h in range(len(shape_fit)):
        limit = most if shape_is_pool[h] else min(most, per_server)
        found = 0
        if eligible[shape_pool[h]]:
            found = _held(shape_capacity[h], demand, 0, limit)
        shape_fit[h] = found
        if mark and found > 0:
            shape_wanted[h] = True
    for p in range(len(pool_first) - 1):
        if not eligible[p]:
            continue
        for k in range(pool_first[p], pool_first[p + 1]):
            found = shape_fit[shape[k]]
            fit[row[k]] = found
            cell_total[cell[k]] += found


@kernel
def fill_standing(
    capacity: IntColumn,
    demand: IntColumn,
    rows: IndexColumn,
    counts: IntColumn,
    keeps_capacity: bool,
    pool: IndexColumn,
    is_pool: BoolColumn,
    cell: IndexColumn,
    eligible: BoolColumn,
    per_server: int,
    most: int,
    mark: bool,
    cell_total: IntColumn,
    fit: IntColumn,
    wanted: BoolColumn,
) -> None:
    """The same for rows with replicas of the service; pool, is_pool, cell (V): of each row.

    keeps_capacity: what is here is not in `capacity` and is added back; wanted (V): where something fits.
    """
    for k in range(len(rows)):
        v = rows[k]
        found = counts[k]
        if eligible[pool[v]]:
            limit = most if is_pool[v] else min(most, per_server)
            found = max(found, _held(capacity[v], demand, found if keeps_capacity else 0, limit))
        cell_total[cell[v]] += found - fit[v]
        fit[v] = found
        if mark and found > 0:
            wanted[v] = True


@inner
def _held(
    capacity: IntColumn,
    demand: IntColumn,
    own: int,
    limit: int,
) -> int:
    """Replicas that fit on a row, at most `limit`; own: replicas whose capacity is added to it."""
    if limit == 1:
        return _holds_one(capacity, demand, own)
    return _fit(capacity, demand, own, limit) if limit > 0 else 0


@inner
def _holds_one(
    capacity: IntColumn,
    demand: IntColumn,
    own: int,
) -> int:
    """1 if a replica fits on a row, computed without a branch, because the outcome is hard to predict."""
    holds = 1
    for r in range(len(demand)):
        holds &= capacity[r] + own * demand[r] >= demand[r]
    return holds


@inner
def _fit(
    capacity: IntColumn,
    demand: IntColumn,
    own: int,
    most: int,
) -> int:
    """Replicas that fit on a row; divides only if a resource is short."""
    for r in range(len(demand)):
        free = capacity[r] + own * demand[r]
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
    fill(total, 0)
    fill(rack_total, 0)
    fill(rack_outside, 0)
    fill(feed_total, 0)
    fill(feed_outside, 0)
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


@kernel
def fill_pools(
    total: IntColumn,
    pool: IndexColumn,
    rows: IndexColumn,
    counts: IntColumn,
    cap: int,
    here: IntColumn,
    found: IntColumn,
) -> None:
    """Fills here (P) with the service's present replicas, and found (P) with the most that each pool can hold
    by its site's cap.
    """
    fill(here, 0)
    for k in range(len(rows)):
        here[pool[rows[k]]] += counts[k]
    for p in range(len(found)):
        found[p] = max(min(total[p], cap), here[p])


@kernel
def cap_pools(
    total: IntColumn,
    outside: IntColumn,
    key: IndexColumn,
    pool: IndexColumn,
    rows: IndexColumn,
    counts: IntColumn,
    cap: int,
    there: IntColumn,
    most: IntColumn,
    found: IntColumn,
) -> None:
    """Lowers found (P) to what parts hold, each at most `cap`, or what stands there now. total (K): of each
    part within a pool; outside (P): where there is none; key (V), pool (K): of each row, of each part; there,
    most: scratch.
    """
    fill(there, 0)
    for k in range(len(rows)):
        if key[rows[k]] >= 0:
            there[key[rows[k]]] += counts[k]
    for p in range(len(found)):
        most[p] = outside[p]
    for n in range(len(total)):
        most[pool[n]] += max(min(total[n], cap), there[n])
    for p in range(len(found)):
        found[p] = min(found[p], most[p])
