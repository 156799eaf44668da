"""One trial: an event-driven run of the steps under their limits, highest planned priority first.

A step begins when all it waits for has ended and every limit it uses has room; among steps that wait
for one limit, the one planned earlier goes first. What the plan holds inside a step after an offset
is held from its start here, for the same length: equal offsets only move a limit's clock.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

CHAIN = 48


@njit(cache=True)
def _push(keys, values, size, key, value):  # type: ignore[no-untyped-def]
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if keys[parent] < key or (keys[parent] == key and values[parent] <= value):
            break
        keys[at] = keys[parent]
        values[at] = values[parent]
        at = parent
    keys[at] = key
    values[at] = value


@njit(cache=True)
def _pop(keys, values, size):  # type: ignore[no-untyped-def]
    """Remove the least; the heap then has size - 1 entries."""
    key = keys[size - 1]
    value = values[size - 1]
    at = 0
    last = size - 1
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        right = child + 1
        if right < last and (
            keys[right] < keys[child] or (keys[right] == keys[child] and values[right] < values[child])
        ):
            child = right
        if key < keys[child] or (key == keys[child] and value <= values[child]):
            break
        keys[at] = keys[child]
        values[at] = values[child]
        at = child
    keys[at] = key
    values[at] = value


@njit(cache=True)
def _wall(step, use_from, use_limit, use_units, free, queue, queue_from, waiting):  # type: ignore[no-untyped-def]
    """The first limit that keeps a step back: no room, or somebody planned earlier waits there; or -1."""
    for u in range(use_from[step], use_from[step + 1]):
        limit = use_limit[u]
        if free[limit] < use_units[u]:
            return limit
        if waiting[limit] > 0 and queue[queue_from[limit]] < step:
            return limit
    return -1


@njit(cache=True)
def play(  # type: ignore[no-untyped-def]
    length,
    earliest,
    waits,
    after_from,
    after_to,
    use_from,
    use_limit,
    use_units,
    use_hold,
    capacity,
    queue_from,
    horizon,
    end,
    blame,
):
    """Fill `end` (ticks; horizon + 1: never) and `blame` (the step waited for last, or -2 - limit).

    length: N drawn ticks, negative where the step fails for good; earliest: N ticks; waits: N counts
    of steps waited for; after_*: CSR step -> steps that wait for it; use_*: CSR step -> uses, hold
    negative: the whole step; queue_from: CSR limit -> room for all steps that use it.
    """
    count = length.shape[0]
    never = horizon + 1
    free = capacity.copy()
    left = waits.copy()
    size = 2 * count + use_from[count] + 1
    event_key = np.empty(size, np.int64)
    event_value = np.empty(size, np.int64)
    queue = np.empty(queue_from[capacity.shape[0]] + 1, np.int64)
    waiting = np.zeros(capacity.shape[0], np.int64)
    events = 0
    for step in range(count):
        end[step] = never
        blame[step] = -1
        if left[step] == 0:
            _push(event_key, event_value, events, earliest[step], step)
            events += 1
    while events > 0 and event_key[0] <= horizon:
        now = event_key[0]
        value = event_value[0]
        _pop(event_key, event_value, events)
        events -= 1
        if value >= count and value < 2 * count:
            step = value - count
            for a in range(after_from[step], after_from[step + 1]):
                other = after_to[a]
                left[other] -= 1
                blame[other] = step
                if left[other] == 0:
                    _push(event_key, event_value, events, max(now, earliest[other]), other)
                    events += 1
            continue
        if value < count:
            events = _admit(
                value,
                now,
                length,
                use_from,
                use_limit,
                use_units,
                use_hold,
                free,
                queue,
                queue_from,
                waiting,
                horizon,
                end,
                blame,
                event_key,
                event_value,
                events,
            )
            continue
        limit = use_limit[value - 2 * count]
        free[limit] += use_units[value - 2 * count]
        while waiting[limit] > 0:
            step = queue[queue_from[limit]]
            if free[limit] < _units_on(step, limit, use_from, use_limit, use_units):
                break
            heap = queue[queue_from[limit] : queue_from[limit + 1]]
            _pop(heap, heap, waiting[limit])
            waiting[limit] -= 1
            events = _admit(
                step,
                now,
                length,
                use_from,
                use_limit,
                use_units,
                use_hold,
                free,
                queue,
                queue_from,
                waiting,
                horizon,
                end,
                blame,
                event_key,
                event_value,
                events,
            )


@njit(cache=True)
def _units_on(step, limit, use_from, use_limit, use_units):  # type: ignore[no-untyped-def]
    total = 0
    for u in range(use_from[step], use_from[step + 1]):
        if use_limit[u] == limit:
            total = max(total, use_units[u])
    return total


@njit(cache=True)
def _admit(  # type: ignore[no-untyped-def]
    step,
    now,
    length,
    use_from,
    use_limit,
    use_units,
    use_hold,
    free,
    queue,
    queue_from,
    waiting,
    horizon,
    end,
    blame,
    event_key,
    event_value,
    events,
):
    """Begin a step, or let it wait at the limit that keeps it back. Returns the number of events."""
    count = length.shape[0]
    wall = _wall(step, use_from, use_limit, use_units, free, queue, queue_from, waiting)
    if wall >= 0:
        heap = queue[queue_from[wall] : queue_from[wall + 1]]
        _push(heap, heap, waiting[wall], step, step)
        waiting[wall] += 1
        blame[step] = -2 - wall
        return events
    for u in range(use_from[step], use_from[step + 1]):
        free[use_limit[u]] -= use_units[u]
        held = use_hold[u]
        if held < 0:
            held = abs(length[step])
        _push(event_key, event_value, events, now + held, 2 * count + u)
        events += 1
    if length[step] >= 0 and now + length[step] <= horizon:
        end[step] = now + length[step]
        _push(event_key, event_value, events, end[step], count + step)
        events += 1
    return events


@njit(cache=True, parallel=True)
def play_all(  # type: ignore[no-untyped-def]
    lengths,
    earliest,
    waits,
    after_from,
    after_to,
    use_from,
    use_limit,
    use_units,
    use_hold,
    capacity,
    queue_from,
    horizon,
    watched,
    ends,
    chains,
):
    """Trials side by side, each into its own row: ends (T, N), chains (T, CHAIN) of the last of `watched`."""
    trials = lengths.shape[0]
    count = lengths.shape[1]
    for trial in prange(trials):
        blame = np.empty(count, np.int64)
        play(
            lengths[trial],
            earliest,
            waits,
            after_from,
            after_to,
            use_from,
            use_limit,
            use_units,
            use_hold,
            capacity,
            queue_from,
            horizon,
            ends[trial],
            blame,
        )
        worst = -1
        for w in range(watched.shape[0]):
            step = watched[w]
            if ends[trial, step] <= horizon and (worst < 0 or ends[trial, step] > ends[trial, worst]):
                worst = step
        at = worst
        for slot in range(CHAIN):
            chains[trial, slot] = at
            if at == -1:
                break
            at = blame[at] if at >= 0 else -1
