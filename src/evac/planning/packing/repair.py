"""Eviction: a replica that found no room takes the place of lower ones, which look for another.

The value of what stands only rises, compared tier by tier, so this ends by itself; it also ends
when its tests are spent.
"""

from __future__ import annotations

import numpy as np

from evac.planning.compiled import allocating_kernel, kernel
from evac.planning.packing.kernels import domain_room, move_in, refresh_block, server_room
from evac.planning.packing.problem import Int64Array
from evac.planning.packing.state import CHECKS, State

EVICTED_MAX = 8
"""Most replicas that give way to one."""


@kernel
def _is_lower(service: int, other: int, rank: Int64Array, weight: Int64Array) -> bool:
    """Whether a replica of `other` may give way to one of `service`."""
    if rank[other] != rank[service]:
        return bool(rank[other] > rank[service])
    return bool(weight[other] < weight[service])


@kernel
def _lacks(state: State, service: int, position: int, given: Int64Array) -> bool:
    """Whether the demand of the service exceeds free room plus what was given."""
    for r in range(given.shape[0]):  # noqa: SIM110  (numba compiles the loop, not the generator)
        if state.free[position, r] + given[r] < state.demand[service, r]:
            return True
    return False


@kernel
def _lowest(
    state: State,
    service: int,
    position: int,
    chosen: Int64Array,
    length: int,
    rank: Int64Array,
    weight: Int64Array,
) -> int:
    """The entry of least worth that may give way and is not chosen yet; the larger one of equals."""
    found = -1
    entry = state.head[position]
    while entry >= 0:
        other = state.entry_service[entry]
        if not state.entry_fixed[entry] and _is_lower(service, other, rank, weight):
            is_new = True
            for i in range(length):
                is_new = is_new and chosen[i] != entry
            if is_new and (found < 0 or _is_lower(state.entry_service[found], other, rank, weight)):
                found = entry
        entry = state.entry_next[entry]
    return found


@kernel
def _choose(
    state: State,
    service: int,
    position: int,
    chosen: Int64Array,
    given: Int64Array,
    rank: Int64Array,
    weight: Int64Array,
) -> int:
    """Entries, one replica of each, that make room for one replica: their number, -1 if that cannot be."""
    given[:] = 0
    length = 0
    while _lacks(state, service, position, given):
        if length == chosen.shape[0]:
            return -1
        entry = _lowest(state, service, position, chosen, length, rank, weight)
        if entry < 0:
            return -1
        chosen[length] = entry
        length += 1
        _add(given, state, state.entry_service[entry], 1)
    return _spare_some(state, service, position, chosen, length, given)


@kernel
def _add(given: Int64Array, state: State, service: int, count: int) -> None:
    for r in range(given.shape[0]):
        given[r] += count * state.demand[service, r]


@kernel
def _spare_some(
    state: State, service: int, position: int, chosen: Int64Array, length: int, given: Int64Array
) -> int:
    """Let stay, the worthiest first, what need not give way after all."""
    for i in range(length - 1, -1, -1):
        other = state.entry_service[chosen[i]]
        _add(given, state, other, -1)
        if _lacks(state, service, position, given):
            _add(given, state, other, 1)
        else:
            chosen[i] = chosen[length - 1]
            length -= 1
    return length


@kernel
def _pays(
    state: State, service: int, chosen: Int64Array, length: int, rank: Int64Array, weight: Int64Array
) -> bool:
    """Whether the replica is worth more than all that would give way: only its own tier is weighed."""
    lost, equals = 0, 0
    for i in range(length):
        other = state.entry_service[chosen[i]]
        if rank[other] == rank[service]:
            lost += weight[other]
            equals += 1
    return equals == 0 or lost < weight[service]


@kernel
def _replace(
    state: State, service: int, position: int, chosen: Int64Array, length: int, left: Int64Array
) -> None:
    for i in range(length):
        chosen[i] = state.entry_service[chosen[i]]
    for i in range(length):
        move_in(state, chosen[i], position, -1, False)
        left[chosen[i]] += 1
    move_in(state, service, position, 1, False)
    left[service] -= 1


@kernel
def _displace(
    state: State,
    service: int,
    start: int,
    left: Int64Array,
    chosen: Int64Array,
    given: Int64Array,
    rank: Int64Array,
    weight: Int64Array,
) -> int:
    """Make room for what is left of one service, position after position; returns where it stopped."""
    size = state.head.shape[0]
    position = start
    for step in range(size):
        position = (start + step) % size
        if left[service] <= 0:
            break
        state.meta[CHECKS] += 1
        block = state.block_of[position]
        if domain_room(state, service, block) <= 0:
            continue
        if server_room(state, service, position, block) <= 0:
            continue
        length = _choose(state, service, position, chosen, given, rank, weight)
        if length >= 0 and _pays(state, service, chosen, length, rank, weight):
            _replace(state, service, position, chosen, length, left)
            refresh_block(state, block)
    return position


@kernel
def _has_lower(order: Int64Array, at: int, placed: Int64Array, rank: Int64Array, weight: Int64Array) -> bool:
    """Whether a service further down the order has replicas that may give way to that of `order[at]`."""
    for i in range(order.shape[0] - 1, at, -1):
        if placed[order[i]] > 0:
            return _is_lower(order[at], order[i], rank, weight)
    return False


@allocating_kernel
def displace_all(
    state: State,
    order: Int64Array,
    left: Int64Array,
    placed: Int64Array,
    rank: Int64Array,
    weight: Int64Array,
    checks: int,
) -> int:
    """For each service of `order` in turn let lower replicas give way; returns how many more stand of it.

    left (S) is brought up to date, placed (S) is what stood before of each; the tree is kept, the log
    is not. The order goes from high to low, so what gives way has its own turn later. Stops once
    `checks` tests are spent.
    """
    end = state.meta[CHECKS] + checks
    won, start = 0, 0
    chosen = np.zeros(EVICTED_MAX, dtype=np.int64)
    given = np.zeros(state.free.shape[1], dtype=np.int64)
    for i in range(order.shape[0]):
        service = order[i]
        if left[service] > 0 and _has_lower(order, i, placed, rank, weight):
            if state.meta[CHECKS] >= end:
                break
            before = left[service]
            start = _displace(state, service, start, left, chosen, given, rank, weight)
            won += before - left[service]
            placed[service] += before - left[service]
    return won
