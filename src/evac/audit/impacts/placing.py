"""Place what a loss takes: first fit over shapes of servers, one service at a time.

Fast enough for every site and hall; exact in vector capacity and fragmentation up to the rounding of shapes.
Respects spread by server and by site; spread by rack and feed and conflict groups are left to `evac plan`.
For small losses a sufficient test is enough: each lost replica gets a server of its own.
"""

from __future__ import annotations

from dataclasses import field, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np

from evac.audit import first_fit
from evac.audit.impacts import free_capacity
from evac.audit.impacts.losses import Losses, Presence, Rows
from evac.derive.affected import reachable, service_graph
from evac.derive.domains import Topology
from evac.model.estate import Estate
from evac.model.fleet import ON_SERVER, BoolColumn, IntColumn
from evac.model.records import dataclass
from evac.model.units import UNBOUNDED

_NO_DEMAND: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Stock:
    """Shapes of servers, demands of services, and which shapes fit anything (G,).

    used: what the shapes were made from; counted (S,): the services included in it.
    """

    headroom: free_capacity.Headroom
    wants: free_capacity.Wants
    useful: BoolColumn
    used: free_capacity.Used
    counted: BoolColumn


def stock_of(
    headroom: free_capacity.Headroom,
    wants: free_capacity.Wants,
    used: free_capacity.Used,
    counted: BoolColumn,
) -> Stock:
    """What may be placed where."""
    return Stock(headroom, wants, free_capacity.useful_shapes(headroom, wants), used, counted)


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Placed replicas: base and top (S,); left: the shapes afterwards."""

    base: IntColumn
    top: IntColumn
    left: first_fit.Shapes


def open_packing(
    stock: Stock,
    gone: IntColumn,
    lost_sites: BoolColumn,
    requested: IntColumn,
    amounts: IntColumn | None = None,
) -> first_fit.Shapes:
    """The shapes that a loss leaves and that fit anything; wanted (S,): what will be placed; amounts (G, R):
    free on each, if less than before the loss.
    """
    headroom, wants, sites = stock.headroom, stock.wants, len(lost_sites)
    left = np.where(stock.useful & ~lost_sites[headroom.site], headroom.count - gone, 0)
    entries = len(left) + first_fit.splits_of(requested, wants.site_cap < UNBOUNDED, sites)
    resources, blocks = len(headroom.free), first_fit.blocks_of(entries)
    shapes = first_fit.Shapes(
        free=np.empty((entries, resources), np.int64),
        servers=np.empty(entries, np.int64),
        pool=np.empty(entries, np.int32),
        site=np.empty(entries, np.int32),
        stage=np.empty(entries, np.int32),
        is_pool=np.empty(entries, np.bool_),
        size=np.zeros(2, np.int64),
        boots=np.zeros(sites, np.int64),
        bounds=np.zeros((first_fit.STAGES, len(headroom.pool_site), 2), np.int64),
        refused=np.full((len(wants.kinds), sites + 1, resources), _NO_DEMAND),
        most=np.zeros((blocks, resources), np.int64),
        loose=np.zeros(blocks, np.bool_),
    )
    first_fit.open_shapes(
        shapes,
        left,
        headroom.amounts if amounts is None else amounts,
        headroom.pool,
        headroom.site,
        headroom.stage,
        headroom.is_pool,
    )
    return shapes


def pack(
    shapes: first_fit.Shapes, wants: free_capacity.Wants, base: IntColumn, top: IntColumn, at_site: IntColumn
) -> Placed:
    """Place base replicas (S,) of all services, then top ones, each in the order of `wants`.

    at_site (sites, S): surviving replicas, for the cap per site. Consumes the shapes.
    """
    fitted = first_fit.Fitted(*(np.zeros(len(base), np.int64) for _ in range(2)))
    first_fit.first_fit(shapes, wants.asking, base, top, at_site.copy(), fitted)
    return Placed(fitted.base, fitted.top, shapes)


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """(S, sites) servers that could take one replica, on and dark; servers that already run the service are
    subtracted from the first.
    """

    on: IntColumn
    dark: IntColumn


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """Capacity of an estate, and the demands of its services."""

    estate: Estate
    headroom: free_capacity.Headroom
    wants: free_capacity.Wants


def fits_of(offer: Offer) -> Fits:
    """Fits of all services. Linear in services x shapes, and in bindings."""
    headroom, wants, replicas = offer.headroom, offer.wants, offer.estate.replicas
    found = Fits(*(np.zeros((len(wants.known), len(offer.estate.sites)), np.int64) for _ in range(2)))
    dark = headroom.stage == first_fit.STAGE_DARK
    for table, stage in ((found.on, ~dark), (found.dark, dark)):
        rows = np.flatnonzero(stage & ~headroom.is_pool)
        if len(rows):
            columns = headroom.amounts[rows], headroom.pool[rows], headroom.site[rows], headroom.count[rows]
            first_fit.fitting_servers(wants.asking, *columns, table)
    rows = np.flatnonzero(replicas.kind == ON_SERVER)
    server, service = replicas.target[rows], replicas.service[rows]
    shape, site = headroom.server_shape[server], offer.estate.fleet.site[server]
    first_fit.holding_servers(wants.asking, headroom.amounts, headroom.pool, service, shape, site, found.on)
    return found


Variant = Literal["shed", "power"]


@dataclass(eq=False)
class Supply:
    """Capacity of an estate, built once. demand (S, R), known (S,): of a replica, see
    `free_capacity.demands`.
    """

    top: Topology
    rows: Rows
    presence: Presence
    found: free_capacity.Reserves
    demand: IntColumn
    known: BoolColumn
    stock: Stock
    fits: Fits
    _extra: dict[Variant, Stock] = field(default_factory=dict)

    @property
    def headroom(self) -> free_capacity.Headroom:
        return self.stock.headroom

    @property
    def wants(self) -> free_capacity.Wants:
        return self.stock.wants

    @cached_property
    def firm(self) -> BoolColumn:
        """(S,) services that must not be shed, and everything they need."""
        services = self.top.estate.services
        kept = [row for row, service in enumerate(services) if not service.sheddable]
        return np.array(reachable(service_graph(self.top.estate).hard, kept), np.bool_)

    @cached_property
    def tiers(self) -> IntColumn:
        """(S,) tier of each, the last one if unknown."""
        last = len(self.top.estate.tier_weights) - 1
        return np.array([last if s.tier is None else s.tier for s in self.top.estate.services], np.int64)

    @cached_property
    def label_of_kind(self) -> list[str]:
        """(K,) the kinds of servers that services of a kind may use, in words."""
        return [_label(self, row) for row in self.wants.kinds]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """(S,) the kinds of servers each service may use, in words."""
        return tuple(map(self.label_of_kind.__getitem__, self.wants.kind.tolist()))

    def variant(self, name: Variant) -> Stock:
        """A variant of the capacity. `shed`: without services that may be shed or moved, and with servers
        that only people can boot, which is more than a plan has; `power`: without power budgets.
        """
        if name == "shed":
            every = replace(self.found, usable=self.found.usable | self.found.last)
            movable = np.array([service.movable for service in self.top.estate.services], np.bool_)
            return self.kept(name, every, self.firm & ~movable)
        found = replace(self.found, usable=self.found.usable | self.found.over_power)
        return self.kept(name, found, self.stock.counted)

    def kept(self, name: Variant, found: free_capacity.Reserves, counted: BoolColumn) -> Stock:
        """Free capacity if only some services are counted, computed once."""
        if name not in self._extra:
            used = free_capacity.used_amounts(self.top, self.demand, counted)
            headroom = free_capacity.headroom_of(self.top, self.rows, found, used)
            # Demands are the same if the pools are.
            wants = self.wants
            if headroom.pool_names != self.headroom.pool_names:
                wants = free_capacity.wants_of(self.top, headroom, self.demand, self.known, self.presence.n)
            self._extra[name] = stock_of(headroom, wants, used, counted)
        return self._extra[name]


def supply_of(top: Topology, losses: Losses, found: Presence) -> Supply:
    """The capacity of an estate in its current state."""
    held = free_capacity.reserves(top)
    demand, known = free_capacity.demands(top)
    used = free_capacity.used_amounts(top, demand)
    headroom = free_capacity.headroom_of(top, losses.rows, held, used)
    wants = free_capacity.wants_of(top, headroom, demand, known, found.n)
    fits = fits_of(Offer(top.estate, headroom, wants))
    stock = stock_of(headroom, wants, used, np.ones(len(known), np.bool_))
    return Supply(top, losses.rows, found, held, demand, known, stock, fits)


def _label(supply: Supply, eligible: BoolColumn) -> str:
    headroom, estate = supply.headroom, supply.top.estate
    pools = np.flatnonzero(eligible)
    names = {estate.classes[c].id if c >= 0 else "" for c in headroom.pool_class[pools].tolist()}
    return "+".join(sorted(names - {""})) or "pools"
