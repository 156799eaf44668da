"""Everything that the rows of a bound are made of, computed once from an instance.

Milestones are numbered: `s` the base of service s, `S + s` its top, `2S + d` the primary of lost
store d. Legal arcs between them and their least delays are rule R2 (section 5 of
docs/explanation/bound.md).
"""

from __future__ import annotations

from dataclasses import field, replace

import numpy as np

from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import Instance, Use
from evac.model.plan import PlacementRows
from evac.model.records import dataclass
from evac.planning.bound.capacity import Capacity, Needs, Sweep, needs_of
from evac.planning.bound.heads import Heads, by_hand, heads_of, needs_tools, pools_of
from evac.steps.promote import Promote
from evac.steps.registry import kind_of

Factors = tuple[tuple[int, int], ...]
"""Limit and factor of a supply row, sorted."""
Prices = tuple[tuple[tuple[int, int], int], ...]
"""(pool, resource) and factor of a capacity row, sorted."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one milestone does on a row. amount: unit-ticks; lead: Q, so that q = lead / (2 amount);
    release: tick before which none of it can be done."""

    amount: int
    lead: int
    release: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Worth of what is on: `first` from tick 0, then `gains` of (tick, more worth), ticks rising."""

    first: int
    gains: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Alike:
    """Services that start, and that shift, alike. start, shift (S): number of each one's pattern, -1 for
    none; starts: pools and ticks of each pattern; shifts: uses and ticks.
    """

    start: IntColumn
    shift: IntColumn
    starts: tuple[tuple[tuple[int, ...], int], ...]
    shifts: tuple[tuple[tuple[Use, ...], int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Columns over N = 2S + D milestones.

    name; weight; head: r; lost: milestones that have a head; fixed: running bases that cannot be shed (O =
    0); need: replicas that need capacity; lead: q of a capacity row. arcs: (i, j) -> ticks. works, sizes,
    curves, alike, dark, placed: caches, because several rows and certificates use the same.
    """

    instance: Instance
    needs: Needs
    capacity: Capacity
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
        over = np.maximum(0, self.head - self.since)
        return sum(
            w * t for w, t in zip(self.weight[self.lost].tolist(), over[self.lost].tolist(), strict=True)
        )

    @property
    def since(self) -> IntColumn:
        """(N,) ticks from which an outage counts."""
        stores = np.full(len(self.instance.stores), self.instance.grace, np.int64)
        return np.concatenate([self.instance.base_since, self.instance.top_since, stores])

    @property
    def lost_weight(self) -> int:
        return int(self.weight[self.lost].sum())

    @property
    def uncounted(self) -> int:
        """Weighted ticks within the grace."""
        return int((self.weight.astype(object) * self.since)[self.lost].sum())


def facts_of(instance: Instance) -> Facts:
    """All facts of an instance; a second or two at 1,200 services and 58,000 rows."""
    facts, sweep = facts_of_lost(instance)
    return whole(facts, sweep)


def whole(facts: Facts, sweep: Sweep) -> Facts:
    """Facts with arcs, and with the capacity of everything sheddable: what rows are made of."""
    capacity = sweep.whole()
    heads = replace(facts.heads, pools=pools_of(capacity))
    return replace(facts, capacity=capacity, heads=heads, arcs=arcs_of(facts.instance, facts.needs, heads))


