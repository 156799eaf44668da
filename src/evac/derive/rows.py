"""Rows to place on: surviving bare servers and self-scheduling pools, with capacity, boots and power.

Vectorised over servers; the only Python loops are over classes, pools, feeds and services.
"""

from __future__ import annotations

from dataclasses import field

import numpy as np

from evac.derive.boots import boot_kinds, feed_groups, left_off, that_occur, with_power, within_odds
from evac.derive.domains import Loss, Topology, lost_now, may_run_at
from evac.derive.energising import Energy, energise, on_without_boots, still_dark
from evac.derive.limits import LimitTable, PowerTable, power_table, unknown_loads
from evac.derive.pools import pool_capacities, pools_in_part, replicas_lost, replicas_off, unknown_servers
from evac.derive.tripping import load_of_budget
from evac.derive.vague import held_by_pools, knows_servers, vague_amounts
from evac.model.fleet import (
    AT_SITE,
    BMC_NO,
    CONDEMNED,
    DARK,
    ON_SERVER,
    SERVING,
    BoolColumn,
    IndexColumn,
    IntColumn,
    pools_of,
)
from evac.model.instance import BootKind, LeftOff, PoolInfo, PowerBudget, PowerStep, Present, Rows, Vague
from evac.model.reason import BUDGET, LOAD, PLACEMENT, SERVERS
from evac.model.records import dataclass
from evac.model.scenario import Scenario
from evac.model.units import RESOURCE_COUNT, UNBOUNDED


@dataclass(frozen=True, slots=True, eq=False)
class RowSet:
    """The parts of an Instance that come from the tables. unknown: facts treated as unknown in them."""

    rows: Rows
    names: tuple[str, ...]
    present: Present
    pools: tuple[PoolInfo, ...]
    eligible: BoolColumn
    boot_kinds: tuple[BootKind, ...]
    power: tuple[PowerBudget, ...]
    demand: IntColumn
    notes: tuple[str, ...]
    power_steps: tuple[PowerStep, ...] = ()
    powered_by: IndexColumn = field(default_factory=lambda: np.zeros(0, np.int32))
    bring_up: BoolColumn = field(default_factory=lambda: np.zeros(0, np.bool_))
    left_off: tuple[LeftOff, ...] = ()
    unknown: frozenset[str] = frozenset()
    vague: Vague = field(default_factory=Vague)


@dataclass(slots=True, eq=False)
class _Bare:
    """Chosen fleet rows and their state in a scenario. only_boots: rows that take no replicas; member: rows
    whose boot adds capacity to the self-scheduling pool that owns them.
    """

    chosen: IndexColumn
    dark: BoolColumn
    boot_kind: IndexColumn
    kinds: tuple[BootKind, ...]
    feed_group: IndexColumn
    only_boots: BoolColumn
    bring_up: BoolColumn
    powered_by: IndexColumn
    left_off: tuple[LeftOff, ...]
    member: BoolColumn


def demand_of(top: Topology) -> IntColumn:
    """(S, R) demand of one replica; unknown demand is zero."""
    return top.once("demand", lambda: _demand(top))


