"""One trial: an event-driven run of the steps under their limits, highest planned priority first.

A step begins when all it waits for has ended and every limit it uses has room; among steps that wait
for one limit, the one planned earlier goes first. What the plan holds inside a step after an offset
is held from its start here, for the same length: equal offsets only move a limit's clock.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from evac.planning.compiled import allocating_kernel, kernel, njit, prange

CHAIN = 48
PASSED_OVER = 8
"""Steps held back elsewhere that one release looks past: draining whole queues costs their square."""


class Net(NamedTuple):
    """What all trials share. waits: N counts of steps waited for; after_*: CSR step -> steps that wait
    for it; use_*: CSR step -> uses, hold negative: the whole step; queue_from: CSR limit -> room for
    all steps that use it."""

    waits: Any
    after_from: Any
    after_to: Any
    use_from: Any
    use_limit: Any
    use_units: Any
    use_hold: Any
    capacity: Any
    queue_from: Any
    horizon: Any


class Run(NamedTuple):
    """One trial. length: N drawn ticks, negative where the step fails for good; end: N ticks, horizon
    + 1 is never; blame: the step waited for last, or -2 - limit; free: room of each limit; queue,
    waiting: a heap of steps a limit; event_*: a heap of (tick, what)."""

    length: Any
    end: Any
    blame: Any
    left: Any
    free: Any
    queue: Any
    waiting: Any
    event_key: Any
    event_value: Any


@kernel
def _push(keys, values, size, key, value):
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


@kernel
def _pop(keys, values, size):
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


@kernel
def _wall(net, run, step):
    """The first limit that keeps a step back: no room, or somebody planned earlier waits there; or -1."""
    for u in range(net.use_from[step], net.use_from[step + 1]):
        limit = net.use_limit[u]
        if run.free[limit] < net.use_units[u]:
            return limit
        if run.waiting[limit] > 0 and run.queue[net.queue_from[limit]] < step:
            return limit
    return -1


@kernel
def _admit(net, run, step, now, events):
    """Begin a step, or let it wait at the limit that keeps it back. Returns the number of events."""
    count = run.length.shape[0]
    wall = _wall(net, run, step)
    if wall >= 0:
        heap = run.queue[net.queue_from[wall] : net.queue_from[wall + 1]]
        _push(heap, heap, run.waiting[wall], step, step)
        run.waiting[wall] += 1
        run.blame[step] = -2 - wall
        return events
    length = run.length[step]
    for u in range(net.use_from[step], net.use_from[step + 1]):
        run.free[net.use_limit[u]] -= net.use_units[u]
        held = net.use_hold[u] if net.use_hold[u] >= 0 else abs(length)
        _push(run.event_key, run.event_value, events, now + held, 2 * count + u)
        events += 1
    if length >= 0 and now + length <= net.horizon:
        run.end[step] = now + length
        _push(run.event_key, run.event_value, events, run.end[step], count + step)
        events += 1
    return events


@kernel
def _ended(net, run, step, now, events):
    """Steps that waited for this one alone are ready now."""
    for a in range(net.after_from[step], net.after_from[step + 1]):
        other = net.after_to[a]
        run.left[other] -= 1
        run.blame[other] = step
        if run.left[other] == 0:
            _push(run.event_key, run.event_value, events, now, other)
            events += 1
    return events


@kernel
def _let_in(net, run, limit, now, events, patience):
    """Let in who waits, earliest planned first, while there is room and patience with who cannot."""
    while run.waiting[limit] > 0 and patience > 0:
        step = run.queue[net.queue_from[limit]]
        units = 0
        for u in range(net.use_from[step], net.use_from[step + 1]):
            if net.use_limit[u] == limit:
                units = max(units, net.use_units[u])
        if run.free[limit] < units:
            break
        heap = run.queue[net.queue_from[limit] : net.queue_from[limit + 1]]
        _pop(heap, heap, run.waiting[limit])
        run.waiting[limit] -= 1
        before = events
        events = _admit(net, run, step, now, events)
        if events == before:
            patience -= 1
    return events


@kernel
def _left_waiting(net, run, now, events):
    """Nothing is under way any more: whoever still waits is let in without a limit of patience."""
    for limit in range(net.capacity.shape[0]):
        if events == 0:
            events = _let_in(net, run, limit, now, events, run.length.shape[0] + 1)
    return events


@allocating_kernel
def play(net, length, end, blame):
    """One trial: fills `end` and `blame`, N each."""
    count = length.shape[0]
    size = 2 * count + net.use_from[count] + 1
    run = Run(
        length,
        end,
        blame,
        net.waits.copy(),
        net.capacity.copy(),
        np.empty(net.queue_from[net.capacity.shape[0]] + 1, np.int64),
        np.zeros(net.capacity.shape[0], np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
    )
    events = 0
    for step in range(count):
        end[step] = net.horizon + 1
        blame[step] = -1
        if run.left[step] == 0:
            _push(run.event_key, run.event_value, events, 0, step)
            events += 1
    while events > 0 and run.event_key[0] <= net.horizon:
        now = run.event_key[0]
        what = run.event_value[0]
        _pop(run.event_key, run.event_value, events)
        events -= 1
        if what < count:
            events = _admit(net, run, what, now, events)
        elif what < 2 * count:
            events = _ended(net, run, what - count, now, events)
        else:
            limit = net.use_limit[what - 2 * count]
            run.free[limit] += net.use_units[what - 2 * count]
            events = _let_in(net, run, limit, now, events, PASSED_OVER)
        if events == 0:
            events = _left_waiting(net, run, now, events)


@njit(cache=True, parallel=True)
def play_all(net, lengths, watched, ends, chains):
    """Trials side by side, each into its own row: ends (T, N), chains (T, CHAIN) of the last of `watched`."""
    trials = lengths.shape[0]
    for trial in prange(trials):
        blame = np.empty(lengths.shape[1], np.int64)
        play(net, lengths[trial], ends[trial], blame)
        worst = -1
        for w in range(watched.shape[0]):
            step = watched[w]
            if ends[trial, step] <= net.horizon and (worst < 0 or ends[trial, step] > ends[trial, worst]):
                worst = step
        at = worst
        for slot in range(CHAIN):
            chains[trial, slot] = at
            if at == -1:
                break
            at = blame[at] if at >= 0 else -1
