"""The shapes of an estate after a change of some servers: the others keep theirs.

What comes out is what `room.room_of` would give. Where shapes could now be told apart more finely, or
have to be more coarsely, or a kind of servers is new or gone, that is what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.audit.losses import Rows
from evac.audit.reserves import Reserves
from evac.audit.room import (
    LEAST_BITS,
    MOST_BITS,
    SHAPES_WANTED,
    BareShapes,
    Room,
    Used,
    assembled,
    count_shapes,
    finer_levels,
    room_of,
    rows_of_servers,
    standing_of,
)
from evac.model.domain import Topology
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.planning.packing.alike import least_of

_NO_LIMIT = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """Shapes of an estate, and what they were made of."""

    room: Room
    top: Topology
    used: Used


def reshaped(
    known: Before, top: Topology, rows: Rows, found: Reserves, used: Used, changed: BoolColumn
) -> Room:
    """The shapes of an estate of which some servers changed: state, facts, or what is used on them."""
    before = known.room
    bare = int((~before.is_pool).sum())
    kinds = [
        (site, kind) for site, kind in zip(before.pool_site.tolist(), before.pool_class.tolist(), strict=True)
    ][: _bare_pools(before)]
    servers = np.flatnonzero(changed & found.usable).astype(np.int32)
    pool = _pool_of(top, kinds, servers)
    finer = before.finer - _left_finer(known, changed) if before.bits < MOST_BITS else 0
    if before.bits < MOST_BITS and finer <= SHAPES_WANTED:
        finer = count_shapes(top, found, used, before.bits + 1)
    if (before.bits < MOST_BITS and finer <= SHAPES_WANTED) or (pool < 0).any():
        return room_of(top, rows, found, used)
    shapes = _moved(before, bare, top, used, servers, pool, changed, finer)
    told_apart = np.bincount(shapes.levels[:, 1], minlength=len(kinds))
    if not told_apart.all():
        return room_of(top, rows, found, used)
    if len(shapes.levels) > SHAPES_WANTED and before.bits > LEAST_BITS:
        return room_of(top, rows, found, used, before.bits - 1, len(shapes.levels))
    by_row = before.row_start, before.row_server
    if not np.array_equal(found.usable, before.server_shape >= 0):
        by_row = rows_of_servers(rows, np.flatnonzero(found.usable).astype(np.int32))
    return assembled(top, shapes, kinds, used.pools, by_row)


def _left_finer(known: Before, changed: BoolColumn) -> int:
    """How many shapes the changed servers made with one bit more: no more than these are gone now."""
    servers = np.flatnonzero(changed & (known.room.server_shape >= 0)).astype(np.int32)
    if len(servers) <= 1:
        return len(servers)
    return len(_sorted_rows(finer_levels(known.top, known.used, servers, known.room.bits + 1))[0])


def _bare_pools(room: Room) -> int:
    """How many pools are of bare servers: those come first."""
    return len(room.pool_site) - int(room.is_pool.sum())


def _pool_of(top: Topology, kinds: list[tuple[int, int]], servers: IndexColumn) -> IndexColumn:
    """Number of the pool of each server; -1 where there is none yet."""
    fleet, width = top.estate.fleet, len(top.estate.classes) + 1
    keys = np.array([site * width + kind + 1 for site, kind in kinds], np.int64)
    wanted = fleet.site[servers].astype(np.int64) * width + fleet.server_class[servers] + 1
    if not len(keys):
        return np.full(len(servers), -1, np.int32)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1).astype(np.int32)


def _moved(
    before: Room,
    bare: int,
    top: Topology,
    used: Used,
    servers: IndexColumn,
    pool: IndexColumn,
    changed: BoolColumn,
    finer: int,
) -> BareShapes:
    """Shapes in which the changed servers stand where they belong now."""
    standing = standing_of(top, servers, used.servers)
    fresh = np.column_stack([standing.stage, pool, standing.rounded(before.bits)]).astype(np.int64)
    levels, number = _sorted_rows(np.concatenate([before.levels, fresh]))
    old = before.server_shape
    left = number[old[changed & (old >= 0)]]
    count = np.bincount(number[bare:], minlength=len(levels)) - np.bincount(left, minlength=len(levels))
    count[number[:bare]] += before.count[:bare]
    kept = count > 0
    shape = (np.cumsum(kept) - 1).astype(np.int32)[number]
    # What is in no shape before is in none now: the last entry stands for it.
    lookup = np.append(shape[:bare], np.int32(-1))[old]
    lookup[changed] = -1
    lookup[servers] = shape[bare:]
    free = np.full((len(levels), before.free.shape[0]), _NO_LIMIT)
    free[number[:bare]] = before.free[:, :bare].T
    touched = np.zeros(len(levels), np.bool_)
    touched[left] = True
    free[touched] = _NO_LIMIT
    free, touched = free[kept], np.append(touched[kept], False)
    again = np.flatnonzero(touched[lookup]).astype(np.int32)
    least_of(standing_of(top, again, used.servers).free, lookup[again], free)
    least_of(standing.free, lookup[servers], free)
    return BareShapes(levels[kept], before.bits, finer, free, count[kept], lookup)


def _sorted_rows(table: IntColumn) -> tuple[IntColumn, IntColumn]:
    """The different rows of a table in order, and the number of each of its rows among them."""
    order = np.lexsort(table.T[::-1])
    ordered = table[order]
    first = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)][: len(table)]
    number = np.empty(len(table), np.int64)
    number[order] = np.cumsum(first) - 1
    return ordered[first], number
