"""EV112: power budgets that are exceeded, keep needed servers off, or carry an unknown load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.audit.impacts.free_capacity import load_of, power_of
from evac.derive.hidden_power import pools_with_servers, unplaced_servers
from evac.derive.limits import BUDGETED, power_table, unknown_loads
from evac.model.diagnostic import Severity
from evac.model.fleet import CONDEMNED, DARK, SERVING, SPARE
from evac.model.scenario import lose


def check(context: Context) -> Iterator[Finding]:
    """Error if a budget is below its load, today or once the other feed of its racks is lost, or if it keeps
    off dark servers that a loss needs; warning if it keeps off others, or if its load is unknown.
    """
    yield from _overloaded(context)
    yield from _unknown(context)
    found = context.impacts.capacity.reserves
    counts = np.bincount(found.held_by[found.over_power], minlength=len(found.budgets))
    needed: dict[str, list[int]] = {}
    for number, short in sorted(context.impacts.capacity.short.items()):
        if short.by_power and ((short.for_good > 0) & context.firm & ~context.harmless).any():
            for budget in short.budgets:
                needed.setdefault(budget, []).append(number)
    for row in np.flatnonzero(counts).tolist():
        name = found.budgets[row]
        losses = context.worst_first(needed.get(name, ()))
        severity: Severity = "error" if losses else "warning"
        when = f", and they are needed after the loss of {listed(context.names(losses))}" if losses else ""
        yield RULE.finding(
            context,
            severity,
            name,
            f"the power budget of {name} keeps {counted(int(counts[row]), 'dark server')} off{when}",
            "Raise the budget, or move dark servers to where there is power.",
            losses=losses,
            paths=_paths(context, name),
        )


def _overloaded(context: Context) -> Iterator[Finding]:
    """Budgets that cannot carry today's load. A rack draws evenly from its feeds, and everything from the
    remaining one when the other is lost.
    """
    top, losses = context.impacts.top, context.impacts.losses.index
    power, fleet = power_of(top), context.estate.fleet
    whole = load_of(top, power)
    on = np.isin(fleet.state, (SERVING, SPARE)) & fleet.watts_known & (fleet.rack >= 0)
    watts = np.bincount(fleet.rack[on], fleet.watts[on], len(context.estate.racks)).astype(np.int64)
    for name, budget, load in zip(power.names, power.budgets, whole.tolist(), strict=True):
        if load <= budget:
            continue
        racks = [(row, rack) for row, rack in enumerate(context.estate.racks) if name in rack.feeds]
        today = load if not racks else sum(-(-int(watts[row]) // len(rack.feeds)) for row, rack in racks)
        others = sorted({feed for _, rack in racks for feed in rack.feeds if feed != name})
        when = f"{today:,} W today" if today > budget else _once(load, others)
        yield RULE.finding(
            context,
            "error",
            name,
            f"{name} carries {when}, but its budget is {budget:,} W",
            "Raise the budget, or move servers to where there is power.",
            losses=[losses[feed] for feed in others if today <= budget and feed in losses],
            paths=_paths(context, name),
        )


def _unknown(context: Context) -> Iterator[Finding]:
    """One finding for each site with budgets whose load is not fully known. Dark servers count, too."""
    top, fleet = context.impacts.top, context.estate.fleet
    table, on = power_table(top, lose()), np.isin(fleet.state, (SERVING, SPARE))
    dark = np.flatnonzero(fleet.state == DARK).astype(np.int32)
    index = table.of_servers(fleet.rack, fleet.site)
    known = table.sums(index[on], np.where(fleet.watts_known, fleet.watts, 0)[on])
    doubted = unknown_loads(top, table, on, dark).doubted & (known <= np.array(table.watts, np.int64))
    behind = (np.append(doubted, False)[index] & (index >= 0)).any(axis=1)
    behind &= on | (fleet.state == DARK)
    open_pools, count = top.pool_site[~pools_with_servers(top)], len(context.estate.sites)
    for site in np.unique(table.sites[doubted]).tolist():
        rows = np.flatnonzero(doubted & (table.sites == site)).tolist()
        here = fleet.site == site
        silent = int((behind & here & ~fleet.watts_known).sum())
        kinds = {BUDGETED[int(table.kinds[row])] for row in rows}
        loose = np.zeros(len(fleet), np.bool_)
        for kind, mask in unplaced_servers(top).items():
            loose |= mask & (kind in kinds)
        loose &= here & (fleet.state != CONDEMNED)
        why, names = [], [table.names[row] for row in rows]
        if silent:
            why.append(f"{silent:,} of {counted(int((behind & here).sum()), 'server')} state no watts")
        if pools := int(np.bincount(open_pools, minlength=count)[site]):
            why.append(f"the servers of {counted(pools, 'pool')} are not stated")
        if loose.any():
            why.append(f"{counted(int(loose.sum()), 'server')} may be in any hall or rack, or on any feed")
        yield RULE.finding(
            context,
            "warning",
            context.estate.sites[site].id,
            f"what {listed(names)} can still carry is unknown: {'; '.join(why)}",
            "State the watts of every server or class, the rack of every server, the hall and feeds of every"
            " rack, and the servers of every pool.",
            paths=[path for name in names[:3] for path in _paths(context, name)],
        )


def _once(load: int, others: list[str]) -> str:
    return f"{load:,} W once {listed(others)} {'is' if len(others) == 1 else 'are'} lost"


def _paths(context: Context, name: str) -> tuple[str, ...]:
    kinds = ("halls", "feeds", "racks", "sites")
    return (*(f"{kind}/{name}/power_budget" for kind in kinds), *(f"{kind}/{name}" for kind in kinds))


RULE = Rule(
    "power-budget-exceeded",
    "EV112",
    "A power budget is exceeded, or what it still carries is unknown",
    check,
    False,
)