def facts_of_lost(instance: Instance) -> tuple[Facts, Sweep]:
    """Facts with only the capacity of what is lost and without arcs: enough for heads."""
    s, stores = instance.services, instance.stores
    needs = needs_of(instance)
    sweep = Sweep(instance, needs)
    capacity = sweep.of_lost()
    heads = heads_of(instance, needs, capacity)
    none = np.zeros(len(stores), np.int64)
    all_lost = np.ones(len(stores), np.bool_)
    facts = Facts(
        instance=instance,
        needs=needs,
        capacity=capacity,
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


def arcs_of(instance: Instance, needs: Needs, heads: Heads) -> dict[tuple[int, int], int]:
    """(milestone, milestone it waits for) -> ticks at least between them."""
    table = _Arcs(instance, needs, heads, {s: members for members in heads.components for s in members})
    for members in heads.components:
        table.add_component(members)
    for s in range(len(instance.services)):
        table.add_top(s)
    for d in range(len(instance.stores)):
        table.add_store(d)
    return table.found


@dataclass(slots=True, eq=False)
class _Arcs:
    instance: Instance
    needs: Needs
    heads: Heads
    members: dict[int, list[int]]
    """Of each service, the members of its component."""
    found: dict[tuple[int, int], int] = field(default_factory=dict)

    def _add(self, i: int, j: int, delay: int) -> None:
        if i != j:
            delay = min(delay, self.instance.horizon)
            self.found[i, j] = max(self.found.get((i, j), 0), delay)

    def _add_tools(self, i: int, kind: str, delay: int) -> None:
        """Adds arcs to the tools of a kind of step without a manual way."""
        if needs_tools(self.instance, kind) and not by_hand(self.instance, kind):
            for tool in self.instance.tools[kind].services:
                self._add(i, tool, delay)

    def _outside(self, members: list[int], to_start: bool = False) -> tuple[list[int], list[int]]:
        """Milestones that a lost component waits for to serve, or only to start, and running bases that it
        needs.
        """
        services, inside = self.instance.services, set(members)
        hard, lost_stores = services.hard, services.lost_stores
        if to_start:
            hard, lost_stores = services.hard_start, services.start_stores
        needed = sorted({j for s in members for j in hard[s] if j not in inside})
        stores = sorted({d for s in members for d in lost_stores[s]})
        first_store = 2 * len(services)
        lost = [j for j in needed if services.base_lost[j]] + [first_store + d for d in stores]
        return lost, [j for j in needed if not services.base_lost[j]]

    def add_component(self, members: list[int]) -> None:
        services, heads = self.instance.services, self.heads
        lost, running = self._outside(members)
        for s in members:
            for j in running:
                self._add(s, j, 0)
            for other in members:
                self._add(s, other, 0)
        if not services.base_lost[members[0]]:
            return
        tail = heads.tail[members[0]]
        starting = [s for s in members if self.needs.base_starts[s] > 0]
        longest = max((heads.base_wave[s] + int(services.start[s]) for s in starting), default=0)
        first, _ = self._outside(members, to_start=True)
        for s in members:
            for j in lost:
                self._add(s, j, tail)
            for j in first:
                self._add(s, j, longest + tail)
            if self.needs.base_starts[s] > 0:
                self._add_tools(s, "start", heads.base_wave[s] + int(services.start[s]) + tail)
            if s not in services.alone:
                self._add_tools(s, "verify", tail)
            if services.shift[s]:
                self._add_tools(s, "shift", int(services.change[s] + services.settle[s]))

    def add_top(self, s: int) -> None:
        services, heads = self.instance.services, self.heads
        top = len(services) + s
        self._add(top, s, 0)
        for j in services.soft[s]:
            self._add(top, j, 0)
        if not services.top_lost[s] or self.needs.top_starts[s] == 0:
            return
        delay = heads.top_wave[s] + int(services.start[s] + services.verify[s])
        if services.base_lost[s]:
            for j in self._outside(self.members[s])[0]:
                self._add(top, j, int(services.verify[s]))
            for j in self._outside(self.members[s], to_start=True)[0]:
                self._add(top, j, delay)
        self._add_tools(top, "start", delay)
        self._add_tools(top, "verify", int(services.verify[s]))

    def add_store(self, d: int) -> None:
        store, primary = self.instance.stores[d], 2 * len(self.instance.services) + d
        allowed = store.allowed
        if not allowed or store.elects:
            return
        least = min(c.duration for c in allowed)
        self._add_tools(primary, "fence", store.fence + least)
        if all(kind_of(c.kind).is_bounded for c in allowed):
            self._add_tools(primary, Promote.name, least)
