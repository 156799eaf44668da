"""Rows of a certificate: sections 5 to 8 of docs/explanation/bound.md.

Each function takes multipliers and returns what they add: to the value, and to the u of milestones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import cmp_to_key
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Use
from evac.model.plan import CapacityRow, PlacementRows, SupplyRow
from evac.steps.promote import Promote
from evac.steps.registry import kind_of
from evac.verify.bound_capacity import NEVER, BootGroup
from evac.verify.bound_heads import Heads, start_uses, wave

Ints = NDArray[np.int64]
Worth = NDArray[np.int64] | NDArray[np.object_]
_EXACT: Final = 2**62
"""Sums below this are exact in 64 bits."""
Milestone = tuple[str, int]
"""(`base` | `top` | `primary`, index of the service or store)."""


class CertificateError(ValueError):
    """A certificate that names something missing from the instance."""


def tail_of_base(heads: Heads, component: int) -> tuple[int, int]:
    """A and B of section 5: longest wave and start of a member, longest verify and shift."""
    found = heads.tails.get(component)
    if found is None:
        found = heads.tails[component] = _tail_of_base(heads, component)
    return found


def _tail_of_base(heads: Heads, component: int) -> tuple[int, int]:
    s = heads.instance.services
    longest, ending = 0, 0
    for member in heads.members[component]:
        starts = int(heads.capacity.starts[member, 0])
        if starts:
            longest = max(longest, wave(heads, member, starts) + int(s.start[member]))
        shift = int(s.change[member] + s.settle[member]) if s.shift[member] else 0
        ending = max(ending, int(s.verify[member]) + shift)
    return longest, ending


def legal_arcs(heads: Heads) -> dict[tuple[Milestone, Milestone], int]:
    """Every legal arc with its distance, cut to H; the larger one if two rules give the same pair."""
    arcs: dict[tuple[Milestone, Milestone], int] = {}
    horizon = heads.instance.horizon

    def add(i: Milestone, j: Milestone, distance: int) -> None:
        if i != j:
            arcs[(i, j)] = max(arcs.get((i, j), 0), min(distance, horizon))

    for service in range(len(heads.instance.services)):
        _base_arcs(heads, service, add)
        _top_arcs(heads, service, add)
    for store in range(len(heads.instance.stores)):
        _store_arcs(heads, store, add)
    return arcs


_Add = Callable[[Milestone, Milestone, int], None]


def _base_arcs(heads: Heads, service: int, add: _Add) -> None:
    s = heads.instance.services
    component = int(s.component[service])
    here = ("base", service)
    lost = bool(s.base_lost[service])
    for member in heads.members[component]:
        if member != service and bool(s.base_lost[member]) == lost:
            add(here, ("base", member), 0)
        for other in s.hard[member]:
            if not s.base_lost[other] and s.component[other] != component:
                add(here, ("base", other), 0)
    if not lost:
        return
    longest, ending = tail_of_base(heads, component)
    for needed, distance in ((heads.outside, ending), (heads.first, longest + ending)):
        services, stores = needed[component]
        for other in services:
            add(here, ("base", other), distance)
        for store in stores:
            add(here, ("primary", store), distance)
    starts = int(heads.capacity.starts[service, 0])
    if starts:
        for tool in heads.tools("start"):
            add(here, ("base", tool), wave(heads, service, starts) + int(s.start[service]) + ending)
    for tool in heads.tools("verify") if service not in s.alone else ():
        add(here, ("base", tool), ending)
    if s.shift[service]:
        for tool in heads.tools("shift"):
            add(here, ("base", tool), int(s.change[service] + s.settle[service]))


def _top_arcs(heads: Heads, service: int, add: _Add) -> None:
    s = heads.instance.services
    here = ("top", service)
    add(here, ("base", service), 0)
    for other in s.soft[service]:
        if s.top_lost[service] or not s.base_lost[other]:
            add(here, ("base", other), 0)
    starts = int(heads.capacity.starts[service, 1])
    if not s.top_lost[service] or not starts:
        return
    ending = int(s.verify[service])
    whole = wave(heads, service, int(heads.capacity.starts[service].sum())) + int(s.start[service]) + ending
    for needed, distance in ((heads.outside, ending), (heads.first, whole)):
        services, stores = needed[int(s.component[service])] if s.base_lost[service] else ((), ())
        for other in services:
            add(here, ("base", other), distance)
        for store in stores:
            add(here, ("primary", store), distance)
    for tool in heads.tools("start"):
        add(here, ("base", tool), whole)
    for tool in heads.tools("verify"):
        add(here, ("base", tool), ending)


def _store_arcs(heads: Heads, store: int, add: _Add) -> None:
    lost = heads.instance.stores[store]
    if not lost.allowed or lost.elects:
        return
    least = min(c.duration for c in lost.allowed)
    for tool in heads.tools("fence"):
        add(("primary", store), ("base", tool), lost.fence + least)
    if all(kind_of(c.kind).is_bounded for c in lost.allowed):
        for tool in heads.tools(Promote.name):
            add(("primary", store), ("base", tool), least)


def supply_value(
    heads: Heads, row: SupplyRow, names: dict[str, Milestone]
) -> tuple[int, dict[Milestone, int], dict[Milestone, int]]:
    """(value, addition to the u of each milestone, shares). Section 6."""
    index = {limit.id: n for n, limit in enumerate(heads.instance.limits)}
    factors = {}
    for name, factor in row.limits:
        if name not in index or factor < 0:
            raise CertificateError(f"no limit {name}")
        factors[index[name]] = factor
    speed = sum(f * heads.instance.limits[t].capacity for t, f in factors.items())
    jobs, of_u, shares = [], {}, {}
    for name, share in row.shares:
        milestone = _lost_milestone(heads, names, name)
        if share < 0 or milestone in shares:
            raise CertificateError(f"share of {name} is negative or given twice")
        work, twice_q, release = _work(heads, milestone, factors)
        if work == 0 or (speed == 0 and share):
            raise CertificateError(f"{name} does no work on this limit")
        shares[milestone] = share
        of_u[milestone] = share * twice_q // (2 * work)
        jobs.append((share, work, release, milestone))
    value = sum(of_u.values())
    if speed:
        for (share, work, _, _), busy in zip(jobs, _busy(jobs, speed, heads.instance.horizon), strict=True):
            value += share * busy // (2 * speed * work)
    return value, of_u, shares


def _lost_milestone(heads: Heads, names: dict[str, Milestone], name: str) -> Milestone:
    milestone = names.get(name)
    if milestone is None:
        raise CertificateError(f"no milestone {name}")
    if not is_lost_milestone(heads, milestone):
        raise CertificateError(f"{name} is not lost")
    return milestone


def is_lost_milestone(heads: Heads, milestone: Milestone) -> bool:
    kind, row = milestone
    if kind == "primary":
        return True
    s = heads.instance.services
    return bool((s.base_lost if kind == "base" else s.top_lost)[row])


def _weighed(uses: Iterable[tuple[Use, int]], factors: dict[int, int]) -> list[tuple[Use, int, int]]:
    """(use, hold, weight) of the uses on a row's limits."""
    return [(u, h, factors[u.limit] * u.units * h) for u, h in uses if factors.get(u.limit) and u.units and h]


