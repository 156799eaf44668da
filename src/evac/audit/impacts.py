"""What every loss does to every service: computed once for all losses, read by every rule.

Arrays are (L, S): losses by services. Nothing here judges; rules and rows do.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, eq=False)
class Impacts:
    """All losses of one audit.

    lost: replicas taken; down: base does not hold right after the loss; direct: down by its own
    replicas, traffic or stores, not by a dependency; moved: traffic must go to another site;
    open: not known whether it is down; fate: codes of FATES; ready_ms: milliseconds until base,
    detection and approval included (0 where not down, NEVER where nothing brings it back);
    untimed: some duration on the way is not known, so that the time is too short.
    """

    top: Topology
    graph: ServiceGraph
    order: Order
    losses: Losses
    presence: Presence
    stores: StoreHits
    families: FamilyHits
    capacity: Capacity
    times: Times
    chains: Recovery
    lost: CountTable
    down: BoolColumn
    direct: BoolColumn
    moved: BoolColumn
    open: BoolColumn
    fate: CodeColumn
    ready_ms: IntColumn
    untimed: BoolColumn
    methods: tuple[Method, ...]

    @property
    def estate(self) -> Estate:
        return self.top.estate

    @cached_property
    def surviving(self) -> CountTable:
        """(L, S) replicas that are left."""
        return (self.presence.n[None, :] - self.lost).astype(np.int32)

    @cached_property
    def tiers(self) -> IntColumn:
        """(S,) tier; -1 where it is not known."""
        return np.array([-1 if s.tier is None else s.tier for s in self.estate.services], np.int64)

    @cached_property
    def rto_ms(self) -> IntColumn:
        """(S,) recovery time objective; NEVER where none is stated."""
        return np.array([NEVER if s.rto_ms is None else s.rto_ms for s in self.estate.services], np.int64)

    @cached_property
    def beyond(self) -> BoolColumn:
        """(L, S) lost for good, or back later than the objective."""
        return np.asarray(
            (self.fate == LOST) | ((self.fate == RECOVERS) & (self.ready_ms > self.rto_ms[None, :]))
        )


def impacts(top: Topology, losses: Losses, scheduled: Sequence[str] = SCHEDULED_KINDS) -> Impacts:
    """Everything the rules read. Linear in servers, bindings, losses x services and dependencies."""
    estate = top.estate
    graph = service_graph(estate)
    order = order_of(graph)
    found = presence(top, losses.rows)
    lost = lost_counts(found, losses)
    hits = store_hits(top, losses)
    families = family_hits(graph, hits)
    times = times_of(estate, graph, order)
    surviving = found.n[None, :] - lost
    room = capacity(supply_of(top, losses, found), losses, lost, surviving, found.m)
    return _judged(top, graph, order, losses, found, lost, surviving, hits, families, times, room, scheduled)


def _judged(
    top: Topology,
    graph: ServiceGraph,
    order: Order,
    losses: Losses,
    found: Presence,
    lost: CountTable,
    surviving: IntColumn,
    hits: StoreHits,
    families: FamilyHits,
    times: Times,
    room: Capacity,
    scheduled: Sequence[str],
) -> Impacts:
    moved = endpoints_lost(found, losses, lost) & _movable(top)[None, :]
    direct = (lost > 0) & (surviving < found.m[None, :])
    direct |= moved | _without_store(graph, families, len(losses))
    down = spread_table(order, direct)
    missing, doubtful = _unplaced(room, direct, lost, surviving, found.m)
    damage = _damage(down, lost, surviving, found.m, moved, missing, room)
    chains = recovery(top.estate, graph, order, times, families, damage)
    line = line_of(top.estate, graph, order)
    numbers = losses.of_kind(*scheduled).tolist()
    ready = np.ascontiguousarray(chains.ready.T)
    for number in numbers:
        ready[number] = schedule(top, order, times, line, hits, chains, _task(room, damage, int(number)))
    methods: list[Method] = [CHAINED] * len(losses)
    for number in numbers:
        methods[number] = SCHEDULED
    not_sure = unjudged(top, found, losses) | _doubtful_store(graph, families, len(losses)) | doubtful
    not_sure = spread_table(order, not_sure)
    soft = any_of(graph.soft, down)
    never = ready >= NEVER
    return Impacts(
        top=top, graph=graph, order=order, losses=losses, presence=found, stores=hits, families=families,
        capacity=room, times=times, chains=chains, lost=lost, down=down, direct=direct, moved=moved,
        open=not_sure, fate=_fates(down, never, not_sure, (lost > 0) | soft), ready_ms=ready,
        untimed=spread_table(order, _untimed(top, graph, families, times, damage)), methods=tuple(methods),
    )  # fmt: skip


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
    room: Capacity, direct: BoolColumn, lost: CountTable, surviving: IntColumn, m: IntColumn
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
    surviving: IntColumn,
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
