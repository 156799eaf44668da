"""A constructive schedule of one large loss: who is back when, if all stand in line for shared limits.

List scheduling: whenever the next start may happen, the ready service with the most people behind it
goes first. Held at once are starts, promotions, fences, boots, traffic changes and hands. Every time
is one that a plan could reach, within the roundings named in `placing`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from evac.audit.closure import Order, RowNumbers
from evac.audit.recovery import Recovery, Times
from evac.audit.stores import NEVER, Outcome, StoreHits
from evac.model.affected import ServiceGraph
from evac.model.domain import Topology, site_of
from evac.model.estate import Estate, Store
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.steps import StepKind


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """What all large losses of an estate share, as plain numbers, which a loop reads quicker.

    By component: waiting: components that need it, needed: those it needs, members, families of
    stores, verify: slowest check, rank: people behind it, weighted by tier and passed down its
    dependencies, as a place among all services; tools and what they need go before all else.
    By service: component, start, change, settle (milliseconds), traffic: kind. family_rank: of
    the most wanted service that needs a family; urgent: components of tools and what they need.
    columns: component, start, change, settle and verify, (5, S); places: rank by component.
    """

    waiting: tuple[tuple[int, ...], ...]
    needed: tuple[tuple[int, ...], ...]
    members: tuple[tuple[int, ...], ...]
    families: tuple[tuple[str, ...], ...]
    verify: tuple[int, ...]
    rank: tuple[int, ...]
    component: tuple[int, ...]
    start: tuple[int, ...]
    change: tuple[int, ...]
    settle: tuple[int, ...]
    traffic: tuple[str, ...]
    family_rank: dict[str, int]
    urgent: frozenset[int]
    boots_at_once: int | None
    columns: IntColumn
    places: IntColumn


def line_of(estate: Estate, graph: ServiceGraph, order: Order, times: Times) -> Line:
    """Priorities and the reversed order of components."""
    needed = tuple(tuple(sorted({order.component[other] for other in outside})) for outside in order.outside)
    waiting: list[list[int]] = [[] for _ in order.members]
    for number in range(len(needed) - 1, -1, -1):
        for other in needed[number]:
            waiting[other].append(number)
    priority = _priorities(estate, order, needed)
    family_rank: dict[str, int] = {}
    for service, names in enumerate(graph.families):
        for name in names:
            family_rank[name] = max(family_rank.get(name, 0), priority[service])
    urgent = frozenset(times.tool_closure)
    verify, first = times.verify.tolist(), len(priority)
    rank = tuple(
        (first if number in urgent else 0) + max(priority[s] for s in members)
        for number, members in enumerate(order.members)
    )
    return Line(
        waiting=tuple(map(tuple, waiting)),
        needed=needed,
        members=order.members,
        families=tuple(tuple(f for s in members for f in graph.families[s]) for members in order.members),
        verify=tuple(max(verify[s] for s in members) for members in order.members),
        rank=rank,
        component=order.component,
        start=tuple(times.start.tolist()),
        change=tuple(times.change.tolist()),
        settle=tuple(times.settle.tolist()),
        traffic=tuple(s.traffic.kind or "none" for s in estate.services),
        family_rank=family_rank,
        urgent=urgent,
        boots_at_once=_boots_at_once(estate),
        columns=np.stack(
            [np.array(order.component, np.int64), times.start, times.change, times.settle, times.verify]
        ),
        places=np.array(rank, np.int64),
    )


def _priorities(estate: Estate, order: Order, needed: tuple[tuple[int, ...], ...]) -> list[int]:
    """Place of each service among all by the people behind it, fewest first."""
    last = len(estate.tier_weights) - 1
    weight = np.array(
        [(s.people or 0) * estate.tier_weights[last if s.tier is None else min(s.tier, last)] + 1
         for s in estate.services], np.float64)  # fmt: skip
    pushed = [float(weight[list(members)].sum()) for members in order.members]
    for number in range(len(order.members) - 1, -1, -1):
        for other in needed[number]:
            pushed[other] += pushed[number]
    priority = np.array([pushed[c] for c in order.component])
    rank = np.empty(len(priority), np.int64)
    rank[np.lexsort((np.arange(len(priority)), priority))] = np.arange(len(priority))
    found: list[int] = rank.tolist()
    return found


def _boots_at_once(estate: Estate) -> int | None:
    """Boots that feeds and boot servers of the tightest site allow at once; None if neither is known."""
    found = []
    for site in estate.sites:
        feeds = [f.boots_at_once for f in estate.feeds if f.site == site.id]
        servers = [b.boots_at_once for b in estate.boot_servers if b.site in (site.id, None)]
        for slots in (feeds, servers):
            known = [s for s in slots if s is not None]
            if known and len(known) == len(slots):
                found.append(sum(known))
    return min(found, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One loss for the scheduler: its rows of `recovery.Damage`, the services named there with
    what they start and move, and boot ranks."""

    number: int
    rows: RowNumbers
    named: IndexColumn
    starts: IntColumn
    shift: BoolColumn
    boot_rank: IntColumn


