"""Capacity rows: room as boots free it, priced per pool and resource (section 7, rule R4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key

from evac.planning.bound.facts import Facts

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
    services = facts.instance.services
    by_pool: dict[int, list[tuple[int, int]]] = {}
    for (pool, resource), factor in prices.items():
        by_pool.setdefault(pool, []).append((resource, factor))
    found: dict[int, int] = {}
    for s, demand in enumerate(services.demand.tolist()):
        needs = (int(facts.need[s]), int(facts.need[len(services) + s]))
        if not any(needs) or not all(p in by_pool for p in facts.heads.pools[s]):
            continue
        worth = min((sum(f * demand[r] for r, f in by_pool[p]) for p in facts.heads.pools[s]), default=0)
        for milestone, need in zip((s, len(services) + s), needs, strict=True):
            if need * worth > 0:
                found[milestone] = need * worth
    return found


def curve_of(facts: Facts, prices: Prices) -> Curve:
    """Worth of powered rows, and what the quickest boots of the worthiest rows add."""
    key = tuple(sorted(prices.items()))
    if key not in facts.curves:
        facts.curves[key] = _curve(facts, prices)
    return facts.curves[key]


def _curve(facts: Facts, prices: Prices) -> Curve:
    first = sum(f * int(facts.room.powered[p, r]) for (p, r), f in prices.items())
    gains: Counter[int] = Counter()
    pool, usable = facts.instance.rows.pool, facts.room.usable
    priced = {p for p, _ in prices}
    for group in facts.room.groups:
        if group.batch == 0:
            continue
        worths = Counter(
            (int(pool[v]), *usable[v].tolist()) for v in group.rows.tolist() if int(pool[v]) in priced
        )
        ranked = Counter[int]()
        for (p, *room), count in worths.items():
            ranked[sum(prices.get((p, r), 0) * amount for r, amount in enumerate(room))] += count
        batch = len(group.rows) if group.batch is None else group.batch
        place = 0
        for worth in sorted(ranked, reverse=True):
            for wave, count in _waves(place, ranked[worth], batch):
                gains[group.delay + wave * group.hold + facts.heads.boot_wait] += worth * count
            place += ranked[worth]
    return Curve(first, tuple((t, gains[t]) for t in sorted(gains) if gains[t] > 0))


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
