"""One packing as flat arrays that compiled kernels read and change: rooms, counters, who stands where.

Servers are held as *positions*: sorted by pool, rack, feed, site and index, so that a pool is a
run of blocks and a block (at most BLOCK_SIZE servers) lies in one rack, feed and site. Over the blocks
stands a tree of maxima: the next block where a service may fit is found without looking at full ones.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from evac.planning.packing.problem import (
    UNBOUNDED,
    BoolArray,
    Int32Array,
    Int64Array,
    PackingProblem,
)

BLOCK_SIZE: Final = 32
KEY_SCALE: Final = 1024
NOTHING: Final = -(1 << 60)
"""Room of a tree node without a block below it."""

ENTRIES_USED, ENTRY_FREE, LOG_LENGTH, WAS_FULL, CHECKS = range(5)
"""Fields of `State.meta`: entries ever used, first entry of the free list (-1 none), rows of the
log, 1 after a kernel stopped for want of entries or log rows, tests of a service against a server."""


class State(NamedTuple):
    """Arrays of one packing; V positions, B blocks, S services, P pools, K = R + 2 tree keys.

    free (V, R); server_at, position_of, block_of (V); block_start (B + 1); block_* (B), block_rack and
    block_feed -1 for a row that schedules itself, as no cap counts it; pool_first (P + 1): blocks of a
    pool; tree (2W, K): maxima, leaves at W + block; key_unit (R); demand, group, max_per_server,
    rack_cap, feed_cap, site_cap, eligible: as in the problem; key (S, K): the demand as tree keys;
    in_rack, in_feed, in_site (domains, S: whoever fills a server asks for many services of one domain),
    standing (S), group_standing (groups): replicas there now, present ones included; head (V), entry_*:
    linked lists of what stands on a position (entry_fixed: present before, not placed here); log (L, 4):
    service, position, count, fixed.
    """

    free: Int64Array
    server_at: Int32Array
    position_of: Int32Array
    block_of: Int32Array
    block_start: Int32Array
    block_pool: Int32Array
    block_rack: Int32Array
    block_feed: Int32Array
    block_site: Int32Array
    block_is_pool: BoolArray
    pool_first: Int32Array
    tree: Int64Array
    key_unit: Int64Array
    demand: Int64Array
    key: Int64Array
    max_per_server: Int64Array
    rack_cap: Int64Array
    feed_cap: Int64Array
    site_cap: Int64Array
    eligible: BoolArray
    group: Int32Array
    in_rack: Int32Array
    in_feed: Int32Array
    in_site: Int32Array
    standing: Int64Array
    group_standing: Int64Array
    head: Int32Array
    entry_service: Int32Array
    entry_count: Int64Array
    entry_fixed: BoolArray
    entry_next: Int32Array
    log: Int64Array
    meta: Int64Array


def new_state(problem: PackingProblem, *, entries: int, log_rows: int) -> State:
    """An empty packing of `problem` (present replicas are not yet put): see `open_state`."""
    at = _positions(problem)
    blocks = _blocks(problem, at)
    start = blocks["start"]
    services, resources = problem.demand.shape
    width = 1 << max(0, int(start.size - 2).bit_length())
    unit = np.maximum(1, problem.demand.mean(axis=0) if services else np.ones(resources)).astype(np.int64)
    demand = np.ascontiguousarray(problem.demand, dtype=np.int64)
    alone = problem.is_pool[at[start[:-1]]]
    pool_of_block = problem.pool[at[start[:-1]]]
    position_of = np.empty(at.size, dtype=np.int32)
    position_of[at] = np.arange(at.size, dtype=np.int32)
    return State(
        free=np.ascontiguousarray(problem.free[at], dtype=np.int64),
        server_at=at,
        position_of=position_of,
        block_of=np.repeat(np.arange(start.size - 1, dtype=np.int32), np.diff(start)),
        block_start=start,
        block_pool=pool_of_block.astype(np.int32),
        block_rack=np.where(alone, -1, blocks["rack"]).astype(np.int32),
        block_feed=np.where(alone, -1, blocks["feed"]).astype(np.int32),
        block_site=blocks["site"],
        block_is_pool=alone,
        pool_first=np.searchsorted(pool_of_block, np.arange(problem.pools + 1)).astype(np.int32),
        tree=np.full((2 * width, resources + 2), NOTHING, dtype=np.int64),
        key_unit=unit,
        demand=demand,
        key=_keys(demand, unit),
        max_per_server=_cap(problem.max_per_server),
        rack_cap=_cap(problem.rack_cap),
        feed_cap=_cap(problem.feed_cap),
        site_cap=_cap(problem.site_cap),
        eligible=np.ascontiguousarray(problem.eligible),
        group=problem.group.astype(np.int32),
        in_rack=_counters(services, problem.rack),
        in_feed=_counters(services, problem.feed),
        in_site=_counters(services, problem.site),
        standing=np.zeros(services, dtype=np.int64),
        group_standing=np.zeros(int(problem.group.max(initial=-1)) + 1, dtype=np.int64),
        head=np.full(at.size, -1, dtype=np.int32),
        entry_service=np.zeros(entries, dtype=np.int32),
        entry_count=np.zeros(entries, dtype=np.int64),
        entry_fixed=np.zeros(entries, dtype=np.bool_),
        entry_next=np.full(entries, -1, dtype=np.int32),
        log=np.zeros((log_rows, 4), dtype=np.int64),
        meta=np.array([0, -1, 0, 0, 0], dtype=np.int64),
    )


def copy_state(state: State) -> State:
    """A copy that shares nothing that kernels change."""
    return state._replace(
        **{
            name: getattr(state, name).copy()
            for name in (
                *("free", "tree", "in_rack", "in_feed", "in_site", "standing", "group_standing", "head"),
                *("entry_service", "entry_count", "entry_fixed", "entry_next", "log", "meta"),
            )
        }
    )


def reserve(state: State, *, entries: int, log_rows: int) -> State:
    """The state with space for so many more entries and log rows: itself, or one with longer arrays."""
    meta = state.meta
    meta[WAS_FULL] = 0
    if meta[ENTRIES_USED] + entries > state.entry_next.size:
        grow = max(entries, state.entry_next.size)
        names = ("entry_service", "entry_count", "entry_fixed", "entry_next")
        longer = {
            name: np.append(getattr(state, name), np.zeros(grow, getattr(state, name).dtype))
            for name in names
        }
        state = state._replace(**longer)
    if meta[LOG_LENGTH] + log_rows > state.log.shape[0]:
        grow = max(log_rows, state.log.shape[0])
        state = state._replace(log=np.vstack([state.log, np.zeros((grow, 4), dtype=np.int64)]))
    return state


def _positions(problem: PackingProblem) -> Int32Array:
    keys = (problem.site, problem.feed, problem.rack, problem.pool)
    return np.lexsort((np.arange(problem.servers), *keys)).astype(np.int32)


def _blocks(problem: PackingProblem, at: Int32Array) -> dict[str, Int32Array]:
    """Runs of positions with equal pool, rack, feed and site; a self-scheduling row is a run of its own."""
    size = at.size
    columns = [getattr(problem, name)[at] for name in ("pool", "rack", "feed", "site")]
    begins = np.zeros(size, dtype=np.bool_)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    alone = problem.is_pool[at]
    begins |= alone
    begins[1:] |= alone[:-1]
    run_start = np.flatnonzero(begins)
    inside = np.arange(size) - run_start[np.cumsum(begins) - 1] if size else np.zeros(0, dtype=np.int64)
    start = np.append(np.flatnonzero(inside % BLOCK_SIZE == 0), size).astype(np.int32)
    first = start[:-1]
    named = dict(zip(("pool", "rack", "feed", "site"), columns, strict=True))
    return {"start": start} | {name: column[first].astype(np.int32) for name, column in named.items()}


def _keys(demand: Int64Array, unit: Int64Array) -> Int64Array:
    """Demand with two joint keys: least and summed share of the unit; a row that fits has more of both."""
    shares = demand * KEY_SCALE // unit
    return np.column_stack([demand, shares.min(axis=1, initial=1 << 60), shares.sum(axis=1)])


def _cap(values: Int64Array) -> Int64Array:
    return np.minimum(values, UNBOUNDED).astype(np.int64)


def _counters(services: int, domain: Int32Array) -> Int32Array:
    return np.zeros((int(domain.max(initial=-1)) + 1, services), dtype=np.int32)
