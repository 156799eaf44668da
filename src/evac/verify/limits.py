"""Shared limits and power, every tick: rules F6 and F9."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE
from evac.steps.registry import kind_of
from evac.verify.reading import Reading, uses_of

Ints = NDArray[np.int64]


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
