"""One trial: an event-driven run of the steps under their limits, highest planned priority first.

A step begins when all it waits for has ended and every limit it uses has capacity; among steps that wait
for one limit, the one planned earlier goes first. What the plan holds inside a step after an offset
is held from its start here, for the same length: equal offsets only move a limit's clock.

Everything that ends at one tick ends together; then steps that became ready begin or queue, and then every
queue with new capacity advances. Events are kept in buckets, one per tick up to a hundred thousand ticks: a
trial has tens of thousands, and a heap would take most of its time.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import allocating_inner, inner, parallel_kernel, prange

Ints = NDArray[np.int64]

CHAIN = 48
PASSED_OVER = 8
"""Steps held back by other limits that one release skips: draining whole queues is quadratic."""

BUCKETS = 1 << 17


class Net(NamedTuple):
    """What all trials share. waits: N counts of steps waited for; after_*: CSR step -> steps that wait
    for it; use_*: CSR step -> uses, those held alike together, hold negative: the whole step; groups_from:
    CSR step -> groups of uses held alike; group_from: CSR group -> its uses; queue_from: CSR limit ->
    capacity for all steps that use it."""

    waits: Any
    after_from: Any
    after_to: Any
    use_from: Any
    use_limit: Any
    use_units: Any
    use_hold: Any
    groups_from: Any
    group_from: Any
    capacity: Any
    queue_from: Any
    horizon: Any


class Run(NamedTuple):
    """One trial. length: N drawn ticks, negative where the step fails for good; end: N ticks, horizon
    + 1 is never; blame: the step waited for last, or -2 - limit; free: capacity of each limit; queue,
    waiting: a heap of steps a limit; ready: a heap of steps; made: releases of each limit at this tick;
    roomy: a heap of limits that had any; first, after, when: events by bucket, a step that ends or N + a
    group that is released; count: of events that lie ahead, of ready steps, of roomy limits."""

    length: Any
    end: Any
    blame: Any
    left: Any
    free: Any
    queue: Any
    waiting: Any
    ready: Any
    made: Any
    roomy: Any
    first: Any
    after: Any
    when: Any
    count: Any


AHEAD, READY, ROOMY = 0, 1, 2


@inner
def _push(heap, size, key):
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if heap[parent] <= key:
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = key


@inner
def _pop(heap, size):
    """Removes the least; the heap then has size - 1 entries."""
    key = heap[size - 1]
    at = 0
    last = size - 1
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        if child + 1 < last and heap[child + 1] < heap[child]:
            child += 1
        if key <= heap[child]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key


@inner
def _bucket(net, run, tick):
    return tick * run.first.shape[0] // (net.horizon + 1)


@inner
def _later(net, run, event, tick):
    """Schedules an event at a tick; events beyond the horizon are dropped."""
    if tick > net.horizon:
        return
    place = _bucket(net, run, tick)
    run.when[event] = tick
    run.after[event] = run.first[place]
    run.first[place] = event
    run.count[AHEAD] += 1


@inner
def _wall(net, run, step):
    """The first limit that holds a step back (no capacity, or an earlier-planned step waits there), or -1."""
    for u in range(net.use_from[step], net.use_from[step + 1]):
        limit = net.use_limit[u]
        if run.free[limit] < net.use_units[u]:
            return limit
        if run.waiting[limit] > 0 and run.queue[net.queue_from[limit]] < step:
            return limit
    return -1


@inner
def _admit(net, run, step, now):
    """Begins a step, or queues it at the limit that holds it back. Returns whether it begins."""
    wall = _wall(net, run, step)
    if wall >= 0:
        _push(run.queue[net.queue_from[wall] : net.queue_from[wall + 1]], run.waiting[wall], step)
        run.waiting[wall] += 1
        run.blame[step] = -2 - wall
        return False
    length = run.length[step]
    for u in range(net.use_from[step], net.use_from[step + 1]):
        run.free[net.use_limit[u]] -= net.use_units[u]
    for g in range(net.groups_from[step], net.groups_from[step + 1]):
        hold = net.use_hold[net.group_from[g]]
        _later(net, run, run.length.shape[0] + g, now + (hold if hold >= 0 else abs(length)))
    if length >= 0 and now + length <= net.horizon:
        run.end[step] = now + length
        _later(net, run, step, run.end[step])
    return True


@inner
def _ended(net, run, step, now):
    """Steps that waited only for this one become ready."""
    for a in range(net.after_from[step], net.after_from[step + 1]):
        other = net.after_to[a]
        run.left[other] -= 1
        before = run.blame[other]
        if before < step or run.end[before] < now:
            run.blame[other] = step
        if run.left[other] == 0:
            _push(run.ready, run.count[READY], other)
            run.count[READY] += 1


@inner
def _released(net, run, group):
    for u in range(net.group_from[group], net.group_from[group + 1]):
        limit = net.use_limit[u]
        run.free[limit] += net.use_units[u]
        if run.made[limit] == 0:
            _push(run.roomy, run.count[ROOMY], limit)
            run.count[ROOMY] += 1
        run.made[limit] += 1


@inner
def _happen(net, run, now):
    """Processes all events of this tick, the first that has any."""
    place = _bucket(net, run, now)
    event, kept = run.first[place], -1
    while event >= 0:
        following = run.after[event]
        if run.when[event] != now:
            run.after[event] = kept
            kept = event
        else:
            run.count[AHEAD] -= 1
            if event < run.length.shape[0]:
                _ended(net, run, event, now)
            else:
                _released(net, run, event - run.length.shape[0])
        event = following
    run.first[place] = kept


@inner
def _next_tick(net, run, now):
    """The first tick from `now` on that has an event; there is one."""
    place = _bucket(net, run, now)
    while run.first[place] < 0:
        place += 1
    event = run.first[place]
    tick = run.when[event]
    while event >= 0:
        tick = min(tick, run.when[event])
        event = run.after[event]
    return tick


@inner
def _let_in(net, run, limit, now, patience):
    """Admits waiting steps, earliest planned first, while there is capacity and patience with those that
    cannot begin.
    """
    while run.waiting[limit] > 0 and patience > 0:
        step = run.queue[net.queue_from[limit]]
        units = 0
        for u in range(net.use_from[step], net.use_from[step + 1]):
            if net.use_limit[u] == limit:
                units = max(units, net.use_units[u])
        if run.free[limit] < units:
            break
        _pop(run.queue[net.queue_from[limit] : net.queue_from[limit + 1]], run.waiting[limit])
        run.waiting[limit] -= 1
        if not _admit(net, run, step, now):
            patience -= 1


@inner
def _begin(net, run, now):
    """Ready steps begin or queue; then queues with new capacity advance."""
    while run.count[READY] > 0:
        step = run.ready[0]
        _pop(run.ready, run.count[READY])
        run.count[READY] -= 1
        _admit(net, run, step, now)
    while run.count[ROOMY] > 0:
        limit = run.roomy[0]
        _pop(run.roomy, run.count[ROOMY])
        run.count[ROOMY] -= 1
        patience = PASSED_OVER * run.made[limit]
        run.made[limit] = 0
        _let_in(net, run, limit, now, patience)


@inner
def _left_waiting(net, run, now):
    """Nothing is running any more: steps still waiting are admitted without a limit of patience."""
    for limit in range(net.capacity.shape[0]):
        if run.count[AHEAD] == 0:
            _let_in(net, run, limit, now, run.length.shape[0] + 1)


@allocating_inner
def play(net, length, end, blame):
    """One trial: fills `end` and `blame`, N each."""
    count, limits = length.shape[0], net.capacity.shape[0]
    events = count + net.groups_from[count]
    run = Run(
        length,
        end,
        blame,
        np.copy(net.waits),
        np.copy(net.capacity),
        np.empty(net.queue_from[limits] + 1, np.int64),
        np.zeros(limits, np.int64),
        np.empty(count + 1, np.int64),
        np.zeros(limits, np.int64),
        np.empty(limits + 1, np.int64),
        np.full(min(net.horizon + 1, BUCKETS), -1, np.int64),
        np.empty(events, np.int64),
        np.empty(events, np.int64),
        np.zeros(3, np.int64),
    )
    for step in range(count):
        end[step] = net.horizon + 1
        blame[step] = -1
        if run.left[step] == 0:
            _push(run.ready, run.count[READY], step)
            run.count[READY] += 1
    now = 0
    _begin(net, run, now)
    while True:
        if run.count[AHEAD] == 0:
            _left_waiting(net, run, now)
        if run.count[AHEAD] == 0:
            break
        now = _next_tick(net, run, now)
        _happen(net, run, now)
        _begin(net, run, now)


@parallel_kernel
def play_all(net: Net, lengths: Ints, watched: Ints, ends: Ints, chains: Ints) -> None:
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
