"""Rows of a bound for scarce resources: limits (section 6, rule R3) and capacity (section 7, rule R4).

A supply row gives what milestones hold of limits and the value of waiting for them; a capacity row prices, by
pool and resource, the capacity that boots add.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cmp_to_key
from typing import Final

import numpy as np

from evac.model.fleet import IntColumn
from evac.model.instance import LostStore, Use
from evac.model.records import dataclass
from evac.planning.bound.facts import Alike, Curve, Facts, Work
from evac.planning.bound.heads import hold_of


@dataclass(frozen=True, slots=True)
class _Part:
    """Equal actions of a milestone: count, work of one, half ticks from its middle to the end, release."""

    count: int
    amount: int
    distance: int
    release: int


def capacity_of(facts: Facts, factors: Mapping[int, int]) -> int:
    """Speed of a row: total units of its limits."""
    return sum(factor * facts.instance.limits[limit].capacity for limit, factor in factors.items())


def works_of(facts: Facts, factors: Mapping[int, int]) -> dict[int, Work]:
    """Milestone -> its work on the limits of a row, for all that have any; computed once per row."""
    key = tuple(sorted(factors.items()))
    found = facts.works.get(key)
    if found is None:
        found = facts.works[key] = _works(facts, factors)
    return found


def _works(facts: Facts, factors: Mapping[int, int]) -> dict[int, Work]:
    services, starting, moving = facts.instance.services, _Starting(facts, factors), _Moving(facts, factors)
    found: dict[int, Work] = {}
    for s in _at_work(facts, starting, moving):
        if services.base_lost[s]:
            parts = [_start(facts, starting, s, top=False), moving.part(s)]
            _collect(
                found, s, parts, _self_wait(facts, factors, s, int(facts.needs.base_starts[s]), parts[0])
            )
        if services.top_lost[s]:
            part = _start(facts, starting, s, top=True)
            wait = _self_wait(facts, factors, s, int(facts.needs.top_starts[s]), part)
            _collect(found, len(services) + s, [part], wait)
    for d, store in enumerate(facts.instance.stores):
        if store.allowed:
            parts = [_fence(facts, factors, store), _promotion(facts, factors, d, store)]
            _collect(found, 2 * len(services) + d, parts, 0)
    return found


def _at_work(facts: Facts, starting: _Starting, moving: _Moving) -> list[int]:
    """Services with work on the limits of a row; most rows concern one pool or one kind of traffic."""
    alike = facts.alike.get("services")
    if alike is None:
        alike = facts.alike["services"] = _alike(facts)
    starts = np.array([starting.of(*key)[0] > 0 for key in alike.starts] + [False], np.bool_)
    shifts = np.array([moving.of(*key) > 0 for key in alike.shifts] + [False], np.bool_)
    found: list[int] = np.flatnonzero(starts[alike.start] | shifts[alike.shift]).tolist()
    return found


def _alike(facts: Facts) -> Alike:
    """Numbers the start and shift patterns of an instance's services; -1, the last, for none."""
    services, needs, pools = facts.instance.services, facts.needs, facts.heads.pools
    starts: dict[tuple[tuple[int, ...], int], int] = {}
    shifts: dict[tuple[tuple[Use, ...], int], int] = {}
    start, shift = np.full((2, len(services)), -1, np.int64)
    some = (needs.base_starts + needs.top_starts) > 0
    for s in np.flatnonzero(services.base_lost | services.top_lost).tolist():
        if some[s] and pools[s]:
            start[s] = starts.setdefault((pools[s], int(services.start[s])), len(starts))
        if services.base_lost[s] and services.shift[s]:
            ticks = int(services.change[s] + services.settle[s])
            shift[s] = shifts.setdefault((services.shift_uses[s], ticks), len(shifts))
    return Alike(start, shift, tuple(starts), tuple(shifts))


@dataclass(slots=True, eq=False)
class _Starting:
    """Work of one start on the limits of a row: the same for services with the same pools and length."""

    facts: Facts
    factors: Mapping[int, int]
    known: dict[tuple[tuple[int, ...], int], tuple[int, int, int]] = field(default_factory=dict)

    def of(self, pools: tuple[int, ...], start: int) -> tuple[int, int, int]:
        """(least work, least half ticks from the middle of a hold to tick 0, least offset) over pools."""
        found = self.known.get((pools, start))
        if found is None:
            some = [self.facts.instance.pools[p].start_uses for p in pools]
            amount = min(_taken(uses, self.factors, start) for uses in some)
            every = [u for uses in some for u in uses]
            nearest = _nearest(every, self.factors, start, 0) if amount else 0
            found = (amount, nearest, _offset(every, self.factors) if amount else 0)
            self.known[pools, start] = found
        return found


def _collect(found: dict[int, Work], milestone: int, parts: Sequence[_Part | None], wait: int) -> None:
    kept = [p for p in parts if p is not None and p.amount > 0 and p.count > 0]
    if kept:
        found[milestone] = Work(
            sum(p.count * p.amount for p in kept),
            sum(p.count * p.amount * p.distance for p in kept) + wait,
            min(p.release for p in kept),
        )