class _Slots:
    """So many at once; the next one that is free serves first."""

    def __init__(self, at_once: int | None) -> None:
        self._free: list[int] | None = None if at_once is None else [0] * max(1, at_once)

    def take(self, ready: int, duration: int) -> int:
        """When a holder that is ready at some time and holds for `duration` begins."""
        if self._free is None:
            return ready
        begin = max(ready, heapq.heappop(self._free))
        heapq.heappush(self._free, begin + duration)
        return begin


@dataclass(frozen=True, slots=True, eq=False)
class Scheduled:
    """reads: all that one schedule follows from, to be compared; ready: times of the services named."""

    reads: tuple[object, ...]
    ready: IntColumn


def schedule(
    top: Topology,
    times: Times,
    line: Line,
    hits: StoreHits,
    chains: Recovery,
    task: Task,
    known: Scheduled | None = None,
) -> Scheduled:
    """Ready times of the services named by one loss, never sooner than their chains.

    known: an earlier schedule of the same loss, of an estate where the same stands at the same places;
    it is kept if nothing that it follows from has changed.
    """
    soonest = chains.ready[task.rows]
    stores = _stores_in_line(top.estate, line, hits, task.number)
    reads = _reads(top.estate, times, line, chains, task, stores)
    if known is not None and known.reads == reads:
        return known
    run = _Run(top, times, line, chains, task, soonest)
    run.stores(stores)
    ready = run.services()
    return Scheduled(
        reads, np.maximum(np.array([ready.get(s, 0) for s in task.named.tolist()], np.int64), soonest)
    )


def _stores_in_line(
    estate: Estate, line: Line, hits: StoreHits, number: int
) -> tuple[tuple[Store, Outcome], ...]:
    """Lost stores that come back, in the order of what waits behind them."""
    lost = [(row, found) for row, found in hits.under(number) if found.lost and found.ready_ms < NEVER]
    lost.sort(key=lambda pair: (-line.family_rank.get(estate.stores[pair[0]].family, -1), pair[0]))
    return tuple((estate.stores[row], found) for row, found in lost)


def _reads(
    estate: Estate,
    times: Times,
    line: Line,
    chains: Recovery,
    task: Task,
    stores: tuple[tuple[Store, Outcome], ...],
) -> tuple[object, ...]:
    """All that one schedule follows from. Of ranks only their order counts."""
    named = task.named.tolist()
    columns = line.columns[:, task.named]
    numbers = np.unique(columns[0])
    components = numbers.tolist()
    tools = tuple(int(ready[task.number]) for ready in chains.tool_ready.values())
    return (
        (estate.limits, line.boots_at_once, times.starts, times.manual, times.boot),
        (int(chains.released[task.number]), tools, stores),
        task.named.tobytes(), task.starts.tobytes(), task.shift.tobytes(), task.boot_rank.tobytes(),
        chains.ready[task.rows].tobytes(), columns.tobytes(), np.argsort(line.places[numbers]).tobytes(),
        [line.traffic[service] for service in named], line.urgent.intersection(components),
        [line.needed[number] for number in components],
        [line.families[number] for number in components],
    )  # fmt: skip


