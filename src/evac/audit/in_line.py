"""Standing in line: one pass of list scheduling over components that wait for each other.

Whenever the next start may happen, the ready component of the highest rank goes first; checks follow
starts, and traffic is moved in the order in which checks end. For questions asked of many losses at
once, where one schedule a loss is enough.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evac.model.fleet import BoolColumn, IntColumn
from evac.planning.compiled import allocating_kernel, inner

UNLIMITED = -1
"""Stands for a limit that is not known."""


class Lists(NamedTuple):
    """Lists of numbers: list i is `number[start[i]:start[i + 1]]`."""

    start: IntColumn
    number: IntColumn


class Ways(NamedTuple):
    """By component: those that need it and whether they do to start, those it needs, those it needs to start,
    its services, its families of stores and those it needs to start."""

    behind: Lists
    starts_behind: BoolColumn
    needs: Lists
    first: Lists
    members: Lists
    families: Lists
    first_families: Lists


class Pace(NamedTuple):
    """By component: check, the slowest of its services, rank, and urgent: tools and what they need, which
    wait for each other only; by service: component, start, change, settle (ms), traffic: its kind."""

    check: IntColumn
    rank: IntColumn
    urgent: BoolColumn
    component: IntColumn
    start: IntColumn
    change: IntColumn
    settle: IntColumn
    traffic: IntColumn


class Gates(NamedTuple):
    """What all wait for under one loss (ms): released; boots, starts, checks, shifts: when their tools are
    back, starts_by_hand where they are not. boot: one boot, boots_at_once; window: in which `scale`
    starts may begin, UNLIMITED without a rate; manual: a start by hand, hands at once. Limits may be
    UNLIMITED. Starts are counted in parts of a millisecond, `scale` to one, so that none is rounded."""

    released: int
    boots: int
    starts: int
    checks: int
    shifts: int
    starts_by_hand: bool
    boot: int
    boots_at_once: int
    scale: int
    window: int
    manual: int
    hands: int


class Asked(NamedTuple):
    """By service: starts, how many; moves: its traffic; boots: dark servers up before its last one.
    live, by component: down, and comes back; freed: how long people take before it can start; stores, by
    family: when it is back (ms)."""

    starts: IntColumn
    moves: BoolColumn
    boots: IntColumn
    live: BoolColumn
    freed: IntColumn
    stores: IntColumn


class _Run(NamedTuple):
    """By component: begin, serve: when it may start and be checked; open, waits: how many of those that it
    needs to start, and at all, are not there yet; started: when its starts have ended, -1 before; starting:
    whether it has any. coming, waiting: heaps, length: of both; slots (kinds, at once): when each is free,
    empty without a limit; ready: by service."""

    begin: IntColumn
    serve: IntColumn
    open: IntColumn
    waits: IntColumn
    started: IntColumn
    starting: BoolColumn
    coming: IntColumn
    waiting: IntColumn
    length: IntColumn
    slots: IntColumn
    ready: IntColumn


def lists_of(rows: tuple[tuple[int, ...], ...]) -> Lists:
    """Rows of numbers as two columns."""
    start = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Lists(start, np.array([number for row in rows for number in row], np.int64))


@allocating_kernel
def in_line(ways: Ways, pace: Pace, gates: Gates, asked: Asked, slots: IntColumn) -> IntColumn:
    """(S,) when each service is back that is asked for; 0 for all others.

    slots (kinds, at once): zeros, one column a change of traffic that may go on at once; used up.
    """
    components = pace.rank.shape[0]
    run = _Run(
        np.full(components, gates.released),
        np.full(components, gates.released),
        np.zeros(components, np.int64),
        np.zeros(components, np.int64),
        np.full(components, -1),
        np.zeros(components, np.bool_),
        np.zeros(components + 1, np.int64),
        np.zeros(components + 1, np.int64),
        np.zeros(2, np.int64),
        slots,
        np.zeros(asked.starts.shape[0], np.int64),
    )
    for service in range(asked.starts.shape[0]):
        if asked.starts[service] > 0:
            run.starting[pace.component[service]] = True
    for number in range(components):
        if asked.live[number]:
            run.begin[number] += asked.freed[number]
            for place in range(ways.needs.start[number], ways.needs.start[number + 1]):
                run.waits[number] += asked.live[ways.needs.number[place]]
            for place in range(ways.first.start[number], ways.first.start[number + 1]):
                run.open[number] += asked.live[ways.first.number[place]]
            for place in range(ways.families.start[number], ways.families.start[number + 1]):
                run.serve[number] = max(run.serve[number], asked.stores[ways.families.number[place]])
            if run.open[number] == 0:
                _announce(ways, asked, run, number)
    _serve(ways, pace, gates, asked, run)
    return run.ready


@inner
def _serve(ways: Ways, pace: Pace, gates: Gates, asked: Asked, run: _Run) -> None:
    components = pace.rank.shape[0]
    free = gates.released * gates.scale
    while run.length[0] > 0 or run.length[1] > 0:
        if run.length[1] == 0:
            free = max(free, _time(run.coming[0], components) * gates.scale)
        while run.length[0] > 0 and _time(run.coming[0], components) * gates.scale <= free:
            key = _pop(run.coming, run.length, 0)
            number, at = key % components, _time(key, components)
            if key // components % 2 == 1:
                _shift(ways, pace, gates, asked, run, number, at)
            elif run.starting[number]:
                _push(run.waiting, run.length, 1, -pace.rank[number] * components + number)
            else:
                _started(pace, gates, run, number, at)
        if run.length[1] > 0:
            key = _pop(run.waiting, run.length, 1)
            free = _start_all(ways, pace, gates, asked, run, key % components, free)


@inner
def _time(key: int, components: int) -> int:
    """When an entry of what is coming is due. It holds, gravest first: time, whether checked, component."""
    return key // components // 2


@inner
def _announce(ways: Ways, asked: Asked, run: _Run, number: int) -> None:
    """All that a component needs to start is there; its stores may still be on the way."""
    for place in range(ways.first_families.start[number], ways.first_families.start[number + 1]):
        run.begin[number] = max(run.begin[number], asked.stores[ways.first_families.number[place]])
    components = run.begin.shape[0]
    _push(run.coming, run.length, 0, run.begin[number] * 2 * components + number)


@inner
def _started(pace: Pace, gates: Gates, run: _Run, number: int, at: int) -> None:
    """The starts of a component have ended: it is checked once all that it needs is there."""
    run.started[number] = at
    if run.waits[number] == 0:
        _check(pace, gates, run, number, max(at, run.serve[number]))


@inner
def _check(pace: Pace, gates: Gates, run: _Run, number: int, started: int) -> None:
    tools = 0 if pace.urgent[number] else gates.checks
    done = max(started, tools) + pace.check[number]
    components = run.begin.shape[0]
    _push(run.coming, run.length, 0, (done * 2 + 1) * components + number)


@inner
def _shift(ways: Ways, pace: Pace, gates: Gates, asked: Asked, run: _Run, number: int, at: int) -> None:
    """Move the traffic of a component, then tell those that wait for it."""
    done = at
    first, last = ways.members.start[number], ways.members.start[number + 1]
    for place in range(first, last):
        service = ways.members.number[place]
        if asked.moves[service]:
            tools = 0 if pace.urgent[number] else gates.shifts
            begin = _take(run.slots, pace.traffic[service], max(at, tools), pace.change[service])
            done = max(done, begin + pace.change[service] + pace.settle[service])
    for place in range(first, last):
        run.ready[ways.members.number[place]] = done
    for place in range(ways.behind.start[number], ways.behind.start[number + 1]):
        other = ways.behind.number[place]
        if asked.live[other]:
            run.serve[other] = max(run.serve[other], done)
            run.waits[other] -= 1
            if run.waits[other] == 0 and run.started[other] >= 0:
                _check(pace, gates, run, other, max(run.started[other], run.serve[other]))
            if ways.starts_behind[place]:
                run.begin[other] = max(run.begin[other], done)
                run.open[other] -= 1
                if run.open[other] == 0:
                    _announce(ways, asked, run, other)


@inner
def _take(slots: IntColumn, kind: int, ready: int, duration: int) -> int:
    """When a holder that is ready at some time begins; the slot that is free first serves it."""
    if slots.shape[1] == 0:
        return ready
    first = 0
    for slot in range(slots.shape[1]):
        if slots[kind, slot] < slots[kind, first]:
            first = slot
    begin: int = max(ready, slots[kind, first])
    slots[kind, first] = begin + duration
    return begin


@inner
def _start_all(ways: Ways, pace: Pace, gates: Gates, asked: Asked, run: _Run, number: int, free: int) -> int:
    """Starts fill the company's rate, or the hands of people where the tools do not come back."""
    latest = 0
    for place in range(ways.members.start[number], ways.members.start[number + 1]):
        service, end = ways.members.number[place], run.begin[number]
        if asked.starts[service] > 0:
            begin = max(run.begin[number], _boots(gates, asked.boots[service]))
            if gates.starts_by_hand and not pace.urgent[number]:
                free, end = _by_hand(gates, asked.starts[service], pace.start[service], begin, free)
            else:
                begin = max(begin, 0 if pace.urgent[number] else gates.starts)
                free, end = _by_tools(gates, asked.starts[service], pace.start[service], begin, free)
        latest = max(latest, end)
    _started(pace, gates, run, number, latest)
    return free