def rows_of(
    top: Topology, lost: Loss, scenario: Scenario, limits: LimitTable, tick_ms: int, good: bool = False
) -> RowSet:
    """All rows of an instance. good: partial pool losses are rounded in our favour."""
    estate, unknown = top.estate, set[str]()
    demand = demand_of(top)
    budgets = power_table(top, scenario)
    energy = energise(top, lost, scenario, limits, budgets, tick_ms, unknown)
    without_power, on = still_dark(top, lost, scenario)
    pool_rows = _pool_rows(top, lost, scenario)
    bare = _bare_rows(top, without_power, on, scenario, limits, energy, pool_rows, tick_ms, unknown)
    shadow_sites = _shadow_sites(top, lost, scenario, unknown)
    pool_names, pool_of_bare = _bare_pools(top, bare, pool_rows)
    names = estate.fleet.server_names(bare.chosen)
    names += [estate.pools[p].id for p in pool_rows] + [f"site:{estate.sites[s].id}" for s in shadow_sites]
    pools = _pool_table(top, pool_names, pool_rows, shadow_sites, limits)
    pool_capacity = pool_capacities(top, lost, scenario, bare.chosen, bare.bring_up, pool_rows, good, unknown)
    power, drawn = _power(top, lost, on, bare, scenario, budgets, energy)
    unsure = _unsure_power(top, lost, on, bare, scenario, budgets, energy)
    rows = _assemble(top, bare, pool_rows, shadow_sites, len(pool_names), pool_of_bare, pool_capacity, drawn)
    rows.watts[: len(bare.chosen)][energy.by_itself[bare.chosen]] = 0
    at_home = scenario.kind == "failback" and top.estate.home is not None
    off = replicas_off(top)
    gone = np.maximum(replicas_lost(top, lost_now(top) if at_home else lost, good), off)
    if scenario.kind == "failback":
        gone = _not_returning(top, lost, gone)
    present = _present(top, gone, bare, pool_rows, shadow_sites)
    _fill_used(rows, present, demand)
    where = ("eligible", tuple(pool_names), tuple(pool_rows), tuple(shadow_sites))
    eligible = top.once(where, lambda: _eligible(top, pools, pool_names, len(pool_rows)))
    notes = (
        ("some rows already exceed their capacity, so nothing more is placed on them",) if _clip(rows) else ()
    )
    if scenario.kind == "restore":
        unknown |= unknown_servers(top, lost, pool_rows)
    totals = [f"pools/{estate.pools[p].id}" for p in pool_rows]
    totals += [f"sites/{estate.sites[s].id}/capacity" for s in shadow_sites]
    home = _home_rows(top, lost, scenario, bare, pool_rows, shadow_sites)
    amounts = rows.capacity[len(bare.chosen) :]
    vague = vague_amounts(top, scenario, bare.chosen, pool_rows, amounts, totals, present, home, lost, unsure)
    open_ends = ("/replicas", f"/{LOAD}", f"/{BUDGET}", f"/{PLACEMENT}", f"/{SERVERS}")
    unknown |= {path for missing in vague.rows.values() for _, path in missing if path.endswith(open_ends)}
    others = len(rows) - len(bare.chosen)
    bring_up = np.r_[bare.bring_up, np.zeros(others, np.bool_)]
    powered_by = np.r_[bare.powered_by, np.full(others, -1, np.int32)].astype(np.int32)
    return RowSet(
        rows,
        tuple(names),
        present,
        pools,
        eligible,
        bare.kinds,
        power,
        demand,
        notes,
        energy.steps,
        powered_by,
        bring_up,
        bare.left_off,
        frozenset(unknown),
        vague,
    )


def _demand(top: Topology) -> IntColumn:
    rows = [[0 if amount is None else amount for amount in s.demand] for s in top.estate.services]
    return np.array(rows, np.int64).reshape(len(rows), RESOURCE_COUNT)


def _usable(top: Topology, lost: Loss, scenario: Scenario) -> BoolColumn:
    """Rows of the fleet evac may place on in this scenario."""
    fleet = top.estate.fleet
    full = np.array([s.role == "full" for s in top.estate.sites], np.bool_)
    fit: BoolColumn = (fleet.pool < 0) & (fleet.state != CONDEMNED) & full[fleet.site]
    if scenario.kind == "failback":
        return fit & lost.servers
    if scenario.kind == "restore":
        return fit & (lost.servers | ~lost_now(top).servers)
    return fit & ~lost.servers


def _bare_rows(
    top: Topology,
    lost: Loss,
    on: BoolColumn,
    scenario: Scenario,
    limits: LimitTable,
    energy: Energy,
    pool_rows: list[int],
    tick_ms: int,
    unknown: set[str],
) -> _Bare:
    """Servers that only people can boot (no BMC) count when a site is restored; after a loss, if the estate
    states how long people take.

    In a restore, every server of the domain that is not condemned boots, even if it takes no replicas; a
    self-scheduling pool has the capacity of its servers that are up. A server that was seen on is on, and
    empty.
    """
    fleet = top.estate.fleet
    usable = _usable(top, lost, scenario)
    if not knows_servers(top) and len(fleet) and scenario.kind != "failback":
        unknown.add("replicas")
        if scenario.kind == "restore":
            usable &= (fleet.state != SERVING) | on
    dark = (fleet.state == DARK) & ~on
    rises = np.zeros(len(fleet), np.bool_)
    if scenario.kind == "restore":
        dark = dark | lost.servers
        rises = lost.servers & (fleet.state != CONDEMNED)
    feed_group = feed_groups(top)[fleet.rack] if len(top.estate.racks) else np.full(len(fleet), -1, np.int32)
    feed_group = np.where(fleet.rack >= 0, feed_group, -1).astype(np.int32)
    powered = with_power(top, energy)
    owned = rises & np.isin(fleet.pool, pool_rows)
    usable = (usable | owned) & powered
    kind, kinds, known = boot_kinds(
        top, lost, ((usable & dark) | rises) & powered, feed_group, limits, energy, tick_ms, unknown
    )
    usable &= ~dark | known
    if scenario.kind != "restore" and "boot" not in top.estate.limits.manual_ms:
        usable &= ~dark | (fleet.bmc != BMC_NO)
    by_people = (fleet.bmc == BMC_NO) & (scenario.kind != "restore")
    usable = within_odds(top, usable, dark, feed_group, by_people, unknown)
    chosen = np.flatnonzero(usable | (rises & known & powered)).astype(np.int32)
    boot_kind, kinds = that_occur(np.where(dark[chosen], kind[chosen], -1), kinds)
    return _Bare(
        chosen,
        dark[chosen],
        boot_kind,
        kinds,
        feed_group,
        only_boots=~usable[chosen],
        bring_up=rises[chosen],
        powered_by=np.where(lost.servers, energy.step_of[fleet.rack], -1)[chosen].astype(np.int32),
        left_off=left_off(top, rises, known, energy),
        member=(owned & usable)[chosen],
    )


