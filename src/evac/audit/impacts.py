"""What every loss does to every service: computed once for all losses, read by every rule.

Arrays are (L, S): losses by services. Nothing here judges; rules and rows do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np

from evac.audit.capacity import Capacity, capacity, supply_of
from evac.audit.closure import Order, any_of, order_of, spread_table
from evac.audit.losses import Losses
from evac.audit.presence import CountTable, Presence, endpoints_lost, lost_counts, presence, unjudged
from evac.audit.recovery import Damage, Recovery, Times, recovery, times_of
from evac.audit.schedule import Task, line_of, schedule
from evac.audit.stores import NEVER, FamilyHits, StoreHits, family_hits, store_hits
from evac.model.affected import ServiceGraph, service_graph
from evac.model.domain import Topology
from evac.model.estate import Estate
from evac.model.fleet import BoolColumn, CodeColumn, IntColumn

UNAFFECTED: Final = 0
DEGRADED: Final = 1
RECOVERS: Final = 2
LOST: Final = 3
UNKNOWN: Final = 4
FATES: Final = ("unaffected", "degraded", "recovers", "lost", "unknown")

Method = Literal["constructive schedule", "per-service chain"]
SCHEDULED: Final[Method] = "constructive schedule"
CHAINED: Final[Method] = "per-service chain"
SCHEDULED_KINDS: Final = ("site", "hall", "group")


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What follows from where things stand and what room there is, (L, S).

    lost: replicas taken; endpoints: all of a service at some site is taken; loose: may or may not be
    taken, because only its site is known.
    """

    top: Topology
    losses: Losses
    presence: Presence
    lost: CountTable
    endpoints: BoolColumn
    loose: BoolColumn
    capacity: Capacity


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """What follows from who needs whom, from stores, and from how long things take."""

    graph: ServiceGraph
    order: Order
    stores: StoreHits
    families: FamilyHits
    times: Times


@dataclass(frozen=True, eq=False)
class Impacts:
    """All losses of one audit.

    down: base does not hold right after the loss; direct: down by its own replicas, traffic or
    stores, not by a dependency; moved: traffic must go to another site; open: not known whether it
    is down; fate: codes of FATES; ready_ms: milliseconds until base, detection and approval included
    (0 where not down, NEVER where nothing brings it back); untimed: some duration on the way is not
    known, so that the time is too short.
    """

    ground: Ground
    wiring: Wiring
    chains: Recovery
    down: BoolColumn
    direct: BoolColumn
    moved: BoolColumn
    open: BoolColumn
    fate: CodeColumn
    ready_ms: CountTable
    untimed: BoolColumn
    methods: tuple[Method, ...]

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

    @cached_property
    def tiers(self) -> IntColumn:
        """(S,) tier; -1 where it is not known."""
        return np.array([-1 if s.tier is None else s.tier for s in self.estate.services], np.int64)

    @cached_property
    def rto_ms(self) -> IntColumn:
        """(S,) recovery time objective; NEVER where none is stated."""
        return np.array([NEVER if s.rto_ms is None else s.rto_ms for s in self.estate.services], np.int64)


def surviving_of(ground: Ground) -> CountTable:
    """(L, S) replicas that are left."""
    return (ground.presence.n[None, :] - ground.lost).astype(np.int32)


def impacts(top: Topology, losses: Losses) -> Impacts:
    """Everything the rules read. Linear in servers, bindings, losses x services and dependencies."""
    return judged(ground_of(top, losses), wiring_of(top, losses))


def ground_of(top: Topology, losses: Losses) -> Ground:
    """What every loss takes, and whether that finds a place."""
    found = presence(top, losses.rows)
    lost = lost_counts(found, losses)
    surviving = found.n[None, :] - lost
    room = capacity(supply_of(top, losses, found), losses, lost, surviving, found.m)
    endpoints = endpoints_lost(found, losses, lost)
    return Ground(top, losses, found, lost, endpoints, unjudged(top, found, losses), room)


def wiring_of(top: Topology, losses: Losses, stores: StoreHits | None = None) -> Wiring:
    """Dependencies, stores and times; `stores` if they are known already."""
    graph = service_graph(top.estate)
    order = order_of(graph)
    hits = stores if stores is not None else store_hits(top, losses)
    return Wiring(graph, order, hits, family_hits(graph, hits), times_of(top.estate, graph, order))


def direct_and_down(ground: Ground, wiring: Wiring) -> tuple[BoolColumn, BoolColumn, BoolColumn]:
    """(L, S) moved, direct and down."""
    moved = ground.endpoints & _movable(ground.top)[None, :]
    direct = (ground.lost > 0) & (surviving_of(ground) < ground.presence.m[None, :])
    direct |= moved | _without_store(wiring.graph, wiring.families, len(ground.losses))
    return moved, direct, spread_table(wiring.order, direct)


