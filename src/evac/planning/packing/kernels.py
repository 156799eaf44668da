"""Compiled steps on a `State`: put, take, first-fit, undo. Everything here speaks of positions.

Invariant after each call of a public kernel: `free`, the counters and the lists agree with each
other, the tree holds the block maxima, and every change since the last `clear_log` is in the log, so that
`undo(state, mark)` brings back what stood at `mark = state.meta[LOG_LENGTH]`.
A position's server is `state.server_at[position]`, the way back `state.position_of[server]`.
"""

from __future__ import annotations

import numpy as np

from evac.planning.compiled import allocating_kernel, kernel
from evac.planning.packing.problem import UNBOUNDED, BoolArray, Int64Array
from evac.planning.packing.state import (
    CHECKS,
    ENTRIES_USED,
    ENTRY_FREE,
    KEY_SCALE,
    LOG_LENGTH,
    NOTHING,
    WAS_FULL,
    State,
)


@kernel
def refresh_block(state: State, block: int) -> None:
    """Bring the maxima of a block, and of the nodes above it, up to date."""
    tree = state.tree
    resources = state.free.shape[1]
    node = tree.shape[0] // 2 + block
    tree[node, :] = NOTHING
    for position in range(state.block_start[block], state.block_start[block + 1]):
        least = np.int64(1) << 60
        total = 0
        for r in range(resources):
            room = state.free[position, r]
            tree[node, r] = max(tree[node, r], room)
            share = room * KEY_SCALE // state.key_unit[r]
            least = min(least, share)
            total += share
        tree[node, resources] = max(tree[node, resources], least)
        tree[node, resources + 1] = max(tree[node, resources + 1], total)
    while node > 1:
        node //= 2
        same = True
        for k in range(tree.shape[1]):
            top = max(tree[2 * node, k], tree[2 * node + 1, k])
            same = same and top == tree[node, k]
            tree[node, k] = top
        if same:
            break


@kernel
def refresh_all(state: State) -> None:
    """Bring the whole tree up to date."""
    tree = state.tree
    width = tree.shape[0] // 2
    tree[:, :] = NOTHING
    for block in range(state.block_start.shape[0] - 1):
        refresh_block(state, block)
    for node in range(width - 1, 0, -1):
        for k in range(tree.shape[1]):
            tree[node, k] = max(tree[2 * node, k], tree[2 * node + 1, k])


@kernel
def _covers(tree: Int64Array, node: int, key: Int64Array) -> bool:
    for k in range(key.shape[0]):  # noqa: SIM110  (numba compiles the loop, not the generator)
        if tree[node, k] < key[k]:
            return False
    return True


@kernel
def next_block(state: State, service: int, block: int, stop: int) -> int:
    """First block of [block, stop) whose maxima cover the demand of the service, else -1."""
    tree = state.tree
    width = tree.shape[0] // 2
    key = state.key[service]
    if block >= stop:
        return -1
    node = width + block
    while True:
        if _covers(tree, node, key):
            while node < width:
                node *= 2
                if not _covers(tree, node, key):
                    node += 1
                    if not _covers(tree, node, key):
                        break
            if node >= width and _covers(tree, node, key):
                return node - width if node - width < stop else -1
        # Step to the next subtree on the right: up while we are a right child.
        while node > 1 and node % 2 == 1:
            node //= 2
        if node <= 1:
            return -1
        node += 1
        if _leftmost(node, width) >= stop:
            return -1


@kernel
def _leftmost(node: int, width: int) -> int:
    while node < width:
        node *= 2
    return node - width


@kernel
def domain_room(state: State, service: int, block: int) -> int:
    """How many more replicas the caps of rack, feed and site allow in a block; 0 if not eligible."""
    if not state.eligible[service, state.block_pool[block]]:
        return 0
    room = UNBOUNDED
    site = state.block_site[block]
    if site >= 0:
        room = min(room, state.site_cap[service] - state.in_site[site, service])
    rack, feed = state.block_rack[block], state.block_feed[block]
    if rack >= 0:
        room = min(room, state.rack_cap[service] - state.in_rack[rack, service])
    if feed >= 0:
        room = min(room, state.feed_cap[service] - state.in_feed[feed, service])
    return max(room, 0)


@kernel
def count_on(state: State, service: int, position: int) -> int:
    """Replicas of the service that stand on a position, present ones included."""
    total = 0
    entry = state.head[position]
    while entry >= 0:
        if state.entry_service[entry] == service:
            total += state.entry_count[entry]
        entry = state.entry_next[entry]
    return total


