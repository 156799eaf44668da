"""Places the replicas of the example on servers: feasible, spread, never two of a service on one server.

First fit around a circle of servers whose neighbours are in different halls, rows and racks, largest replicas
first. One numpy pass per service and site; no loop over servers.
"""

from __future__ import annotations

from dataclasses import field
from itertools import product
from typing import Final

import numpy as np

from evac.estate.examples.company import Blueprint
from evac.estate.examples.grounds import CLASS_IDS, CLASSES, SITE_IDS, Ground, Machines, spread_order
from evac.estate.examples.sizes import SCARCE, Sizes, eligible_sites
from evac.model.estate import Spread
from evac.model.fleet import DARK, ON_SERVER, SERVING, SPARE, BoolColumn, IndexColumn, IntColumn, Replicas
from evac.model.records import dataclass
from evac.model.units import UNBOUNDED, floor_share

MIXED_CLASSES: Final = {
    "general": ("general",),
    "gpu": ("gpu",),
    "memory": ("memory",),
    "storage": ("storage",),
    "web": ("general", "web"),
}
"""Classes that a service may run on; the example uses its own class while there is capacity."""


@dataclass(slots=True, eq=False)
class _Circle:
    """The servers of one site and class: rows of the fleet, rack, row, free (R, K), cursor."""

    servers: IndexColumn
    rack: IndexColumn
    row: IndexColumn
    free: IntColumn
    cursor: int = 0
    grouped: BoolColumn = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True)
class Caps:
    """Most replicas of one service in one rack and in one row of racks (which two feeds share)."""

    rack: int = UNBOUNDED
    row: int = UNBOUNDED


