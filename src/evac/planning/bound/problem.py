"""What milestone weight may be split among: arcs of their network, and rows of shared limits and capacity; as
values, and as arrays for the weight splitting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.derive.affected import components
from evac.model.records import dataclass
from evac.planning.bound import supply
from evac.planning.bound.facts import Curve, Facts, Work

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
    """A capacity row that may be used; sizes leave out what cannot be shed, certain has what of that may
    move.
    """

    prices: dict[tuple[int, int], int]
    sizes: dict[int, int]
    certain: dict[int, int]
    curve: Curve


def supply_choices(facts: Facts) -> tuple[SupplyChoice, ...]:
    """Single limits and sums of alternative limits that cause waits, slowest first."""
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
    """Alternative limits, of which one action holds one, depending on the pool or candidate chosen."""
    instance = facts.instance
    sets = {facts.heads.pools[s] for s in range(len(instance.services)) if facts.heads.pools[s]}
    for pools in sorted(sets):
        yield from _union([{u.limit for u in instance.pools[p].start_uses} for p in pools])
    for store in instance.stores:
        yield from _union([{u.limit for u in c.uses} for c in store.allowed])


def _union(choices: list[set[int]]) -> Iterable[tuple[int, ...]]:
    """Limits not held by every choice, combined, if each choice holds at least one."""
    common = set.intersection(*choices) if choices else set()
    rest = [some - common for some in choices]
    if len(rest) > 1 and all(rest):
        yield tuple(sorted(set.union(*rest)))


def capacity_choice(facts: Facts, prices: FloatTable) -> CapacityChoice | None:
    """A row from real prices (P, R), rounded to integers; None if it could never cause a wait."""
    largest = float(prices.max(initial=0.0))
    if largest <= 0.0:
        return None
    whole = np.floor(prices * (_FINEST / largest) + 0.5).astype(np.int64)
    table = {(int(p), int(r)): int(whole[p, r]) for p, r in np.argwhere(whole > 0)}
    sizes = supply.sizes_of(facts, table)
    curve = supply.curve_of(facts, table)
    if sum(sizes.values()) <= curve.first:
        return None
    certain = {i: d for i, d in sizes.items() if facts.fixed[i]}
    return CapacityChoice(table, {i: d for i, d in sizes.items() if i not in certain}, certain, curve)


def plain_prices(facts: Facts) -> list[FloatTable]:
    """Prices of one resource everywhere, for each resource, and of all resources together."""
    pool_count, resources = facts.capacity.usable_pool.shape
    total = facts.capacity.usable_pool.sum(axis=0)
    found = []
    for r in range(resources):
        table = np.zeros((pool_count, resources))
        table[:, r] = 1.0
        found.append(table)
    even = np.where(total > 0, 1.0, 0.0) / np.maximum(1, total)
    found.append(np.repeat(even[None, :], pool_count, axis=0))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """arcs: (i, j, ticks) sorted, without cycles; order: milestones, what is needed first.

    pinned: running base that cannot be shed -> what pins it, nearest to an unsheddable one first.
    """

    arcs: tuple[tuple[int, int, int], ...]
    order: tuple[int, ...]
    pinned: dict[int, int]


def network_of(facts: Facts) -> Network:
    """Arcs that a search may put weight on. Linear in arcs."""
    edges: list[list[int]] = [[] for _ in range(len(facts))]
    for i, j in facts.arcs:
        edges[i].append(j)
    circle = components([sorted(some) for some in edges])
    first: dict[int, int] = {}
    for i, c in enumerate(circle):
        first.setdefault(c, i)
    kept = []
    for (i, j), delay in sorted(facts.arcs.items()):
        inside = circle[i] == circle[j]
        if facts.fixed[i] or (inside and (delay > 0 or j != first[circle[i]])):
            continue
        if not _idle(facts, i, j):
            kept.append((i, j, delay))
    order = sorted(range(len(facts)), key=lambda i: (circle[i], i != first[circle[i]], i))
    return Network(tuple(kept), tuple(order), _pinned(facts))


def _idle(facts: Facts, i: int, j: int) -> bool:
    """Whether an arc is useless: it joins milestones whose outage is known beforehand."""
    return bool(facts.fixed[j]) or int(facts.head[i]) >= facts.instance.horizon


def _pinned(facts: Facts) -> dict[int, int]:
    """Running sheddable bases that something unsheddable hard-needs, directly or through others."""
    services = facts.instance.services
    queue = deque(s for s in range(len(services)) if facts.fixed[s])
    found: dict[int, int] = {}
    while queue:
        i = queue.popleft()
        for j in services.hard[i]:
            if not facts.fixed[j] and not facts.lost[j] and j not in found:
                found[j] = i
                queue.append(j)
    return found


ARC, SHARE = 1, 2

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
FlagArray = NDArray[np.int8]


class Nodes(NamedTuple):
    """Milestones, one row each, as floats."""

    order: IntArray
    """What waits for another milestone comes after it."""
    weight: FloatArray
    head: FloatArray
    """0 where the milestone is not lost."""
    lost: NDArray[np.bool_]
    reserve: FloatArray
    horizon: float


class Search(NamedTuple):
    """State of the weight splitting. By option: fraction of its milestone's weight, flow, flow of the best
    iteration, sum of flows over iterations; by member: sum of waits over iterations."""

    theta: FloatArray
    flow: FloatArray
    best_flow: FloatArray
    sum_flow: FloatArray
    sum_wait: FloatArray


class Options(NamedTuple):
    """Options of milestone i lie at start[i] to start[i+1]: its head first, then arcs, then shares.

    kind: 0 head, ARC or SHARE; target: milestone of an arc, member of a share; worth: ticks that an
    option adds by itself. arc: option of each arc of the network; share: option of each member.
    """

    start: IntArray
    kind: FlagArray
    target: IntArray
    worth: FloatArray
    arc: IntArray
    share: IntArray


class Members(NamedTuple):
    """Members of all rows, row after row: row r has start[r] to start[r+1].

    milestone, size, release, arrivals (members of the row by release): by member; speed: by row, 0
    for capacity rows; first, and gains from gain_start[r] of (gain_tick, gain): their curves.
    """

    start: IntArray
    milestone: IntArray
    lead: FloatArray
    size: FloatArray
    release: FloatArray
    arrivals: IntArray
    speed: FloatArray
    first: FloatArray
    gain_start: IntArray
    gain_tick: FloatArray
    gain: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Everything the kernels read. reserve (N): what placement takes from u, in weight x ticks."""

    facts: Facts
    network: Network
    supply: tuple[SupplyChoice, ...]
    capacity: tuple[CapacityChoice, ...]
    members: Members
    options: Options
    reserve: FloatArray


