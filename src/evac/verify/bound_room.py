"""Room that any plan could use: section 2 of docs/explanation/bound.md, in whole numbers.

Written from that page and the instance alone; the planner has its own version of the same page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
NEVER: Final = 2**62
"""A tick that no horizon reaches."""


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
class ServiceRoom:
    """Fit of one service. pool, site: F and S; new_pool, new_site: F' and S'; enough: first tick
    (without boot_wait) at which a count fits, 0 where nothing needs to boot, NEVER where it cannot; pools:
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
class Room:
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
        """(V, R) room that counts for prices; worked out when a certificate first prices any."""
        if self._usable is None:
            found = self.layout.holding(self.services.known & self.need.any(axis=1))
            touched = np.empty_like(found)
            touched[self.layout.cells.order] = found
            self._usable = _usable(self.layout, self.need, touched)
        return self._usable


def room_of(instance: Instance) -> Room:
    """Everything of section 2; linear in rows for every service that is asked for."""
    s = instance.services
    here = np.bincount(instance.present.service, instance.present.count, len(s)).astype(np.int64)
    away = np.maximum(s.surviving - here, 0)
    starts, total, need = _counts(instance, away)
    dark = instance.to_boot
    layout = _Layout(instance, dark)
    services = _Services(layout, away, total.any(axis=1) | (here > 0))
    return Room(instance, starts, total, need, away, ~dark, services, layout)


class _Services(Mapping[int, ServiceRoom]):
    """Room of each service that has any replicas here or needs some; worked out when it is asked for."""

    def __init__(self, layout: _Layout, away: Ints, known: Flags) -> None:
        self._layout, self._away, self.known = layout, away, known
        self._found: dict[int, ServiceRoom] = {}

    def __getitem__(self, service: int) -> ServiceRoom:
        if not self.known[service]:
            raise KeyError(service)
        if service not in self._found:
            s, away = self._layout.instance.services, self._away
            wanted = {int(s.m[service] - away[service]), int(s.n[service] - away[service]), 1}
            self._found[service] = self._layout.service(service, wanted)
        return self._found[service]

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
    return starts, total, need


class _Cells:
    """Rows that lie in one rack, one feed group and one pool, sorted by that cell once for all services."""

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

    def sums(self, fit: Ints) -> Ints:
        """(C,) sum by cell of what is in the order of cells."""
        return np.add.reduceat(fit, self.first) if len(self.first) else np.zeros(0, np.int64)


class _Places:
    """Racks, or feed groups, of each pool as sets of cells; a cell whose place is unknown is loose."""

    def __init__(self, pool: Ints, place: Ints, pools: int) -> None:
        self.known, self.pools = np.flatnonzero(place >= 0), pools
        self.loose = np.flatnonzero(place < 0)
        self.loose_pool = pool[self.loose]
        width = int(place.max(initial=0)) + 1
        keys, inverse = np.unique(pool[self.known] * width + place[self.known], return_inverse=True)
        self.pool = keys // width
        self.number = np.full(len(pool), -1, np.int64)
        self.number[self.known] = inverse.reshape(-1)

    def within(self, sums: Ints, mine: Ints, counts: Ints, cap: int) -> Ints:
        """(P,) sum by pool, where what lies in one place counts up to `cap` or what stands there.

        sums: by cell; mine: cells of the replicas that stand, with their counts.
        """
        loose = np.bincount(self.loose_pool, sums[self.loose], self.pools).astype(np.int64)
        if not len(self.pool):
            return loose
        total = np.bincount(self.number[self.known], sums[self.known], len(self.pool)).astype(np.int64)
        standing = np.zeros(len(total), np.int64)
        here = self.number[mine]
        np.add.at(standing, here[here >= 0], counts[here >= 0])
        capped = np.maximum(np.minimum(total, cap), standing)
        return np.asarray(np.bincount(self.pool, capped, self.pools).astype(np.int64) + loose, np.int64)


class _Shapes:
    """Rows alike in pool and room hold the same of a service on which none of it stands. of (V): the shape of
    each row, in the order given; pool, is_pool, room (R, H): by shape."""

    def __init__(self, instance: Instance, room: Ints, order: Ints) -> None:
        rows = instance.rows
        columns = [rows.pool[order].astype(np.int64), rows.is_pool[order].astype(np.int64)]
        columns += [np.ascontiguousarray(room[order, resource]) for resource in range(room.shape[1])]
        first, self.of = _alike(np.stack(columns))
        self.pool, self.is_pool = columns[0][first], columns[1][first] > 0
        self.room = np.stack(columns[2:])[:, first]


def _alike(columns: Ints) -> tuple[Ints, Ints]:
    """First row of each different one, and which of them each row is like; columns (K, V)."""
    mixed = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    _, first, of = np.unique(mixed, return_index=True, return_inverse=True)
    if (columns[:, first][:, of] == columns).all():
        return first, of.reshape(-1)
    _, first, of = np.unique(columns, axis=1, return_index=True, return_inverse=True)  # two mixed into one
    return first, of.reshape(-1)


