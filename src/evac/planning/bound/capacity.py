"""Capacity rows: room as boots free it, priced per pool and resource (section 7, rule R4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Final

import numpy as np

from evac.model.fleet import IntColumn
from evac.planning.bound.facts import Facts

_DEAR: Final = 2**62
Prices = Mapping[tuple[int, int], int]
"""(pool, resource) -> factor."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Worth of what is on: `first` from tick 0, then `gains` of (tick, more worth), ticks rising."""

    first: int
    gains: tuple[tuple[int, int], ...]


def sizes_of(facts: Facts, prices: Prices) -> dict[int, int]:
    """Milestone -> least worth of the room it needs, over all pools it may use; zero left out."""
    key = tuple(sorted(prices.items()))
    if key not in facts.sizes:
        facts.sizes[key] = _sizes(facts, prices)
    return facts.sizes[key]


def _sizes(facts: Facts, prices: Prices) -> dict[int, int]:
    services, usable = facts.instance.services, facts.room.per_pool > 0
    count, priced = len(services), np.zeros(usable.shape[1], np.bool_)
    priced[[pool for pool, _ in prices]] = True
    usable, legal = usable & priced, ~(usable & ~priced).any(axis=1)
    worths = _worths(services.demand, prices, usable.shape[1])
    worth = np.where(usable, worths, _DEAR).min(axis=1, initial=_DEAR)
    need = facts.need[: 2 * count].reshape(2, count)
    found: dict[int, int] = {}
    for s in np.flatnonzero(legal & usable.any(axis=1) & (worth > 0) & need.any(axis=0)).tolist():
        for milestone in (s, count + s):
            if facts.need[milestone] > 0:
                found[milestone] = int(facts.need[milestone]) * int(worth[s])
    return found


def _worths(demand: IntColumn, prices: Prices, pools: int) -> IntColumn:
    """(S, P) worth of what a replica takes, exact: in Python's integers where it could exceed 64 bits."""
    factors = np.zeros((demand.shape[1], pools), object)
    for (pool, resource), factor in prices.items():
        factors[resource, pool] = factor
    largest = int(demand.max(initial=0)) * max(prices.values(), default=0) * demand.shape[1]
    kind: type = np.int64 if largest < _DEAR else object
    return np.asarray(demand.astype(kind) @ factors.astype(kind))


def curve_of(facts: Facts, prices: Prices) -> Curve:
    """Worth of powered rows, and what the quickest boots of the worthiest rows add."""
    key = tuple(sorted(prices.items()))
    if key not in facts.curves:
        facts.curves[key] = _curve(facts, prices)
    return facts.curves[key]


def _curve(facts: Facts, prices: Prices) -> Curve:
    first = sum(f * int(facts.room.powered[p, r]) for (p, r), f in prices.items())
    gains: Counter[int] = Counter()
    priced = {p for p, _ in prices}
    for group, alike in zip(facts.room.groups, _dark_alike(facts), strict=True):
        if group.batch == 0:
            continue
        ranked = Counter[int]()
        for (p, *room), count in alike:
            if p in priced:
                ranked[sum(prices.get((p, r), 0) * amount for r, amount in enumerate(room))] += count
        batch = len(group.rows) if group.batch is None else group.batch
        place = 0
        for worth in sorted(ranked, reverse=True):
            for wave, count in _waves(place, ranked[worth], batch):
                gains[group.delay + wave * group.hold + facts.heads.boot_wait] += worth * count
            place += ranked[worth]
    return Curve(first, tuple((t, gains[t]) for t in sorted(gains) if gains[t] > 0))


def _dark_alike(facts: Facts) -> list[list[tuple[tuple[int, ...], int]]]:
    """Of each group of boots: rows alike in pool and usable room, and how many there are. Found once."""
    if not facts.dark:
        table = np.column_stack([facts.instance.rows.pool, facts.room.usable]).astype(np.int64)
        for group in facts.room.groups:
            rows, counts = np.unique(table[group.rows], axis=0, return_counts=True)
            facts.dark.append(list(zip(map(tuple, rows.tolist()), counts.tolist(), strict=True)))
    return facts.dark


def _waves(place: int, count: int, batch: int) -> list[tuple[int, int]]:
    """(number of the batch, rows in it) for rows `place` to `place + count` of a queue."""
    found = []
    while count > 0:
        wave, offset = divmod(place, batch)
        some = min(count, batch - offset)
        found.append((wave, some))
        place, count = place + some, count - some
    return found


def by_density(members: Sequence[int], weights: Mapping[int, int], sizes: Mapping[int, int]) -> list[int]:
    """Milestones by weight per size, largest first, exactly; ties keep their order."""

    def compare(a: int, b: int) -> int:
        difference = weights[b] * sizes[a] - weights[a] * sizes[b]
        return (difference > 0) - (difference < 0)

    return sorted(members, key=cmp_to_key(compare))


def waits_of(order: Sequence[int], sizes: Mapping[int, int], curve: Curve, horizon: int) -> dict[int, int]:
    """Sum over the units of each milestone of the ticks they wait for room, laid end to end."""
    found: dict[int, int] = {}
    gains = iter((*curve.gains, (horizon, None)))
    room, tick = curve.first, 0
    for milestone in order:
        left, total = sizes[milestone], 0
        while left > 0:
            if room > 0 or tick >= horizon:
                taken = left if tick >= horizon else min(left, room)
                total += taken * tick
                left, room = left - taken, room - taken
            else:
                tick, gain = next(gains)
                tick, room = min(tick, horizon), 0 if gain is None else gain
        found[milestone] = total
    return found
