"""Capacity and spread for all rows at once, shared limits and power at every tick: rules F2 and F6 to F10.

Also, for rule F17: capacity that would be free without lower tiers, and how long sheds take to free it.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance
from evac.model.records import dataclass
from evac.steps.registry import kind_of
from evac.verify.reading import Reading, Timed, uses_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Starts and sheds as columns: service, row, replicas, and the tick at which capacity changes."""

    service: Ints
    row: Ints
    count: Ints
    tick: Ints


def moves(reading: Reading, kind: str) -> Moves:
    """Capacity is taken from the start of a start and is free at the end of a shed."""
    rows = [
        (timed.service, row, count, timed.start if kind == "start" else timed.end)
        for timed in reading.of_kind(kind)
        for row, count in timed.rows
    ]
    table = np.array(rows, np.int64).reshape(len(rows), 4)
    return Moves(table[:, 0], table[:, 1], table[:, 2], table[:, 3])


def check_placement(reading: Reading) -> None:
    """F2, F7 and F10 of single replicas: eligible rows, right pool, boots of dark rows only."""
    instance = reading.instance
    for timed in [*reading.of_kind("start"), *reading.of_kind("shed")]:
        for row, _ in timed.rows:
            pool = int(instance.rows.pool[row])
            if instance.pools[pool].id != timed.step.pool:
                reading.complain(
                    "F3", timed.step.id, f"{instance.row_names[row]} is not in pool {timed.step.pool}"
                )
            if kind_of(timed.step.kind).replicas > 0 and not instance.eligible[timed.service, pool]:
                reading.complain("F10", timed.step.id, f"may not run on {instance.row_names[row]}")
    for row, timed in reading.boots.items():
        if not instance.rows.dark[row]:
            reading.complain("F7", timed.step.id, "is on already")


def check_capacity(reading: Reading) -> None:
    """F8: at no tick does demand on a row exceed its capacity."""
    instance = reading.instance
    start, shed = moves(reading, "start"), moves(reading, "shed")
    _check_shed_present(reading, shed)
    row = np.concatenate([start.row, shed.row])
    if not len(row):
        return
    tick = np.concatenate([start.tick, shed.tick])
    demand = instance.services.demand
    change = np.concatenate(
        [demand[start.service] * start.count[:, None], -demand[shed.service] * shed.count[:, None]]
    )
    grabs = np.r_[np.ones(len(start.row), np.int64), np.zeros(len(shed.row), np.int64)]
    order = np.lexsort((grabs, tick, row))
    row, tick, change = row[order], tick[order], change[order]
    held = running_totals(row, change) + instance.rows.used[row]
    over = (held > instance.rows.capacity[row]).any(axis=1)
    for at in np.unique(row[over])[:50].tolist():
        when = int(tick[over & (row == at)][0])
        reading.complain("F8", instance.row_names[at], f"holds more than its capacity from tick {when}")


def check_freed(reading: Reading) -> None:
    """F5: whichever sheds on a row are late, starts that do not wait for them fit without them."""
    s, rows = reading.instance.services, reading.instance.rows
    freed: dict[int, dict[str, Ints]] = {}
    for timed in reading.of_kind("shed"):
        for row, count in timed.rows:
            freed.setdefault(row, {})[timed.step.id] = s.demand[timed.service] * count
    takes: dict[int, dict[frozenset[str], list[Timed]]] = {}
    held: dict[tuple[int, frozenset[str]], Ints] = {}
    for timed in reading.of_kind("start"):
        for row, count in timed.rows:
            if row in freed:
                waits = frozenset(freed[row]).intersection(timed.step.after)
                takes.setdefault(row, {}).setdefault(waits, []).append(timed)
                held[row, waits] = held.get((row, waits), 0) + s.demand[timed.service] * count
    for row, groups in sorted(takes.items()):
        for waits in groups:
            there = rows.used[row] + sum(held[row, other] for other in groups if other <= waits)
            there = there - sum(freed[row][name] for name in waits)
            if (there > rows.capacity[row]).any():
                name = min(one.step.id for one in groups[waits])
                where = reading.instance.row_names[row]
                reading.complain(
                    "F5", name, f"`after` does not include the shed that frees capacity on {where}"
                )


