"""A constructive schedule of one large loss: who is back when, if all stand in line for shared limits.

List scheduling: whenever the next start may happen, the ready service with the most people behind it
goes first. Held at once are starts, promotions, fences, boots, traffic changes and hands. Every time
is one that a plan could reach, within the roundings named in `placing`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.audit.impacts.dependencies import Order, RowNumbers
from evac.audit.impacts.recovery import Recovery, Times
from evac.audit.impacts.stores import NEVER, Outcome, StoreHits
from evac.audit.in_line import UNLIMITED, Asked, Gates, Pace, Ways, in_line, lists_of
from evac.derive.affected import ServiceGraph
from evac.derive.domains import Topology, site_of
from evac.model.estate import Estate, Store
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn

_NOT_LOST: Final = 2**62
FloatColumn = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """What all large losses of an estate share. rank: people behind a component, weighted by tier and
    passed down its dependencies, as a place among all services; tools and what they need go before
    all else. family_rank: of the most wanted service that needs a family; kinds: of traffic."""

    ways: Ways
    pace: Pace
    families: dict[str, int]
    family_rank: dict[str, int]
    kinds: int
    boots_at_once: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Who waits for whom: needed, components by component; ways: the same for kernels; families: numbers
    of store families."""

    needed: tuple[tuple[int, ...], ...]
    ways: Ways
    families: dict[str, int]


def course_of(graph: ServiceGraph, order: Order) -> Course:
    """Components that wait for each other, in both directions."""
    needed, first = (
        tuple(tuple(sorted({order.component[other] for other in outside})) for outside in table)
        for table in (order.outside, order.to_start)
    )
    behind: list[list[int]] = [[] for _ in order.members]
    starts_behind: list[list[int]] = [[] for _ in order.members]
    for number in range(len(needed) - 1, -1, -1):
        for other in needed[number]:
            behind[other].append(number)
            starts_behind[other].append(other in first[number])
    families = {
        name: number for number, name in enumerate(sorted({f for names in graph.families for f in names}))
    }
    stores, start_stores = (
        tuple(tuple(families[f] for s in members for f in table[s]) for members in order.members)
        for table in (graph.families, graph.start_families)
    )
    ways = Ways(
        lists_of(tuple(map(tuple, behind))),
        np.array([flag for flags in starts_behind for flag in flags], np.bool_),
        lists_of(needed),
        lists_of(first),
        lists_of(order.members),
        lists_of(stores),
        lists_of(start_stores),
    )
    return Course(needed, ways, families)


def line_of(estate: Estate, graph: ServiceGraph, order: Order, times: Times, course: Course) -> Line:
    """Priorities and paces."""
    priority = _priorities(_weights(estate), order, course.needed)
    family_rank: dict[str, int] = {}
    for service, names in enumerate(graph.families):
        for name in names:
            family_rank[name] = max(family_rank.get(name, 0), priority[service])
    component, first = np.array(order.component, np.int64), len(priority)
    urgent = np.zeros(len(order.members), np.bool_)
    urgent[list(times.tool_closure)] = True
    check, rank = np.zeros(len(urgent), np.int64), np.zeros(len(urgent), np.int64)
    np.maximum.at(check, component, times.verify)
    np.maximum.at(rank, component, np.array(priority, np.int64))
    rank[urgent] += first
    kinds: dict[str, int] = {}
    traffic = [kinds.setdefault(s.traffic.kind or "none", len(kinds)) for s in estate.services]
    pace = Pace(
        check, rank, urgent, component, times.start, times.change, times.settle, np.array(traffic, np.int64)
    )
    return Line(course.ways, pace, course.families, family_rank, len(kinds), _boots_at_once(estate))


def _weights(estate: Estate) -> FloatColumn:
    """(S,) people who wait for a service, weighted by its tier; one more, so that all count."""
    last = len(estate.tier_weights) - 1
    return np.array(
        [
            (s.people or 0) * estate.tier_weights[last if s.tier is None else min(s.tier, last)] + 1
            for s in estate.services
        ],
        np.float64,
    )


def _priorities(weight: FloatColumn, order: Order, needed: tuple[tuple[int, ...], ...]) -> list[int]:
    """Place of each service among all by the people behind it, fewest first. weight (S,): of each."""
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
    circle: BoolColumn
    """Of each, whether people have to break a circle of needs to start before."""


@dataclass(frozen=True, slots=True)
class Return:
    """How a lost store comes back: at which site, after a fence and then so many milliseconds."""

    family: str
    engine: str
    site: str
    fence_ms: int
    duration_ms: int
    elects: bool