class _Layout:
    """Rows grouped by pool, rack, feed group and site once, so that each service is a few sums."""

    def __init__(self, instance: Instance, dark: Flags) -> None:
        rows, s = instance.rows, instance.services
        self.instance, self.dark = instance, dark
        fixed = rows.used.T.copy()  # of a single row a view would do, and the instance would be changed
        present = instance.present
        free = s.sheddable[present.service]
        demand = s.demand[present.service[free]] * present.count[free, None]
        for resource, held in enumerate(fixed):
            np.subtract.at(held, present.row[free], np.ascontiguousarray(demand[:, resource]))
        self.room: Ints = np.maximum(rows.capacity - np.maximum(fixed.T, 0), 0)
        self.first = np.searchsorted(present.service, np.arange(len(s) + 1))
        self.pools = len(instance.pools)
        self.pool_site = np.array([p.site for p in instance.pools], np.int64)
        self.cells = _Cells(instance)
        self.place = np.empty(len(rows), np.int64)
        self.place[self.cells.order] = np.arange(len(rows))
        self.unpowered = self.place[dark]
        self.shapes = _Shapes(instance, self.room, self.cells.order)

    @cached_property
    def groups(self) -> list[BootGroup]:
        """Asked for where boots decide anything."""
        return boot_groups(self.instance, self.dark)

    def service(self, service: int, wanted: set[int]) -> ServiceRoom:
        s, present = self.instance.services, self.instance.present
        mine = slice(self.first[service], self.first[service + 1])
        rows, counts = present.row[mine].astype(np.int64), present.count[mine]
        fit = self._fit(service, rows, counts)
        pool_here = np.bincount(self.instance.rows.pool[rows], counts, self.pools).astype(np.int64)
        cells, sums, mine_in = self.cells, self.cells.sums(fit), self.cells.cell[rows]
        rack = cells.racks.within(sums, mine_in, counts, int(s.rack_cap[service]))
        feed = cells.feeds.within(sums, mine_in, counts, int(s.feed_cap[service]))
        cap = int(s.site_cap[service])
        whole = np.bincount(cells.pool, sums, self.pools).astype(np.int64)
        pool = np.minimum(np.minimum(rack, feed), np.maximum(np.minimum(whole, cap), pool_here))
        sites = len(self.instance.site_names)
        site_here = np.bincount(self.pool_site, pool_here, sites).astype(np.int64)
        site = np.maximum(
            np.minimum(np.bincount(self.pool_site, pool, sites).astype(np.int64), cap), site_here
        )
        taken = not s.sheddable[service]
        new_pool = np.maximum(pool - pool_here, 0) if taken else pool
        new_site = np.maximum(site - site_here, 0) if taken else site
        whole_fit = int(fit.sum())
        held = whole_fit - int(fit[self.unpowered].sum()), whole_fit
        enough = {count: self._enough(fit, count, *held) for count in wanted}
        return ServiceRoom(pool, site, new_pool, new_site, enough, np.flatnonzero(pool > 0).tolist())

    def _fit(self, service: int, rows: Ints, counts: Ints) -> Ints:
        """(V,) in the order of cells. rows, counts: where replicas of the service stand now."""
        instance, s, shapes = self.instance, self.instance.services, self.shapes
        demand, eligible = s.demand[service], instance.eligible[service]
        most, limit = int(s.n[service]), min(int(s.per_server[service]), int(s.n[service]))
        mine = np.where(instance.rows.is_pool[rows], most, limit) * eligible[instance.rows.pool[rows]]
        here = np.zeros(len(rows), np.int64) if s.sheddable[service] else counts
        for resource in np.flatnonzero(demand).tolist():
            amount = int(demand[resource])
            np.minimum(mine, (self.room[rows, resource] + here * amount) // amount, out=mine)
        fit: Ints = self._by_shape(service)[shapes.of]
        fit[self.place[rows]] = np.maximum(mine, counts)
        return fit

    def _by_shape(self, service: int) -> Ints:
        """(H,) replicas of a service that a row of each shape holds, on which none of it stands."""
        s, shapes = self.instance.services, self.shapes
        most, limit = int(s.n[service]), min(int(s.per_server[service]), int(s.n[service]))
        free: Ints = np.where(shapes.is_pool, most, limit) * self.instance.eligible[service][shapes.pool]
        for resource in np.flatnonzero(s.demand[service]).tolist():
            np.minimum(free, shapes.room[resource] // int(s.demand[service, resource]), out=free)
        return free

    def holding(self, services: Flags) -> Flags:
        """(V,) in the order of cells: rows that hold a replica of any of some services (S,).

        A row on which one stands holds it, and holds no less than others of its shape.
        """
        shapes, present = self.shapes, self.instance.present
        any_fits = np.zeros(len(shapes.pool), np.bool_)
        for service in np.flatnonzero(services).tolist():
            any_fits |= self._by_shape(service) > 0
        found: Flags = any_fits[shapes.of]
        found[self.place[present.row[services[present.service] & (present.count > 0)]]] = True
        return found

    def _enough(self, fit: Ints, count: int, powered: int, whole: int) -> int:
        if count <= powered:
            return 0
        if count > whole:
            return NEVER
        sums = [np.r_[0, np.cumsum(np.sort(fit[self.place[g.rows]])[::-1])] for g in self.groups]

        def reached(tick: int) -> bool:
            return powered + sum(int(c[g.up(tick)]) for g, c in zip(self.groups, sums, strict=True)) >= count

        low, high = 0, max(g.last for g in self.groups)
        if not reached(high):
            return NEVER
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle + 1, high)
        return low


def _usable(layout: _Layout, need: Ints, touched: Flags) -> Ints:
    demand = layout.instance.services.demand[need.any(axis=1)]
    usable = np.where(touched[:, None], layout.room, 0)
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