def _check_shed_present(reading: Reading, shed: Moves) -> None:
    """F2: no more of a service is shed from a row than is there."""
    if not len(shed.row):
        return
    present, rows = reading.instance.present, max(1, len(reading.instance.rows))
    standing = present.service.astype(np.int64) * rows + present.row
    wanted, inverse = np.unique(shed.service * rows + shed.row, return_inverse=True)
    gone, there = np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.int64)
    np.add.at(gone, inverse.reshape(-1), shed.count)
    where = np.minimum(np.searchsorted(wanted, standing), len(wanted) - 1)
    found = wanted[where] == standing
    np.add.at(there, where[found], present.count[found])
    for key in wanted[gone > there].tolist():
        name = reading.instance.services.id[key // rows]
        reading.complain(
            "F2", name, f"sheds replicas that do not run on {reading.instance.row_names[key % rows]}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class FinalPlacement:
    """Replicas in the final state, one row per (service, row): survivors - shed + started."""

    service: Ints
    row: Ints
    count: Ints
    started: Ints


def final_state(reading: Reading) -> FinalPlacement:
    """Sorted by (service, row); `started` says how many of them the plan started."""
    present = reading.instance.present
    start, shed = moves(reading, "start"), moves(reading, "shed")
    service = np.concatenate([present.service.astype(np.int64), start.service, shed.service])
    row = np.concatenate([present.row.astype(np.int64), start.row, shed.row])
    count = np.concatenate([present.count, start.count, -shed.count])
    started = np.concatenate(
        [np.zeros(len(present.row), np.int64), start.count, np.zeros(len(shed.row), np.int64)]
    )
    rows = max(1, len(reading.instance.rows))
    unique, inverse = np.unique(service * rows + row, return_inverse=True)
    inverse = inverse.reshape(-1)
    total = np.zeros(len(unique), np.int64)
    new = total.copy()
    np.add.at(total, inverse, count)
    np.add.at(new, inverse, started)
    return FinalPlacement(unique // rows, unique % rows, total, new)


def check_spread(reading: Reading, final: FinalPlacement) -> None:
    """F10: where the plan starts replicas, no cap of server, rack, feed or site is exceeded, not even while
    something moves, and no two replicas of a conflict group are on one server.
    """
    rows, s = reading.instance.rows, reading.instance.services
    most = _while_moving(reading, final)
    bare = ~rows.is_pool[final.row]
    _check_cap(reading, most, final.row, s.per_server, bare, "server")
    _check_cap(reading, most, rows.rack[final.row].astype(np.int64), s.rack_cap, bare, "rack")
    _check_cap(reading, most, rows.feed_group[final.row].astype(np.int64), s.feed_cap, bare, "feed group")
    everywhere = np.ones(len(final.row), np.bool_)
    _check_cap(reading, most, rows.site[final.row].astype(np.int64), s.site_cap, everywhere, "site")
    _check_conflicts(reading, final, bare)


def _while_moving(reading: Reading, final: FinalPlacement) -> FinalPlacement:
    """The same, but what moves has its old replicas beside its new ones."""
    shed, count, width = moves(reading, "shed"), final.count.copy(), max(1, len(reading.instance.rows))
    old = reading.instance.services.movable[shed.service]
    key = shed.service[old] * width + shed.row[old]
    np.add.at(count, np.searchsorted(final.service * width + final.row, key), shed.count[old])
    return FinalPlacement(final.service, final.row, count, final.started)


def _check_cap(
    reading: Reading, final: FinalPlacement, place: Ints, cap: Ints, counted: NDArray[np.bool_], word: str
) -> None:
    counted = counted & (place >= 0)
    if not counted.any():
        return
    width = int(place[counted].max()) + 1
    key, inverse = np.unique(final.service[counted] * width + place[counted], return_inverse=True)
    inverse = inverse.reshape(-1)
    total, new = np.zeros(len(key), np.int64), np.zeros(len(key), np.int64)
    np.add.at(total, inverse, final.count[counted])
    np.add.at(new, inverse, final.started[counted])
    bad = (new > 0) & (total > cap[key // width])
    for at in np.flatnonzero(bad)[:50].tolist():
        service = int(key[at] // width)
        name = reading.instance.services.id[service]
        reading.complain("F10", name, f"{total[at]} replicas on one {word}, at most {cap[service]} allowed")


def _check_conflicts(reading: Reading, final: FinalPlacement, bare: NDArray[np.bool_]) -> None:
    group = reading.instance.services.conflict[final.service].astype(np.int64)
    counted = bare & (group >= 0) & (final.count > 0)
    if not counted.any():
        return
    width = len(reading.instance.rows)
    key, inverse = np.unique(group[counted] * width + final.row[counted], return_inverse=True)
    inverse = inverse.reshape(-1)
    total, new = np.zeros(len(key), np.int64), np.zeros(len(key), np.int64)
    np.add.at(total, inverse, final.count[counted])
    np.add.at(new, inverse, final.started[counted])
    for at in np.flatnonzero((new > 0) & ((total > 1) | _stops_late(reading, key)))[:50].tolist():
        name = reading.instance.row_names[int(key[at] % width)]
        reading.complain("F10", name, "two replicas of one conflict group on one server")


def _stops_late(reading: Reading, key: Ints) -> Bools:
    """Whether something of a conflict group stops on a row only after another replica of it starts there.
    key: group x rows + row, sorted.
    """
    ticks = []
    for kind, usual, pick in (("start", NEVER, np.minimum), ("shed", -1, np.maximum)):
        found, tick = moves(reading, kind), np.full(len(key), usual, np.int64)
        group = reading.instance.services.conflict[found.service].astype(np.int64)
        wanted = group * len(reading.instance.rows) + found.row
        at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        mine = (group >= 0) & (key[at] == wanted)
        pick.at(tick, at[mine], found.tick[mine])
        ticks.append(tick)
    return np.asarray(ticks[0] < ticks[1], np.bool_)


def free_capacity(instance: Instance, final: FinalPlacement, reading: Reading) -> Ints:
    """(V, R) capacity left in the final state; rows that were never booted have none."""
    used = np.zeros_like(instance.rows.used)
    demand = instance.services.demand
    np.add.at(used, final.row, demand[final.service] * final.count[:, None])
    on = ~instance.rows.dark.copy()
    on[np.fromiter(reading.boots, np.int64)] = True
    return np.asarray(np.where(on[:, None], instance.rows.capacity - used, 0), np.int64)


def holdings(reading: Reading, without: frozenset[str] = frozenset()) -> Ints:
    """(N, 4) limit, first tick, end, units held by steps, including power steps; half-open intervals.

    without: ids of steps that are left out.
    """
    rows = []
    for step in reading.instance.power_steps:
        for use in step.uses:
            begin = step.start + use.offset
            rows.append((use.limit, begin, step.end if use.hold == WHOLE else begin + use.hold, use.units))
    for timed in reading.steps:
        if not kind_of(timed.step.kind).is_timed or timed.step.id in without:
            continue
        for use in uses_of(reading, timed):
            begin = timed.start + use.offset
            end = timed.end if use.hold == WHOLE else begin + use.hold
            if end > begin:
                rows.append((use.limit, begin, end, use.units * timed.step.count))
    return np.array(rows, np.int64).reshape(len(rows), 4)


def check_limits(reading: Reading) -> None:
    """F6: units held never exceed the capacity of a limit."""
    held = holdings(reading)
    if not len(held):
        return
    limit, begin, end, units = held.T
    capacity = np.array([x.capacity for x in reading.instance.limits], np.int64)
    for number, tick, amount in _peaks(limit, begin, end, units, capacity):
        found = reading.instance.limits[number]
        reading.complain("F6", found.id, f"{amount} held at tick {tick}, at most {found.capacity} allowed")


def _peaks(key: Ints, begin: Ints, end: Ints, units: Ints, capacity: Ints) -> list[tuple[int, int, int]]:
    """(key, first tick, amount) for each key whose capacity is exceeded; releases come before holds."""
    keys = np.concatenate([key, key])
    when = np.concatenate([begin, end])
    change = np.concatenate([units, -units])
    order = np.lexsort((change, when, keys))
    keys, when, change = keys[order], when[order], change[order]
    held = running_totals(keys, change)
    over = np.flatnonzero(held > capacity[keys])
    found: dict[int, tuple[int, int, int]] = {}
    for at in over.tolist():
        found.setdefault(int(keys[at]), (int(keys[at]), int(when[at]), int(held[at])))
    return list(found.values())


def running_totals(keys: Ints, change: Ints) -> Ints:
    """Cumulative sums that restart with each run of equal keys."""
    total = np.cumsum(change, axis=0)
    first = np.r_[True, keys[1:] != keys[:-1]]
    starts = np.flatnonzero(first)
    before = total[starts] - change[starts]
    lengths = np.diff(np.r_[starts, len(keys)])
    return np.asarray(total - np.repeat(before, lengths, axis=0), np.int64)


def check_power(reading: Reading) -> None:
    """F9: steady watts of what is on never exceed a budget; a boot draws from its start."""
    rows = reading.instance.rows
    load = np.array([budget.on_watts for budget in reading.instance.power], np.int64)
    booted = np.fromiter(reading.boots, np.int64)
    if len(booted):
        for column in range(rows.power.shape[1]):
            where = rows.power[booted, column]
            known = where >= 0
            np.add.at(load, where[known], rows.watts[booted[known]])
    for number, budget in enumerate(reading.instance.power):
        if load[number] > budget.watts:
            reading.complain(
                "F9", budget.id, f"{load[number]} W would be on, at most {budget.watts} W allowed"
            )


Bools = NDArray[np.bool_]
NEVER = 2**60


COUNTED = 64
"""Replicas on one row whose sheds are counted; that more fit there costs nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """Rows on which a replica would fit, as columns: pool; the tick from which the row is on; ticks of the
    shortest shed needed: of one in the plan, and of one that is not (NEVER: none, 0: no shed needed).
    """

    pool: Ints
    on: Ints
    done: Ints
    due: Ints
    fit: Ints
    """How many replicas would fit."""
    free: Ints
    """(N, R) capacity without further sheds."""
    most: Ints
    """(N, R) the most that one further shed frees of each resource."""
    row: Ints
    lower: Bools
    """(S,) services that make way."""

    def sheds(self, demand: Ints, missing: int) -> int:
        """Replicas that must still be shed at least so that `missing` replicas fit, whatever their rows."""
        more = np.arange(1, min(missing, int(self.fit.max(initial=0)), COUNTED) + 1)
        need = np.flatnonzero(demand)
        lack = np.maximum(more[:, None] * demand[need] - self.free[:, None, need], 0)
        sheds = (-(-lack // np.maximum(self.most[:, None, need], 1))).max(axis=2, initial=0)
        each = np.diff(sheds, axis=1, prepend=0)[more <= self.fit[:, None]]
        uncounted = int(np.maximum(self.fit - COUNTED, 0).sum())
        return int(np.sort(each)[: max(0, missing - uncounted)].sum())

    def idle_steps(self, reading: Reading) -> frozenset[str]:
        """Steps that a plan would not have if all that makes way had never had its turn: its own, except
        sheds, and sheds made only for it. What those free on these rows counts, so there they stay.
        """
        ids, used = reading.instance.services.id, set(self.row.tolist())
        names = {ids[service] for service in np.flatnonzero(self.lower).tolist()}
        sheds = {timed.step.id for timed in reading.of_kind("shed")}
        return frozenset(
            timed.step.id
            for timed in reading.steps
            if timed.service >= 0
            and (
                names.issuperset(timed.step.for_services) and used.isdisjoint(row for row, _ in timed.rows)
                if timed.step.id in sheds
                else self.lower[timed.service]
            )
        )


class EndState:
    """State at the end of a plan, with everything that is the same for all services."""

    def __init__(self, reading: Reading, final: FinalPlacement) -> None:
        self.reading, self.final = reading, final
        self.stood: Ints = np.maximum(final.count - final.started, 0)
        """Replicas of each final binding that were there before the plan."""
        self.started: Ints = np.minimum(final.started, final.count)
        """Replicas of each final binding that the plan started."""
        self._first = np.searchsorted(final.service, np.arange(len(reading.instance.services) + 1))

    def bindings(self, service: int) -> slice:
        """Final bindings of a service: one per row."""
        return slice(int(self._first[service]), int(self._first[service + 1]))

    def standing(self, service: int) -> int:
        return int(self.final.count[self.bindings(service)].sum())

    @cached_property
    def free(self) -> Ints:
        """(V, R) free capacity at the end."""
        return free_capacity(self.reading.instance, self.final, self.reading)

    @cached_property
    def pools(self) -> tuple[Bools, Bools]:
        """(S, P) each: pools in which the plan started any of a service, and pools that contain any of it."""
        instance, final = self.reading.instance, self.final
        started, any_of_it = np.zeros((2, *instance.eligible.shape), np.bool_)
        for table, count in ((started, self.started), (any_of_it, self.stood + self.started)):
            at = np.flatnonzero(count > 0)
            table[final.service[at], instance.rows.pool[final.row[at]]] = True
        return started, any_of_it

    def may_use(self, service: int) -> Bools:
        """(P,) pools that a service may use: if it was not lost, at sites where it ran, as its users stay."""
        instance = self.reading.instance
        eligible: Bools = instance.eligible[service]
        if instance.services.base_lost[service]:
            return eligible
        rows = instance.present.row[instance.present.service == service]
        home = set(instance.rows.site[rows].tolist()) - {-1}
        at_home: Bools = np.array([pool.site in home for pool in instance.pools], np.bool_)
        return np.logical_and(eligible, at_home)

    @cached_property
    def on(self) -> Ints:
        """(V,) ticks from which rows are on."""
        on = np.zeros(len(self.reading.instance.rows), np.int64)
        for row, timed in self.reading.boots.items():
            on[row] = timed.end
        return on

    @cached_property
    def shed(self) -> tuple[Ints, Ints]:
        """(V, R) capacity freed by the plan's sheds; (V,) ticks of the shortest of them, or NEVER."""
        reading, s = self.reading, self.reading.instance.services
        lines = [
            (victim, row, gone)
            for victim, steps in reading.sheds.items()
            for timed in steps
            for row, gone in timed.rows
        ]
        victim, row, gone = np.array(lines, np.int64).reshape(len(lines), 3).T
        made, done = np.zeros_like(self.free), np.full(len(self.free), NEVER, np.int64)
        _add(made, row, s.demand[victim] * gone[:, None])
        np.minimum.at(done, row, s.shed[victim])
        return made, done

    @cached_property
    def spread(self) -> _Spread:
        return _Spread(self.reading)


class _Spread:
    """Racks, feeds and sites, and how they overlap; they need not be nested."""

    def __init__(self, reading: Reading) -> None:
        rows, s = reading.instance.rows, reading.instance.services
        rack, feed = (np.where(rows.is_pool, -1, place) for place in (rows.rack, rows.feed_group))
        parts = np.column_stack([rack, feed, rows.site]).astype(np.int64)
        self._levels = []
        for place, cap in ((rack, s.rack_cap), (feed, s.feed_cap), (rows.site, s.site_cap)):
            parts, part = np.unique(parts, axis=0, return_inverse=True)
            self._levels.append((place, cap, parts[:, 0], part.reshape(-1)))
            parts = parts[:, 1:]

    def most(self, service: int, fit: Ints, mine: Ints) -> int:
        """Most replicas that spread allows out of what fits row by row: an upper bound. fit, mine: (V,) what
        would fit, and what is there.

        The bound is the least of those by racks, feeds and sites alone, and of applying them in turn: there,
        a rack's count goes into each of its feeds and sites, and a feed's count into each of its sites.
        """
        all_of_it, least = fit, int(fit.sum())
        for place, cap, first, part in self._levels:
            known = place >= 0
            have = np.bincount(place[known], mine[known], int(place.max(initial=0)) + 1).astype(np.int64)
            left = np.maximum(int(cap[service]) - have, 0)
            total = np.bincount(place[known], all_of_it[known], len(left)).astype(np.int64)
            least = min(least, int(np.minimum(total, left).sum() + all_of_it[~known].sum()))
            total = np.bincount(part, fit, len(first)).astype(np.int64)
            fit = np.where(first >= 0, np.minimum(total, left[first]), total)
        return min(least, int(fit.sum()))


class Displaced:
    """Lower-tier services that make way for a service: `may` (S,) may leave, and of those `sheddable` (S,)
    may be shed where they were before the plan.
    """

    def __init__(self, end_state: EndState, may: Bools, sheddable: Bools, service: int) -> None:
        self._end_state, self._service = end_state, service
        s = end_state.reading.instance.services
        self._lower = (s.tier > s.tier[service]) & may
        self._shed = self._lower & sheddable
        self._eligible = end_state.may_use(service)

    def anything(self) -> bool:
        """Whether a lower tier keeps or gets anything where the service may run."""
        eligible = self._eligible
        started, any_of_it = self._end_state.pools
        there = started[self._lower & ~self._shed].any(axis=0) | any_of_it[self._shed].any(axis=0)
        return bool((there & eligible).any())

    def capacity(self) -> tuple[int, Ready]:
        """Replicas that would fit if all of it made way, an upper bound by rows, racks, feeds and sites; and
        the rows that would take one.
        """
        end_state, service = self._end_state, self._service
        instance, final = end_state.reading.instance, end_state.final
        s, rows = instance.services, instance.rows
        stood = np.where(self._shed[final.service], end_state.stood, 0)
        leaves = stood + np.where(self._lower[final.service], end_state.started, 0)
        at, capacity = np.flatnonzero(leaves), end_state.free.copy()
        _add(capacity, final.row[at], s.demand[final.service[at]] * leaves[at, None])
        fit = np.full(len(rows), 2**31, np.int64)
        for turn, resource in enumerate(np.flatnonzero(s.demand[service]).tolist()):
            part = capacity[:, resource] // s.demand[service, resource]
            fit = np.minimum(fit, part) if turn else part
        mine, own = np.zeros(len(rows), np.int64), end_state.bindings(service)
        mine[final.row[own]] = final.count[own]
        fit = np.minimum(fit, np.where(rows.is_pool, fit, s.per_server[service] - mine))
        if s.conflict[service] >= 0:
            group = s.conflict[final.service] == s.conflict[service]
            stays = np.bincount(final.row[group], (final.count - leaves)[group], len(rows))
            fit = np.where(rows.is_pool, fit, np.minimum(fit, 1 - stays.astype(np.int64)))
        fit = np.where(self._eligible[rows.pool], np.maximum(fit, 0), 0)
        return end_state.spread.most(service, fit, mine), self._ready(capacity, stood, fit)

    def _ready(self, capacity: Ints, stood: Ints, fit: Ints) -> Ready:
        """When rows that would take a replica could do so. capacity: after all that leaves; stood: the part
        of each final binding that a shed must remove; fit: replicas that each row would take.
        """
        end_state, final = self._end_state, self._end_state.final
        s, rows = end_state.reading.instance.services, end_state.reading.instance.rows
        made, shortest = end_state.shed
        free, done, due = capacity.copy(), shortest.copy(), np.full(len(rows), NEVER, np.int64)
        at, most = np.flatnonzero(stood), np.zeros_like(capacity)
        _add(free, final.row[at], -s.demand[final.service[at]] * stood[at, None])
        np.minimum.at(due, final.row[at], s.shed[final.service[at]])
        np.maximum.at(most, final.row[at], s.demand[final.service[at]])
        # Where starts take what the plan's sheds free, one more shed must come.
        done[(free < s.demand[self._service]).any(axis=1)] = NEVER
        done[(free - made >= s.demand[self._service]).all(axis=1)] = 0
        on = np.flatnonzero(fit > 0)
        pool = rows.pool[on].astype(np.int64)
        turned_on, lower = end_state.on[on], self._lower
        return Ready(pool, turned_on, done[on], due[on], fit[on], free[on], most[on], on, lower)


def _add(capacity: Ints, row: Ints, amounts: Ints) -> None:
    """Adds (N, R) amounts to (V, R) rows, which may repeat."""
    for resource, amount in enumerate(amounts.T):
        np.add.at(capacity[:, resource], row, np.ascontiguousarray(amount))
