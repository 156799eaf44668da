"""Which supply and capacity rows are worth a share: the candidates that a search is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.planning.bound import capacity, supply
from evac.planning.bound.capacity import Curve
from evac.planning.bound.facts import Facts
from evac.planning.bound.supply import Work

_MOST_SUPPLY_ROWS = 12
_FINEST = 2**20
"""Largest factor of a price when prices become whole numbers."""

FloatTable = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SupplyChoice:
    """A supply row that may be used. factors: limit -> factor; speed: units in all."""

    factors: dict[int, int]
    speed: int
    works: dict[int, Work]


@dataclass(frozen=True, slots=True, eq=False)
class CapacityChoice:
    """A capacity row that may be used; sizes leave out what cannot be shed."""

    prices: dict[tuple[int, int], int]
    sizes: dict[int, int]
    curve: Curve


def supply_choices(facts: Facts) -> tuple[SupplyChoice, ...]:
    """Single limits and sums of alternative limits that make somebody wait, the slowest first."""
    found = []
    for limits in sorted({*_single(facts), *_alternatives(facts)}):
        factors = dict.fromkeys(limits, 1)
        speed = supply.capacity_of(facts, factors)
        works = supply.works_of(facts, factors) if speed else {}
        total = sum(w.amount for w in works.values())
        if len(works) > 1 and total > speed:
            found.append((-total // speed, limits, SupplyChoice(factors, speed, works)))
    found.sort(key=lambda item: item[:2])
    return tuple(choice for _, _, choice in found[:_MOST_SUPPLY_ROWS])


def _single(facts: Facts) -> Iterable[tuple[int, ...]]:
    """Limits that starts, shifts, fences or promotions hold."""
    instance = facts.instance
    uses = [u for pool in instance.pools for u in pool.start_uses]
    uses += [u for some in instance.services.shift_uses for u in some]
    uses += [
        u for d in instance.stores for some in (d.fence_uses, *(c.uses for c in d.allowed)) for u in some
    ]
    return ((limit,) for limit in sorted({u.limit for u in uses}))


def _alternatives(facts: Facts) -> Iterable[tuple[int, ...]]:
    """Limits of which one action holds one or another, by the pool or candidate that a plan picks."""
    instance = facts.instance
    sets = {facts.heads.pools[s] for s in range(len(instance.services)) if facts.heads.pools[s]}
    for pools in sorted(sets):
        yield from _union([{u.limit for u in instance.pools[p].start_uses} for p in pools])
    for store in instance.stores:
        yield from _union([{u.limit for u in c.uses} for c in store.allowed])


def _union(choices: list[set[int]]) -> Iterable[tuple[int, ...]]:
    """Limits that not every choice holds, taken together, if each choice holds at least one."""
    common = set.intersection(*choices) if choices else set()
    rest = [some - common for some in choices]
    if len(rest) > 1 and all(rest):
        yield tuple(sorted(set.union(*rest)))


def capacity_choice(facts: Facts, prices: FloatTable) -> CapacityChoice | None:
    """A row from real prices (P, R), made whole; None where it could never make anybody wait."""
    largest = float(prices.max(initial=0.0))
    if largest <= 0.0:
        return None
    whole = np.floor(prices * (_FINEST / largest) + 0.5).astype(np.int64)
    table = {(int(p), int(r)): int(whole[p, r]) for p, r in np.argwhere(whole > 0)}
    sizes = capacity.sizes_of(facts, table)
    curve = capacity.curve_of(facts, table)
    if sum(sizes.values()) <= curve.first:
        return None
    return CapacityChoice(table, {i: d for i, d in sizes.items() if not facts.fixed[i]}, curve)


def plain_prices(facts: Facts) -> list[FloatTable]:
    """Prices of one resource everywhere, for each resource, and of all resources together."""
    pool_count, resources = facts.room.usable_pool.shape
    total = facts.room.usable_pool.sum(axis=0)
    found = []
    for r in range(resources):
        table = np.zeros((pool_count, resources))
        table[:, r] = 1.0
        found.append(table)
    even = np.where(total > 0, 1.0, 0.0) / np.maximum(1, total)
    found.append(np.repeat(even[None, :], pool_count, axis=0))
    return found