def _held(uses: tuple[Use, ...], length: int) -> list[tuple[Use, int]]:
    return [(u, length if u.hold == WHOLE else u.hold) for u in uses]


def _work(heads: Heads, milestone: Milestone, factors: dict[int, int]) -> tuple[int, int, int]:
    """(L_i, Q_i, rho_i): work, distance weighted by work in half ticks, earliest tick."""
    kind, row = milestone
    parts: list[tuple[int, int, int]] = []
    if kind == "primary":
        parts = _store_parts(heads, row, factors)
    else:
        start = _start_part(heads, row, kind, factors)
        if start:
            parts.append(start)
        if kind == "base":
            parts += _shift_part(heads, row, factors)
    return sum(p[0] for p in parts), sum(p[1] for p in parts), min((p[2] for p in parts), default=0)


def _start_part(
    heads: Heads, service: int, kind: str, factors: dict[int, int]
) -> tuple[int, int, int] | None:
    s, column = heads.instance.services, 0 if kind == "base" else 1
    count = int(heads.capacity.starts[service, column])
    if not count:
        return None
    pools = heads.capacity.services[service].pools
    by_pool = [_weighed(start_uses(heads, service, p), factors) for p in pools]
    work = min((sum(g for _, _, g in uses) for uses in by_pool), default=0)
    if not work:
        return None
    component = int(s.component[service])
    ending = tail_of_base(heads, component)[1] if kind == "base" else int(s.verify[service])
    tail = int(s.start[service]) + ending
    every = [pair for uses in by_pool for pair in uses]
    distance = min(2 * tail - 2 * u.offset - h for u, h, _ in every)
    lost_base = bool(s.base_lost[service])
    entry = heads.startable[component] if lost_base else 0
    release = max(
        heads.begin("start", entry), heads.enough(heads.capacity.services[service].enough[1])
    ) + min(u.offset for u, _, _ in every)
    extra = 0
    if len(factors) == 1 and all(f == 1 for f in factors.values()):
        (limit,) = factors
        slots = heads.instance.limits[limit].capacity // min(u.units for u, _, _ in every)
        if slots:
            hold = min(h for _, h, _ in every)
            extra = 2 * work * hold * _waves(count, slots)
    return count * work, count * work * distance + extra, release