class _Run:
    """One schedule. Components are live that are down and come back; all members of one do alike."""

    def __init__(
        self, top: Topology, times: Times, line: Line, chains: Recovery, task: Task, soonest: IntColumn
    ) -> None:
        self._top, self._times, self._line = top, times, line
        named = task.named.tolist()
        self._starts = {s: count for s, count in zip(named, task.starts.tolist(), strict=True) if count}
        self._moves = set(task.named[task.shift].tolist())
        self._boot_rank = dict(zip(named, task.boot_rank.tolist(), strict=True))
        back = task.named[soonest < NEVER].tolist()
        self._live = {line.component[s] for s in back}
        self._starting = {line.component[s] for s in self._starts}
        limits = top.estate.limits
        self._tool = {kind: int(ready[task.number]) for kind, ready in chains.tool_ready.items()}
        self._shifts: dict[str, _Slots] = {}
        self._limits = limits
        self._store_ready: dict[str, int] = {}
        self._ready: dict[int, int] = {}
        # The rate of starts is counted in parts of a millisecond, so that no start is rounded.
        self._scale = 1 if limits.starts is None else max(1, limits.starts.count)
        self._released = int(chains.released[task.number])
        self._open: dict[int, int] = {}
        self._begin = dict.fromkeys(self._live, self._released)
        self._coming: list[tuple[int, bool, int]] = []

    def stores(self, lost: tuple[tuple[Store, Outcome], ...]) -> None:
        """Fences and promotions in the order of what waits behind them."""
        fences = _Slots(self._limits.fences_at_once)
        promotions: dict[tuple[str, str], _Slots] = {}
        begin = max(self._released, self._tool_wait("fence"), self._tool_wait("promote"))
        for store, outcome in lost:
            at = min(
                (c for c in outcome.copies if c.ready_ms + store.fence_ms == outcome.ready_ms),
                key=lambda c: c.at,
            ).at
            fenced = fences.take(begin, store.fence_ms) + store.fence_ms
            site = site_of(self._top, at) or ""
            slots = promotions.setdefault((store.engine, site), _Slots(self._limits.promotions_at_once))
            duration = outcome.ready_ms - store.fence_ms
            back = slots.take(fenced, duration) + duration
            known = self._store_ready.get(store.family)
            self._store_ready[store.family] = back if known is None else min(known, back)

    def _tool_wait(self, kind: StepKind, number: int = -1) -> int:
        """When steps of a kind can begin; 0 where people do them by hand instead.

        Tools and what they need wait for each other as their chains say, which hold in any case.
        """
        ready = self._tool[kind]
        return 0 if ready >= NEVER or number in self._line.urgent else ready

    def services(self) -> dict[int, int]:
        """Starts in line, most people first among those that are ready; traffic in order of being checked."""
        for number in self._live:
            self._open[number] = sum(other in self._live for other in self._line.needed[number])
            if not self._open[number]:
                self._announce(number)
        ready: list[tuple[int, int]] = []
        free = self._released * self._scale
        while self._coming or ready:
            if not ready:
                free = max(free, self._coming[0][0] * self._scale)
            while self._coming and self._coming[0][0] * self._scale <= free:
                at, checked, number = heapq.heappop(self._coming)
                if checked:
                    self._shift(number, at)
                elif number in self._starting:
                    heapq.heappush(ready, (-self._line.rank[number], number))
                else:
                    self._check(number, at)
            if ready:
                number = heapq.heappop(ready)[1]
                free = self._start_all(number, free)
        return self._ready

    def _announce(self, number: int) -> None:
        """All a component waited for is there; its stores may still be on the way."""
        begin = self._begin[number]
        for family in self._line.families[number]:
            begin = max(begin, self._store_ready.get(family, 0))
        self._begin[number] = begin
        heapq.heappush(self._coming, (begin, False, number))

    def _check(self, number: int, started: int) -> None:
        done = max(started, self._tool_wait("verify", number)) + self._line.verify[number]
        heapq.heappush(self._coming, (done, True, number))

    def _shift(self, number: int, at: int) -> None:
        """Move the traffic of a component, then tell those that wait for it."""
        members = self._line.members[number]
        done = max(self._moved(service, at) for service in members)
        for service in members:
            self._ready[service] = done
        for other in self._line.waiting[number]:
            if other in self._live:
                self._begin[other] = max(self._begin[other], done)
                self._open[other] -= 1
                if not self._open[other]:
                    self._announce(other)

    def _start_all(self, number: int, free: int) -> int:
        ends = []
        for service in self._line.members[number]:
            free, end = self._start(service, self._begin[number], free)
            ends.append(end)
        self._check(number, max(ends))
        return free

    def _start(self, service: int, begin: int, free: int) -> tuple[int, int]:
        """Starts fill the company's rate, or the hands of people where the tools do not come back."""
        count = self._starts.get(service, 0)
        if not count:
            return free, begin
        duration = self._line.start[service]
        begin = max(begin, self._boots(self._boot_rank[service]))
        number = self._line.component[service]
        if self._tool["start"] >= NEVER and number not in self._line.urgent:
            return self._by_hand(count, duration, begin, free)
        begin = max(begin, self._tool_wait("start", number))
        rate = self._times.starts
        if rate is None:
            return free, begin + duration
        first = max(begin * self._scale, free)
        used = count * rate.window_ms
        last = first + max(0, used - rate.window_ms * self._scale)
        return first + used, -(-last // self._scale) + duration

    def _by_hand(self, count: int, duration: int, begin: int, free: int) -> tuple[int, int]:
        manual = max(duration, self._times.manual.get("start", 0))
        hands = self._limits.hands_at_once
        waves = 1 if hands is None else -(-count // max(1, hands))
        first = max(free, begin * self._scale)
        last = first + (waves - 1) * manual * self._scale
        return last, -(-last // self._scale) + manual

    def _boots(self, rank: int) -> int:
        """When the server of some rank at its site is up."""
        if not rank:
            return 0
        waves = 1 if self._line.boots_at_once is None else -(-rank // max(1, self._line.boots_at_once))
        return max(self._released, self._tool_wait("boot")) + waves * self._times.boot

    def _moved(self, service: int, done: int) -> int:
        if service not in self._moves:
            return done
        kind = self._line.traffic[service]
        slots = self._shifts.setdefault(kind, _Slots(self._limits.traffic_changes_at_once))
        change = self._line.change[service]
        moved = slots.take(max(done, self._tool_wait("shift", self._line.component[service])), change)
        return moved + change + self._line.settle[service]
