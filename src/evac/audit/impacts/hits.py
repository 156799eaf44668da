"""What every loss takes, and what is down as a result, before any recovery.

Arrays are (L, S): losses by services.
"""

from __future__ import annotations

import numpy as np

from evac.audit.impacts import dependencies
from evac.audit.impacts.capacity import Capacity, capacity
from evac.audit.impacts.in_doubt import unjudged
from evac.audit.impacts.losses import (
    CountTable,
    Losses,
    PoolsTaken,
    Presence,
    endpoints_lost,
    lost_counts,
    pools_taken,
    presence,
)
from evac.audit.impacts.placing import supply_of
from evac.audit.impacts.recovery import Times, times_of
from evac.audit.impacts.stores import FamilyHits, StoreHits, family_hits, store_hits
from evac.derive.affected import ServiceGraph, service_graph
from evac.derive.domains import Topology, lost_now
from evac.model.fleet import BoolColumn
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Results of placement and capacity, (L, S)."""

    top: Topology
    losses: Losses
    presence: Presence
    replicas: ReplicasTaken
    capacity: Capacity

    @property
    def lost(self) -> CountTable:
        return self.replicas.lost

    @property
    def taken(self) -> dependencies.Taken:
        return self.replicas.taken

    @property
    def short(self) -> dependencies.Pairs:
        return self.replicas.short

    @property
    def endpoints(self) -> dependencies.Pairs:
        return self.replicas.endpoints

    @property
    def loose(self) -> BoolColumn:
        return self.replicas.loose


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """Results of dependencies, stores and durations."""

    graph: ServiceGraph
    order: dependencies.Order
    """By plain needs."""
    whole: dependencies.Order
    """By all needs, including alternatives; the same if there are none."""
    stores: StoreHits
    families: FamilyHits
    times: Times


@dataclass(frozen=True, slots=True, eq=False)
class Down:
    """What is down."""

    moved: BoolColumn
    """(L, S) traffic must move to another site."""
    direct: BoolColumn
    """(L, S) by its own replicas, traffic or stores, not by a dependency."""
    bits: dependencies.Bits
    """A bit for each loss, by service."""
    down: dependencies.Pairs
    """The same as pairs."""


def ground_of(top: Topology, losses: Losses) -> Ground:
    """What every loss takes, and whether it can be placed."""
    found = presence(top, losses.rows)
    stands = _replicas_taken(top, losses, found)
    headroom = capacity(supply_of(top, losses, found), losses, stands.lost, stands.taken, stands.pools)
    return Ground(top, losses, found, stands, headroom)


@dataclass(frozen=True, slots=True, eq=False)
class ReplicasTaken:
    """What losses take of services."""

    lost: CountTable
    """(L, S) replicas that are gone after the loss, with those that are off before it."""
    taken: dependencies.Taken
    """Pairs with any."""
    short: dependencies.Pairs
    """Pairs with fewer replicas left than the smallest share."""
    endpoints: dependencies.Pairs
    """Pairs that lose all of a service at some site."""
    loose: BoolColumn
    """(L, S) may or may not be taken, because it is unknown where exactly they run."""
    pools: PoolsTaken
    """What losses below a site take of pools."""


def _replicas_taken(top: Topology, losses: Losses, found: Presence) -> ReplicasTaken:
    pools = pools_taken(top, losses)
    lost = lost_counts(found, losses, pools)
    without = lost + found.off
    taken = dependencies.taken_of(without)
    pairs = taken.pairs
    left = found.n[pairs.service] - taken.count
    return ReplicasTaken(
        without,
        taken,
        pairs.only(left < found.m[pairs.service]),
        dependencies.pairs_of(endpoints_lost(top, found, losses, lost, pools)),
        unjudged(top, found, losses),
        pools,
    )


def wiring_of(top: Topology, losses: Losses) -> Wiring:
    """Dependencies, stores and times."""
    hits, graph = store_hits(top, losses), service_graph(top.estate)
    order = dependencies.order_of(graph)
    every = graph.every
    whole = order if every is graph else dependencies.order_of(every)
    families = family_hits(graph, hits)
    times = times_of(top.estate, every, whole)
    return Wiring(graph, order, whole, hits, families, times)


def down_by(ground: Ground, wiring: Wiring) -> Down:
    """What every loss takes down, including dependencies."""
    services, losses = len(wiring.graph.hard), len(ground.losses)
    # Services whose traffic does not move without a step.
    kinds = [s.traffic.kind in ("dns", "load_balancer") for s in ground.top.estate.services]
    movable = np.array(kinds, np.bool_)
    moved = ground.endpoints.only(movable[ground.endpoints.service])
    direct = _directly(ground, wiring, moved, ground.short, ground.losses.external)
    bits = dependencies.spread_all(wiring.order, wiring.graph, direct)
    return Down(
        moved.marked(losses, services),
        dependencies.unpacked(direct, losses).marked(losses, services),
        bits,
        dependencies.unpacked(bits, losses),
    )


def _directly(
    ground: Ground,
    wiring: Wiring,
    moved: dependencies.Pairs,
    short: dependencies.Pairs,
    external: BoolColumn,
) -> dependencies.Bits:
    """What is down by its own replicas, stores, traffic or provider. short: pairs with too few replicas;
    external: (L, S) services whose provider is lost.
    """
    without, ended = _without_store(wiring.graph, wiring.families), dependencies.pairs_of(external)
    return dependencies.packed((short, moved, without, ended), len(wiring.graph.hard), len(ground.losses))


def caused_by(ground: Ground, wiring: Wiring, hit: Down) -> BoolColumn:
    """(L, S) what is down by the loss itself: not what would be down as well without it, because servers are
    off or a provider is lost already.
    """
    found, short, order, graph = ground.presence, ground.short, wiring.order, wiring.graph
    services, losses = len(graph.hard), len(ground.losses)
    down = hit.down.marked(losses, services)
    ended = lost_now(ground.top).external
    if not (found.off.any() or ended.any()):
        return down
    off = dependencies.pairs_of(((found.n - found.off < found.m) | ended)[None, :])
    before = dependencies.spread_all(order, graph, dependencies.packed((off,), services, 1))
    more = short.only(short.of(ground.lost) > found.off[short.service])
    moved = dependencies.pairs_of(hit.moved)
    own = _directly(ground, wiring, moved, more, ground.losses.external & ~ended)
    touched = dependencies.unpacked(dependencies.spread_all(order, graph, own), losses)
    was_up = ~dependencies.unpacked(before, 1).marked(1, services)
    return np.asarray(down & (touched.marked(losses, services) | was_up), np.bool_)


def _without_store(graph: ServiceGraph, families: FamilyHits) -> dependencies.Pairs:
    """Services with a hard need for a store family that has no instance left, unsorted."""
    found = [
        (service, families.losses[families.index[name]])
        for service, names in enumerate(graph.families)
        for name in names
        if name in families.index
    ]
    services = np.repeat(np.array([s for s, _ in found], np.int32), [len(losses) for _, losses in found])
    return dependencies.Pairs(
        services, np.concatenate([np.empty(0, np.int32), *(losses for _, losses in found)])
    )