@dataclass(frozen=True, slots=True, eq=False)
class Stores:
    """What losses do to stores. returns: what brings a store back, an entry an outcome; None where it is
    not lost, or nothing does."""

    hits: StoreHits
    returns: tuple[Return | None, ...]


def stores_of(top: Topology, hits: StoreHits) -> Stores:
    """How stores come back."""
    returns = (_return(top, part.store, outcome) for part in hits.parts for outcome in part.outcomes)
    return Stores(hits, tuple(returns))


def _return(top: Topology, store: Store, outcome: Outcome) -> Return | None:
    if not outcome.lost or outcome.ready_ms >= NEVER:
        return None
    fence_ms, duration = outcome.fence_ms, outcome.ready_ms - outcome.fence_ms
    at = min((c for c in outcome.copies if c.ready_ms == duration), key=lambda c: c.at).at
    return Return(store.family, store.engine, site_of(top, at) or "", fence_ms, duration, outcome.elects)


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
    top: Topology, times: Times, line: Line, stores: Stores, chains: Recovery, task: Task
) -> IntColumn:
    """Ready times of the services named by one loss, never sooner than their chains."""
    services = len(line.pace.component)
    soonest = chains.ready[task.rows]
    starts, boots = np.zeros(services, np.int64), np.zeros(services, np.int64)
    starts[task.named], boots[task.named] = task.starts, task.boot_rank
    moves = np.zeros(services, np.bool_)
    moves[task.named] = task.shift
    live = np.zeros(len(line.pace.rank), np.bool_)
    live[line.pace.component[task.named[soonest < NEVER]]] = True
    back = _stores_back(top, line, stores, chains, task.number)
    at_once = top.estate.limits.traffic_changes_at_once
    slots = np.zeros((line.kinds, 0 if at_once is None else max(1, at_once)), np.int64)
    gates = _gates(top.estate, times, line, chains, task.number)
    freed = np.zeros(len(line.pace.rank), np.int64)
    freed[line.pace.component[task.named[task.circle]]] = times.start_cycle or 0
    ready = in_line(line.ways, line.pace, gates, Asked(starts, moves, boots, live, freed, back), slots)
    return np.maximum(ready[task.named], soonest)


def _gates(estate: Estate, times: Times, line: Line, chains: Recovery, number: int) -> Gates:
    rate, limits = times.starts, estate.limits
    back = {kind: int(ready[number]) for kind, ready in chains.tool_ready.items()}

    def wait(kind: str) -> int:
        """When steps of a kind can begin; 0 where people do them by hand instead.

        Tools and what they need wait for each other as their chains say, which hold in any case.
        """
        return 0 if back[kind] >= NEVER else back[kind]

    def known(limit: int | None) -> int:
        return UNLIMITED if limit is None else limit

    return Gates(
        released=int(chains.released[number]),
        boots=wait("boot"),
        starts=wait("start"),
        checks=wait("verify"),
        shifts=wait("shift"),
        starts_by_hand=back["start"] >= NEVER,
        boot=times.boot,
        boots_at_once=known(line.boots_at_once),
        scale=1 if rate is None else max(1, rate.count),
        window=UNLIMITED if rate is None else rate.window_ms,
        manual=times.manual.get("start", 0),
        hands=known(limits.hands_at_once),
    )


def _stores_back(top: Topology, line: Line, stores: Stores, chains: Recovery, number: int) -> IntColumn:
    """(families,) when each is back: fences and promotions in the order of what waits behind them."""
    waits = [int(chains.tool_ready[kind][number]) for kind in ("fence", "promote")]
    begin = max(int(chains.released[number]), *(0 if ready >= NEVER else ready for ready in waits))
    limits = top.estate.limits
    found = np.full(len(line.families), _NOT_LOST, np.int64)
    fences = _Slots(limits.fences_at_once)
    promotions: dict[tuple[str, str], _Slots] = {}
    for store in _in_line(line, stores, number):
        if store.elects:
            back = int(chains.released[number]) + store.duration_ms
        else:
            fenced = fences.take(begin, store.fence_ms) + store.fence_ms
            slots = promotions.setdefault((store.engine, store.site), _Slots(limits.promotions_at_once))
            back = slots.take(fenced, store.duration_ms) + store.duration_ms
        family = line.families.get(store.family)
        if family is not None:
            found[family] = min(int(found[family]), back)
    return np.where(found < _NOT_LOST, found, 0)


def _in_line(line: Line, stores: Stores, number: int) -> list[Return]:
    """Lost stores that come back, in the order of what waits behind them."""
    hits = stores.hits
    which = hits.outcome[np.flatnonzero(hits.loss == number)].tolist()
    back = [found for outcome in which if (found := stores.returns[outcome]) is not None]
    return sorted(back, key=lambda found: -line.family_rank.get(found.family, -1))