def _waves(count: int, slots: int) -> int:
    """sum over k < count of floor(k / slots)."""
    full, rest = divmod(count, slots)
    return slots * full * (full - 1) // 2 + rest * full


def _shift_part(heads: Heads, service: int, factors: dict[int, int]) -> list[tuple[int, int, int]]:
    s = heads.instance.services
    if not s.shift[service]:
        return []
    length = int(s.change[service] + s.settle[service])
    uses = _weighed(_held(s.shift_uses[service], length), factors)
    work = sum(g for _, _, g in uses)
    if not work:
        return []
    distance = min(2 * length - 2 * u.offset - h for u, h, _ in uses)
    release = heads.begin("shift", heads.verified[service]) + min(u.offset for u, _, _ in uses)
    return [(work, work * distance, release)]


def _store_parts(heads: Heads, store: int, factors: dict[int, int]) -> list[tuple[int, int, int]]:
    lost, parts = heads.instance.stores[store], []
    if not lost.allowed:
        return []
    least = min(c.duration for c in lost.allowed)
    fence = _weighed(_held(lost.fence_uses, lost.fence), factors)
    work = sum(g for _, _, g in fence)
    if work:
        distance = min(2 * (lost.fence + least) - 2 * u.offset - h for u, h, _ in fence)
        parts.append((work, work * distance, min(u.offset for u, _, _ in fence)))
    by_candidate = [_weighed(_held(c.uses, c.duration), factors) for c in lost.allowed]
    work = min(sum(g for _, _, g in uses) for uses in by_candidate)
    if work:
        every = [pair for uses in by_candidate for pair in uses]
        distance = min(2 * least - 2 * u.offset - h for u, h, _ in every)
        release = heads.fenced[store] + min(u.offset for u, _, _ in every)
        parts.append((work, work * distance, release))
    return parts


def _busy(jobs: list[tuple[int, int, int, Milestone]], speed: int, horizon: int) -> list[int]:
    """Twice the summed busy times of each job, in squared 1/speed ticks: the greedy of section 6."""
    end = speed * horizon
    rank = {job: at for at, job in enumerate(_falling(jobs))}
    arrivals = sorted(range(len(jobs)), key=lambda j: jobs[j][2])
    left = [job[1] for job in jobs]
    busy = [0] * len(jobs)
    ready: list[tuple[int, int]] = []
    now = at = 0
    while at < len(arrivals) or ready:
        if not ready:
            now = max(now, speed * jobs[arrivals[at]][2])
        while at < len(arrivals) and speed * jobs[arrivals[at]][2] <= now:
            heapq.heappush(ready, (rank[arrivals[at]], arrivals[at]))
            at += 1
        job = ready[0][1]
        until = now + left[job]
        if at < len(arrivals):
            until = min(until, speed * jobs[arrivals[at]][2])
        busy[job] += _piece(now, until, end)
        left[job] -= until - now
        now = until
        if not left[job]:
            heapq.heappop(ready)
    return busy


def _falling(jobs: list[tuple[int, int, int, Milestone]]) -> list[int]:
    """Jobs by share per work, largest first, exactly; ties by position."""

    def compare(a: int, b: int) -> int:
        return jobs[b][0] * jobs[a][1] - jobs[a][0] * jobs[b][1]

    return sorted(range(len(jobs)), key=cmp_to_key(compare))


def _piece(begin: int, end: int, horizon: int) -> int:
    inside = min(end, horizon)
    value = inside * inside - begin * begin if inside > begin else 0
    return value + 2 * (end - max(begin, horizon)) * horizon if end > horizon else value