@inner
def _by_tools(gates: Gates, count: int, duration: int, begin: int, free: int) -> tuple[int, int]:
    if gates.window == UNLIMITED:
        return free, begin + duration
    first, used = max(begin * gates.scale, free), count * gates.window
    last = first + max(0, used - gates.window * gates.scale)
    return first + used, -(-last // gates.scale) + duration


@inner
def _by_hand(gates: Gates, count: int, duration: int, begin: int, free: int) -> tuple[int, int]:
    manual = max(duration, gates.manual)
    waves = 1 if gates.hands == UNLIMITED else -(-count // max(1, gates.hands))
    last = max(free, begin * gates.scale) + (waves - 1) * manual * gates.scale
    return last, -(-last // gates.scale) + manual


@inner
def _boots(gates: Gates, rank: int) -> int:
    """When the server of some rank at its site is up."""
    if rank == 0:
        return 0
    waves = 1 if gates.boots_at_once == UNLIMITED else -(-rank // max(1, gates.boots_at_once))
    return max(gates.released, gates.boots) + waves * gates.boot


@inner
def _push(heap: IntColumn, length: IntColumn, which: int, key: int) -> None:
    place = length[which]
    length[which] += 1
    while place > 0 and heap[(place - 1) // 2] > key:
        heap[place] = heap[(place - 1) // 2]
        place = (place - 1) // 2
    heap[place] = key


@inner
def _pop(heap: IntColumn, length: IntColumn, which: int) -> int:
    top: int = heap[0]
    length[which] -= 1
    size, place = length[which], 0
    key = heap[size]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key
    return top
