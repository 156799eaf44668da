"""The room of an estate as three stocks: as it is, without services that may be shed, without power limits.

The first is made at once, the others when they are asked for. After a change, only what it touches
is made again (see `reshaping`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Final, Literal

import numpy as np

from evac.audit.facets import other_services
from evac.audit.losses import Losses, Rows
from evac.audit.placing import Stock, stock_of
from evac.audit.presence import Presence
from evac.audit.reserves import Reserves, reserves
from evac.audit.reshaping import reshaped
from evac.audit.room import (
    Room,
    Used,
    Wants,
    demands,
    demands_again,
    order_of_services,
    room_of,
    used_again,
    used_amounts,
    wants_of,
)
from evac.model.domain import Topology
from evac.model.fleet import ON_SERVER, BoolColumn, Fleet, IntColumn

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
    def labels(self) -> tuple[str, ...]:
        """(S,) the kinds of servers each service may use, in words."""
        names = [_label(self, row) for row in self.wants.kinds]
        return tuple(names[kind] for kind in self.wants.kind.tolist())

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

    def extend(self, name: Variant, room: Room, used: Used) -> None:
        """Take note of a stock; what services ask for is the same where the pools are."""
        same = room.pool_names == self.room.pool_names
        wants = self.wants if same else wants_of(self.top, room, self.demand, self.known, self.presence.n)
        self._extra[name] = stock_of(room, wants, used)

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
        on_servers = estate.replicas.kind == ON_SERVER
        same = on_servers.any() == (before.replicas.kind == ON_SERVER).any()
        found = self.found if same and estate.fleet is before.fleet else reserves(top, self.found)
        differs = other_services(before, estate) | (presence.n != self.presence.n)
        other = np.flatnonzero(differs).astype(np.int32)
        demand, known = demands_again((self.demand, self.known), top, other)
        moved = np.zeros(len(estate.fleet), np.bool_)
        for one in (estate, before) if services.any() else ():
            rows = np.flatnonzero(services[one.replicas.service])
            moved[one.replicas.target[rows[one.replicas.kind[rows] == ON_SERVER]]] = True
        facts = _changed_servers(before.fleet, estate.fleet)
        elsewhere = bool(services.any())
        used = used_again(self.stock.used, top, moved, demand) if elsewhere else self.stock.used
        changed = facts | _used_otherwise(self.stock.used, used, moved)
        room = reshaped(self.room, top, self.rows, found, used, changed | (found.usable != self.found.usable))
        wants = self.wants
        if elsewhere or len(other) or room.pool_names != self.room.pool_names:
            wants = wants_of(top, room, demand, known, presence.n, wants, other)
        result = Supply(top, self.rows, presence, found, demand, known, stock_of(room, wants, used))
        for name, stock in self._extra.items():
            held, taken = found, used
            if name == "shed":
                again = partial(used_again, stock.used, top, moved, demand, result.firm)
                taken = again() if elsewhere else stock.used
            else:
                held = _without_budgets(found)
            changed = facts | _used_otherwise(stock.used, taken, moved)
            usable = held.usable != (stock.room.server_shape >= 0)
            result.extend(name, reshaped(stock.room, top, self.rows, held, taken, changed | usable), taken)
        return result


def supply_of(top: Topology, losses: Losses, found: Presence) -> Supply:
    """The room of an estate as it stands."""
    held = reserves(top)
    demand, known = demands(top)
    used = used_amounts(top, demand)
    room = room_of(top, losses.rows, held, used)
    wants = wants_of(top, room, demand, known, found.n)
    return Supply(top, losses.rows, found, held, demand, known, stock_of(room, wants, used))


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


def _used_otherwise(before: Used, after: Used, servers: BoolColumn) -> BoolColumn:
    """(servers,) those of some servers on which more or less is used."""
    rows, found = np.flatnonzero(servers), np.zeros(len(servers), np.bool_)
    found[rows] = (before.servers[rows] != after.servers[rows]).any(axis=1)
    return found


def _label(supply: Supply, eligible: BoolColumn) -> str:
    room, estate = supply.room, supply.top.estate
    pools = np.flatnonzero(eligible)
    names = {estate.classes[c].id if c >= 0 else "" for c in room.pool_class[pools].tolist()}
    return "+".join(sorted(names - {""})) or "pools"