def problem_of(
    facts: Facts,
    network: Network,
    supply: tuple[SupplyChoice, ...],
    capacity: tuple[CapacityChoice, ...],
    reserve: FloatArray,
) -> Problem:
    """Arrays for the given rows. Milestones that never hold, and pinned ones, take no shares."""
    members = _members(facts, network, supply, capacity)
    return Problem(facts, network, supply, capacity, members, _options(facts, network, members), reserve)


def _members(
    facts: Facts, network: Network, supply: Sequence[SupplyChoice], capacity: Sequence[CapacityChoice]
) -> Members:
    horizon = facts.instance.horizon
    free = [
        i not in network.pinned and not (facts.lost[i] and facts.head[i] >= horizon)
        for i in range(len(facts))
    ]
    rows: list[list[tuple[int, float, float, float]]] = []
    curves = []
    for choice in supply:
        rows.append(
            [
                (i, w.lead / (2 * w.amount), float(w.amount), float(w.release))
                for i, w in choice.works.items()
                if free[i]
            ]
        )
        curves.append(Curve(0, ()))
    for needed in capacity:
        rows.append([(i, float(facts.lead[i]), float(d), 0.0) for i, d in needed.sizes.items() if free[i]])
        curves.append(_without(needed.curve, sum(needed.sizes.get(i, 0) for i in network.pinned)))
    flat = [member for row in rows for member in row]
    gains = [gain for curve in curves for gain in curve.gains]
    return Members(
        start=_starts([len(row) for row in rows]),
        milestone=np.array([m[0] for m in flat], np.int64),
        lead=np.array([m[1] for m in flat]),
        size=np.array([m[2] for m in flat]),
        release=np.array([m[3] for m in flat]),
        arrivals=np.concatenate(
            [np.argsort([m[3] for m in row], kind="stable") for row in rows] or [np.empty(0, np.int64)]
        ).astype(np.int64),
        speed=np.array([float(c.speed) for c in supply] + [0.0] * len(capacity)),
        first=np.array([float(c.first) for c in curves]),
        gain_start=_starts([len(c.gains) for c in curves]),
        gain_tick=np.array([float(t) for t, _ in gains]),
        gain=np.array([float(g) for _, g in gains]),
    )


def _starts(lengths: Sequence[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _without(curve: Curve, taken: int) -> Curve:
    """A curve less what pinned milestones take first."""
    first, left = max(0, curve.first - taken), max(0, taken - curve.first)
    gains = []
    for tick, gain in curve.gains:
        used = min(gain, left)
        left -= used
        if gain > used:
            gains.append((tick, gain - used))
    return Curve(first, tuple(gains))


def _options(facts: Facts, network: Network, members: Members) -> Options:
    per_node: list[list[tuple[int, int, float, int]]] = [[(0, 0, 0.0, -1)] for _ in range(len(facts))]
    for number, (i, j, delay) in enumerate(network.arcs):
        per_node[i].append((ARC, j, float(delay), number))
    for number, i in enumerate(members.milestone.tolist()):
        lead = float(members.lead[number]) if facts.lost[i] else 0.0
        per_node[i].append((SHARE, number, lead, number))
    flat = [option for options in per_node for option in options]
    kind = np.array([o[0] for o in flat], np.int8)
    origin = np.array([o[3] for o in flat], np.int64)
    arc, share = np.zeros(len(network.arcs), np.int64), np.zeros(len(members.milestone), np.int64)
    arc[origin[kind == ARC]] = np.flatnonzero(kind == ARC)
    share[origin[kind == SHARE]] = np.flatnonzero(kind == SHARE)
    return Options(
        start=_starts([len(options) for options in per_node]),
        kind=kind,
        target=np.array([o[1] for o in flat], np.int64),
        worth=np.array([o[2] for o in flat]),
        arc=arc,
        share=share,
    )