def judged(ground: Ground, wiring: Wiring) -> Impacts:
    """Who is down, for how long, and for good."""
    top, losses, room, order = ground.top, ground.losses, ground.capacity, wiring.order
    lost, surviving, m = ground.lost, surviving_of(ground), ground.presence.m
    moved, direct, down = direct_and_down(ground, wiring)
    missing, doubtful = _unplaced(room, direct, lost, surviving, m)
    damage = _damage(down, lost, surviving, m, moved, missing, room)
    chains = recovery(top.estate, wiring.graph, order, wiring.times, wiring.families, damage)
    ready, methods = _scheduled(ground, wiring, damage, chains)
    doubtful |= ground.loose | _doubtful_store(wiring.graph, wiring.families, len(losses))
    not_sure = spread_table(order, doubtful) if doubtful.any() else doubtful
    untimed = _untimed(top, wiring.graph, wiring.families, wiring.times, damage)
    less = (lost > 0) | any_of(wiring.graph.soft, down)
    return Impacts(
        ground=ground, wiring=wiring, chains=chains, down=down, direct=direct, moved=moved, open=not_sure,
        fate=_fates(down, ready >= NEVER, not_sure, less), ready_ms=ready,
        untimed=spread_table(order, untimed) if untimed.any() else untimed, methods=methods,
    )  # fmt: skip


def _scheduled(
    ground: Ground, wiring: Wiring, damage: Damage, chains: Recovery
) -> tuple[CountTable, tuple[Method, ...]]:
    """(L, S) ready times: chains, and schedules for the large losses."""
    line = line_of(ground.top.estate, wiring.graph, wiring.order)
    ready = np.ascontiguousarray(chains.ready.T)
    methods: list[Method] = [CHAINED] * len(ground.losses)
    for number in ground.losses.of_kind(*SCHEDULED_KINDS).tolist():
        methods[number] = SCHEDULED
        if damage.down[:, number].any():
            task = _task(ground.capacity, damage, number)
            ready[number] = schedule(
                ground.top, wiring.order, wiring.times, line, wiring.stores, chains, task
            )
    return ready, tuple(methods)


def _movable(top: Topology) -> BoolColumn:
    """(S,) services whose traffic stays where it points until a step moves it."""
    kinds = [s.traffic.kind in ("dns", "load_balancer") for s in top.estate.services]
    return np.array(kinds, np.bool_)


def _without_store(graph: ServiceGraph, families: FamilyHits, losses: int) -> BoolColumn:
    """(L, S) services that hard-need a store family of which no instance is left."""
    found = np.zeros((losses, len(graph.families)), np.bool_)
    for service, names in enumerate(graph.families):
        for name in names:
            family = families.index.get(name)
            if family is not None:
                found[families.losses[family], service] = True
    return found


def _doubtful_store(graph: ServiceGraph, families: FamilyHits, losses: int) -> BoolColumn:
    found = np.zeros((losses, len(graph.families)), np.bool_)
    for service, names in enumerate(graph.families):
        for name in names:
            family = families.index.get(name)
            if family is not None:
                found[:, service] |= families.open[family]
    return found


def _unplaced(
    room: Capacity, direct: BoolColumn, lost: CountTable, surviving: CountTable, m: IntColumn
) -> tuple[BoolColumn, BoolColumn]:
    """(L, S) no place for base; and (L, S) not known whether there is one.

    Where nothing is known that could carry a service elsewhere, one that lost its last replica is
    lost, as nothing says otherwise; one that still has some may or may not be filled up.
    """
    short = (lost > 0) & (surviving < m[None, :])
    missing = short & ~room.room_known & (surviving == 0)
    doubtful = short & ~room.room_known & (surviving > 0)
    for number, found in room.short.items():
        missing[number] |= found.for_good > 0
    return missing & direct, doubtful


def _damage(
    down: BoolColumn,
    lost: CountTable,
    surviving: CountTable,
    m: IntColumn,
    moved: BoolColumn,
    missing: BoolColumn,
    room: Capacity,
) -> Damage:
    starts = np.where(lost > 0, np.maximum(m[None, :] - surviving, 0), 0).astype(np.int32)
    boots = np.zeros(down.shape, np.bool_)
    boots[room.boots] = starts[room.boots] > 0
    for number, rank in room.boot_rank.items():
        boots[number] &= rank > 0
    turned = np.ascontiguousarray
    return Damage(turned(down.T), turned(starts.T), turned(moved.T), turned(missing.T), turned(boots.T))


def _task(room: Capacity, damage: Damage, number: int) -> Task:
    rank = room.boot_rank.get(number)
    if rank is None:
        rank = damage.boots[:, number].astype(np.int64)
    return Task(number, damage.down[:, number], damage.starts[:, number], damage.shift[:, number], rank)


def _untimed(
    top: Topology, graph: ServiceGraph, families: FamilyHits, times: Times, damage: Damage
) -> BoolColumn:
    """(L, S) services that need a start, a promotion or a change of traffic of unknown length."""
    services = top.estate.services
    no_ttl = np.array([s.traffic.ttl_ms is None and not s.traffic.settle_ms for s in services], np.bool_)
    found = (damage.starts > 0) & ~times.start_known[:, None] | damage.shift & no_ttl[:, None]
    found = np.ascontiguousarray(found.T)
    unknown = {d.family for d in top.estate.stores if d.promote_ms is None}
    if not unknown:
        return found
    for service, names in enumerate(graph.families):
        for name in unknown.intersection(names):
            found[families.losses[families.index[name]], service] = True
    return found


def _fates(down: BoolColumn, never: BoolColumn, not_sure: BoolColumn, less: BoolColumn) -> CodeColumn:
    fate = np.where(less, DEGRADED, UNAFFECTED).astype(np.uint8)
    fate[down] = RECOVERS
    fate[not_sure] = UNKNOWN
    fate[down & never] = LOST
    return fate
