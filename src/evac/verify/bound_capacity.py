"""Capacity that any plan could use: section 2 of docs/explanation/bound.md, in whole numbers.

Written from that page and the instance alone; the planner has its own version of the same page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance
from evac.model.records import dataclass

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
NEVER: Final = 2**62
"""A tick beyond every horizon."""
_TOGETHER: Final = 128
"""Services whose capacity is computed together."""
_MOST_PAIRS: Final = 2_000_000
"""Largest number of cells times shapes of a pool for which a table is built: 16 MB."""
_PRODUCT: Final = 250_000
"""Multiplications per product of tables: libraries split larger ones over several threads, which costs more
than it saves if the other cores are busy.
"""


@dataclass(frozen=True, slots=True, eq=False)
class BootGroup:
    """Dark rows that share their tightest limit: `slots` boots in every `hold` ticks, None: no limit."""

    rows: Ints
    slots: int | None
    hold: int
    delay: int

    def up(self, tick: int) -> int:
        """Most rows of the group that can be on `tick` ticks after the first possible boot."""
        if tick < self.delay:
            return 0
        if self.slots is None:
            return len(self.rows)
        return min(len(self.rows), self.slots * ((tick - self.delay) // self.hold + 1)) if self.slots else 0

    @property
    def last(self) -> int:
        """Tick from which no more rows come up."""
        if not self.slots:
            return self.delay
        return self.delay + self.hold * (len(self.rows) // self.slots + 1)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceCapacity:
    """Fit of one service. pool, site: F and S; new_pool, new_site: F' and S'; enough: first tick
    (without boot_wait) at which a count fits, 0 if nothing needs to boot, NEVER where it cannot; pools:
    those in which any fits, ascending."""

    pool: Ints
    site: Ints
    new_pool: Ints
    new_site: Ints
    enough: dict[int, int]
    pools: list[int]

    def possible(self, count: int) -> bool:
        return int(self.site.sum()) >= count


@dataclass(slots=True, eq=False)
class Capacity:
    """Section 2 for a whole instance. `away`, `total`, `need` are S x 2: base, top."""

    instance: Instance
    starts: Ints
    total: Ints
    need: Ints
    away: Ints
    powered: Flags
    services: _Services
    layout: _Layout
    _usable: Ints | None = None

    @property
    def groups(self) -> list[BootGroup]:
        return self.layout.groups

    @property
    def usable(self) -> Ints:
        """(V, R) capacity that counts for prices; computed when a certificate first prices any."""
        if self._usable is None:
            found = self.layout.holding(self.services.known & self.need.any(axis=1))
            touched = np.empty_like(found)
            touched[self.layout.cells.order] = found
            self._usable = _usable(self.layout, self.need, touched)
        return self._usable


def capacity_of(instance: Instance) -> Capacity:
    """Everything of section 2; linear in rows per requested service."""
    s = instance.services
    here = np.bincount(instance.present.service, instance.present.count, len(s)).astype(np.int64)
    away = np.maximum(s.surviving - here, 0)
    starts, total, need = _counts(instance, away)
    dark = instance.to_boot
    layout = _Layout(instance, dark)
    services = _Services(layout, away, total.any(axis=1) | (here > 0), np.asarray(starts.any(axis=1)))
    return Capacity(instance, starts, total, need, away, ~dark, services, layout)


class _Services(Mapping[int, ServiceCapacity]):
    """Capacity of each service that has replicas here or needs some, computed on request. Heads ask for
    everything that starts: these are computed many at a time.
    """

    def __init__(self, layout: _Layout, away: Ints, known: Flags, starts: Flags) -> None:
        self._layout, self._away, self.known = layout, away, known
        self._found: dict[int, ServiceCapacity] = {}
        self._starting = np.flatnonzero(known & starts)

    def __getitem__(self, service: int) -> ServiceCapacity:
        if not self.known[service]:
            raise KeyError(service)
        if service not in self._found:
            at = int(np.searchsorted(self._starting, service)) // _TOGETHER * _TOGETHER
            several = self._starting[at : at + _TOGETHER]
            self._look(several if service in several else np.array([service], np.int64))
        return self._found[service]

    def look(self, services: Sequence[int]) -> None:
        """Announces services that will be requested, one after the other."""
        missing = [one for one in services if self.known[one] and one not in self._found]
        for at in range(0, len(missing), _TOGETHER):
            self._look(np.array(missing[at : at + _TOGETHER], np.int64))

    def _look(self, services: Ints) -> None:
        s, away = self._layout.instance.services, self._away
        base, top = (s.m - away)[services].tolist(), (s.n - away)[services].tolist()
        wanted = [{*counts, 1} for counts in zip(base, top, strict=True)]
        self._found.update(zip(services.tolist(), self._layout.capacities(services, wanted), strict=True))

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self.known).tolist())

    def __len__(self) -> int:
        return int(self.known.sum())


def _counts(instance: Instance, away: Ints) -> tuple[Ints, Ints, Ints]:
    s = instance.services
    base = np.maximum(s.m - s.surviving, 0)
    top = np.maximum(s.n - np.maximum(s.surviving, s.m), 0)
    lost = np.stack([s.base_lost, s.top_lost], axis=1)
    starts = np.where(lost, np.stack([base, top], axis=1), 0)
    total = np.stack([np.maximum(s.m - away, 0), np.maximum(s.n - np.maximum(s.m, away), 0)], axis=1)
    need = np.where(s.sheddable[:, None], total, starts)
    whole = np.stack([total.sum(axis=1), np.zeros_like(base)], axis=1)
    need = np.where(s.movable[:, None], whole, need)
    return starts, total, need


class _Cells:
    """Rows in the same rack, feed group and pool, sorted by that cell once for all services."""

    def __init__(self, instance: Instance) -> None:
        rows = instance.rows
        rack = np.where(rows.is_pool, -1, rows.rack).astype(np.int64)
        feed = np.where(rows.is_pool, -1, rows.feed_group).astype(np.int64)
        self.order = np.lexsort((feed, rack, rows.pool))
        parts = np.stack([rows.pool.astype(np.int64), rack, feed])[:, self.order]
        self.first = np.flatnonzero(np.r_[True, (parts[:, 1:] != parts[:, :-1]).any(axis=0)][: len(rows)])
        self.pool, racks, feeds = parts[:, self.first]
        self.cell = np.empty(len(rows), np.int64)
        self.cell[self.order] = np.repeat(np.arange(len(self.first)), np.diff(np.r_[self.first, len(rows)]))
        self.racks = _Places(self.pool, racks, len(instance.pools))
        self.feeds = _Places(self.pool, feeds, len(instance.pools))


def _sums(values: Ints, group: Ints, groups: int) -> Ints:
    """(G, B) sums of (N, B) by group; equal groups must be adjacent."""
    found = np.zeros((groups, values.shape[1]), np.int64)
    if len(group):
        first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        found[group[first]] = values if len(first) == len(group) else np.add.reduceat(values, first)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Here:
    """Present replicas of some services, by binding. turn: which of these services; row, count, cell: of each
    binding.
    """

    turn: Ints
    row: Ints
    count: Ints
    cell: Ints

    def sums(self, group: Ints, groups: int, services: int) -> Ints:
        """(G, B) replicas by group of their bindings; -1: of none."""
        found, known = np.zeros(groups * services, np.int64), group >= 0
        np.add.at(found, group[known] * services + self.turn[known], self.count[known])
        return found.reshape(groups, services)


class _Places:
    """Racks, or feed groups, of each pool as sets of cells; a cell with an unknown place is loose."""

    def __init__(self, pool: Ints, place: Ints, pools: int) -> None:
        self.pools, self._loose = pools, np.flatnonzero(place < 0)
        self._loose_pool = pool[self._loose]
        known, width = np.flatnonzero(place >= 0), int(place.max(initial=0)) + 1
        keys, inverse = np.unique(pool[known] * width + place[known], return_inverse=True)
        self._pool = keys // width
        self._number = np.full(len(pool), -1, np.int64)
        self._number[known] = inverse.reshape(-1)
        self._order = known[np.argsort(self._number[known], kind="stable")]

    def within(self, sums: Ints, here: _Here, cap: Ints) -> Ints:
        """(P, B) sum by pool; each place counts up to `cap` (B,) or what is there now.

        sums: (C, B) by cell.
        """
        total = _sums(sums[self._order], self._number[self._order], len(self._pool))
        np.minimum(total, cap, out=total)
        np.maximum(total, here.sums(self._number[here.cell], *total.shape), out=total)
        return _sums(total, self._pool, self.pools) + _sums(sums[self._loose], self._loose_pool, self.pools)


class _Shapes:
    """Rows alike in pool and capacity fit the same number of a service that has no replica there. of (V): the
    shape of each row, in the given order; pool, is_pool, capacity (R, H): by shape.
    """

    def __init__(self, instance: Instance, capacity: Ints, order: Ints) -> None:
        rows = instance.rows
        columns = [rows.pool[order].astype(np.int64), rows.is_pool[order].astype(np.int64)]
        columns += [np.ascontiguousarray(capacity[order, resource]) for resource in range(capacity.shape[1])]
        first, self.of = _alike(np.stack(columns))
        self.pool, self.is_pool = columns[0][first], columns[1][first] > 0
        self.capacity = np.stack(columns[2:])[:, first]


def _alike(columns: Ints) -> tuple[Ints, Ints]:
    """First row of each distinct kind, and the kind of each row; columns (K, V)."""
    mixed = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    _, first, of = np.unique(mixed, return_index=True, return_inverse=True)
    if (columns[:, first][:, of] == columns).all():
        return first, of.reshape(-1)
    _, first, of = np.unique(columns, axis=1, return_index=True, return_inverse=True)  # two mixed into one
    return first, of.reshape(-1)


class _Tally:
    """Number of rows of each shape in each cell, pool by pool. whole, powered: (H,) all, and those that need
    no boot.
    """

    def __init__(self, cells: _Cells, shapes: _Shapes, dark: Flags) -> None:
        """dark: (V,) in cell order."""
        count = len(shapes.pool)
        self._of, self._first = shapes.of, cells.first
        self.whole: Ints = np.bincount(shapes.of, minlength=count).astype(np.int64)
        self.powered: Ints = np.bincount(shapes.of[~dark], minlength=count).astype(np.int64)
        cell, order = cells.cell[cells.order], np.argsort(shapes.pool, kind="stable")
        local = np.zeros(count, np.int64)
        self._parts: list[tuple[slice, Ints, NDArray[np.float64]]] | None = []
        for pool in np.unique(cells.pool).tolist():
            inside, rows = _span(cells.pool, pool), _span(cells.pool[cell], pool)
            mine = order[_span(shapes.pool[order], pool)]
            size = inside.stop - inside.start, len(mine)
            if size[0] * size[1] > _MOST_PAIRS:
                self._parts = None
                break
            local[mine] = np.arange(len(mine))
            pairs = (cell[rows] - inside.start) * len(mine) + local[shapes.of[rows]]
            table = np.bincount(pairs, minlength=size[0] * size[1]).reshape(size)
            self._parts.append((inside, mine, table.astype(np.float64)))

    def sums(self, free: Ints) -> Ints:
        """(C, B) replicas by cell, from what a row of each shape fits, (H, B).

        Products are exact in floating point if no sum exceeds 2^53; otherwise, and if there are too many
        shapes for the cells, rows are added individually.
        """
        found = np.zeros((len(self._first), free.shape[1]), np.int64)
        if self._parts is not None and int(free.max(initial=0)) * len(self._of) < 2**53:
            for inside, mine, table in self._parts:
                some, step = free[mine].astype(np.float64), max(2, _PRODUCT // table.size)
                for at in range(0, some.shape[1], step):
                    found[inside, at : at + step] = table @ some[:, at : at + step]
        elif len(self._first):
            for turn, column in enumerate(free.T):
                found[:, turn] = np.add.reduceat(column[self._of], self._first)
        return found


def _span(ascending: Ints, value: int) -> slice:
    first, last = np.searchsorted(ascending, [value, value + 1])
    return slice(int(first), int(last))


class _Layout:
    """Rows grouped by pool, rack, feed group and site once, so that each service needs only a few sums."""

    def __init__(self, instance: Instance, dark: Flags) -> None:
        rows, s = instance.rows, instance.services
        self.instance, self.dark = instance, dark
        fixed = rows.used.T.copy()  # of a single row a view would do, and the instance would be changed
        present = instance.present
        free = s.loose[present.service]
        demand = s.demand[present.service[free]] * present.count[free, None]
        for resource, held in enumerate(fixed):
            np.subtract.at(held, present.row[free], np.ascontiguousarray(demand[:, resource]))
        self.capacity: Ints = np.maximum(rows.capacity - np.maximum(fixed.T, 0), 0)
        self.first = np.searchsorted(present.service, np.arange(len(s) + 1))
        self.pools = len(instance.pools)
        self.pool_site = np.array([p.site for p in instance.pools], np.int64)
        self.cells = _Cells(instance)
        self.place = np.empty(len(rows), np.int64)
        self.place[self.cells.order] = np.arange(len(rows))
        self.shapes = _Shapes(instance, self.capacity, self.cells.order)

    @cached_property
    def tally(self) -> _Tally:
        return _Tally(self.cells, self.shapes, self.dark[self.cells.order])

    @cached_property
    def groups(self) -> list[BootGroup]:
        """Computed only if boots matter."""
        return boot_groups(self.instance, self.dark)

    def capacities(self, services: Ints, wanted: Sequence[set[int]]) -> list[ServiceCapacity]:
        """Capacity of some services (B,), with the requested counts of each."""
        s, here, count = self.instance.services, self._here(services), len(services)
        sums, powered, whole = self._fits(services, here)
        pool_here = here.sums(self.instance.rows.pool[here.row].astype(np.int64), self.pools, count)
        cap = s.site_cap[services]
        rack = self.cells.racks.within(sums, here, s.rack_cap[services])
        feed = self.cells.feeds.within(sums, here, s.feed_cap[services])
        alone = np.maximum(np.minimum(_sums(sums, self.cells.pool, self.pools), cap), pool_here)
        pool = np.minimum(np.minimum(rack, feed), alone)
        site, site_here = np.zeros((2, len(self.instance.site_names), count), np.int64)
        np.add.at(site, self.pool_site, pool)
        np.add.at(site_here, self.pool_site, pool_here)
        site = np.maximum(np.minimum(site, cap), site_here)
        taken = ~s.loose[services]
        new_pool = np.where(taken, np.maximum(pool - pool_here, 0), pool)
        new_site = np.where(taken, np.maximum(site - site_here, 0), site)
        tables = [np.ascontiguousarray(table.T) for table in (pool, site, new_pool, new_site)]
        held = zip(services.tolist(), wanted, powered.tolist(), whole.tolist(), strict=True)
        found = []
        for turn, one in enumerate(held):
            own = [table[turn] for table in tables]
            pools = np.flatnonzero(own[0] > 0).tolist()
            found.append(ServiceCapacity(own[0], own[1], own[2], own[3], self._enough(*one), pools))
        return found

    def _here(self, services: Ints) -> _Here:
        first, count = self.first[services], self.first[services + 1] - self.first[services]
        turn = np.repeat(np.arange(len(services)), count)
        line = np.arange(len(turn)) + np.repeat(first - np.cumsum(count) + count, count)
        row = self.instance.present.row[line].astype(np.int64)
        return _Here(turn, row, self.instance.present.count[line], self.cells.cell[row])

    def _fits(self, services: Ints, here: _Here) -> tuple[Ints, Ints, Ints]:
        """(C, B) replicas of some services that fit by cell; (B,) on powered rows, and on all."""
        free = np.stack([self._by_shape(one) for one in services.tolist()], axis=1)
        sums, powered, whole = self.tally.sums(free), self.tally.powered @ free, self.tally.whole @ free
        last = np.ones(len(here.row), np.bool_)
        last[:-1] = (here.row[1:] != here.row[:-1]) | (here.turn[1:] != here.turn[:-1])
        turn, row, count = here.turn[last], here.row[last], here.count[last]
        more = self._standing(services[turn], row, count) - free[self.shapes.of[self.place[row]], turn]
        np.add.at(sums.reshape(-1), here.cell[last] * len(services) + turn, more)
        np.add.at(whole, turn, more)
        lit = ~self.dark[row]
        np.add.at(powered, turn[lit], more[lit])
        return sums, powered, whole

    def _standing(self, service: Ints, row: Ints, count: Ints) -> Ints:
        """(N,) replicas that fit on rows with `count` replicas of a service."""
        instance, s, most = self.instance, self.instance.services, self.instance.services.n[service]
        limit = np.where(instance.rows.is_pool[row], most, np.minimum(s.per_server[service], most))
        found: Ints = limit * instance.eligible[service, instance.rows.pool[row]]
        own = np.where(s.loose[service], 0, count)
        for resource in range(s.demand.shape[1]):
            need = s.demand[service, resource]
            capacity = (self.capacity[row, resource] + own * need) // np.maximum(need, 1)
            found = np.where(need > 0, np.minimum(found, capacity), found)
        return np.maximum(found, count)

    def _fit(self, service: int) -> Ints:
        """(V,) replicas of a service that fit on each row, in cell order."""
        fit: Ints = self._by_shape(service)[self.shapes.of]
        mine = slice(self.first[service], self.first[service + 1])
        row, count = self.instance.present.row[mine].astype(np.int64), self.instance.present.count[mine]
        fit[self.place[row]] = self._standing(np.full(len(row), service), row, count)
        return fit

    def _by_shape(self, service: int) -> Ints:
        """(H,) replicas of a service that fit on a row of each shape without any of it."""
        s, shapes = self.instance.services, self.shapes
        most, limit = int(s.n[service]), min(int(s.per_server[service]), int(s.n[service]))
        free: Ints = np.where(shapes.is_pool, most, limit) * self.instance.eligible[service][shapes.pool]
        for resource in np.flatnonzero(s.demand[service]).tolist():
            np.minimum(free, shapes.capacity[resource] // int(s.demand[service, resource]), out=free)
        return free

    def holding(self, services: Flags) -> Flags:
        """(V,) in cell order: rows that fit a replica of any of some services (S,).

        A row with a replica fits it, and fits no less than others of its shape.
        """
        shapes, present = self.shapes, self.instance.present
        any_fits = np.zeros(len(shapes.pool), np.bool_)
        for service in np.flatnonzero(services).tolist():
            any_fits |= self._by_shape(service) > 0
        found: Flags = any_fits[shapes.of]
        found[self.place[present.row[services[present.service] & (present.count > 0)]]] = True
        return found

    def _enough(self, service: int, wanted: set[int], powered: int, whole: int) -> dict[int, int]:
        """See `ServiceCapacity`. Which rows fit matters only if some of them must boot."""
        found = {count: 0 if count <= powered else NEVER for count in wanted}
        late = [count for count in wanted if powered < count <= whole]
        if late:
            fit = self._fit(service)
            sums = [np.r_[0, np.cumsum(np.sort(fit[self.place[g.rows]])[::-1])] for g in self.groups]
            found |= {count: self._booted(sums, count - powered) for count in late}
        return found

    def _booted(self, sums: list[Ints], missing: int) -> int:
        """First tick at which `missing` replicas fit on booted rows, largest rows first."""

        def reached(tick: int) -> bool:
            return sum(int(c[g.up(tick)]) for g, c in zip(self.groups, sums, strict=True)) >= missing

        low, high = 0, max(g.last for g in self.groups)
        if not reached(high):
            return NEVER
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle + 1, high)
        return low


def _usable(layout: _Layout, need: Ints, touched: Flags) -> Ints:
    demand = layout.instance.services.demand[need.any(axis=1)]
    usable = np.where(touched[:, None], layout.capacity, 0)
    for resource in range(usable.shape[1]):
        step = gcd(*demand[:, resource].tolist()) if len(demand) else 0
        if step > 1:
            usable[:, resource] -= usable[:, resource] % step
    return np.asarray(usable, np.int64)


def boot_groups(instance: Instance, dark: Flags) -> list[BootGroup]:
    """Boot kinds assigned to their slowest limit; each group boots as fast as that limit alone allows."""
    kinds = instance.boot_kinds
    off = np.flatnonzero(dark)
    off = off[np.argsort(instance.rows.boot_kind[off], kind="stable")]
    ends = np.searchsorted(instance.rows.boot_kind[off], np.arange(len(kinds) + 1))
    rows_of = {k: off[ends[k] : ends[k + 1]] for k in range(len(kinds))}
    alive = [k for k in rows_of if len(rows_of[k])]
    uses: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for k in alive:
        for use in kinds[k].uses:
            hold = kinds[k].duration if use.hold == WHOLE else use.hold
            if use.units and hold:
                uses.setdefault(use.limit, {}).setdefault(k, []).append((use.units, hold))
    times = {t: _limit_time(instance.limits[t].capacity, by_kind, rows_of) for t, by_kind in uses.items()}
    assigned: dict[int, list[int]] = {}
    groups = []
    for k in alive:
        binding = [t for t, by_kind in uses.items() if k in by_kind]
        if binding:
            chosen = min(binding, key=lambda t: (-times[t], t))
            assigned.setdefault(chosen, []).append(k)
        else:
            groups.append(BootGroup(rows_of[k], None, 1, kinds[k].duration))
    for limit in sorted(assigned):
        members = assigned[limit]
        pairs = [pair for k in members for pair in uses[limit][k]]
        slots = instance.limits[limit].capacity // min(u for u, _ in pairs)
        rows = np.concatenate([rows_of[k] for k in members])
        groups.append(
            BootGroup(rows, slots, min(h for _, h in pairs), min(kinds[k].duration for k in members))
        )
    return groups


def _limit_time(capacity: int, by_kind: dict[int, list[tuple[int, int]]], rows_of: dict[int, Ints]) -> int:
    pairs = [pair for rows in by_kind.values() for pair in rows]
    slots = capacity // min(u for u, _ in pairs)
    count = sum(len(rows_of[k]) for k in by_kind)
    return NEVER if slots == 0 else -(-count // slots) * min(h for _, h in pairs)
