"""Budgets of steady power: what every feed, hall, rack and site may carry now, and whom it carries.

One table for planner, checker and run. A rack with two feeds may have to live on either, so its whole load
counts on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.derive.limits import less_margin
from evac.model.domain import Topology, resolve
from evac.model.errors import UnknownDomain
from evac.model.fleet import IndexColumn, IntColumn
from evac.model.scenario import Scenario

POWER_COLUMNS: Final = 5
"""First feed, second feed, hall, rack, site."""
BUDGETED: Final = ("site", "hall", "feed", "rack")
"""Kinds of domains that have a budget of power."""


@dataclass(frozen=True, slots=True, eq=False)
class PowerTable:
    """Budgets that are known. names, watts: one entry each; of_rack: (R + 1, 5) numbers of the budgets of a
    rack, -1 unknown, the last line for servers without a rack; of_site: (sites,) number of its budget.
    """

    names: tuple[str, ...]
    watts: tuple[int, ...]
    of_rack: IndexColumn
    of_site: IndexColumn

    def of_servers(self, rack: IndexColumn, site: IndexColumn) -> IndexColumn:
        """(V, 5) numbers of the budgets of servers."""
        found = self.of_rack[rack].copy()
        found[:, -1] = self.of_site[site]
        return found

    def sums(self, index: IndexColumn, watts: IntColumn) -> IntColumn:
        """(budgets,) watts that servers or racks with these (N, 5) budgets draw from each."""
        load = np.zeros(len(self.names), np.int64)
        for column in range(POWER_COLUMNS):
            known = index[:, column] >= 0
            np.add.at(load, index[known, column], watts[known])
        return load


def power_table(top: Topology, scenario: Scenario) -> PowerTable:
    """Budgets by what utility and cooling give now, less the margin. Raises UnknownDomain."""
    if not scenario.power:
        return top.once("power", lambda: _table(top, stated_budgets(top)))
    budgets = stated_budgets(top)
    for name, watts in scenario.power:
        if resolve(top, name).kind not in BUDGETED:
            raise UnknownDomain("unknown-domain", f"'{name[:200]}' has no budget of power", _HINT)
        budgets[name] = min(watts, budgets.get(name, watts))
    return _table(top, budgets)


def _table(top: Topology, budgets: dict[str, int]) -> PowerTable:
    margin = top.estate.limits.power_margin_permille
    names = tuple(budgets)
    index = {name: row for row, name in enumerate(names)}
    racks = [
        [
            *(index.get(feed, -1) for feed in (*rack.feeds, "", "")[:2]),
            index.get(rack.hall or "", -1),
            index.get(rack.id, -1),
            index.get(rack.site, -1),
        ]
        for rack in top.estate.racks
    ]
    return PowerTable(
        names,
        tuple(less_margin(watts, margin) for watts in budgets.values()),
        np.array([*racks, [-1] * POWER_COLUMNS], np.int32),
        np.array([*(index.get(site.id, -1) for site in top.estate.sites), -1], np.int32),
    )


_HINT: Final = "name a site, a hall, a feed or a rack"


def stated_budgets(top: Topology) -> dict[str, int]:
    """Domain -> watts it carries: of a hall no more than its cooling does. Unknown budgets are left out."""
    estate = top.estate
    found = [(f.id, f.power_budget_watts) for f in estate.feeds]
    for hall in estate.halls:
        known = [watts for watts in (hall.power_budget_watts, hall.cooling_watts) if watts is not None]
        found.append((hall.id, min(known, default=None)))
    found += [(r.id, r.power_budget_watts) for r in estate.racks]
    found += [(s.id, s.power_budget_watts) for s in estate.sites]
    return {name: watts for name, watts in found if watts is not None}