def capacity_value(
    heads: Heads, row: CapacityRow, names: dict[str, Milestone]
) -> tuple[int, dict[Milestone, int], dict[Milestone, int]]:
    """(value, addition to the u of each milestone, shares). Section 7."""
    prices = price_table(heads, row.prices)
    shares, sizes, distances = {}, [], {}
    for name, share in row.shares:
        milestone = names.get(name)
        if milestone is None or milestone[0] == "primary" or share < 0 or milestone in shares:
            raise CertificateError(f"share of {name} is unknown, negative or given twice")
        size = _size(heads, milestone, prices)
        if size == 0:
            raise CertificateError(f"{name} needs no priced capacity")
        shares[milestone] = share
        distances[milestone] = _distance(heads, milestone)
        sizes.append((share, size, 0, milestone))
    order = _falling(sizes)
    waits = _waiting(heads, prices, [sizes[j][1] for j in order])
    of_u = {}
    value = 0
    for at, job in enumerate(order):
        share, size, _, milestone = sizes[job]
        value += share * waits[at] // size + share * distances[milestone]
        if is_lost_milestone(heads, milestone):
            of_u[milestone] = share * distances[milestone]
    return value, of_u, shares


def price_table(heads: Heads, prices: Iterable[tuple[str, int, int]]) -> NDArray[np.object_]:
    """(P, R) of exact integers."""
    index = {pool.id: n for n, pool in enumerate(heads.instance.pools)}
    resources = heads.instance.services.demand.shape[1]
    table = np.zeros((len(index), resources), object)
    for pool, resource, price in prices:
        if pool not in index or not 0 <= resource < resources or price < 0:
            raise CertificateError(f"no capacity of pool {pool} to price")
        table[index[pool], resource] += price
    return table


def _size(heads: Heads, milestone: Milestone, prices: NDArray[np.object_]) -> int:
    kind, service = milestone
    need = int(heads.capacity.need[service, 0 if kind == "base" else 1])
    capacity = heads.capacity.services.get(service) if need else None
    if capacity is None or not capacity.pools:
        return 0
    demand = [int(d) for d in heads.instance.services.demand[service]]
    cheapest: int = min(
        sum(p * d for p, d in zip(prices[pool], demand, strict=True)) for pool in capacity.pools
    )
    return need * cheapest


def _distance(heads: Heads, milestone: Milestone) -> int:
    kind, service = milestone
    if not is_lost_milestone(heads, milestone):
        return 0
    s = heads.instance.services
    starts = bool(heads.capacity.starts[service, 0 if kind == "base" else 1])
    if kind == "base":
        ending = tail_of_base(heads, int(s.component[service]))[1]
        return int(s.start[service]) + ending if starts else ending
    return int(s.start[service] + s.verify[service]) if starts else 0


def _waiting(heads: Heads, prices: NDArray[np.object_], sizes: list[int]) -> list[int]:
    """E_i of section 7 for sizes laid end to end: summed waits of all units in the line."""
    horizon, capacity = heads.instance.horizon, heads.capacity
    worth = _worth(heads, prices)
    levels = [(0, int(worth[capacity.powered].sum()))]
    wait = heads.boot_wait()
    steps: dict[int, int] = {}
    for group in capacity.groups:
        for tick, amount in _booted(group, worth[group.rows]):
            if tick < NEVER and wait + tick < horizon:
                steps[wait + tick] = steps.get(wait + tick, 0) + amount
    total = levels[0][1]
    for tick in sorted(steps):
        if tick <= 0:
            levels[0] = (0, levels[0][1] + steps[tick])
        else:
            levels.append((tick, 0))
        total += steps[tick]
        if tick > 0:
            levels[-1] = (tick, total)
    return _line(levels, sizes, horizon)


def _booted(group: BootGroup, worth: Worth) -> list[tuple[int, int]]:
    """(tick, worth up at that tick) of a group of rows that boots the most valuable first."""
    if group.slots == 0 or not len(worth):
        return []
    best = np.sort(worth)[::-1]
    if group.slots is None:
        return [(group.delay, int(best.sum()))]
    sums = np.add.reduceat(best, range(0, len(best), group.slots))
    return [(group.delay + group.hold * at, int(amount)) for at, amount in enumerate(sums.tolist())]


