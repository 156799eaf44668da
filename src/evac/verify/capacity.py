"""Capacity and spread for all rows at once, shared limits and power at every tick: rules F2 and F6 to F10."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance
from evac.steps.registry import kind_of
from evac.verify.reading import Reading, uses_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Starts and sheds as columns: service, row, replicas, and the tick at which room changes."""

    service: Ints
    row: Ints
    count: Ints
    tick: Ints


def moves(reading: Reading, kind: str) -> Moves:
    """Room is taken from the start of a start and is free at the end of a shed."""
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
            if timed.step.kind == "start" and not instance.eligible[timed.service, pool]:
                reading.complain("F10", timed.step.id, f"may not run on {instance.row_names[row]}")
    for row, timed in reading.boots.items():
        if not instance.rows.dark[row]:
            reading.complain("F7", timed.step.id, "is on already")


def check_room(reading: Reading) -> None:
    """F8: at no tick is more demanded of a row than it has."""
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
        reading.complain("F8", instance.row_names[at], f"holds more than it has from tick {when}")


def _check_shed_present(reading: Reading, shed: Moves) -> None:
    """F2: of no service more is shed from a row than stands there."""
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
            "F2", name, f"sheds replicas that do not stand on {reading.instance.row_names[key % rows]}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class FinalPlacement:
    """Replicas in the final state, one row a (service, row): survivors - shed + started."""

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
    """F10: where the plan starts replicas, no cap of server, rack, feed or site is exceeded."""
    rows, s = reading.instance.rows, reading.instance.services
    bare = ~rows.is_pool[final.row]
    _check_cap(reading, final, final.row, s.per_server, bare, "server")
    _check_cap(reading, final, rows.rack[final.row].astype(np.int64), s.rack_cap, bare, "rack")
    _check_cap(reading, final, rows.feed_group[final.row].astype(np.int64), s.feed_cap, bare, "feed group")
    everywhere = np.ones(len(final.row), np.bool_)
    _check_cap(reading, final, rows.site[final.row].astype(np.int64), s.site_cap, everywhere, "site")
    _check_conflicts(reading, final, bare)


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
    for at in np.flatnonzero((new > 0) & (total > 1))[:50].tolist():
        name = reading.instance.row_names[int(key[at] % width)]
        reading.complain("F10", name, "two replicas of one conflict group on one server")


def free_room(instance: Instance, final: FinalPlacement, reading: Reading) -> Ints:
    """(V, R) room left in the final state; rows that were never booted have none."""
    used = np.zeros_like(instance.rows.used)
    demand = instance.services.demand
    np.add.at(used, final.row, demand[final.service] * final.count[:, None])
    on = ~instance.rows.dark.copy()
    on[np.fromiter(reading.boots, np.int64)] = True
    return np.asarray(np.where(on[:, None], instance.rows.capacity - used, 0), np.int64)


def holdings(reading: Reading) -> Ints:
    """(N, 4) limit, first tick, end, units of what steps hold, power steps included; half-open intervals."""
    rows = []
    for step in reading.instance.power_steps:
        for use in step.uses:
            begin = step.start + use.offset
            rows.append((use.limit, begin, step.end if use.hold == WHOLE else begin + use.hold, use.units))
    for timed in reading.steps:
        if not kind_of(timed.step.kind).is_timed:
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
    """(key, first tick, amount) for each key whose capacity is exceeded; releases come before grabs."""
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
    """Cumulative sums that begin anew with each run of equal keys."""
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