def _taken(uses: Sequence[Use], factors: Mapping[int, int], duration: int) -> int:
    return sum(factors[u.limit] * u.units * hold_of(u, duration) for u in uses if u.limit in factors)


def _nearest(uses: Sequence[Use], factors: Mapping[int, int], duration: int, tail: int) -> int:
    """Least half ticks from the middle of a hold to the end of the action's purpose."""
    return min(2 * tail - 2 * u.offset - hold_of(u, duration) for u in uses if u.limit in factors)


def _offset(uses: Sequence[Use], factors: Mapping[int, int]) -> int:
    return min(u.offset for u in uses if u.limit in factors)


def _start(facts: Facts, starting: _Starting, s: int, top: bool) -> _Part | None:
    services, heads, pools = facts.instance.services, facts.heads, facts.heads.pools[s]
    count = int(facts.needs.top_starts[s] if top else facts.needs.base_starts[s])
    if count == 0 or not pools:
        return None
    start = int(services.start[s])
    amount, nearest, offset = starting.of(pools, start)
    if amount == 0:
        return None
    tail = start + (int(services.verify[s]) if top else heads.tail[s])
    one = int(facts.capacity.one_tick[s])
    first = max(heads.begin[s], 0 if one < 0 else one + heads.boot_wait)
    return _Part(count, amount, 2 * tail + nearest, min(facts.instance.horizon, first + offset))


def _self_wait(facts: Facts, factors: Mapping[int, int], s: int, count: int, part: _Part | None) -> int:
    """Half ticks x work that starts of one milestone wait for each other on a single limit."""
    if part is None or len(factors) != 1 or next(iter(factors.values())) != 1:
        return 0
    limit, start = next(iter(factors)), int(facts.instance.services.start[s])
    uses = [u for p in facts.heads.pools[s] for u in facts.instance.pools[p].start_uses if u.limit == limit]
    batch = facts.instance.limits[limit].capacity // min(u.units for u in uses)
    if batch == 0:
        return 0
    full, rest = divmod(count, batch)
    rounds = batch * full * (full - 1) // 2 + rest * full
    return 2 * part.amount * min(hold_of(u, start) for u in uses) * rounds


@dataclass(slots=True, eq=False)
class _Moving:
    """Work of one shift on the limits of a row: the same for services with the same uses and length."""

    facts: Facts
    factors: Mapping[int, int]
    known: dict[tuple[tuple[Use, ...], int], int] = field(default_factory=dict)

    def of(self, uses: tuple[Use, ...], ticks: int) -> int:
        """Work of one."""
        found = self.known.get((uses, ticks))
        if found is None:
            found = self.known[uses, ticks] = _taken(uses, self.factors, ticks)
        return found

    def part(self, s: int) -> _Part | None:
        services = self.facts.instance.services
        if not services.shift[s]:
            return None
        uses, ticks = services.shift_uses[s], int(services.change[s] + services.settle[s])
        taken = self.of(uses, ticks)
        if not taken:
            return None
        offset = self.facts.heads.shifting[s] + _offset(uses, self.factors)
        release = min(self.facts.instance.horizon, offset)
        return _Part(1, taken, _nearest(uses, self.factors, ticks, ticks), release)


def _fence(facts: Facts, factors: Mapping[int, int], store: LostStore) -> _Part | None:
    amount = _taken(store.fence_uses, factors, store.fence)
    if not amount:
        return None
    tail = store.fence + min(c.duration for c in store.allowed)
    distance = _nearest(store.fence_uses, factors, store.fence, tail)
    return _Part(1, amount, distance, min(facts.instance.horizon, _offset(store.fence_uses, factors)))


def _promotion(facts: Facts, factors: Mapping[int, int], d: int, store: LostStore) -> _Part | None:
    amount = min(_taken(c.uses, factors, c.duration) for c in store.allowed)
    if not amount:
        return None
    least = min(c.duration for c in store.allowed)
    distance = min(_nearest(c.uses, factors, c.duration, least) for c in store.allowed)
    offset = min(_offset(c.uses, factors) for c in store.allowed)
    return _Part(1, amount, distance, min(facts.instance.horizon, facts.heads.fenced[d] + offset))