def caps_of(spread: Spread, replicas: int) -> Caps:
    rack, feed = spread.per_rack, spread.per_feed
    return Caps(
        UNBOUNDED if rack is None else floor_share(rack.numerator, rack.denominator, replicas),
        UNBOUNDED if feed is None else floor_share(feed.numerator, feed.denominator, replicas),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What to place: blueprints, sizes, replicas per site, spread rules, conflict groups, and services whose
    replicas all share one rack (a flaw).
    """

    blueprints: tuple[Blueprint, ...]
    sizes: Sizes
    counts: IntColumn
    spread: tuple[Spread, ...]
    conflicts: frozenset[int]
    huddled: frozenset[int]


def place(ground: Ground, machines: Machines, wanted: Wanted) -> Replicas:
    """Bindings of every replica to a server. Raises AssertionError if the company does not fit."""
    return _Floor(ground, machines, wanted).run()


class _Floor:
    """The servers while they are being filled."""

    def __init__(self, ground: Ground, machines: Machines, wanted: Wanted) -> None:
        self.wanted, self.machines = wanted, machines
        self.row_of_rack = ground.row
        self.circles = {
            (site, machine, state): _circle(ground, machines, site, machine, state)
            for site in range(len(SITE_IDS))
            for machine in range(len(CLASSES))
            for state in (SERVING, SPARE, DARK)
        }
        self.placed: list[list[tuple[int, IndexColumn]]] = [[] for _ in wanted.blueprints]

    def run(self) -> Replicas:
        missing = []
        for service in self._order():
            for site in np.flatnonzero(self.wanted.counts[service]).tolist():
                count = int(self.wanted.counts[service, site])
                left = count - self._put(
                    service, site, count, CLASS_IDS.index(self.wanted.blueprints[service].machine), SERVING
                )
                if left:
                    missing.append((service, site, left))
        for service, site, count in missing:
            self._put_anywhere(service, site, count)
        return self._bindings()

    def _order(self) -> list[int]:
        """Largest share of a server first; huddled services before all others, while a rack still has
        capacity.
        """
        sizes, kinds = self.wanted.sizes, [b.machine for b in self.wanted.blueprints]
        scarce = np.array([SCARCE[k] for k in kinds])
        whole = np.array([c.capacity for c in CLASSES], np.int64)[[CLASS_IDS.index(k) for k in kinds]]
        rows = np.arange(len(kinds))
        share = sizes.demand[rows, scarce] / whole[rows, scarce]
        huddled = np.array([service in self.wanted.huddled for service in rows.tolist()])
        return [int(row) for row in np.lexsort((rows, -share, ~huddled))]

    def _put_anywhere(self, service: int, site: int, count: int) -> None:
        """Places what fragmentation left over: on a wider class, empty spares, the reserve, and finally
        another site.
        """
        machine = self.wanted.blueprints[service].machine
        classes = [CLASS_IDS.index(name) for name in (machine, *MIXED_CLASSES[machine])]
        may = eligible_sites(self.wanted.blueprints[service]) or SITE_IDS
        others = [at for at, name in enumerate(SITE_IDS) if at != site and name in may]
        for at in (site, *others):
            for state, index in product((SERVING, SPARE, DARK), classes):
                count -= self._put(service, at, count, index, state)
            if not count:
                return
        raise AssertionError(f"no room for {count} replicas of {self.wanted.blueprints[service].id}")

    def _put(self, service: int, site: int, count: int, machine: int, state: int) -> int:
        """Places up to `count` replicas; searches the whole circle only if the next stretch is too short."""
        circle = self.circles[site, machine, state]
        held = [servers for at, servers in self.placed[service] if at == site]
        order = self._around(circle, service)
        chosen = self._choose(order[: 4 * count + 2_048], circle, service, held)[:count]
        if len(chosen) < count:
            chosen = self._choose(order, circle, service, held)[:count]
        if len(chosen):
            circle.free[:, chosen] -= self.wanted.sizes.demand[service][:, None]
            circle.cursor = int(chosen[-1]) + 1
            if service in self.wanted.conflicts:
                circle.grouped[chosen] = True
            self.placed[service].append((site, circle.servers[chosen]))
        return len(chosen)

    def _around(self, circle: _Circle, service: int) -> IndexColumn:
        """Positions with enough of the scarce resource, from the cursor once around."""
        scarce = SCARCE[self.wanted.blueprints[service].machine]
        order = np.flatnonzero(circle.free[scarce] >= self.wanted.sizes.demand[service, scarce])
        start = int(np.searchsorted(order, circle.cursor))
        return np.concatenate((order[start:], order[:start]))

    def _choose(
        self, order: IndexColumn, circle: _Circle, service: int, held: list[IndexColumn]
    ) -> IndexColumn:
        """The servers in `order` that fit in every resource, hold no replica yet and respect the spread."""
        fits = (circle.free[:, order] >= self.wanted.sizes.demand[service][:, None]).all(axis=0)
        if service in self.wanted.conflicts:
            fits &= ~circle.grouped[order]
        for servers in held:
            fits &= ~np.isin(circle.servers[order], servers)
        order = order[fits]
        if service in self.wanted.huddled:
            return _fullest_rack(order, circle.rack)
        return self._capped(order, circle, service, held)

    def _capped(
        self, order: IndexColumn, circle: _Circle, service: int, held: list[IndexColumn]
    ) -> IndexColumn:
        """Positions in this order, cut where a rack or row has its share; existing replicas count."""
        caps = caps_of(self.wanted.spread[service], int(self.wanted.sizes.replicas[service]))
        racks = self.machines.rack[np.concatenate(held)] if held else np.zeros(0, np.int32)
        order = _within(order, circle.rack, caps.rack, racks)
        return _within(order, circle.row, caps.row, self.row_of_rack[racks])

    def _bindings(self) -> Replicas:
        target = [np.sort(np.concatenate([servers for _, servers in parts])) for parts in self.placed]
        rows = np.repeat(np.arange(len(target), dtype=np.int32), [len(servers) for servers in target])
        return Replicas(
            rows,
            np.full(len(rows), ON_SERVER, np.uint8),
            np.concatenate(target).astype(np.int32),
            np.ones(len(rows), np.int64),
        )


def _circle(ground: Ground, machines: Machines, site: int, machine: int, state: int) -> _Circle:
    servers = spread_order(ground, machines, machines.members(site, machine, state))
    rack = machines.rack[servers]
    free = np.repeat(np.array(CLASSES[machine].capacity, np.int64)[:, None], len(servers), axis=1)
    return _Circle(servers, rack, ground.row[rack], free, 0, np.zeros(len(servers), np.bool_))


def _within(order: IndexColumn, domain: IndexColumn, cap: int, held: IndexColumn) -> IndexColumn:
    """The positions in `order` among the first `cap` of their domain, after counting the `held` ones."""
    if cap == UNBOUNDED or not len(order):
        return order
    domains = domain[order]
    by_domain = np.argsort(domains, kind="stable")
    ranked = domains[by_domain]
    ordinal = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
    before = np.bincount(held, minlength=int(domains.max()) + 1)[ranked] if len(held) else 0
    return order[np.sort(by_domain[ordinal + before < cap])]


def _fullest_rack(order: IndexColumn, rack: IndexColumn) -> IndexColumn:
    """The open positions of the one rack that has most of them."""
    if not len(order):
        return order
    racks = rack[order]
    fullest = int(np.bincount(racks).argmax())
    return np.asarray(order[racks == fullest])
