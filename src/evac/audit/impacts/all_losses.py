"""What every loss does to every service: computed once for all losses, read by every rule.

Arrays are (L, S): losses by services. Nothing here judges; rules and rows do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

from evac.audit.impacts.capacity import Capacity, capacity
from evac.audit.impacts.dependencies import (
    Bits,
    Order,
    Pairs,
    Taken,
    any_of,
    order_of,
    packed,
    pairs_of,
    spread_all,
    spread_table,
    taken_of,
    unpacked,
)
from evac.audit.impacts.losses import (
    CountTable,
    Losses,
    PoolsTaken,
    Presence,
    endpoints_lost,
    lost_counts,
    pools_taken,
    presence,
    unjudged,
)
from evac.audit.impacts.placing import supply_of
from evac.audit.impacts.recovery import (
    Chains,
    Damage,
    Recovery,
    Times,
    by_loss_of,
    levels_of,
    recovery,
    times_of,
)
from evac.audit.impacts.schedule import (
    Course,
    Stores,
    Task,
    course_of,
    line_of,
    schedule,
    stores_of,
)
from evac.audit.impacts.stores import (
    NEVER,
    FamilyHits,
    StoreHits,
    family_hits,
    store_hits,
    untimed_losses,
)
from evac.derive.affected import ServiceGraph, service_graph
from evac.derive.domains import Topology
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, CodeColumn, IntColumn
from evac.model.objectives import LOSS_CLASSES, rto_for

UNAFFECTED: Final = 0
DEGRADED: Final = 1
RECOVERS: Final = 2
LOST: Final = 3
UNKNOWN: Final = 4
SHED: Final = 5
FATES: Final = ("unaffected", "degraded", "recovers", "lost", "unknown", "shed")

Method = Literal["plan", "constructive schedule", "per-service chain"]
PLANNED: Final[Method] = "plan"
SCHEDULED: Final[Method] = "constructive schedule"
CHAINED: Final[Method] = "per-service chain"
SCHEDULED_KINDS: Final = ("site", "hall", "group")


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What follows from where things run and what capacity there is, (L, S)."""

    top: Topology
    losses: Losses
    presence: Presence
    replicas: ReplicasTaken
    capacity: Capacity

    @property
    def lost(self) -> CountTable:
        return self.replicas.lost

    @property
    def taken(self) -> Taken:
        return self.replicas.taken

    @property
    def short(self) -> Pairs:
        return self.replicas.short

    @property
    def endpoints(self) -> Pairs:
        return self.replicas.endpoints

    @property
    def loose(self) -> BoolColumn:
        return self.replicas.loose


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """What follows from who needs whom, from stores, and from how long things take."""

    graph: ServiceGraph
    order: Order
    """By plain needs."""
    whole: Order
    """By all needs, alternatives included; the same where there are none."""
    course: Course
    returns: Stores
    families: FamilyHits
    times: Times

    @property
    def stores(self) -> StoreHits:
        return self.returns.hits


@dataclass(frozen=True, slots=True, eq=False)
class Down:
    """What is down."""

    moved: BoolColumn
    """(L, S) traffic must go to another site."""
    direct: BoolColumn
    """(L, S) by its own replicas, traffic or stores, not by a dependency."""
    bits: Bits
    """A bit a loss for each service."""
    down: Pairs
    """The same as pairs."""


