"""What is used of each renewable resource over time: a step function per resource, in sorted blocks of
breakpoints.

A resource's breakpoints lie in blocks of at most `BLOCK`; the blocks of one resource are listed in time order
in its region of `place`, their first times beside them in `head` for binary search. A block carries its
lowest and highest level and an amount added to all of its levels, so that long holds and long searches pass
whole blocks at once. Before the first hold a resource is unused since for ever. Times may be negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import inner, kernel, njit

Ints = NDArray[np.int64]
BLOCK = 32
FILLED, ADDED, LOW, HIGH = 0, 1, 2, 3
"""Of a block: its breakpoints, what is to be added to each of its levels, the lowest and highest without
that.
"""
EVER = np.int64(1) << np.int64(60)


class Profile(NamedTuple):
    """The arrays of all step functions; see `empty` for their shapes."""

    time: Ints  # [blocks * BLOCK] breakpoints
    level: Ints  # [blocks * BLOCK] units in use from the breakpoint on, without what the block adds
    block: Ints  # [blocks, 4] FILLED, ADDED, LOW, HIGH, side by side because they are read together
    region: Ints  # [resources + 1] where the list of blocks of a resource begins in `head` and `place`
    head: Ints  # [regions] first breakpoint of each listed block
    place: Ints  # [regions] the listed blocks
    listed: Ints  # [resources] blocks in use
    fresh: Ints  # [1] first block never used


def empty(uses_of: Ints) -> Profile:
    """A profile with room for `uses_of[r]` holds on each resource r; call `clear` before it is used."""
    # A block splits only when full, and leaves two half-full ones: each later block costs BLOCK/2
    # breakpoints.
    blocks_of = 2 + (4 * uses_of) // BLOCK
    region = np.zeros(uses_of.size + 1, np.int64)
    np.cumsum(blocks_of, out=region[1:])
    blocks = int(region[-1])

    def ints(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Profile(
        time=ints(blocks * BLOCK),
        level=ints(blocks * BLOCK),
        block=ints(blocks, 4),
        region=region,
        head=ints(blocks),
        place=ints(blocks),
        listed=ints(uses_of.size),
        fresh=ints(1),
    )


@kernel
def clear(profile: Profile) -> None:
    """Forget every hold."""
    for resource in range(profile.listed.size):
        slot = profile.region[resource]
        profile.listed[resource] = 1
        profile.place[slot] = resource
        profile.head[slot] = -EVER
        profile.time[resource * BLOCK] = -EVER
        profile.level[resource * BLOCK] = 0
        profile.block[resource, FILLED] = 1
        profile.block[resource, ADDED] = 0
        profile.block[resource, LOW] = 0
        profile.block[resource, HIGH] = 0
    profile.fresh[0] = profile.listed.size


@njit(cache=True, inline="always")
def _slot_at(profile: Profile, resource: int, time: int) -> int:
    """The listed place of the block in whose span `time` lies."""
    left = int(profile.region[resource])
    right = left + int(profile.listed[resource])
    while right - left > 1:
        middle = (left + right) >> 1
        if profile.head[middle] <= time:
            left = middle
        else:
            right = middle
    return left


@njit(cache=True, inline="always")
def _entry_at(profile: Profile, block: int, time: int) -> int:
    """The last breakpoint of the block at or before `time`."""
    left = block * BLOCK
    right = left + profile.block[block, FILLED]
    while right - left > 1:
        middle = (left + right) >> 1
        if profile.time[middle] <= time:
            left = middle
        else:
            right = middle
    return left


@njit(cache=True, inline="always")
def earliest(profile: Profile, resource: int, start: int, hold: int, limit: int) -> int:
    """The first time at or after `start` from which the level stays at most `limit` for `hold`."""
    slot = _slot_at(profile, resource, start)
    last = profile.region[resource] + profile.listed[resource] - 1
    block = profile.place[slot]
    entry = _entry_at(profile, block, start)
    stop = block * BLOCK + profile.block[block, FILLED]
    blocked = profile.level[entry] + profile.block[block, ADDED] > limit
    while True:
        entry += 1
        if entry == stop:
            # Pass whole blocks that change nothing: full while we wait for room, roomy while we have it.
            while True:
                if slot == last:
                    return start
                slot += 1
                block = profile.place[slot]
                if not blocked and profile.head[slot] >= start + hold:
                    return start
                added = profile.block[block, ADDED]
                if blocked and profile.block[block, LOW] + added > limit:
                    continue
                if not blocked and profile.block[block, HIGH] + added <= limit:
                    continue
                break
            entry = block * BLOCK
            stop = entry + profile.block[block, FILLED]
        time = profile.time[entry]
        if blocked:
            if profile.level[entry] + profile.block[block, ADDED] <= limit:
                blocked = False
                start = time
        else:
            if time >= start + hold:
                return start
            blocked = profile.level[entry] + profile.block[block, ADDED] > limit


@inner
def _split_block(profile: Profile, resource: int, slot: int) -> None:
    """Move the upper half of a full block into a fresh block listed right after it."""
    block = profile.place[slot]
    other = profile.fresh[0]
    profile.fresh[0] += 1
    half = BLOCK // 2
    for at in range(half):
        profile.time[other * BLOCK + at] = profile.time[block * BLOCK + half + at]
        profile.level[other * BLOCK + at] = profile.level[block * BLOCK + half + at]
    profile.block[block, FILLED] = half
    profile.block[other, FILLED] = half
    profile.block[other, ADDED] = profile.block[block, ADDED]
    _measure(profile, block)
    _measure(profile, other)
    end = profile.region[resource] + profile.listed[resource]
    for at in range(end, slot + 1, -1):
        profile.head[at] = profile.head[at - 1]
        profile.place[at] = profile.place[at - 1]
    profile.head[slot + 1] = profile.time[other * BLOCK]
    profile.place[slot + 1] = other
    profile.listed[resource] += 1


@njit(cache=True, inline="always")
def _measure(profile: Profile, block: int) -> None:
    """Recompute the lowest and highest level of a block."""
    first = block * BLOCK
    low = high = profile.level[first]
    for at in range(first + 1, first + profile.block[block, FILLED]):
        low = min(low, profile.level[at])
        high = max(high, profile.level[at])
    profile.block[block, LOW] = low
    profile.block[block, HIGH] = high


@njit(cache=True, inline="always")
def _break_at(profile: Profile, resource: int, slot: int, time: int) -> None:
    """Make `time` a breakpoint; `slot` is the place of its block."""
    block = profile.place[slot]
    entry = _entry_at(profile, block, time)
    if profile.time[entry] == time:
        return
    end = block * BLOCK + profile.block[block, FILLED]
    for at in range(end, entry + 1, -1):
        profile.time[at] = profile.time[at - 1]
        profile.level[at] = profile.level[at - 1]
    profile.time[entry + 1] = time
    profile.level[entry + 1] = profile.level[entry]
    profile.block[block, FILLED] += 1
    if profile.block[block, FILLED] == BLOCK:
        _split_block(profile, resource, slot)


@njit(cache=True, inline="always")
def hold(profile: Profile, resource: int, start: int, end: int, units: int) -> None:
    """Use `units` more of the resource during [start, end)."""
    first = _slot_at(profile, resource, start)
    _break_at(profile, resource, first, start)
    slot = first
    past = profile.region[resource] + profile.listed[resource]
    while slot + 1 < past and profile.head[slot + 1] <= end:
        slot += 1
    _break_at(profile, resource, slot, end)
    past = profile.region[resource] + profile.listed[resource]
    slot = first
    if slot + 1 < past and profile.head[slot + 1] <= start:
        slot += 1
    block = profile.place[slot]
    entry = _entry_at(profile, block, start)
    while True:
        begin = block * BLOCK
        if entry == begin and slot + 1 < past and profile.head[slot + 1] <= end:
            profile.block[block, ADDED] += units
        else:
            stop = begin + profile.block[block, FILLED]
            while entry < stop and profile.time[entry] < end:
                profile.level[entry] += units
                entry += 1
            _measure(profile, block)
        slot += 1
        if slot >= past or profile.head[slot] >= end:
            return
        block = profile.place[slot]
        entry = block * BLOCK