def busy_times(
    order: Sequence[tuple[int, Work]], weights: Mapping[int, int], speed: int, horizon: int
) -> dict[int, int]:
    """Twice the sum of time over the work of each milestone, in 1/speed ticks, cut at the horizon.

    One machine, preemptive, always the released work of the largest weight per work, ties to the
    earlier in `order`: the least weighted mean busy time (Goemans, Queyranne, Schulz, Skutella,
    Wang, SIAM Journal on Discrete Mathematics 15, 2002).
    """
    arrivals = sorted((speed * work.release, place) for place, (_, work) in enumerate(order))
    left = [work.amount for _, work in order]
    found = [0] * len(order)
    ready: list[tuple[_Ratio, int]] = []
    clock = cursor = 0
    end = speed * horizon
    while ready or cursor < len(arrivals):
        if not ready:
            clock = max(clock, arrivals[cursor][0])
        while cursor < len(arrivals) and arrivals[cursor][0] <= clock:
            place = arrivals[cursor][1]
            milestone, work = order[place]
            heapq.heappush(ready, (_Ratio(weights[milestone], work.amount, place), place))
            cursor += 1
        place = ready[0][1]
        until = clock + left[place]
        if cursor < len(arrivals):
            until = min(until, arrivals[cursor][0])
        found[place] += _moment(clock, until, end)
        left[place] -= until - clock
        clock = until
        if left[place] == 0:
            heapq.heappop(ready)
    return {milestone: found[place] for place, (milestone, _) in enumerate(order)}


@dataclass(slots=True)
class _Ratio:
    """Sorts by weight per work, largest first, exactly; ties by place."""

    weight: int
    amount: int
    place: int

    def __lt__(self, other: _Ratio) -> bool:
        mine, theirs = self.weight * other.amount, other.weight * self.amount
        return mine > theirs or (mine == theirs and self.place < other.place)


def _moment(start: int, until: int, end: int) -> int:
    """Twice the integral of min(time, end) over [start, until)."""
    inside, beyond = min(until, end), max(start, end)
    total = inside * inside - start * start if inside > start else 0
    return total + 2 * (until - beyond) * end if until > beyond else total


_DEAR: Final = 2**62
Prices = Mapping[tuple[int, int], int]
"""(pool, resource) -> factor."""


def sizes_of(facts: Facts, prices: Prices) -> dict[int, int]:
    """Milestone -> least value of the capacity it needs, over all pools it may use; zero left out."""
    key = tuple(sorted(prices.items()))
    if key not in facts.sizes:
        facts.sizes[key] = _sizes(facts, prices)
    return facts.sizes[key]


def _sizes(facts: Facts, prices: Prices) -> dict[int, int]:
    services, usable = facts.instance.services, facts.capacity.per_pool > 0
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
    """(S, P) value of a replica's demand, exact: in Python's integers if it could exceed 64 bits."""
    factors = np.zeros((demand.shape[1], pools), object)
    for (pool, resource), factor in prices.items():
        factors[resource, pool] = factor
    largest = int(demand.max(initial=0)) * max(prices.values(), default=0) * demand.shape[1]
    kind: type = np.int64 if largest < _DEAR else object
    return np.asarray(demand.astype(kind) @ factors.astype(kind))


def curve_of(facts: Facts, prices: Prices) -> Curve:
    """Value of powered rows, and what the quickest boots of the most valuable rows add."""
    key = tuple(sorted(prices.items()))
    if key not in facts.curves:
        facts.curves[key] = _curve(facts, prices)
    return facts.curves[key]


def _curve(facts: Facts, prices: Prices) -> Curve:
    first = sum(f * int(facts.capacity.powered[p, r]) for (p, r), f in prices.items())
    gains: Counter[int] = Counter()
    priced = {p for p, _ in prices}
    for group, alike in zip(facts.capacity.groups, _dark_alike(facts), strict=True):
        if group.batch == 0:
            continue
        ranked = Counter[int]()
        for (p, *capacity), count in alike:
            if p in priced:
                ranked[sum(prices.get((p, r), 0) * amount for r, amount in enumerate(capacity))] += count
        batch = len(group.rows) if group.batch is None else group.batch
        place = 0
        for worth in sorted(ranked, reverse=True):
            for wave, count in _waves(place, ranked[worth], batch):
                gains[group.delay + wave * group.hold + facts.heads.boot_wait] += worth * count
            place += ranked[worth]
    return Curve(first, tuple((t, gains[t]) for t in sorted(gains) if gains[t] > 0))


def _dark_alike(facts: Facts) -> list[list[tuple[tuple[int, ...], int]]]:
    """For each boot group, the distinct kinds of rows by pool and usable capacity, with counts. Cached."""
    if not facts.dark:
        table = np.column_stack([facts.instance.rows.pool, facts.capacity.usable]).astype(np.int64)
        for group in facts.capacity.groups:
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
    """Sum over the units of each milestone of the ticks they wait for capacity, laid end to end."""
    found: dict[int, int] = {}
    gains = iter((*curve.gains, (horizon, None)))
    capacity, tick = curve.first, 0
    for milestone in order:
        left, total = sizes[milestone], 0
        while left > 0:
            if capacity > 0 or tick >= horizon:
                taken = left if tick >= horizon else min(left, capacity)
                total += taken * tick
                left, capacity = left - taken, capacity - taken
            else:
                tick, gain = next(gains)
                tick, capacity = min(tick, horizon), 0 if gain is None else gain
        found[milestone] = total
    return found
