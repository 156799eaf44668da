"""Which servers may take what is lost: usable, bootable, within the odds and within the power.

The same rules as the planning instance, but for no particular loss: a server that a loss takes is
left out when that loss is judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.derive.limits import less_margin
from evac.derive.power import stated_budgets
from evac.model.domain import Topology
from evac.model.fleet import (
    BMC_NO,
    CONDEMNED,
    DARK,
    ON_SERVER,
    SERVING,
    SPARE,
    BoolColumn,
    IndexColumn,
    IntColumn,
)


@dataclass(frozen=True, slots=True, eq=False)
class Power:
    """Budgets that are known, in watts; columns: per server the number of the budget of its rack, first and
    second feed, hall and site, -1 unknown; sets: see `feed_sets`."""

    names: tuple[str, ...]
    budgets: tuple[int, ...]
    columns: tuple[IndexColumn, ...]
    sets: IndexColumn


@dataclass(frozen=True, slots=True, eq=False)
class Reserves:
    """Masks over the fleet. usable: may take replicas; dark: only after a boot; by_hand: dark
    servers without remote control; over_power: dark servers that no budget has room for;
    held_by: number of the budget that holds such a server back, into `budgets`, else -1."""

    usable: BoolColumn
    dark: BoolColumn
    by_hand: BoolColumn
    over_power: BoolColumn
    held_by: IndexColumn
    budgets: tuple[str, ...]


def reserves(top: Topology) -> Reserves:
    """Usable servers of an estate. A dark server counts only where it is known that it can be booted."""
    fleet, estate = top.estate.fleet, top.estate
    full = np.array([s.role == "full" for s in estate.sites], np.bool_)
    fit = (fleet.pool < 0) & (fleet.state != CONDEMNED)
    if len(fleet):
        fit &= full[fleet.site] & fleet.capacity_known[:, 0] & fleet.capacity_known[:, 1]
    if not (estate.replicas.kind == ON_SERVER).any():
        fit &= fleet.state != SERVING
    dark = fleet.state == DARK
    by_hand = fit & dark & (fleet.bmc == BMC_NO)
    boots = np.array([c.boot_ms is not None for c in estate.classes] + [False], np.bool_)
    power = power_of(top)
    bootable = _within_odds(top, fit & dark & ~by_hand & boots[fleet.server_class], power.sets)
    held_by = _over_power(power, bootable & fleet.watts_known, fleet.watts, load_of(top, power))
    over = held_by >= 0
    return Reserves((fit & ~dark) | (bootable & ~over), dark, by_hand, over, held_by, power.names)


def _within_odds(top: Topology, rows: BoolColumn, sets: IndexColumn) -> BoolColumn:
    """Of the dark servers of one class and feed set, floor(odds x count), first by name."""
    fleet, classes = top.estate.fleet, top.estate.classes
    chosen = np.flatnonzero(rows)
    if not len(chosen):
        return rows
    odds = np.array(
        [1000 if c.boot_odds_permille is None else c.boot_odds_permille for c in classes], np.int64
    )
    group = sets[fleet.rack[chosen]] if len(top.estate.racks) else np.full(len(chosen), -1)
    key = fleet.server_class[chosen].astype(np.int64) * (2**31) + np.where(fleet.rack[chosen] >= 0, group, -1)
    rank, size = _rank_and_size(key)
    kept = np.zeros_like(rows)
    kept[chosen[rank < odds[fleet.server_class[chosen]] * size // 1000]] = True
    return kept


def feed_sets(top: Topology) -> IndexColumn:
    """Racks with the same feeds share a number; -1 without feeds."""
    index: dict[tuple[str, ...], int] = {}
    return np.array(
        [index.setdefault(r.feeds, len(index)) if r.feeds else -1 for r in top.estate.racks], np.int32
    )


def _rank_and_size(key: IntColumn) -> tuple[IntColumn, IntColumn]:
    """Place of each entry among the equal ones, and how many those are."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    starts = np.flatnonzero(first)
    group = np.cumsum(first) - 1
    rank, size = np.empty(len(key), np.int64), np.empty(len(key), np.int64)
    rank[order] = np.arange(len(key)) - starts[group]
    size[order] = np.diff(np.r_[starts, len(key)])[group]
    return rank, size


def load_of(top: Topology, power: Power) -> IntColumn:
    """(budgets,) watts that are drawn today."""
    fleet = top.estate.fleet
    on = ((fleet.state == SERVING) | (fleet.state == SPARE)) & fleet.watts_known
    load = np.zeros(len(power.names), np.int64)
    for column in power.columns:
        known = on & (column >= 0)
        load += np.bincount(column[known], fleet.watts[known], len(load)).astype(np.int64)
    return load


def _over_power(power: Power, left: BoolColumn, watts: IntColumn, load: IntColumn) -> IndexColumn:
    """(servers,) budget of their rack, feeds, hall or site that has no room for a dark server, -1 else;
    servers by name, the first that still fit are kept.

    Budgets are taken with everything on that is on today: no load of a lost part is given back, as
    a budget that lies beside the loss gains nothing from it. A rack with two feeds may have to live
    on either, so its whole load counts on both.
    """
    held = np.full(len(left), -1, np.int32)
    headroom = np.array(power.budgets, np.int64) - load
    rows = np.flatnonzero(left)
    for column in power.columns:
        asking = rows[column[rows] >= 0]
        if len(asking):
            over = asking[_running_sum(column[asking], watts[asking]) > headroom[column[asking]]]
            held[over] = column[over]
            rows = rows[held[rows] < 0]
    return held


def _running_sum(key: IndexColumn, values: IntColumn) -> IntColumn:
    """Sum of the values so far within equal keys, in the given order."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    total = np.cumsum(values[order])
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    before = np.repeat(total[starts] - values[order][starts], np.diff(np.r_[starts, len(key)]))
    found = np.empty(len(key), np.int64)
    found[order] = total - before
    return found


def power_of(top: Topology) -> Power:
    """Budgets that are known, and whom each of them carries."""
    estate, fleet = top.estate, top.estate.fleet
    names: list[str] = []
    budgets: list[int] = []
    index: dict[str, int] = {}
    stated, margin = stated_budgets(top), estate.limits.power_margin_permille
    order = [*(r.id for r in estate.racks), *(f.id for f in estate.feeds)]
    for name in (*order, *(h.id for h in estate.halls), *(s.id for s in estate.sites)):
        if name in stated:
            index[name] = len(names)
            names.append(name)
            budgets.append(less_margin(stated[name], margin))
    per_rack = [
        (
            index.get(r.id, -1),
            *(index.get(f, -1) for f in (*r.feeds, "", "")[:2]),
            index.get(r.hall or "", -1),
        )
        for r in estate.racks
    ]
    table = np.array([*per_rack, (-1, -1, -1, -1)], np.int32)
    site = np.array([index.get(s.id, -1) for s in estate.sites] or [-1], np.int32)
    by_rack = tuple(table[fleet.rack, column].astype(np.int32) for column in range(4))
    columns = (*by_rack, site[fleet.site].astype(np.int32))
    return Power(tuple(names), tuple(budgets), columns, feed_sets(top))