@dataclass(frozen=True, eq=False)
class Impacts:
    """All losses of one audit."""

    ground: Ground
    wiring: Wiring
    hit: Down
    damage: Damage
    chains: Recovery
    down: BoolColumn
    """(L, S) base does not hold right after the loss."""
    open: BoolColumn
    """(L, S) not known whether it is down."""
    fate: CodeColumn
    """(L, S) codes of FATES."""
    ready_ms: CountTable
    """(L, S) milliseconds until base, detection and approval included; 0 where not down, NEVER where nothing
    brings it back."""
    untimed: BoolColumn
    """(L, S) some duration on the way is not known, so that the time is too short."""
    methods: tuple[Method, ...]
    reasons: Mapping[tuple[int, int], str] = field(default_factory=lambda: MappingProxyType({}))
    """(loss, service) -> why a plan does not bring it back, where the loss was planned."""
    facts: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Loss -> paths of the amounts without which it cannot be judged, where it was planned."""

    @property
    def top(self) -> Topology:
        return self.ground.top

    @property
    def estate(self) -> Estate:
        return self.ground.top.estate

    @property
    def losses(self) -> Losses:
        return self.ground.losses

    @property
    def direct(self) -> BoolColumn:
        return self.hit.direct

    @property
    def moved(self) -> BoolColumn:
        return self.hit.moved

    @property
    def presence(self) -> Presence:
        return self.ground.presence

    @property
    def lost(self) -> CountTable:
        return self.ground.lost

    @property
    def capacity(self) -> Capacity:
        return self.ground.capacity

    @property
    def graph(self) -> ServiceGraph:
        return self.wiring.graph

    @property
    def order(self) -> Order:
        return self.wiring.order

    @property
    def stores(self) -> StoreHits:
        return self.wiring.stores

    @property
    def families(self) -> FamilyHits:
        return self.wiring.families

    @property
    def times(self) -> Times:
        return self.wiring.times

    @cached_property
    def surviving(self) -> CountTable:
        """(L, S) replicas that are left."""
        return surviving_of(self.ground)

    def left(self, number: int, service: int) -> int:
        """Replicas of one service that one loss leaves."""
        return int(self.ground.presence.n[service] - self.ground.lost[number, service])

    @cached_property
    def tiers(self) -> IntColumn:
        """(S,) tier; -1 where it is not known."""
        return np.array([-1 if s.tier is None else s.tier for s in self.estate.services], np.int64)

    @cached_property
    def rto_ms(self) -> IntColumn:
        """(C, S) recovery time objective by class of loss (`LOSS_CLASSES`); NEVER where none is stated."""
        services = self.estate.services
        plain = np.array([NEVER if s.rto_ms is None else s.rto_ms for s in services], np.int64)
        found = np.tile(plain, (len(LOSS_CLASSES), 1))
        for row, service in enumerate(services):
            if service.objectives is not None:
                stated = [rto_for(service, of_class) for of_class in LOSS_CLASSES]
                found[:, row] = [NEVER if one is None else one for one in stated]
        return found

    def rto_at(self, loss: Any, service: Any) -> IntColumn:
        """The objective of services after losses; both are numbers of one length, or one of them is one."""
        found: IntColumn = self.rto_ms[self.losses.classes[loss], service]
        return found


def surviving_of(ground: Ground) -> CountTable:
    """(L, S) replicas that are left."""
    return (ground.presence.n[None, :] - ground.lost).astype(np.int32)


def impacts(top: Topology, losses: Losses) -> Impacts:
    """Everything the rules read. Linear in servers, bindings, losses x services and dependencies."""
    return judged(ground_of(top, losses), wiring_of(top, losses))


def ground_of(top: Topology, losses: Losses) -> Ground:
    """What every loss takes, and whether that finds a place."""
    found = presence(top, losses.rows)
    stands = _replicas_taken(top, losses, found)
    headroom = capacity(supply_of(top, losses, found), losses, stands.lost, stands.taken, stands.pools)
    return Ground(top, losses, found, stands, headroom)


@dataclass(frozen=True, slots=True, eq=False)
class ReplicasTaken:
    """What losses take of services."""

    lost: CountTable
    """(L, S) replicas."""
    taken: Taken
    """Pairs with any."""
    short: Pairs
    """Pairs with fewer replicas left than serve."""
    endpoints: Pairs
    """Pairs where all of a service at some site is taken."""
    loose: BoolColumn
    """(L, S) may or may not be taken, because only the site is known."""
    pools: PoolsTaken
    """What losses below a site take of pools."""


def _replicas_taken(top: Topology, losses: Losses, found: Presence) -> ReplicasTaken:
    pools = pools_taken(top, losses)
    lost = lost_counts(found, losses, pools)
    taken = taken_of(lost)
    pairs = taken.pairs
    left = found.n[pairs.service] - taken.count
    return ReplicasTaken(
        lost,
        taken,
        pairs.only(left < found.m[pairs.service]),
        pairs_of(endpoints_lost(top, found, losses, lost, pools)),
        unjudged(found, losses),
        pools,
    )


def wiring_of(top: Topology, losses: Losses) -> Wiring:
    """Dependencies, stores and times."""
    hits, graph = store_hits(top, losses), service_graph(top.estate)
    order = order_of(graph)
    every = graph.every
    whole = order if every is graph else order_of(every)
    families = family_hits(graph, hits)
    times = times_of(top.estate, every, whole)
    return Wiring(graph, order, whole, course_of(every, whole), stores_of(top, hits), families, times)


def down_by(ground: Ground, wiring: Wiring) -> Down:
    """What every loss takes down, dependencies included."""
    services, losses, movable = len(wiring.graph.hard), len(ground.losses), _movable(ground.top)
    moved = ground.endpoints.only(movable[ground.endpoints.service])
    without = _without_store(wiring.graph, wiring.families)
    direct = packed((ground.short, moved, without, pairs_of(ground.losses.external)), services, losses)
    bits = spread_all(wiring.order, wiring.graph, direct)
    return Down(
        moved.marked(losses, services),
        unpacked(direct, losses).marked(losses, services),
        bits,
        unpacked(bits, losses),
    )


def judged(ground: Ground, wiring: Wiring) -> Impacts:
    """Who is down, for how long, and for good."""
    hit = down_by(ground, wiring)
    damage = _damage(ground, wiring, hit)
    levels = levels_of(wiring.whole, wiring.graph)
    paths = Chains(wiring.graph, levels, wiring.families, damage.pairs, len(ground.losses))
    chains = recovery(ground.top.estate, wiring.times, paths, damage)
    ready = _ready(ground, wiring, damage, chains)
    open_question, size = _open(ground, wiring, hit), (len(ground.losses), len(wiring.graph.hard))
    return Impacts(
        ground=ground,
        wiring=wiring,
        hit=hit,
        damage=damage,
        chains=chains,
        down=hit.down.marked(*size),
        open=open_question,
        fate=_fates(ground, wiring, hit, ready >= NEVER, open_question),
        ready_ms=_by_loss(hit.down, ready, size),
        untimed=_untimed(ground, wiring, hit, damage),
        methods=tuple(SCHEDULED if kind in SCHEDULED_KINDS else CHAINED for kind in ground.losses.kinds),
    )


def _by_loss(pairs: Pairs, ready: IntColumn, size: tuple[int, int]) -> CountTable:
    """(L, S) ready times, 0 for what is not down."""
    table = np.zeros(size, np.int32)
    table[pairs.loss, pairs.service] = ready
    return table


def _ready(ground: Ground, wiring: Wiring, damage: Damage, chains: Recovery) -> IntColumn:
    """Ready times by row of the damage: by chains, and by schedules for the large losses."""
    top, times, ready = ground.top, wiring.times, chains.ready.copy()
    line = line_of(top.estate, wiring.graph, wiring.whole, times, wiring.course)
    for number in ground.losses.of_kind(*SCHEDULED_KINDS).tolist():
        rows = damage.rows_of(number)
        if len(rows):
            task = _task(ground.capacity, damage, number)
            ready[rows] = schedule(top, times, line, wiring.returns, chains, task)
    return ready


def _movable(top: Topology) -> BoolColumn:
    """(S,) services whose traffic stays where it points until a step moves it."""
    kinds = [s.traffic.kind in ("dns", "load_balancer") for s in top.estate.services]
    return np.array(kinds, np.bool_)


def _without_store(graph: ServiceGraph, families: FamilyHits) -> Pairs:
    """Services that hard-need a store family of which no instance is left, unsorted."""
    found = [
        (service, families.losses[families.index[name]])
        for service, names in enumerate(graph.families)
        for name in names
        if name in families.index
    ]
    services = np.repeat(np.array([s for s, _ in found], np.int32), [len(losses) for _, losses in found])
    return Pairs(services, np.concatenate([np.empty(0, np.int32), *(losses for _, losses in found)]))


def _open(ground: Ground, wiring: Wiring, hit: Down) -> BoolColumn:
    """(L, S) not known whether a service is down, or not proved that it comes back.

    One that still has some replicas, where no room elsewhere is known, may or may not be filled up.
    """
    short, families = ground.short, wiring.families
    left = ground.presence.n[short.service] - short.of(ground.lost)
    may_fit = ground.capacity.may_fit
    some = (left > 0) | ground.capacity.reserves.last.any() | short.of(may_fit)
    vague = ~short.of(ground.capacity.headroom_known) & some
    doubtful = short.only(vague | short.of(ground.capacity.crowded)).marked(*ground.lost.shape)
    doubtful |= ground.loose
    for number, missing in ground.capacity.short.items():
        doubtful[number] |= (missing.not_proved > 0) | ((missing.for_good > 0) & may_fit[number])
    open_ones = [bool(found.any()) for found in families.open]
    for service, names in enumerate(wiring.graph.families):
        for family in (families.index[name] for name in names if name in families.index):
            if open_ones[family]:
                doubtful[:, service] |= families.open[family]
    return spread_table(wiring.order, doubtful, wiring.graph, hit.bits) if doubtful.any() else doubtful


def _damage(ground: Ground, wiring: Wiring, hit: Down) -> Damage:
    """What must be started, moved, booted, and what has no place."""
    pairs, headroom = hit.down, ground.capacity
    lost = pairs.of(ground.lost).astype(np.int64)
    left = ground.presence.n[pairs.service] - lost
    starts = np.where(lost > 0, np.maximum(ground.presence.m[pairs.service] - left, 0), 0)
    by_loss, edges = by_loss_of(pairs.loss, len(ground.losses))
    # Where nothing is known that could carry a service elsewhere, one that lost its last replica is
    # lost, as nothing says otherwise.
    may_fit = pairs.of(headroom.may_fit)
    somewhere = may_fit & headroom.supply.known[pairs.service]
    stuck = (starts > 0) & ~pairs.of(headroom.headroom_known) & ~somewhere & (left == 0)
    stuck &= not headroom.reserves.last.any()
    boots = (starts > 0) & headroom.boots[pairs.loss]
    for number, rank in headroom.boot_rank.items():
        rows = by_loss[edges[number] : edges[number + 1]]
        boots[rows] &= rank[pairs.service[rows]] > 0
    for number, short in headroom.short.items():
        rows = by_loss[edges[number] : edges[number + 1]]
        stuck[rows] |= (short.for_good[pairs.service[rows]] > 0) & ~may_fit[rows]
    circle = _in_start_circle(wiring, pairs, starts, len(ground.losses))
    stuck &= pairs.of(hit.direct)
    stuck |= pairs.of(ground.losses.external)
    return Damage(
        pairs,
        len(ground.losses),
        starts,
        pairs.of(hit.moved),
        stuck | (circle & (wiring.times.start_cycle is None)),
        boots,
        circle,
        by_loss,
        edges,
    )


def _in_start_circle(wiring: Wiring, pairs: Pairs, starts: IntColumn, losses: int) -> BoolColumn:
    """Pairs of services that need each other, one of which has to start and needs another one to do so."""
    component = np.array(wiring.order.component, np.int64)
    inner = np.array(
        [
            any(component[other] == component[service] for other in needed)
            for service, needed in enumerate(wiring.graph.start_edges)
        ],
        np.bool_,
    )
    if not inner.any():
        return np.zeros(len(pairs), np.bool_)
    key = component[pairs.service] * losses + pairs.loss
    return np.isin(key, key[inner[pairs.service] & (starts > 0)])


def _task(headroom: Capacity, damage: Damage, number: int) -> Task:
    rows = damage.rows_of(number)
    named = damage.pairs.service[rows]
    rank = headroom.boot_rank.get(number)
    up = damage.boots[rows].astype(np.int64) if rank is None else rank[named]
    return Task(number, rows, named, damage.starts[rows], damage.shift[rows], up, damage.circle[rows])


def _untimed(ground: Ground, wiring: Wiring, hit: Down, damage: Damage) -> BoolColumn:
    """(L, S) services that need a start, a promotion or a change of traffic of unknown length."""
    no_ttl = np.array(
        [s.traffic.ttl_ms is None and not s.traffic.settle_ms for s in ground.top.estate.services], np.bool_
    )
    estate, families, pairs = ground.top.estate, wiring.families, damage.pairs
    vague = (damage.starts > 0) & ~wiring.times.start_known[pairs.service]
    vague |= damage.shift & no_ttl[pairs.service]
    unknown = {d.family for d in estate.stores if d.promote_ms is None}
    behind = untimed_losses(wiring.graph, wiring.stores)
    found = pairs.only(vague).marked(*ground.lost.shape)
    for service, names in enumerate(wiring.graph.families if unknown or behind else ()):
        for name in unknown.intersection(names):
            found[families.losses[families.index[name]], service] = True
        for name in behind.keys() & set(names):
            gone = families.losses[families.index[name]]
            found[gone[np.isin(gone, behind[name])], service] = True
    limits = estate.limits
    if (limits.promotions_at_once or limits.fences_at_once) and (unknown or behind):
        found |= _behind_stores(wiring, found)
    return spread_table(wiring.order, found, wiring.graph, hit.bits) if found.any() else found


def _behind_stores(wiring: Wiring, found: BoolColumn) -> BoolColumn:
    """(L, S) services that need a lost store, where nobody knows how long another store takes to come back:
    they may have to wait for it. found: services of such stores.
    """
    families, waits = wiring.families, np.zeros(found.shape, np.bool_)
    for service, names in enumerate(wiring.graph.families):
        for name in names:
            if name in families.index:
                waits[families.losses[families.index[name]], service] = True
    some = np.asarray((waits & found).any(axis=1))
    return np.asarray(waits & some[:, None])


def _fates(
    ground: Ground, wiring: Wiring, hit: Down, gone: BoolColumn, open_question: BoolColumn
) -> CodeColumn:
    """(L, S) codes of FATES, the graver one last. gone: by pair that is down, nothing brings it back."""
    fate = np.zeros(ground.lost.shape, np.uint8)
    taken = ground.replicas.taken.pairs
    fate[taken.loss, taken.service] = DEGRADED
    less = unpacked(any_of(wiring.graph.soft, hit.bits), len(ground.losses))
    fate[less.loss, less.service] = DEGRADED
    _less_by_alternatives(fate, wiring.graph, hit.bits)
    fate[hit.down.loss, hit.down.service] = RECOVERS
    if open_question.any():
        fate[open_question] = UNKNOWN
    tied = _tied(wiring)[hit.down.service]
    vague, lost = hit.down.only(tied), hit.down.only(gone & ~tied)
    fate[vague.loss, vague.service] = UNKNOWN
    fate[lost.loss, lost.service] = LOST
    return fate


def _less_by_alternatives(fate: CodeColumn, graph: ServiceGraph, down: Bits) -> None:
    """Services all of whose alternatives are down that they like to use."""
    for service, groups in enumerate(graph.alternatives):
        for group in groups:
            if not group.hard:
                every = -1
                for member in group.members:
                    every &= down[member]
                less = unpacked([every], len(fate))
                fate[less.loss, service] = DEGRADED


def _tied(wiring: Wiring) -> BoolColumn:
    """(S,) services in a circle that an alternative closes: chains do not tell when those come back."""
    found, component = np.zeros(len(wiring.graph.hard), np.bool_), np.array(wiring.whole.component, np.int64)
    for service, group in wiring.graph.choices:
        if any(component[member] == component[service] for member in group.members):
            found |= component == component[service]
    return found
