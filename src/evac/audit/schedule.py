"""A constructive schedule of one large loss: who is back when, if all stand in line for shared limits.

List scheduling: whenever the next start may happen, the ready service with the most people behind it
goes first. Held at once are starts, promotions, fences, boots, traffic changes and hands. Every time
is one that a plan could reach, within the roundings named in `placing`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from evac.audit.closure import Order
from evac.audit.presence import CountTable
from evac.audit.recovery import Recovery, Times
from evac.audit.stores import NEVER, StoreHits
from evac.model.affected import ServiceGraph
from evac.model.domain import Topology, site_of
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.steps import StepKind


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """What all large losses of an estate share.

    priority (S,): people behind a service, weighted by tier and passed down its dependencies;
    waiting[c]: components that need component c; boots_per_ms; stores_of[s].
    """

    priority: IntColumn
    waiting: tuple[tuple[int, ...], ...]
    boots_at_once: int | None
    families: tuple[tuple[str, ...], ...]


def line_of(estate: Estate, graph: ServiceGraph, order: Order) -> Line:
    """Priorities and the reversed order of components."""
    last = len(estate.tier_weights) - 1
    weight = np.array(
        [(s.people or 0) * estate.tier_weights[last if s.tier is None else min(s.tier, last)] + 1
         for s in estate.services], np.float64)  # fmt: skip
    waiting: list[list[int]] = [[] for _ in order.members]
    pushed = [float(weight[list(members)].sum()) for members in order.members]
    for number in range(len(order.members) - 1, -1, -1):
        needed = sorted({order.component[other] for other in order.outside[number]})
        for other in needed:
            waiting[other].append(number)
            pushed[other] += pushed[number]
    priority = np.array([pushed[c] for c in order.component])
    rank = np.empty(len(priority), np.int64)
    rank[np.lexsort((np.arange(len(priority)), priority))] = np.arange(len(priority))
    return Line(rank, tuple(map(tuple, waiting)), _boots_at_once(estate), graph.families)


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
    """One loss for the scheduler: columns (S,) of `recovery.Damage`, and boot ranks."""

    number: int
    down: BoolColumn
    starts: CountTable
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


def schedule(
    top: Topology, order: Order, times: Times, line: Line, hits: StoreHits, chains: Recovery, task: Task
) -> IntColumn:
    """(S,) ready times of one loss, never sooner than its chains."""
    soonest = chains.ready[:, task.number].astype(np.int64)
    released = int(chains.released[task.number])
    run = _Run(top, order, times, line, chains, task, soonest)
    run.stores(hits, released)
    return run.services(released)


class _Run:
    def __init__(
        self,
        top: Topology,
        order: Order,
        times: Times,
        line: Line,
        chains: Recovery,
        task: Task,
        soonest: IntColumn,
    ) -> None:
        self._top, self._order, self._times, self._line = top, order, times, line
        self._task, self._soonest = task, soonest
        limits = top.estate.limits
        self._tool = {kind: int(ready[task.number]) for kind, ready in chains.tool_ready.items()}
        self._shifts: dict[str, _Slots] = {}
        self._urgent = frozenset(times.tool_closure)
        self._hands = limits.hands_at_once
        self._limits = limits
        self._store_ready: dict[str, int] = {}
        self._ready = [0] * len(soonest)
        # The rate of starts is counted in parts of a millisecond, so that no start is rounded.
        self._scale = 1 if limits.starts is None else max(1, limits.starts.count)
        self._released = int(chains.released[task.number])
        self._open = [0] * len(order.members)
        self._begin = [0] * len(order.members)
        self._coming: list[tuple[int, bool, int]] = []

    def stores(self, hits: StoreHits, released: int) -> None:
        """Fences and promotions in the order of what waits behind them."""
        estate = self._top.estate
        fences = _Slots(self._limits.fences_at_once)
        promotions: dict[tuple[str, str], _Slots] = {}
        lost = np.flatnonzero(hits.lost[self._task.number]).tolist()
        rank: dict[str, int] = {}
        for service, families in enumerate(self._line.families):
            for family in families:
                rank[family] = max(rank.get(family, 0), int(self._line.priority[service]))
        begin = max(released, self._tool_wait("fence"), self._tool_wait("promote"))
        for row in sorted(lost, key=lambda r: (-rank.get(estate.stores[r].family, -1), r)):
            store = estate.stores[row]
            outcome = hits.at(row, self._task.number)
            if outcome is None or outcome.ready_ms >= NEVER:
                continue
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
        return 0 if ready >= NEVER or number in self._urgent else ready

    def services(self, released: int) -> IntColumn:
        """Starts in line, most people first among those that are ready; traffic in order of being checked."""
        for number, outside in enumerate(self._order.outside):
            self._open[number] = len({self._order.component[s] for s in outside if self._live(s)})
            self._begin[number] = released
            if not self._open[number] and self._hit(number):
                self._announce(number)
        ready: list[tuple[int, int]] = []
        free = released * self._scale
        while self._coming or ready:
            if not ready:
                free = max(free, self._coming[0][0] * self._scale)
            while self._coming and self._coming[0][0] * self._scale <= free:
                at, checked, number = heapq.heappop(self._coming)
                if checked:
                    self._shift(number, at)
                elif self._starts(number):
                    heapq.heappush(ready, (-self._rank(number), number))
                else:
                    self._check(number, at)
            if ready:
                number = heapq.heappop(ready)[1]
                free = self._start_all(number, free)
        return np.maximum(np.array(self._ready, np.int64), self._soonest)

    def _announce(self, number: int) -> None:
        """All a component waited for is there; its stores may still be on the way."""
        begin = self._begin[number]
        for service in self._order.members[number]:
            for family in self._line.families[service]:
                begin = max(begin, self._store_ready.get(family, 0))
        self._begin[number] = begin
        heapq.heappush(self._coming, (begin, False, number))

    def _check(self, number: int, started: int) -> None:
        members = self._order.members[number]
        verify = max(int(self._times.verify[s]) for s in members)
        done = max(started, self._tool_wait("verify", number)) + verify
        heapq.heappush(self._coming, (done, True, number))

    def _shift(self, number: int, at: int) -> None:
        """Move the traffic of a component, then tell those that wait for it."""
        members = [s for s in self._order.members[number] if self._live(s)]
        done = max((self._moved(service, at) for service in members), default=at)
        for service in members:
            self._ready[service] = done
        for other in self._line.waiting[number]:
            self._begin[other] = max(self._begin[other], done)
            self._open[other] -= 1
            if not self._open[other] and self._hit(other):
                self._announce(other)

    def _hit(self, number: int) -> bool:
        return any(self._live(s) for s in self._order.members[number])

    def _starts(self, number: int) -> bool:
        return any(self._task.starts[s] for s in self._order.members[number])

    def _start_all(self, number: int, free: int) -> int:
        ends = []
        for service in self._order.members[number]:
            free, end = self._start(service, self._begin[number], free)
            ends.append(end)
        self._check(number, max(ends))
        return free

    def _live(self, service: int) -> bool:
        return bool(self._task.down[service]) and self._soonest[service] < NEVER

    def _rank(self, number: int) -> int:
        """Tools and what they need go before all else."""
        first = len(self._line.priority) if number in self._urgent else 0
        return first + max(int(self._line.priority[s]) for s in self._order.members[number])

    def _start(self, service: int, begin: int, free: int) -> tuple[int, int]:
        """Starts fill the company's rate, or the hands of people where the tools do not come back."""
        count = int(self._task.starts[service])
        if not count:
            return free, begin
        duration = int(self._times.start[service])
        begin = max(begin, self._boots(int(self._task.boot_rank[service])))
        number = self._order.component[service]
        if self._tool["start"] >= NEVER and number not in self._urgent:
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
        waves = 1 if self._hands is None else -(-count // max(1, self._hands))
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
        if not self._task.shift[service]:
            return done
        kind = self._top.estate.services[service].traffic.kind or "none"
        slots = self._shifts.setdefault(kind, _Slots(self._limits.traffic_changes_at_once))
        change = int(self._times.change[service])
        moved = slots.take(max(done, self._tool_wait("shift", self._order.component[service])), change)
        return moved + change + int(self._times.settle[service])
