"""Capacity of rows, and how many replicas of a service fit where and when.

Sections 1 and 2 of docs/explanation/bound.md. Capacity is what unsheddable survivors leave: everything else
may be shed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.instance import WHOLE, BootKind, Instance
from evac.model.records import dataclass
from evac.planning.distinct_rows import alike


@dataclass(frozen=True, slots=True, eq=False)
class BootGroup:
    """Dark rows charged to one limit. batch: rows that can start at once, None for all of them;
    hold: ticks until the next batch; delay: least ticks of a boot."""

    rows: IndexColumn
    batch: int | None
    hold: int
    delay: int

    def up(self, tick: int) -> int:
        """Most rows that can be on at a tick, counted from the first possible boot."""
        if tick < self.delay or self.batch == 0:
            return 0
        if self.batch is None:
            return len(self.rows)
        return min(len(self.rows), self.batch * ((tick - self.delay) // self.hold + 1))


def boot_groups(instance: Instance) -> tuple[BootGroup, ...]:
    """All groups with rows: those bound by a limit, by limit, then kinds without a limit."""
    rows = instance.rows
    dark = np.flatnonzero(instance.to_boot)
    counts = np.bincount(rows.boot_kind[dark], minlength=len(instance.boot_kinds))
    bound_by = [_effective(kind) for kind in instance.boot_kinds]
    kinds = [b for b in range(len(instance.boot_kinds)) if counts[b]]
    slowness = _slowness(instance, bound_by, kinds, counts)
    charged: dict[int, list[int]] = {}
    free: list[int] = []
    for b in kinds:
        if bound_by[b]:
            limit = min(bound_by[b], key=lambda t: (-slowness[t], t))
            charged.setdefault(limit, []).append(b)
        else:
            free.append(b)
    groups = [_group(instance, limit, charged[limit], bound_by, dark) for limit in sorted(charged)]
    for b in free:
        chosen = dark[rows.boot_kind[dark] == b].astype(np.int32)
        groups.append(BootGroup(chosen, None, 1, instance.boot_kinds[b].duration))
    return tuple(groups)


def _effective(kind: BootKind) -> dict[int, tuple[int, int]]:
    """limit -> (least units, least hold) of the uses that take anything."""
    found: dict[int, tuple[int, int]] = {}
    for use in kind.uses:
        hold = kind.duration if use.hold == WHOLE else use.hold
        if use.units > 0 and hold > 0:
            units, least = found.get(use.limit, (use.units, hold))
            found[use.limit] = (min(units, use.units), min(least, hold))
    return found


def _batch_and_hold(
    instance: Instance, limit: int, kinds: list[int], bound_by: list[dict[int, tuple[int, int]]]
) -> tuple[int, int]:
    units = min(bound_by[b][limit][0] for b in kinds)
    hold = min(bound_by[b][limit][1] for b in kinds)
    return instance.limits[limit].capacity // units, hold


def _slowness(
    instance: Instance,
    bound_by: list[dict[int, tuple[int, int]]],
    kinds: list[int],
    counts: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> dict[int, float]:
    """Ticks to boot everything that a limit binds; infinite if it allows none."""
    of_limit: dict[int, list[int]] = {}
    for b in kinds:
        for limit in bound_by[b]:
            of_limit.setdefault(limit, []).append(b)
    found: dict[int, float] = {}
    for limit, members in of_limit.items():
        batch, hold = _batch_and_hold(instance, limit, members, bound_by)
        total = int(counts[members].sum())
        found[limit] = -(-total // batch) * hold if batch else float("inf")
    return found


def _group(
    instance: Instance,
    limit: int,
    kinds: list[int],
    bound_by: list[dict[int, tuple[int, int]]],
    dark: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> BootGroup:
    batch, hold = _batch_and_hold(instance, limit, kinds, bound_by)
    chosen = dark[np.isin(instance.rows.boot_kind[dark], kinds)].astype(np.int32)
    delay = min(instance.boot_kinds[b].duration for b in kinds)
    return BootGroup(chosen, batch, hold, delay)


AT_ONCE: Final = -1
"""Tick of what fits on powered rows."""

NEVER: Final = 2**62
"""Tick of what never fits, and ticks of what never ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Needs:
    """Replicas of each service that must stand or start.

    away (S): survivors that take no capacity. base_total, top_total (S): replicas that base needs on
    rows, and further ones for top. base_starts, top_starts (S): starts. base, top (S): replicas that
    need capacity, 0 if a running milestone cannot be shed.
    """

    away: IntColumn
    base_total: IntColumn
    top_total: IntColumn
    base_starts: IntColumn
    top_starts: IntColumn
    base: IntColumn
    top: IntColumn


