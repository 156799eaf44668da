"""Room that any plan could use: section 2 of docs/explanation/bound.md, in whole numbers.

Written from that page and the instance alone; the planner has its own version of the same page.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    (without boot_wait) at which a count fits, 0 where nothing needs to boot, NEVER where it cannot."""

    pool: Ints
    site: Ints
    new_pool: Ints
    new_site: Ints
    enough: dict[int, int]

    def possible(self, count: int) -> bool:
        return int(self.site.sum()) >= count

    @property
    def pools(self) -> list[int]:
        return np.flatnonzero(self.pool > 0).tolist()


@dataclass(slots=True, eq=False)
class Room:
    """Section 2 for a whole instance. `away`, `total`, `need` are S x 2: base, top."""

    instance: Instance
    starts: Ints
    total: Ints
    need: Ints
    away: Ints
    groups: list[BootGroup]
    powered: Flags
    services: dict[int, ServiceRoom]
    usable: Ints


def room_of(instance: Instance) -> Room:
    """Everything of section 2; linear in rows for every service that needs room."""
    s, rows = instance.services, instance.rows
    here = np.bincount(instance.present.service, instance.present.count, len(s)).astype(np.int64)
    away = np.maximum(s.surviving - here, 0)
    starts, total, need = _counts(instance, away)
    dark = rows.dark & (rows.boot_kind >= 0)
    groups = boot_groups(instance, dark)
    layout = _Layout(instance, dark, groups)
    services: dict[int, ServiceRoom] = {}
    touched = np.zeros(len(rows), np.bool_)
    for service in range(len(s)):
        if total[service].any() or here[service]:
            wanted = {int(s.m[service] - away[service]), int(s.n[service] - away[service]), 1}
            fit, room = layout.service(service, wanted)
            services[service] = room
            if need[service].any():
                touched |= fit > 0
    return Room(instance, starts, total, need, away, groups, ~dark, services, _usable(layout, need, touched))


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
    """Rows that lie in one rack or feed group of one pool, sorted by that cell once for all services."""

    def __init__(self, instance: Instance, place: NDArray[np.int32]) -> None:
        rows = instance.rows
        known = (place >= 0) & ~rows.is_pool
        width = int(place.max(initial=0)) + 1
        key = rows.pool.astype(np.int64) * width + place
        self.order = np.flatnonzero(known)[np.argsort(key[known], kind="stable")]
        keys = key[self.order]
        first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, np.int64)
        self.first = first
        self.pool = keys[first] // width
        self.cell = np.full(len(rows), -1, np.int64)
        self.cell[self.order] = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(keys)]))
        self.loose = np.flatnonzero(~known)
        self.loose_pool = rows.pool[self.loose]
        self.pools = len(instance.pools)

    def within(self, fit: Ints, mine: Ints, counts: Ints, cap: int) -> Ints:
        """(P,) sum of fit by pool, where what lies in one cell counts up to `cap` or what stands there."""
        loose = np.bincount(self.loose_pool, fit[self.loose], self.pools).astype(np.int64)
        if not len(self.first):
            return loose
        total = np.add.reduceat(fit[self.order], self.first)
        standing = np.zeros(len(total), np.int64)
        here = self.cell[mine]
        np.add.at(standing, here[here >= 0], counts[here >= 0])
        capped = np.maximum(np.minimum(total, cap), standing)
        return np.asarray(np.bincount(self.pool, capped, self.pools).astype(np.int64) + loose, np.int64)


class _Layout:
    """Rows grouped by pool, rack, feed group and site once, so that each service is a few sums."""

    def __init__(self, instance: Instance, dark: Flags, groups: list[BootGroup]) -> None:
        rows, s = instance.rows, instance.services
        self.instance, self.dark, self.groups = instance, dark, groups
        fixed = rows.used.copy()
        present = instance.present
        free = s.sheddable[present.service]
        demand = s.demand[present.service[free]] * present.count[free, None]
        np.subtract.at(fixed, present.row[free], demand)
        self.room: Ints = np.maximum(rows.capacity - np.maximum(fixed, 0), 0)
        self.columns = np.ascontiguousarray(self.room.T)
        self.first = np.searchsorted(present.service, np.arange(len(s) + 1))
        self.pools = len(instance.pools)
        self.pool_site = np.array([p.site for p in instance.pools], np.int64)
        self.powered = np.flatnonzero(~dark)
        self.bare = np.flatnonzero(~rows.is_pool)
        self.racks = _Cells(instance, rows.rack)
        self.feeds = _Cells(instance, rows.feed_group)
        self.whole = _Cells(instance, np.zeros(len(rows), np.int32))

    def service(self, service: int, wanted: set[int]) -> tuple[Ints, ServiceRoom]:
        s, present = self.instance.services, self.instance.present
        mine = slice(self.first[service], self.first[service + 1])
        rows, counts = present.row[mine].astype(np.int64), present.count[mine]
        fit = self._fit(service, rows, counts)
        pool_here = np.bincount(self.instance.rows.pool[rows], counts, self.pools).astype(np.int64)
        rack = self.racks.within(fit, rows, counts, int(s.rack_cap[service]))
        feed = self.feeds.within(fit, rows, counts, int(s.feed_cap[service]))
        cap = int(s.site_cap[service])
        whole = self.whole.within(fit, rows, counts, NEVER)
        pool = np.minimum(np.minimum(rack, feed), np.maximum(np.minimum(whole, cap), pool_here))
        sites = len(self.instance.site_names)
        site_here = np.bincount(self.pool_site, pool_here, sites).astype(np.int64)
        site = np.maximum(
            np.minimum(np.bincount(self.pool_site, pool, sites).astype(np.int64), cap), site_here
        )
        taken = not s.sheddable[service]
        new_pool = np.maximum(pool - pool_here, 0) if taken else pool
        new_site = np.maximum(site - site_here, 0) if taken else site
        enough = {count: self._enough(fit, count) for count in wanted}
        return fit, ServiceRoom(pool, site, new_pool, new_site, enough)

    def _fit(self, service: int, rows: Ints, counts: Ints) -> Ints:
        instance, s = self.instance, self.instance.services
        fit = np.full(len(self.room), int(s.n[service]), np.int64)
        here = np.zeros(len(rows), np.int64) if s.sheddable[service] else counts
        mine = np.full(len(rows), int(s.n[service]), np.int64)
        demand = s.demand[service]
        for resource in np.flatnonzero(demand).tolist():
            amount = int(demand[resource])
            np.minimum(fit, self.columns[resource] // amount, out=fit)
            np.minimum(mine, (self.columns[resource][rows] + here * amount) // amount, out=mine)
        fit[rows] = mine
        limit = int(s.per_server[service])
        if len(self.bare) == len(fit):
            np.minimum(fit, limit, out=fit)
        else:
            fit[self.bare] = np.minimum(fit[self.bare], limit)
        if not instance.eligible[service].all():
            fit *= instance.eligible[service][instance.rows.pool]
        fit[rows] = np.maximum(fit[rows], counts)
        return fit

    def _enough(self, fit: Ints, count: int) -> int:
        powered = int(fit[self.powered].sum())
        if count <= powered:
            return 0
        if count > int(fit.sum()):
            return NEVER
        sums = [np.r_[0, np.cumsum(np.sort(fit[g.rows])[::-1])] for g in self.groups]

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
    rows_of = {k: np.flatnonzero(dark & (instance.rows.boot_kind == k)) for k in range(len(kinds))}
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