@kernel
def entry_total(state: State, service: int, position: int, fixed: bool) -> int:
    """Replicas of the service on a position that were present before (fixed), or placed since."""
    entry = state.head[position]
    while entry >= 0:
        if state.entry_service[entry] == service and state.entry_fixed[entry] == fixed:
            return int(state.entry_count[entry])
        entry = state.entry_next[entry]
    return 0


@kernel
def server_room(state: State, service: int, position: int, block: int) -> int:
    """How many more replicas the limit per server and the conflict group allow on a position."""
    if state.block_is_pool[block]:
        return UNBOUNDED
    group = state.group[service]
    if group < 0:
        if state.standing[service] == 0:
            return int(state.max_per_server[service])
        return int(max(0, state.max_per_server[service] - count_on(state, service, position)))
    if state.group_standing[group] > 0:
        entry = state.head[position]
        while entry >= 0:
            if state.group[state.entry_service[entry]] == group:
                return 0
            entry = state.entry_next[entry]
    return int(min(1, state.max_per_server[service]))


@kernel
def fit_count(state: State, service: int, position: int, wanted: int) -> int:
    """How many replicas, at most `wanted`, the free room of a position holds."""
    fits = wanted
    for r in range(state.free.shape[1]):
        room, need = state.free[position, r], state.demand[service, r]
        if room < need or room < 0:
            return 0
        if fits > 1 and need > 0:
            fits = min(fits, room // need)
    return fits


@kernel
def room_for(state: State, service: int, position: int) -> int:
    """How many more replicas of the service could be put on a position now, all rules kept."""
    block = state.block_of[position]
    room = min(domain_room(state, service, block), server_room(state, service, position, block))
    return fit_count(state, service, position, room) if room > 0 else 0


@kernel
def _count_in(state: State, service: int, position: int, count: int) -> None:
    """Room and counters after `count` more (or fewer) replicas; neither lists nor tree nor log."""
    for r in range(state.free.shape[1]):
        state.free[position, r] -= count * state.demand[service, r]
    block = state.block_of[position]
    if state.block_rack[block] >= 0:
        state.in_rack[state.block_rack[block], service] += count
    if state.block_feed[block] >= 0:
        state.in_feed[state.block_feed[block], service] += count
    if state.block_site[block] >= 0:
        state.in_site[state.block_site[block], service] += count
    state.standing[service] += count
    if state.group[service] >= 0:
        state.group_standing[state.group[service]] += count


@kernel
def _enter(state: State, service: int, position: int, count: int, fixed: bool) -> None:
    """Change the entry of a service on a position by `count`; an entry of zero is unlinked."""
    before, entry = -1, state.head[position]
    while entry >= 0:
        if state.entry_service[entry] == service and state.entry_fixed[entry] == fixed:
            break
        before, entry = entry, state.entry_next[entry]
    if entry < 0:
        entry = _new_entry(state)
        state.entry_service[entry] = service
        state.entry_fixed[entry] = fixed
        state.entry_count[entry] = count
        state.entry_next[entry] = state.head[position]
        state.head[position] = entry
        return
    state.entry_count[entry] += count
    if state.entry_count[entry] == 0:
        if before < 0:
            state.head[position] = state.entry_next[entry]
        else:
            state.entry_next[before] = state.entry_next[entry]
        state.entry_next[entry] = state.meta[ENTRY_FREE]
        state.meta[ENTRY_FREE] = entry


@kernel
def _new_entry(state: State) -> int:
    entry = state.meta[ENTRY_FREE]
    if entry >= 0:
        state.meta[ENTRY_FREE] = state.entry_next[entry]
        return int(entry)
    entry = state.meta[ENTRIES_USED]
    state.meta[ENTRIES_USED] += 1
    return int(entry)


@kernel
def move_in(state: State, service: int, position: int, count: int, fixed: bool) -> None:
    """Put (count < 0: take away) replicas, lists included; the caller sees to tree, log and space."""
    _count_in(state, service, position, count)
    _enter(state, service, position, count, fixed)


@kernel
def has_space(state: State) -> bool:
    """Whether one more entry and log row can be written; if not, `meta[WAS_FULL]` is set."""
    entry = state.meta[ENTRY_FREE] >= 0 or state.meta[ENTRIES_USED] < state.entry_next.shape[0]
    if entry and state.meta[LOG_LENGTH] < state.log.shape[0]:
        return True
    state.meta[WAS_FULL] = 1
    return False


@kernel
def _logged(state: State, service: int, position: int, count: int, fixed: bool) -> None:
    move_in(state, service, position, count, fixed)
    row = state.meta[LOG_LENGTH]
    state.log[row, 0] = service
    state.log[row, 1] = position
    state.log[row, 2] = count
    state.log[row, 3] = 1 if fixed else 0
    state.meta[LOG_LENGTH] = row + 1


@kernel
def put(state: State, service: int, position: int, count: int, fixed: bool) -> bool:
    """Put replicas on a position without asking whether they fit; False (nothing done) if space ran out.

    A negative count takes away what stands there. The caller answers for never taking more than that.
    """
    if not has_space(state):
        return False
    _logged(state, service, position, count, fixed)
    refresh_block(state, state.block_of[position])
    return True


@kernel
def fill_block(state: State, service: int, wanted: int, block: int, mask: BoolArray) -> int:
    """First-fit over the positions of one block; returns how many were put."""
    left = min(wanted, domain_room(state, service, block))
    begun = left
    for position in range(state.block_start[block], state.block_start[block + 1]):
        if left <= 0:
            break
        state.meta[CHECKS] += 1
        if mask.shape[0] > 0 and not mask[position]:
            continue
        count = fit_count(state, service, position, left)
        if count > 0:
            count = min(count, server_room(state, service, position, block))
        if count > 0:
            if not has_space(state):
                break
            _logged(state, service, position, count, False)
            left -= count
    if begun > left:
        refresh_block(state, block)
    return int(begun - left)


@kernel
def fill_pool(state: State, service: int, wanted: int, pool: int, mask: BoolArray) -> int:
    """First-fit of up to `wanted` replicas over one pool; returns how many were put."""
    left = wanted
    if not state.eligible[service, pool]:
        return 0
    block, stop = state.pool_first[pool], state.pool_first[pool + 1]
    while left > 0:
        block = next_block(state, service, block, stop)
        if block < 0 or state.meta[WAS_FULL] == 1:
            break
        left -= fill_block(state, service, left, block, mask)
        block += 1
    return wanted - left


@kernel
def fill_pools(state: State, service: int, wanted: int, pools: Int64Array, mask: BoolArray) -> int:
    """First-fit over pools in the order given; `mask` (V positions; empty: all) says where it may stand."""
    left = wanted
    for i in range(pools.shape[0]):
        if left <= 0:
            break
        left -= fill_pool(state, service, left, pools[i], mask)
    return wanted - left


@kernel
def fill_positions(state: State, service: int, wanted: int, positions: Int64Array, each: int) -> int:
    """Put replicas on the positions given, in that order, at most `each` at a visit; returns how many."""
    left = wanted
    for i in range(positions.shape[0]):
        if left <= 0:
            break
        state.meta[CHECKS] += 1
        count = min(room_for(state, service, positions[i]), left, each)
        if count > 0:
            if not put(state, service, positions[i], count, False):
                break
            left -= count
    return wanted - left


@allocating_kernel
def first_fit(state: State, order: Int64Array, wanted: Int64Array, pools: Int64Array) -> Int64Array:
    """Each service of `order` in turn over `pools`; returns what of `wanted` (S) is left. Clears the log."""
    left = wanted.copy()
    mask = np.zeros(0, dtype=np.bool_)
    for i in range(order.shape[0]):
        service = order[i]
        if left[service] > 0:
            left[service] -= fill_pools(state, service, left[service], pools, mask)
            state.meta[LOG_LENGTH] = 0
    return left


@kernel
def undo(state: State, mark: int) -> None:
    """Take back the changes after the first `mark` rows of the log, last one first."""
    while state.meta[LOG_LENGTH] > mark:
        row = state.meta[LOG_LENGTH] - 1
        state.meta[LOG_LENGTH] = row
        position = state.log[row, 1]
        move_in(state, state.log[row, 0], position, -state.log[row, 2], state.log[row, 3] == 1)
        refresh_block(state, state.block_of[position])


@kernel
def add_room(state: State, position: int, room: Int64Array) -> None:
    """Enlarge (negative: shrink) the free room of a position. Not in the log: call it with -room to undo."""
    for r in range(state.free.shape[1]):
        state.free[position, r] += room[r]
    refresh_block(state, state.block_of[position])


@kernel
def put_present(state: State, service: Int64Array, position: Int64Array, count: Int64Array) -> None:
    """Enter replicas that already stand: they count for spread, and `free` is net of them already."""
    for i in range(service.shape[0]):
        move_in(state, service[i], position[i], count[i], True)
        for r in range(state.free.shape[1]):
            state.free[position[i], r] += count[i] * state.demand[service[i], r]