def _worth(heads: Heads, prices: NDArray[np.object_]) -> Worth:
    """(V,) worth of each row at its prices; Python integers if 64 bits may be too few."""
    rows, usable = heads.instance.rows, heads.capacity.usable
    priced = [(int(pool), int(resource)) for pool, resource in zip(*np.nonzero(prices > 0), strict=True)]
    mine = {pool: np.flatnonzero(rows.pool == pool) for pool, _ in priced}
    most = max((int(prices[pool, resource]) for pool, resource in priced), default=0)
    in_all = sum(sum(usable[mine[p], r].tolist()) * int(prices[p, r]) for p, r in priced)
    kind: type = np.int64 if max(most, in_all) < _EXACT else object
    worth: Worth = np.zeros(len(rows), kind)
    for pool, resource in priced:
        worth[mine[pool]] += usable[mine[pool], resource].astype(kind) * int(prices[pool, resource])
    return worth


def _line(levels: list[tuple[int, int]], sizes: list[int], horizon: int) -> list[int]:
    """Units below a level wait for its tick; units above all levels wait until H."""
    found, begin, at = [], 0, 0
    for size in sizes:
        end, total = begin + size, 0
        while begin < end:
            while at < len(levels) and levels[at][1] <= begin:
                at += 1
            if at == len(levels):
                total += (end - begin) * horizon
                begin = end
            else:
                upto = min(end, levels[at][1])
                total += (upto - begin) * levels[at][0]
                begin = upto
        found.append(total)
    return found


def placement_value(heads: Heads, rows: PlacementRows) -> tuple[int, dict[Milestone, int]]:
    """(value, addition to the u of each milestone). Section 8."""
    s, capacity = heads.instance.services, heads.capacity
    price = price_table(heads, rows.room)
    index = {name: n for n, name in enumerate(s.id)}
    pools = {pool.id: n for n, pool in enumerate(heads.instance.pools)}
    sites = {name: n for n, name in enumerate(heads.instance.site_names)}
    fit = _service_prices(rows.fit, index, pools)
    site = _service_prices(rows.site, index, sites)
    value = 0
    of_u: dict[Milestone, int] = {}
    wanted = capacity.need.astype(np.bool_) & np.stack([s.base_lost, s.top_lost], axis=1)
    capacity.services.look(np.flatnonzero(wanted.any(axis=1)).tolist())
    for pool, resource in zip(*np.nonzero(price), strict=True):
        total = int(capacity.usable[heads.instance.rows.pool == pool, resource].sum())
        value -= price[pool, resource] * total
    for service in range(len(s)):
        for kind, column in (("base", 0), ("top", 1)):
            if is_lost_milestone(heads, (kind, service)):
                worth = _placed_worth(
                    heads, service, column, price, fit.get(service, {}), site.get(service, {})
                )
                if worth:
                    value += worth
                    of_u[(kind, service)] = of_u.get((kind, service), 0) + worth
    for service in sorted(fit.keys() | site.keys()):
        phi = _phi(heads, service, fit.get(service, {}), site.get(service, {}))
        key = _u_of(heads, service)
        value -= phi
        of_u[key] = of_u.get(key, 0) - phi
    return value, of_u


def _service_prices(
    rows: Iterable[tuple[str, str, int]], services: dict[str, int], places: dict[str, int]
) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = {}
    for name, place, price in rows:
        if name not in services or place not in places or price < 0:
            raise CertificateError(f"no price of {name} at {place}")
        table = found.setdefault(services[name], {})
        table[places[place]] = table.get(places[place], 0) + price
    return found


def _u_of(heads: Heads, service: int) -> Milestone:
    for kind in ("base", "top"):
        if is_lost_milestone(heads, (kind, service)):
            return (kind, service)
    raise CertificateError(f"{heads.instance.services.id[service]} has a price but lost nothing")


def _placed_worth(
    heads: Heads,
    service: int,
    column: int,
    price: NDArray[np.object_],
    fit: dict[int, int],
    site: dict[int, int],
) -> int:
    need = int(heads.capacity.need[service, column])
    capacity = heads.capacity.services.get(service) if need else None
    if capacity is None or not capacity.pools:
        return 0
    demand = [int(d) for d in heads.instance.services.demand[service]]
    where = heads.instance.pools
    cheapest: int = min(
        sum(p * d for p, d in zip(price[pool], demand, strict=True))
        + fit.get(pool, 0)
        + site.get(where[pool].site, 0)
        for pool in capacity.pools
    )
    return need * cheapest


def _phi(heads: Heads, service: int, fit: dict[int, int], site: dict[int, int]) -> int:
    capacity = heads.capacity.services.get(service)
    if capacity is None:
        return 0
    pools = sum(price * int(capacity.new_pool[pool]) for pool, price in fit.items())
    return pools + sum(price * int(capacity.new_site[place]) for place, price in site.items())
