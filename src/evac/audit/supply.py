"""The room of an estate as three stocks: as it is, without services that may be shed, without power limits.

The first is made at once, the others when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from evac.audit.fitting import Fits, Offer, fits_of
from evac.audit.losses import Losses, Rows
from evac.audit.placing import Stock, stock_of
from evac.audit.presence import Presence
from evac.audit.reserves import Reserves, reserves
from evac.audit.room import Room, Wants, demands, room_of, used_amounts, wants_of
from evac.model.domain import Topology
from evac.model.fleet import BoolColumn, IntColumn

Variant = Literal["shed", "power"]


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
                found = replace(found, usable=found.usable | found.over_power)
            room = room_of(self.top, self.rows, found, used)
            # What services ask for is the same where the pools are.
            wants = self.wants
            if room.pool_names != self.room.pool_names:
                wants = wants_of(self.top, room, self.demand, self.known, self.presence.n)
            self._extra[name] = stock_of(room, wants, used)
        return self._extra[name]


def supply_of(top: Topology, losses: Losses, found: Presence) -> Supply:
    """The room of an estate as it stands."""
    held = reserves(top)
    demand, known = demands(top)
    used = used_amounts(top, demand)
    room = room_of(top, losses.rows, held, used)
    wants = wants_of(top, room, demand, known, found.n)
    fits = fits_of(Offer(top.estate, room, wants))
    return Supply(top, losses.rows, found, held, demand, known, stock_of(room, wants, used), fits)


def _label(supply: Supply, eligible: BoolColumn) -> str:
    room, estate = supply.room, supply.top.estate
    pools = np.flatnonzero(eligible)
    names = {estate.classes[c].id if c >= 0 else "" for c in room.pool_class[pools].tolist()}
    return "+".join(sorted(names - {""})) or "pools"
