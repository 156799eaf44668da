"""Limits of an estate as numbered rows, and which of them each action uses; budgets of steady power: what
every feed, hall, rack and site may carry now, and its loads.

One table for planner, checker and run. A rack with two feeds may have to run on either, so its whole load
counts on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evac.derive.domains import Topology, resolve
from evac.derive.hidden_power import hidden_draws, unplaced_servers
from evac.model.errors import UnknownDomain
from evac.model.estate import Estate, Rate, ServerClass
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn, np
from evac.model.instance import Limit, Use
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.model.step_id import limit_id
from evac.model.units import UNLIMITED, ticks_up

BMC_REQUEST_MS: Final = 1_000
"""Minimum time that a power-on request occupies its management network."""


@dataclass(frozen=True, slots=True, eq=False)
class LimitTable:
    """Numbered limits, and lookups from the estate's names to uses. Unknown limits have no row."""

    limits: tuple[Limit, ...]
    index: Mapping[str, int]
    fence: tuple[Use, ...]
    hands: tuple[Use, ...]
    tick_ms: int

    def _one(self, name: str, units: int = 1, offset: int = 0, hold: int = -1) -> tuple[Use, ...]:
        row = self.index.get(name)
        return () if row is None or units == 0 else (Use(row, units, offset, hold),)

    def promotion(self, engine: str, site: str) -> tuple[Use, ...]:
        """Concurrent promotions for each engine and site."""
        return self._one(limit_id("promotions", engine, site))

    def shift(self, kind: str | None, change_ticks: int) -> tuple[Use, ...]:
        """The control of a kind of traffic is held for the change, not until it settles."""
        if kind is None or not change_ticks:
            return ()
        return self._one(limit_id("traffic", kind), hold=change_ticks)

    def start(self, pool: str) -> tuple[Use, ...]:
        """The rate of the pool and the rate of the deploy tool, each held for its window."""
        rows = [self.index.get(limit_id("starts", pool)), self.index.get("starts")]
        return tuple(Use(r, 1, 0, self.limits[r].window or 1) for r in rows if r is not None)

    def shed(self, pool: str) -> tuple[Use, ...]:
        return self._one(limit_id("sheds", pool))

    def boot(
        self,
        server_class: ServerClass,
        feeds: tuple[str, ...],
        boot_server: str | None,
        hall: str | None = None,
    ) -> tuple[Use, ...]:
        """Slots of feeds and boot server for the whole boot; inrush and image within it; a request to the BMC
        in a hall, and an address from the boot server.
        """
        uses: list[Use] = []
        inrush = ticks_up(server_class.inrush_ms, self.tick_ms)
        for feed in feeds:
            uses += self._one(limit_id("boots", feed))
            if inrush:
                uses += self._one(limit_id("inrush", feed), server_class.inrush_watts or 0, 0, inrush)
        if boot_server is not None:
            uses += self._one(limit_id("boots", boot_server))
            hold = ticks_up(server_class.image_hold_ms, self.tick_ms)
            if hold:
                offset = server_class.image_offset_ms // self.tick_ms
                uses += self._one(limit_id("image", boot_server), server_class.image_mbps or 0, offset, hold)
            uses += self._rate(limit_id("dhcp", boot_server))
        if hall is not None:
            uses += self._one(limit_id("bmc", hall), 1, 0, ticks_up(BMC_REQUEST_MS, self.tick_ms))
        return tuple(uses)

    def inrush(self, feeds: tuple[str, ...], watts: int, offset: int, hold: int) -> tuple[Use, ...]:
        """Inrush of servers that power on by themselves, from `offset` on."""
        found = [self._one(limit_id("inrush", feed), watts, offset, hold) for feed in feeds if hold]
        return tuple(use for uses in found for use in uses)

    def _rate(self, name: str) -> tuple[Use, ...]:
        row = self.index.get(name)
        return () if row is None else (Use(row, 1, 0, self.limits[row].window or 1),)


