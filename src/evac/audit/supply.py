"""The room of an estate as three stocks: as it is, without services that may be shed, without power limits.

The first is made at once, the others when they are asked for. After a change, only what it touches
is made again (see `reshaping`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np

from evac.audit.facets import other_services
from evac.audit.fitting import Fits, Offer, fits_again, fits_of
from evac.audit.losses import Losses, Rows
from evac.audit.placing import Stock, stock_of
from evac.audit.presence import Presence
from evac.audit.reserves import Reserves, reserves
from evac.audit.reshaping import Before, reshaped
from evac.audit.room import (
    Room,
    Taking,
    Used,
    Wants,
    demands,
    demands_again,
    order_of_services,
    room_of,
    used_again,
    used_amounts,
    wants_again,
    wants_of,
)
from evac.model.domain import Topology
from evac.model.estate import Estate
from evac.model.fleet import ON_SERVER, BoolColumn, Fleet, IndexColumn, IntColumn

Variant = Literal["shed", "power"]
_FACTS: Final = ("server_class", "state", "capacity", "capacity_known")
"""Columns of the fleet that shapes are made of."""


@dataclass(eq=False)
class Supply:
    """Room of an estate, built once. demand (S, R), known (S,): of a replica, see `room.demands`."""

    top: Topology
    rows: Rows
    presence: Presence
    found: Reserves
    demand: IntColumn
    known: BoolColumn
    stock: Stock
    fits: Fits
    _extra: dict[Variant, Stock] = field(default_factory=dict)

    @property
    def room(self) -> Room:
        return self.stock.room

    @property
    def wants(self) -> Wants:
        return self.stock.wants

    @cached_property
    def firm(self) -> BoolColumn:
        """(S,) services that may not be shed."""
        return np.array([not s.sheddable for s in self.top.estate.services], np.bool_)

    @cached_property
    def label_of_kind(self) -> list[str]:
        """(K,) the kinds of servers that services of a kind may use, in words."""
        return [_label(self, row) for row in self.wants.kinds]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """(S,) the kinds of servers each service may use, in words."""
        return tuple(map(self.label_of_kind.__getitem__, self.wants.kind.tolist()))

    def variant(self, name: Variant) -> Stock:
        """`shed`: without services that may be shed; `power`: without power budgets."""
        if name not in self._extra:
            found, used = self.found, self.stock.used
            if name == "shed":
                used = used_amounts(self.top, self.demand, self.firm)
            else:
                found = _without_budgets(found)
            self.extend(name, room_of(self.top, self.rows, found, used), used)
        return self._extra[name]

    def extend(self, name: Variant, room: Room, used: Used, before: Stock | None = None) -> None:
        """Take note of a stock; what services ask for is the same where the pools are."""
        same = room.pool_names == self.room.pool_names
        wants = self.wants if same else wants_of(self.top, room, self.demand, self.known, self.presence.n)
        self._extra[name] = stock_of(room, wants, used, before)

    def same_variants(self, other: Supply) -> bool:
        """Whether the same may be shed and the same held back by power, in the same room; of what was asked
        for here."""
        return (
            self.found is other.found
            and np.array_equal(self.firm, other.firm)
            and all(stock.same(other.variant(name)) for name, stock in self._extra.items())
        )

    def reordered(self, top: Topology) -> Supply:
        """The same room, where other services may go first."""
        order = order_of_services(top)
        stock, *extra = (
            replace(stock, wants=replace(stock.wants, order=order))
            for stock in (self.stock, *self._extra.values())
        )
        return replace(self, top=top, stock=stock, _extra=dict(zip(self._extra, extra, strict=True)))

    def again(self, top: Topology, presence: Presence, services: BoolColumn) -> Supply:
        """The room after a change of servers, or of what some services take or where they stand (S,)."""
        estate, before = top.estate, self.top.estate
        found = self.found
        if estate.fleet is not before.fleet or _on_servers(estate) != _on_servers(before):
            found = reserves(top, self.found)
        other = np.flatnonzero(other_services(before, estate)).astype(np.int32)
        demand = demands_again((self.demand, self.known), top, other)
        taking = Taking(before.replicas, self.demand), Taking(estate.replicas, demand[0])
        chosen = np.flatnonzero(services).astype(np.int32)
        facts = None if found is self.found else _changed_servers(before.fleet, estate.fleet)
        used, servers = used_again(self.stock.used, *taking, chosen)
        room = self._room_again(top, self.stock, found, used, facts, servers)
        differs = services | (presence.n != self.presence.n)
        differs[other] = True
        if room.pool_names != self.room.pool_names:
            wants = wants_of(top, room, *demand, presence.n)
        else:
            wants = self.wants
            if differs.any():
                others = np.flatnonzero(differs).astype(np.int32)
                wants = wants_again(wants, top, room, demand, presence.n, others)
        stock = stock_of(room, wants, used, self.stock)
        offers = Offer(before, self.room, self.wants), Offer(estate, room, wants)
        fits = fits_again(self.fits, *offers, chosen)
        result = Supply(top, self.rows, presence, found, *demand, stock, fits)
        for name, one in self._extra.items():
            held, taken, elsewhere = found, used, servers
            if name == "shed":
                firm = taking[0].only(self.firm), taking[1].only(result.firm)
                taken, elsewhere = used_again(one.used, *firm, chosen)
            else:
                held = _without_budgets(found)
            again = self._room_again(top, one, held, taken, facts, elsewhere)
            result.extend(name, again, taken, one)
        return result

    def _room_again(
        self,
        top: Topology,
        stock: Stock,
        held: Reserves,
        used: Used,
        facts: BoolColumn | None,
        elsewhere: IndexColumn,
    ) -> Room:
        """The shapes of a stock after a change.

        facts (servers,): those with other facts, None if there are none; elsewhere: those on which another
        amount is used.
        """
        if used is stock.used and facts is None:
            return stock.room
        changed = held.usable != (stock.room.server_shape >= 0)
        if facts is not None:
            changed |= facts
        changed[elsewhere] = True
        return reshaped(Before(stock.room, self.top, stock.used), top, self.rows, held, used, changed)


def supply_of(top: Topology, losses: Losses, found: Presence) -> Supply:
    """The room of an estate as it stands."""
    held = reserves(top)
    demand, known = demands(top)
    used = used_amounts(top, demand)
    room = room_of(top, losses.rows, held, used)
    wants = wants_of(top, room, demand, known, found.n)
    fits = fits_of(Offer(top.estate, room, wants))
    return Supply(top, losses.rows, found, held, demand, known, stock_of(room, wants, used), fits)


def _without_budgets(held: Reserves) -> Reserves:
    return replace(held, usable=held.usable | held.over_power)


def _changed_servers(before: Fleet, after: Fleet) -> BoolColumn:
    """(servers,) with another class, state or capacity."""
    changed = np.zeros(len(after), np.bool_)
    for name in _FACTS if before is not after else ():
        one, other = getattr(before, name), getattr(after, name)
        if one is not other:
            changed |= (one != other).reshape(len(after), -1).any(axis=1)
    return changed


def _on_servers(estate: Estate) -> bool:
    """Whether it is known of any replica on which server it stands."""
    return bool((estate.replicas.kind == ON_SERVER).any())


def _label(supply: Supply, eligible: BoolColumn) -> str:
    room, estate = supply.room, supply.top.estate
    pools = np.flatnonzero(eligible)
    names = {estate.classes[c].id if c >= 0 else "" for c in room.pool_class[pools].tolist()}
    return "+".join(sorted(names - {""})) or "pools"