def _pool_rows(top: Topology, lost: Loss, scenario: Scenario) -> list[int]:
    full = {s.id for s in top.estate.sites if s.role == "full"}
    rows, in_part = [], pools_in_part(top, lost)
    for row, pool in enumerate(top.estate.pools):
        gone, before = bool(lost.pools[row]), bool(lost_now(top).pools[row])
        if scenario.kind == "restore":
            wanted = gone or not before
        else:
            wanted = gone or row in in_part if scenario.kind == "failback" else not gone
        if pool.site in full and wanted:
            rows.append(row)
    return rows


def _shadow_sites(top: Topology, lost: Loss, scenario: Scenario, unknown: set[str]) -> list[int]:
    """Full sites without known servers or pools: their capacity is unknown and treated as unlimited."""
    estate = top.estate
    with_capacity = set(np.unique(estate.fleet.site).tolist()) | set(top.pool_site.tolist())
    found = []
    for row, site in enumerate(estate.sites):
        gone, before = bool(lost.sites[row]), bool(lost_now(top).sites[row])
        wanted = gone if scenario.kind in ("failback", "restore") else not gone
        wanted = wanted or (scenario.kind == "restore" and not before)
        if site.role == "full" and wanted and row not in with_capacity:
            unknown.add(f"sites/{site.id}/capacity")
            found.append(row)
    return found