def limits_of(estate: Estate, tick_ms: int) -> LimitTable:
    """Every known limit, sorted by id. The windows of rates are in ticks, rounded up."""
    rows: dict[str, Limit] = {}
    _company(estate, tick_ms, rows)
    for feed in estate.feeds:
        _add(rows, limit_id("boots", feed.id), feed.boots_at_once)
        if feed.inrush_budget_watts is not None:
            _add(
                rows,
                limit_id("inrush", feed.id),
                less_margin(feed.inrush_budget_watts, estate.limits.power_margin_permille),
            )
    for hall in estate.halls:
        _add(rows, limit_id("bmc", hall.id), hall.bmc_requests_at_once)
    for server in estate.boot_servers:
        _add_rate(rows, limit_id("dhcp", server.id), server.boots, tick_ms)
        _add(rows, limit_id("boots", server.id), server.boots_at_once)
        _add(rows, limit_id("image", server.id), server.image_mbps)
    for pool in estate.pools:
        _add_rate(rows, limit_id("starts", pool.id), pool.starts, tick_ms)
    ordered = tuple(rows[name] for name in sorted(rows))
    index = {limit.id: row for row, limit in enumerate(ordered)}
    fence = (Use(index["fences"], 1),) if "fences" in index else ()
    hands = (Use(index["hands"], 1),) if "hands" in index else ()
    return LimitTable(ordered, index, fence, hands, tick_ms)


def _add(rows: dict[str, Limit], name: str, capacity: int | None, window: int | None = None) -> None:
    if capacity is not None:
        rows[name] = Limit(name, capacity, window)


def _add_rate(rows: dict[str, Limit], name: str, rate: Rate | None, tick_ms: int) -> None:
    if rate is not None:
        _add(rows, name, rate.count, ticks_up(rate.window_ms, tick_ms))


def _company(estate: Estate, tick_ms: int, rows: dict[str, Limit]) -> None:
    limits = estate.limits
    _add(rows, "fences", limits.fences_at_once)
    _add(rows, "hands", limits.hands_at_once)
    _add_rate(rows, "starts", limits.starts, tick_ms)
    for kind in sorted({s.traffic.kind for s in estate.services if s.traffic.kind is not None}):
        _add(rows, limit_id("traffic", kind), limits.traffic_changes_at_once)
    for engine in sorted({d.engine for d in estate.stores}):
        for site in estate.sites:
            _add(rows, limit_id("promotions", engine, site.id), limits.promotions_at_once)
    for pool in pool_names(estate):
        _add(rows, limit_id("sheds", pool), limits.sheds_at_once)


def pool_names(estate: Estate) -> tuple[str, ...]:
    """Ids of all pools of an estate: site x class of bare servers, and declared pools."""
    bare = [f"{site.id}:{server_class.id}" for site in estate.sites for server_class in estate.classes]
    unclassed = [f"{site.id}:" for site in estate.sites]
    return tuple(sorted([*bare, *unclassed, *(p.id for p in estate.pools)]))


def less_margin(watts: int, margin_permille: int) -> int:
    """The usable part of a budget; a capacity, so rounded down."""
    return watts * (1_000 - margin_permille) // 1_000


BUDGETED: Final = ("site", "hall", "feed", "rack")
"""Kinds of domains that have a power budget."""


@dataclass(frozen=True, slots=True, eq=False)
class PowerTable:
    """Known budgets."""

    names: tuple[str, ...]
    watts: tuple[int, ...]
    of_rack: IndexColumn
    """(R + 1, C) numbers of the budgets of a rack, -1 unknown: as many feeds as any rack has, hall, rack,
    site; the last line is for servers without a rack.
    """
    of_site: IndexColumn
    """(sites,) number of its budget."""
    kinds: IndexColumn
    """(budgets,) kind of its domain, numbered as in `BUDGETED`."""
    sites: IndexColumn
    """(budgets,) site of its domain."""

    def of_servers(self, rack: IndexColumn, site: IndexColumn) -> IndexColumn:
        """(V, C) numbers of the budgets of servers."""
        found = self.of_rack[rack].copy()
        found[:, -1] = self.of_site[site]
        return found

    def sums(self, index: IndexColumn, watts: IntColumn) -> IntColumn:
        """(budgets,) total watts drawn from each by servers or racks with these (N, C) budgets."""
        load = np.zeros(len(self.names), np.int64)
        for column in index.T:
            known = column >= 0
            np.add.at(load, column[known], watts[known])
        return load