def needs_of(instance: Instance) -> Needs:
    """Counts of section 1."""
    s = instance.services
    standing = np.bincount(instance.present.service, instance.present.count, len(s)).astype(np.int64)
    away = np.maximum(0, s.surviving - standing)
    base_total = np.maximum(0, s.m - away)
    top_total = np.maximum(0, s.n - np.maximum(s.m, away))
    base_starts = np.maximum(0, s.m - s.surviving)
    top_starts = np.maximum(0, s.n - np.maximum(s.surviving, s.m))
    base = np.where(s.sheddable, base_total, np.where(s.base_lost, base_starts, 0))
    base = np.where(s.movable, base_total + top_total, base)
    top = np.where(s.sheddable, top_total, np.where(s.top_lost, top_starts, 0))
    return Needs(away, base_total, top_total, base_starts, top_starts, base, top)


@dataclass(frozen=True, slots=True, eq=False)
class Capacity:
    """Where services fit.

    per_pool (S, P), per_site (S, Z): most replicas in all; new_per_pool, new_per_site: of those that
    need capacity. base_tick, top_tick, one_tick (S): first tick with capacity for the base, for all, for one
    replica: AT_ONCE, NEVER, or ticks after the first possible boot. usable (V, R): capacity that counts
    for prices. usable_pool (P, R): its sums, dark rows included; powered (P, R): without them.
    """

    per_pool: IntColumn
    per_site: IntColumn
    new_per_pool: IntColumn
    new_per_site: IntColumn
    base_tick: IntColumn
    top_tick: IntColumn
    one_tick: IntColumn
    usable: IntColumn
    usable_pool: IntColumn
    powered: IntColumn
    groups: tuple[BootGroup, ...]