def _bare_pools(
    top: Topology, bare: _Bare, pool_rows: list[int]
) -> tuple[list[tuple[int, int, int]], IndexColumn]:
    """(only boots, site, class) that occur, sorted, and the number of each chosen row's; rows owned by a pool
    have the number of their pool, which comes after these.
    """
    fleet, chosen = top.estate.fleet, bare.chosen
    sites, classes = len(top.estate.sites) + 1, len(top.estate.classes) + 1
    key = (bare.only_boots * sites + fleet.site[chosen] + 1) * classes + fleet.server_class[chosen] + 1
    numbers = np.zeros(len(chosen), np.int32)
    mine = key[~bare.member].astype(np.int64)
    unique = np.flatnonzero(np.bincount(mine, minlength=2 * sites * classes))
    place_of = np.zeros(2 * sites * classes, np.int32)
    place_of[unique] = np.arange(len(unique), dtype=np.int32)
    numbers[~bare.member] = place_of[mine]
    place = np.full(len(top.estate.pools) + 1, -1, np.int32)
    place[pool_rows] = np.arange(len(pool_rows), dtype=np.int32)
    numbers[bare.member] = len(unique) + place[fleet.pool[chosen[bare.member]]]
    occurring = [divmod(number, classes) for number in unique.tolist()]
    return [(pair // sites, pair % sites - 1, one - 1) for pair, one in occurring], numbers


def _pool_table(
    top: Topology, bare: list[tuple[int, int, int]], pools: list[int], shadows: list[int], limits: LimitTable
) -> tuple[PoolInfo, ...]:
    estate = top.estate
    named = [
        (f"{'boots:' * b}{estate.sites[s].id}:{estate.classes[c].id if c >= 0 else ''}", s)
        for b, s, c in bare
    ]
    named += [(estate.pools[p].id, int(top.pool_site[p])) for p in pools]
    named += [(f"site:{estate.sites[s].id}", s) for s in shadows]
    return tuple(PoolInfo(name, site, limits.start(name), limits.shed(name)) for name, site in named)


def _assemble(
    top: Topology,
    bare: _Bare,
    pool_rows: list[int],
    shadows: list[int],
    bare_pools: int,
    pool_of_bare: IndexColumn,
    pool_capacity: tuple[list[list[int]], IntColumn],
    drawn: IndexColumn,
) -> Rows:
    fleet = top.estate.fleet
    v, extra = bare.chosen, len(pool_rows) + len(shadows)
    sites = [int(top.pool_site[p]) for p in pool_rows] + shadows

    def join(column: IndexColumn, tail: list[int]) -> IndexColumn:
        return np.concatenate([column, np.array(tail, np.int32)]).astype(np.int32)

    of_pools, capacity = pool_capacity
    of_all = of_pools + [[UNBOUNDED] * RESOURCE_COUNT for _ in shadows]
    watts = np.where(fleet.watts_known[v] & bare.dark, fleet.watts[v], 0)
    return Rows(
        fleet_row=join(v, [-1] * extra),
        site=join(fleet.site[v], sites),
        rack=join(fleet.rack[v], [-1] * extra),
        feed_group=join(bare.feed_group[v], [-1] * extra),
        pool=join(pool_of_bare, list(range(bare_pools, bare_pools + extra))),
        is_pool=np.r_[bare.member, np.ones(extra, np.bool_)],
        dark=np.r_[bare.dark, np.zeros(extra, np.bool_)],
        capacity=np.concatenate([capacity, np.array(of_all, np.int64).reshape(extra, RESOURCE_COUNT)]),
        used=np.zeros((len(v) + extra, RESOURCE_COUNT), np.int64),
        watts=np.r_[watts, np.zeros(extra, np.int64)],
        boot_kind=join(bare.boot_kind, [-1] * extra),
        power=np.concatenate([drawn, np.full((extra, drawn.shape[1]), -1, np.int32)]),
    )


def _home_rows(
    top: Topology, lost: Loss, scenario: Scenario, bare: _Bare, pool_rows: list[int], shadows: list[int]
) -> BoolColumn:
    """(V,) rows of the domain that a restore brings back, also of pools that lost some of their servers."""
    pools, sites = np.array(pool_rows, np.int64), np.array(shadows, np.int64)
    back = lost.pools.copy()
    back[pools_in_part(top, lost)] = True
    found = np.r_[lost.servers[bare.chosen], back[pools], lost.sites[sites]]
    return np.asarray(found & (scenario.kind == "restore"), np.bool_)


def _not_returning(top: Topology, lost: Loss, gone: IntColumn) -> IntColumn:
    """(K,) with what is on servers that are not part of a failback: it is not on its pool's row."""
    replicas = top.estate.replicas
    inside = replicas.kind == ON_SERVER
    outside = np.flatnonzero(inside)[~lost.servers[replicas.target[inside]]]
    found = gone.copy()
    found[outside] = replicas.count[outside]
    return found


def _present(
    top: Topology, gone: IntColumn, bare: _Bare, pool_rows: list[int], shadows: list[int]
) -> Present:
    """Surviving replicas on rows; gone: (K,) lost ones. What is being restored is empty; a failback target
    holds what is known to be there, and by the files alone nothing.
    """
    estate = top.estate
    replicas = estate.replicas
    kept = replicas.count > gone
    row_of_server = np.full(len(estate.fleet), -1, np.int32)
    row_of_server[bare.chosen] = np.arange(len(bare.chosen), dtype=np.int32)
    row_of_pool = np.full(len(estate.pools), -1, np.int32)
    row_of_pool[pool_rows] = len(bare.chosen) + np.arange(len(pool_rows), dtype=np.int32)
    row_of_site = np.full(len(estate.sites), -1, np.int32)
    row_of_site[shadows] = len(bare.chosen) + len(pool_rows) + np.arange(len(shadows), dtype=np.int32)
    row = np.full(len(replicas), -1, np.int32)
    in_pool, pool = held_by_pools(top)
    for here, lookup, target in (
        (replicas.kind == AT_SITE, row_of_site, replicas.target),
        (replicas.kind == ON_SERVER, row_of_server, replicas.target),
        (in_pool, row_of_pool, pool),
    ):
        row[here] = lookup[target[here]]
    here = kept & (row >= 0)
    service, row, count = replicas.service[here], row[here], (replicas.count - gone)[here]
    key = service.astype(np.int64) * (int(row.max(initial=0)) + 1) + row
    if (key[1:] > key[:-1]).all():  # as in most estates
        return Present(service, row, count)
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    total = np.zeros(len(first), np.int64)
    np.add.at(total, place.reshape(-1), count)
    return Present(service[first], row[first], total)


def _fill_used(rows: Rows, present: Present, demand: IntColumn) -> None:
    for resource, amounts in enumerate(demand.T):
        held = np.ascontiguousarray(rows.used[:, resource])
        np.add.at(held, present.row, amounts[present.service] * present.count)
        rows.used[:, resource] = held


def _clip(rows: Rows) -> bool:
    """Rows that already carry more than they have are full, not negative."""
    over = rows.used > rows.capacity
    np.maximum(rows.capacity, rows.used, out=rows.capacity)
    return bool(over.any())


def _eligible(
    top: Topology, pools: tuple[PoolInfo, ...], bare: list[tuple[int, int, int]], declared: int
) -> BoolColumn:
    """(S, P): by eligible sites and classes, and bare or pool according to where a service runs today."""
    estate = top.estate
    on_server, on_pool = _runs_on(top)
    site = np.array([p.site for p in pools], np.int64)
    class_of = [estate.classes[c].id if c >= 0 else None for _, _, c in bare]
    is_bare = np.arange(len(pools)) < len(bare)
    is_declared = ~is_bare & (np.arange(len(pools)) < len(bare) + declared)
    table = np.ones((len(estate.services), len(pools)), np.bool_)
    for row, service in enumerate(estate.services):
        sites = may_run_at(estate, service)
        if sites is not None:
            allowed = [top.site_index[name] for name in sites if name in top.site_index]
            table[row] &= np.isin(site, allowed)
        if service.eligible_classes is not None:
            fits = np.array([name in service.eligible_classes for name in class_of], np.bool_)
            table[row, : len(bare)] &= fits
        if on_server[row] and not on_pool[row]:
            table[row] &= ~is_declared
        if on_pool[row] and not on_server[row]:
            table[row] &= ~is_bare
    table[:, [number for number, (only_boots, _, _) in enumerate(bare) if only_boots]] = False
    return table


def _runs_on(top: Topology) -> tuple[BoolColumn, BoolColumn]:
    """(S,) on servers outside pools, and in pools or on their servers, now or at home: a service that moved
    to a pool may return to a server.
    """
    tables = [table for table in (top.estate.replicas, top.estate.home) if table is not None]
    count = len(top.estate.services)
    on_server, on_pool = np.zeros((2, count), np.bool_)
    for replicas in tables:
        pooled = pools_of(replicas, top.estate.fleet) >= 0
        on_server[replicas.service[(replicas.kind == ON_SERVER) & ~pooled]] = True
        on_pool[replicas.service[pooled]] = True
    return on_server, on_pool


def _unsure_power(
    top: Topology,
    lost: Loss,
    seen_on: BoolColumn,
    bare: _Bare,
    scenario: Scenario,
    budgets: PowerTable,
    energy: Energy,
) -> dict[int, str]:
    """Dark row -> path of the load without which it is unknown whether a budget can power its server."""
    if not budgets.names or not bare.dark.any():
        return {}
    on = on_without_boots(top, lost, seen_on, scenario, energy)
    dark = np.flatnonzero(bare.dark)
    number = unknown_loads(top, budgets, on, bare.chosen[dark]).first
    found = zip(dark.tolist(), number.tolist(), strict=True)
    return {row: load_of_budget(top, budgets.names[n]) for row, n in found if n >= 0}


def _power(
    top: Topology,
    lost: Loss,
    seen_on: BoolColumn,
    bare: _Bare,
    scenario: Scenario,
    budgets: PowerTable,
    energy: Energy,
) -> tuple[tuple[PowerBudget, ...], IndexColumn]:
    """Known budgets, the load of each without a boot, and the budgets of each bare row."""
    fleet = top.estate.fleet
    on = on_without_boots(top, lost, seen_on, scenario, energy) & fleet.watts_known
    load = budgets.sums(budgets.of_servers(fleet.rack[on], fleet.site[on]), fleet.watts[on])
    table = tuple(
        PowerBudget(n, max(b, int(w)), int(w))
        for n, b, w in zip(budgets.names, budgets.watts, load.tolist(), strict=True)
    )
    return table, budgets.of_servers(fleet.rack[bare.chosen], fleet.site[bare.chosen])