@dataclass(frozen=True, slots=True, eq=False)
class UnknownLoads:
    """Budgets whose load is not fully known. counts: (budgets,) servers of unknown power that draw from each,
    or may once they are booted. doubted: (budgets,). first: (N,) for each server to be booted
    the number of a budget that may not be able to power it, -1 if there is none.
    """

    counts: IntColumn
    doubted: BoolColumn
    first: IndexColumn


def unknown_loads(top: Topology, budgets: PowerTable, on: BoolColumn, boots: IndexColumn) -> UnknownLoads:
    """What is unknown about budgets if some servers are on, and others (N,) may be booted in any order."""
    fleet = top.estate.fleet
    on = on.copy()
    on[boots] = True
    unknown = on & ~fleet.watts_known
    index = budgets.of_servers(fleet.rack[unknown], fleet.site[unknown])
    counts = budgets.sums(index, np.ones(len(index), np.int64))
    doubted = counts > 0
    for kind, sites in hidden_draws(top, on).items():
        doubted |= (budgets.kinds == BUDGETED.index(kind)) & sites[budgets.sites]
    first = np.full(len(boots), -1, np.int32)
    columns = [*budgets.of_servers(fleet.rack[boots], fleet.site[boots]).T]
    for kind, loose in unplaced_servers(top).items():
        some = np.full(len(top.estate.sites), -1, np.int32)
        rows = np.flatnonzero(budgets.kinds == BUDGETED.index(kind))[::-1]
        some[budgets.sites[rows]] = rows
        columns.append(np.where(loose[boots], some[fleet.site[boots]], -1))
    for column in columns:
        known = np.flatnonzero((first < 0) & (column >= 0))
        first[known] = np.where(doubted[column[known]], column[known], -1)
    return UnknownLoads(counts, doubted, first)


def power_table(top: Topology, scenario: Scenario) -> PowerTable:
    """Budgets from the current utility and cooling capacity, less the margin. Raises UnknownDomain."""
    if not scenario.power:
        return top.once("power", lambda: _table(top, stated_budgets(top)))
    budgets = stated_budgets(top)
    for name, watts in scenario.power:
        if resolve(top, name).kind not in BUDGETED:
            raise UnknownDomain("unknown-domain", f"'{name[:200]}' has no power budget", _HINT)
        budgets[name] = min(watts, budgets.get(name, watts))
    return _table(top, budgets)


def _table(top: Topology, budgets: dict[str, int]) -> PowerTable:
    margin = top.estate.limits.power_margin_permille
    names = tuple(budgets)
    found = [resolve(top, name) for name in names]
    index = {name: row for row, name in enumerate(names)}
    feeds = max((len(rack.feeds) for rack in top.estate.racks), default=0)
    of_rack = np.full((len(top.estate.racks) + 1, feeds + 3), -1, np.int32)
    for row, rack in enumerate(top.estate.racks):
        above = (*rack.feeds, rack.hall or "", rack.id)
        of_rack[row, : len(above)] = [index.get(name, -1) for name in above]
        of_rack[row, -1] = index.get(rack.site, -1)
    return PowerTable(
        names,
        tuple(less_margin(watts, margin) for watts in budgets.values()),
        of_rack,
        np.array([*(index.get(site.id, -1) for site in top.estate.sites), -1], np.int32),
        np.array([BUDGETED.index(one.kind) for one in found], np.int32),
        np.array([top.site_index[one.site or ""] for one in found], np.int32),
    )


_HINT: Final = "give a site, a hall, a feed or a rack"


def stated_budgets(top: Topology) -> dict[str, int]:
    """Domain -> watts it carries; for a hall at most what its cooling handles. Unknown and unlimited budgets
    are omitted.
    """
    estate = top.estate
    found = [(f.id, f.power_budget_watts) for f in estate.feeds]
    for hall in estate.halls:
        known = [watts for watts in (hall.power_budget_watts, hall.cooling_watts) if watts is not None]
        found.append((hall.id, min(known, default=None)))
    found += [(r.id, r.power_budget_watts) for r in estate.racks]
    found += [(s.id, s.power_budget_watts) for s in estate.sites]
    return {name: watts for name, watts in found if watts is not None and watts < UNLIMITED}
