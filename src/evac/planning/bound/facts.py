"""Everything that the rows of a bound are made of, worked out once from an instance.

Milestones are numbered: `s` the base of service s, `S + s` its top, `2S + d` the primary of lost
store d.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from evac.model.certificate import PlacementRows
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Instance, Use
from evac.planning.bound.arcs import arcs_of
from evac.planning.bound.heads import Heads, heads_of, pools_of
from evac.planning.bound.room import Needs, Room, Sweep, needs_of

if TYPE_CHECKING:
    from evac.planning.bound.capacity import Curve
    from evac.planning.bound.supply import Work

Factors = tuple[tuple[int, int], ...]
"""Limit and factor of a supply row, sorted."""
Prices = tuple[tuple[tuple[int, int], int], ...]
"""(pool, resource) and factor of a capacity row, sorted."""


@dataclass(frozen=True, slots=True, eq=False)
class Alike:
    """Services that start, and that shift, alike. start, shift (S): number of what each does, -1 for nothing;
    starts: its pools and ticks; shifts: its uses and ticks.
    """

    start: IntColumn
    shift: IntColumn
    starts: tuple[tuple[tuple[int, ...], int], ...]
    shifts: tuple[tuple[tuple[Use, ...], int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Columns over N = 2S + D milestones.

    name; weight; head: r; lost: milestones that have a head; fixed: running bases that cannot be
    shed (O = 0); need: replicas that need room; lead: q of a capacity row. arcs: (i, j) -> ticks.
    works, sizes, curves, alike, dark, placed: what was worked out already, as several rows and certificates
    use the same.
    """

    instance: Instance
    needs: Needs
    room: Room
    heads: Heads
    name: tuple[str, ...]
    weight: IntColumn
    head: IntColumn
    lost: BoolColumn
    fixed: BoolColumn
    need: IntColumn
    lead: IntColumn
    arcs: dict[tuple[int, int], int]
    works: dict[Factors, dict[int, Work]] = field(default_factory=dict)
    sizes: dict[Prices, dict[int, int]] = field(default_factory=dict)
    curves: dict[Prices, Curve] = field(default_factory=dict)
    alike: dict[str, Alike] = field(default_factory=dict)
    dark: list[list[tuple[tuple[int, ...], int]]] = field(default_factory=list)
    placed: list[tuple[PlacementRows, list[int]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.name)

    @property
    def sum_of_heads(self) -> int:
        """Weighted ticks that chains alone make unavoidable, net of grace."""
        over = np.maximum(0, self.head - self.instance.grace)
        return sum(
            w * t for w, t in zip(self.weight[self.lost].tolist(), over[self.lost].tolist(), strict=True)
        )

    @property
    def lost_weight(self) -> int:
        return int(self.weight[self.lost].sum())


def facts_of(instance: Instance) -> Facts:
    """All facts of an instance; a second or two at 1,200 services and 58,000 rows."""
    facts, sweep = facts_of_lost(instance)
    return whole(facts, sweep)


def whole(facts: Facts, sweep: Sweep) -> Facts:
    """Facts with arcs, and with the room of everything that may be shed: what rows are made of."""
    room = sweep.whole()
    heads = replace(facts.heads, pools=pools_of(room))
    return replace(facts, room=room, heads=heads, arcs=arcs_of(facts.instance, facts.needs, heads))


def facts_of_lost(instance: Instance) -> tuple[Facts, Sweep]:
    """Facts with the room of what is lost alone and without arcs: all that heads are made of."""
    s, stores = instance.services, instance.stores
    needs = needs_of(instance)
    sweep = Sweep(instance, needs)
    room = sweep.of_lost()
    heads = heads_of(instance, needs, room)
    none = np.zeros(len(stores), np.int64)
    all_lost = np.ones(len(stores), np.bool_)
    facts = Facts(
        instance=instance,
        needs=needs,
        room=room,
        heads=heads,
        name=(
            *(f"{name}.base" for name in s.id),
            *(f"{name}.top" for name in s.id),
            *(f"{d.id}.primary" for d in stores),
        ),
        weight=np.concatenate([s.base_weight, s.top_weight, none]),
        head=np.array([*heads.base, *heads.top, *heads.store], np.int64),
        lost=np.concatenate([s.base_lost, s.top_lost, all_lost]),
        fixed=np.concatenate([~s.base_lost & ~s.sheddable, np.zeros(len(s), np.bool_), ~all_lost]),
        need=np.concatenate([needs.base, needs.top, none]),
        lead=_leads(instance, needs, heads),
        arcs={},
    )
    return facts, sweep


def _leads(instance: Instance, needs: Needs, heads: Heads) -> IntColumn:
    """Least ticks from a replica's start to its milestone; 0 for what runs."""
    s = instance.services
    tail = np.array(heads.tail, np.int64)
    base = np.where(s.base_lost, tail + np.where(needs.base_starts > 0, s.start, 0), 0)
    top = np.where(s.top_lost & (needs.top_starts > 0), s.start + s.verify, 0)
    return np.concatenate([base, top, np.zeros(len(instance.stores), np.int64)]).astype(np.int64)
