"""EV112: servers that would be needed cannot be powered within the budgets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error where a loss goes short because of it; warning where a budget cannot carry what hangs on it."""
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
        when = f", and they are missed after the loss of {listed(context.names(losses))}" if losses else ""
        yield RULE.finding(
            context,
            severity,
            name,
            f"the power budget of {name} leaves {counted(int(counts[row]), 'dark server')} off{when}",
            "Raise the budget, or move dark servers to where there is power for them.",
            losses=losses,
            paths=_paths(context, name),
        )


def _paths(context: Context, name: str) -> tuple[str, ...]:
    kinds = ("halls", "feeds", "racks", "sites")
    return (*(f"{kind}/{name}/power_budget" for kind in kinds), *(f"{kind}/{name}" for kind in kinds))


RULE = Rule(
    "power-budget-exceeded",
    "EV112",
    "A power budget is exceeded by what would be started",
    check,
    False,
)