@dataclass(slots=True, eq=False)
class _Parts:
    """Rows by (part, pool), for caps of parts. key (V): number of the pair, -1 if the part is unknown; pool:
    of each number; total, outside: sums of one service by number, and by pool without a part; there, most:
    scratch of the same shapes.
    """

    key: IndexColumn
    pool: IndexColumn
    total: IntColumn
    outside: IntColumn
    there: IntColumn
    most: IntColumn


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Rows alike in pool, rack, feed group and power; most sums are over cells. of (V): the cell of each row;
    the rest by cell; total: scratch of one service.
    """

    of: IndexColumn
    pool: IndexColumn
    dark: BoolColumn
    rack_key: IndexColumn
    feed_key: IndexColumn
    total: IntColumn


def _cells(instance: Instance, dark: BoolColumn, rack_key: IndexColumn, feed_key: IndexColumn) -> _Cells:
    pool = instance.rows.pool
    first, of = _alike(pool, dark, rack_key, feed_key)
    total = np.zeros(len(first), np.int64)
    return _Cells(of, pool[first], dark[first], rack_key[first], feed_key[first], total)


def _alike(*columns: np.ndarray[tuple[int], np.dtype[np.generic]]) -> tuple[IndexColumn, IndexColumn]:
    """First row of each distinct kind, and the kind of each row."""
    found = alike(np.stack([column.astype(np.int64) for column in columns], axis=1), len(columns[0]))
    assert found is not None  # there are no more different rows than rows
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Shapes:
    """Rows alike in pool and capacity hold the same. capacity (H, R), pool, is_pool, fit, wanted: of each
    shape, the last two scratch and where anything that counts fits; of (V): the shape of each row; row,
    shape, cell: of the rows pool by pool, from first (P + 1) on."""

    capacity: IntColumn
    pool: IndexColumn
    is_pool: BoolColumn
    fit: IntColumn
    wanted: BoolColumn
    of: IndexColumn
    row: IndexColumn
    shape: IndexColumn
    cell: IndexColumn
    first: IntColumn


def _shapes(instance: Instance, capacity: IntColumn, cell: IndexColumn) -> _Shapes:
    pool, is_pool = instance.rows.pool, instance.rows.is_pool
    found, of = _alike(pool, is_pool, *capacity.T)
    row = np.argsort(pool, kind="stable").astype(np.int32)
    first = np.searchsorted(pool[row], np.arange(len(instance.pools) + 1)).astype(np.int64)
    fit, wanted = np.zeros(len(found), np.int64), np.zeros(len(found), np.bool_)
    return _Shapes(
        capacity[found], pool[found], is_pool[found], fit, wanted, of, row, of[row], cell[row], first
    )


@dataclass(slots=True, eq=False)
class _Table:
    """Rows prepared for one sweep over all services, and scratch for one service.

    first (S + 1): where the present replicas of each service begin; fit (V): replicas of the service that
    each row can hold; total (P): sums of fit; found (2, P): most in each pool, and what is there; wanted (V):
    rows with replicas of any service that counts.
    """

    instance: Instance
    capacity: IntColumn
    by_rack: _Parts
    by_feed: _Parts
    cells: _Cells
    shapes: _Shapes
    dark: BoolColumn
    first: IntColumn
    fit: IntColumn
    total: IntColumn
    found: IntColumn
    wanted: BoolColumn
    groups: tuple[BootGroup, ...]

    def span(self, s: int) -> tuple[IndexColumn, IntColumn]:
        """Rows with replicas of a service, and how many."""
        some = slice(int(self.first[s]), int(self.first[s + 1]))
        return self.instance.present.row[some], self.instance.present.count[some]


def capacity_of(instance: Instance, needs: Needs) -> Capacity:
    """Sweeps all services once; under a millisecond per service at 58,000 rows."""
    return Sweep(instance, needs).whole()


class Sweep:
    """Capacity of an instance, computed per service: heads need only what is lost."""

    def __init__(self, instance: Instance, needs: Needs) -> None:
        self._instance, self._needs, self._table = instance, needs, _table(instance)
        count, pools = len(instance.services), len(instance.pools)
        self._per_pool, self._here = np.zeros((2, count, pools), np.int64)
        self._ticks = np.full((3, count), NEVER, np.int64)
        self._swept = np.zeros(count, np.bool_)

    def of_lost(self) -> Capacity:
        """Capacity of affected services; the rest, prices and boots are not filled in."""
        services = self._instance.services
        self._sweep(services.base_lost | services.top_lost)
        return self._capacity(np.zeros_like(self._table.capacity))

    def whole(self) -> Capacity:
        """Capacity of these and of everything that may leave its servers."""
        services = self._instance.services
        self._sweep(services.base_lost | services.top_lost | services.loose)
        table = self._table
        wanted = table.wanted | table.shapes.wanted[table.shapes.of]
        return self._capacity(_usable(self._instance, table.capacity, wanted, self._needs))

    def _sweep(self, chosen: BoolColumn) -> None:
        needs = self._needs
        for s in np.flatnonzero(chosen & ~self._swept).tolist():
            powered = _fill(self._table, s, bool(needs.base[s] > 0 or needs.top[s] > 0))
            self._per_pool[s], self._here[s] = _per_pool(self._table, s)
            counts = (needs.base_total[s], needs.base_total[s] + needs.top_total[s], 1)
            self._ticks[:, s] = [_enough(self._table, powered, int(amount)) for amount in counts]
        self._swept |= chosen

    def _capacity(self, usable: IntColumn) -> Capacity:
        instance, table = self._instance, self._table
        per_site, here_site = _per_site(instance, self._per_pool, self._here, len(instance.site_names))
        fixed = ~instance.services.loose[:, None]
        pool, pools = instance.rows.pool, len(instance.pools)
        base, top, one = self._ticks.copy()
        return Capacity(
            per_pool=self._per_pool.copy(),
            per_site=per_site,
            new_per_pool=np.maximum(0, self._per_pool - np.where(fixed, self._here, 0)),
            new_per_site=np.maximum(0, per_site - np.where(fixed, here_site, 0)),
            base_tick=base,
            top_tick=top,
            one_tick=one,
            usable=usable,
            usable_pool=_by_pool(usable, pool, pools),
            powered=_by_pool(usable[~table.dark], pool[~table.dark], pools),
            groups=table.groups,
        )


def _table(instance: Instance) -> _Table:
    rows, present, services = instance.rows, instance.present, instance.services
    shed = np.flatnonzero(services.loose[present.service])
    loose = services.demand[present.service[shed]].T * present.count[shed]
    fixed = rows.used.T.copy()  # of a single row the transposed is contiguous, and the instance's own
    for held, amounts in zip(fixed, loose, strict=True):
        np.subtract.at(held, present.row[shed], amounts)
    by_rack = _parts(np.where(rows.is_pool, -1, rows.rack), instance)
    by_feed = _parts(np.where(rows.is_pool, -1, rows.feed_group), instance)
    dark = instance.to_boot
    capacity = np.ascontiguousarray(np.maximum(0, rows.capacity - np.maximum(0, fixed.T)))
    cells = _cells(instance, dark, by_rack.key, by_feed.key)
    return _Table(
        instance=instance,
        capacity=capacity,
        by_rack=by_rack,
        by_feed=by_feed,
        cells=cells,
        shapes=_shapes(instance, capacity, cells.of),
        dark=dark,
        first=np.searchsorted(present.service, np.arange(len(services) + 1)).astype(np.int64),
        fit=np.zeros(len(rows), np.int64),
        total=np.zeros(len(instance.pools), np.int64),
        found=np.zeros((2, len(instance.pools)), np.int64),
        wanted=np.zeros(len(rows), np.bool_),
        groups=boot_groups(instance),
    )


def _parts(part: IndexColumn, instance: Instance) -> _Parts:
    """Numbers the (part, pool) pairs of all rows whose part is known (not negative)."""
    known, pool = np.flatnonzero(part >= 0), instance.rows.pool
    first, number = _alike(part[known], pool[known])
    key = np.full(len(part), -1, np.int32)
    key[known] = number
    return _Parts(
        key,
        pool[known][first],
        *(np.zeros(size, np.int64) for size in (len(first), len(instance.pools)) * 2),
    )


def _fill(table: _Table, s: int, wanted: bool) -> int:
    """Fits of one service on all rows, with sums; returns the sum over powered rows."""
    from evac.planning.bound.sweep import fill_fit, fill_standing, sum_cells

    instance, services, cells, shapes = table.instance, table.instance.services, table.cells, table.shapes
    demand, eligible = services.demand[s], instance.eligible[s]
    per_server, most = int(services.per_server[s]), int(services.n[s])
    fill_fit(
        shapes.capacity,
        shapes.pool,
        shapes.is_pool,
        shapes.fit,
        shapes.wanted,
        shapes.shape,
        shapes.row,
        shapes.cell,
        shapes.first,
        demand,
        eligible,
        per_server,
        most,
        wanted,
        cells.total,
        table.fit,
    )
    fill_standing(
        table.capacity,
        demand,
        *table.span(s),
        not services.loose[s],
        instance.rows.pool,
        instance.rows.is_pool,
        cells.of,
        eligible,
        per_server,
        most,
        wanted,
        cells.total,
        table.fit,
        table.wanted,
    )
    powered = sum_cells(
        cells.total,
        cells.pool,
        cells.dark,
        cells.rack_key,
        cells.feed_key,
        table.total,
        table.by_rack.total,
        table.by_rack.outside,
        table.by_feed.total,
        table.by_feed.outside,
    )
    return int(powered)


def _per_pool(table: _Table, s: int) -> tuple[IntColumn, IntColumn]:
    """(P,) most replicas in each pool by rack, feed group and site; and those there now."""
    from evac.planning.bound.sweep import cap_pools, fill_pools

    services, span = table.instance.services, table.span(s)
    found, here = table.found
    fill_pools(table.total, table.instance.rows.pool, *span, int(services.site_cap[s]), here, found)
    for parts, cap in ((table.by_rack, services.rack_cap[s]), (table.by_feed, services.feed_cap[s])):
        cap_pools(
            parts.total, parts.outside, parts.key, parts.pool, *span, int(cap), parts.there, parts.most, found
        )
    return found, here


def _per_site(
    instance: Instance, per_pool: IntColumn, here: IntColumn, sites: int
) -> tuple[IntColumn, IntColumn]:
    site = np.array([p.site for p in instance.pools], np.int64)
    total = np.zeros((len(per_pool), sites), np.int64)
    standing = np.zeros_like(total)
    for p, z in enumerate(site.tolist()):
        total[:, z] += per_pool[:, p]
        standing[:, z] += here[:, p]
    cap = instance.services.site_cap[:, None]
    return np.maximum(np.minimum(total, cap), standing), standing


def _enough(table: _Table, powered: int, count: int) -> int:
    """First tick at which `count` replicas can have capacity; see section 2."""
    missing = count - powered
    if count <= 0 or missing <= 0:
        return AT_ONCE
    groups = table.groups
    sums = [np.r_[0, np.cumsum(np.sort(table.fit[g.rows])[::-1])] for g in groups]

    def up(tick: int) -> int:
        return sum(int(prefix[g.up(tick)]) for g, prefix in zip(groups, sums, strict=True))

    low, high = 0, table.instance.horizon
    if up(high) < missing:
        return NEVER
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if up(middle) >= missing else (middle + 1, high)
    return low


def _usable(instance: Instance, capacity: IntColumn, wanted: BoolColumn, needs: Needs) -> IntColumn:
    """Capacity rounded down to what demands can fill, and zero where nothing that counts fits."""
    counted = (needs.base > 0) | (needs.top > 0)
    divisors = np.gcd.reduce(instance.services.demand[counted], axis=0, initial=0)
    rounded = np.where(divisors > 0, capacity // np.maximum(1, divisors) * divisors, capacity)
    return np.where(wanted[:, None], rounded, 0)


def _by_pool(values: IntColumn, pool: IndexColumn, pools: int) -> IntColumn:
    """(P, R) exact integer sums."""
    total = np.zeros((values.shape[1], pools), np.int64)
    for resource, sums in enumerate(total):
        np.add.at(sums, pool, np.ascontiguousarray(values[:, resource]))
    return np.ascontiguousarray(total.T)
