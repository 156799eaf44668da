"""Remaining capacity: which servers may take what is lost, as shapes of similar servers.

Usable servers are those that can be booted within their odds and power budgets, by the rules of the planning
instance, but for no particular loss: a server that a loss takes is excluded when that loss is judged. Servers
with the same pool and the same free amounts form one shape. Free amounts are rounded down to a few leading
bits, so that ninety thousand servers become a few thousand shapes and capacity is never overstated.
Fragmentation stays visible: a replica still has to fit on one server.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from evac.audit.first_fit import (
    STAGE_DARK,
    STAGE_EMPTY,
    STAGE_USED,
    Asking,
    count_shapes_of,
    holds_any,
)
from evac.audit.impacts.losses import Rows
from evac.derive.domains import Topology, may_run_at
from evac.derive.limits import less_margin, stated_budgets
from evac.derive.objectives import audience
from evac.derive.pools import pool_totals, pools_now_off, replicas_running
from evac.derive.vague import crowded, held_by_pools, may_be_full, vague_demand
from evac.model.estate import Service
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
    Replicas,
    pools_of,
)
from evac.model.records import dataclass
from evac.model.units import RESOURCE_COUNT, UNBOUNDED, floor_share
from evac.planning.distinct_rows import alike, least_of

SHAPES_WANTED: Final = 2_500
MOST_BITS: Final = 6
LEAST_BITS: Final = 2


@dataclass(frozen=True, eq=False)
class Wants:
    """Demand of a replica of each service, S rows."""

    demand: IntColumn
    """(S, R), unknown counts as 0."""
    known: BoolColumn
    """(S,) whether cpu and memory are known."""
    per_server: IntColumn
    site_cap: IntColumn
    eligible: BoolColumn
    """(S, P)"""
    kinds: BoolColumn
    """(K, P) its distinct rows."""
    kind: IndexColumn
    """(S,) index of each service's row in `kinds`."""
    order: IndexColumn
    """Services in placement order: tier, then users, then id."""

    @cached_property
    def asking(self) -> Asking:
        """The same, in the form for kernels."""
        return Asking(
            self.demand, self.known, self.per_server, self.site_cap, self.kinds, self.kind, self.order
        )


@dataclass(frozen=True, eq=False)
class Headroom:
    """G shapes over P pools: site x class of bare servers, then declared pools."""

    free: IntColumn
    """(R, G)"""
    vague: BoolColumn
    """(P, R) pools whose free amount is unknown because their capacity or load is."""
    beside: BoolColumn
    """(sites,) where bare servers are excluded for that reason."""
    count: IntColumn
    """(G,) servers."""
    pool: IndexColumn
    site: IndexColumn
    stage: IndexColumn
    """(G,) used, empty or dark."""
    is_pool: BoolColumn
    pool_names: tuple[str, ...]
    pool_site: IndexColumn
    pool_class: IndexColumn
    """(P,) index of the class, -1 for none."""
    server_shape: IndexColumn
    """(servers,) shape of a usable server, -1 for the others."""
    row_start: IntColumn
    """Usable servers by row of the losses: start of this row and of the next."""
    row_server: IndexColumn

    @cached_property
    def shape_of_pool(self) -> dict[str, int]:
        """Declared pool -> its shape."""
        rows = np.flatnonzero(self.is_pool).tolist()
        return {self.pool_names[int(self.pool[row])]: row for row in rows}

    @cached_property
    def amounts(self) -> IntColumn:
        """(G, R) free amounts, shape by shape."""
        return np.ascontiguousarray(self.free.T)

    def lost_shapes(self, rows: IndexColumn) -> IntColumn:
        """(G,) usable servers of each shape in lost rows."""
        found = np.zeros(len(self.count), np.int64)
        count_shapes_of(rows, self.row_start, self.row_server, self.server_shape, found)
        return found


def demands(top: Topology) -> tuple[IntColumn, BoolColumn]:
    """(S, R) demand of a replica with unknown as 0, and (S,) whether cpu and memory are known."""
    services = top.estate.services
    table = [[0 if a is None else a for a in s.demand] for s in services]
    vague = vague_demand(top)
    known = [row not in vague for row in range(len(services))]
    return np.array(table, np.int64).reshape(len(services), RESOURCE_COUNT), np.array(known, np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Used:
    """Load of all replicas: (servers, R) and (pools, R)."""

    servers: IntColumn
    pools: IntColumn


def used_amounts(top: Topology, demand: IntColumn, included: BoolColumn | None = None) -> Used:
    """Load of all replicas; `kept` (S,) excludes services that are shed."""
    taken = demand if included is None else demand * included[:, None]
    estate, replicas = top.estate, replicas_running(top)
    return Used(
        _taken(replicas, replicas.kind == ON_SERVER, replicas.target, taken, len(estate.fleet)),
        _taken(replicas, *held_by_pools(top), taken, len(estate.pools)),
    )


def _taken(
    replicas: Replicas, here: BoolColumn, target: IndexColumn | IntColumn, demand: IntColumn, size: int
) -> IntColumn:
    """(size, R) load of some bindings on their targets."""
    target, service, count = target[here], replicas.service[here], replicas.count[here]
    columns = [np.bincount(target, demand[service, r] * count, size) for r in range(RESOURCE_COUNT)]
    return np.stack(columns, axis=1).astype(np.int64).reshape(size, RESOURCE_COUNT)


@dataclass(frozen=True, slots=True, eq=False)
class UsableServers:
    """Usable servers: which, their stage, free amounts (n, R), and whether they are empty."""

    server: IndexColumn
    stage: IntColumn
    free: IntColumn
    empty: BoolColumn

    def rounded(self, bits: int) -> IntColumn:
        """Free amounts rounded for shapes; an empty server has the size of its class."""
        length = np.frexp(self.free.astype(np.float64))[1]
        shift = np.maximum(length - bits, 0).astype(np.int64)
        found = np.asarray((self.free >> shift) << shift, np.int64)
        found[self.empty] = self.free[self.empty]
        return found


def usable_servers(top: Topology, servers: IndexColumn, used: IntColumn) -> UsableServers:
    """Some usable servers, given the load of all (servers, R)."""
    fleet, taken = top.estate.fleet, used.take(servers, axis=0)
    free = fleet.capacity.take(servers, axis=0)
    free *= fleet.capacity_known.take(servers, axis=0)
    free -= taken
    # Column by column: four values a server are too few for numpy to go along them quickly.
    empty = np.ones(len(servers), np.bool_)
    for column in taken.T:
        empty &= column == 0
    stage = np.where(fleet.state[servers] == DARK, STAGE_DARK, np.where(empty, STAGE_EMPTY, STAGE_USED))
    return UsableServers(servers, stage, np.maximum(free, 0, out=free), empty)


def headroom_of(top: Topology, rows: Rows, found: Reserves, used: Used) -> Headroom:
    """The shapes of an estate, given the load: bare shapes, then declared pools."""
    beside = servers_beside_unknown(top)
    servers = np.flatnonzero(found.usable & ~beside).astype(np.int32)
    usable = usable_servers(top, servers, used.servers)
    pairs, pool_of_server = _pairs(top, servers)
    first, shape, levels = _shapes(pool_of_server, usable)
    free = usable.free[first] if len(first) else np.empty((0, RESOURCE_COUNT), np.int64)
    least_of(usable.free, shape, free)
    of_server = np.full(len(top.estate.fleet), -1, np.int32)
    of_server[servers] = shape
    whole, declared = _declared(top, used.pools)
    count = len(levels)
    pool_site = np.array([s for s, _ in pairs] + [int(top.pool_site[p]) for p in declared], np.int32)
    pool = np.r_[levels[:, 1], len(pairs) + np.arange(len(declared))].astype(np.int32)
    in_order = np.argsort(rows.of_server[servers], kind="stable")
    start = np.searchsorted(rows.of_server[servers][in_order], np.arange(rows.count + 1))
    estate = top.estate
    bare = [f"{estate.sites[s].id}:{estate.classes[c].id if c >= 0 else ''}" for s, c in pairs]
    return Headroom(
        free=np.ascontiguousarray(np.concatenate([free, whole]).T),
        vague=np.concatenate([np.zeros((len(pairs), RESOURCE_COUNT), np.bool_), vague_pools(top)[declared]]),
        beside=np.bincount(top.estate.fleet.site[found.usable & beside], minlength=len(top.estate.sites)) > 0,
        count=np.r_[np.bincount(shape, minlength=count), np.ones(len(declared), np.int64)].astype(np.int64),
        pool=pool,
        site=pool_site[pool] if len(pool) else pool,
        stage=np.r_[levels[:, 0], np.zeros(len(declared), np.int64)].astype(np.int32),
        is_pool=np.arange(len(pool)) >= count,
        pool_names=(*bare, *(estate.pools[p].id for p in declared)),
        pool_site=pool_site,
        pool_class=np.array([c for _, c in pairs] + [-1] * len(declared), np.int32),
        server_shape=of_server,
        row_start=start.astype(np.int64),
        row_server=servers[in_order],
    )


def _pairs(top: Topology, servers: IndexColumn) -> tuple[list[tuple[int, int]], IndexColumn]:
    """(site, class) pairs that occur, sorted, and the number of each server's pair."""
    fleet = top.estate.fleet
    width = len(top.estate.classes) + 1
    key = fleet.site[servers].astype(np.int64) * width + fleet.server_class[servers] + 1
    occurs = np.bincount(key, minlength=len(top.estate.sites) * width) > 0
    number = (np.cumsum(occurs) - 1).astype(np.int32)
    return [(k // width, k % width - 1) for k in np.flatnonzero(occurs).tolist()], number[key]


def _shapes(pool: IndexColumn, usable: UsableServers) -> tuple[IndexColumn, IndexColumn, IntColumn]:
    """First server of each shape, the shape of each server, and what distinguishes shapes: stage, pool and
    free amounts (G, 2 + R), rounded to fewer bits until there are few shapes.
    """
    bits = MOST_BITS
    while True:
        table = np.column_stack([usable.stage, pool, usable.rounded(bits)]).astype(np.int64, copy=False)
        found = alike(table, len(table) if bits == LEAST_BITS else SHAPES_WANTED)
        if found is not None:
            break
        bits -= 1
    first, shape = found
    levels = table[first]
    order = np.lexsort(levels.T[::-1])
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return first[order], number[shape], levels[order]


def _declared(top: Topology, used: IntColumn) -> tuple[IntColumn, list[int]]:
    """Free amounts and numbers of declared pools of full sites."""
    estate = top.estate
    full = {s.id for s in estate.sites if s.role == "full"}
    free, numbers = [], []
    for number, pool in enumerate(estate.pools):
        if pool.site in full:
            left = [t - int(u) for t, u in zip(pool_quota(top, number), used[number], strict=True)]
            free.append([max(0, amount) for amount in left])
            numbers.append(number)
    return np.array(free, np.int64).reshape(len(numbers), RESOURCE_COUNT), numbers


def pool_capacity(top: Topology, number: int) -> list[int | None]:
    """Totals of a declared pool; nothing if all its known servers are off."""

    def work() -> tuple[int | None, ...]:
        fleet = top.estate.fleet
        if pools_now_off(top)[number]:
            return (0,) * RESOURCE_COUNT
        on = (fleet.pool == number) & np.isin(fleet.state, (SERVING, SPARE))
        return tuple(pool_totals(top, number, on))

    return list(top.once(("capacity of a pool", number), work))


def pool_quota(top: Topology, number: int) -> list[int]:
    """The usable part of each resource of a declared pool; `UNBOUNDED` if its total is unknown."""
    quota = top.estate.pools[number].quota_permille
    return [UNBOUNDED if t is None else t * quota // 1_000 for t in pool_capacity(top, number)]


def vague_pools(top: Topology) -> BoolColumn:
    """(pools, R) declared pools whose free amount of a resource is unknown."""
    estate, demand = top.estate, vague_demand(top)
    totals = [pool_capacity(top, number) for number in range(len(estate.pools))]
    found = np.array([[one is None for one in total] for total in totals], np.bool_)
    found = found.reshape(len(totals), RESOURCE_COUNT)
    full = (may_be_full(top, row, np.array(pool_quota(top, row), np.int64)) for row in range(len(totals)))
    found[np.fromiter(full, np.bool_)] = True
    replicas, (inside, pool) = estate.replicas, held_by_pools(top)
    for row in np.flatnonzero(inside & np.isin(replicas.service, list(demand))):
        for resource, _ in demand[int(replicas.service[row])]:
            found[pool[row], resource] = True
    return found


def servers_beside_unknown(top: Topology) -> BoolColumn:
    """(servers,) that may run something of unknown demand."""
    replicas, found = top.estate.replicas, crowded(top)[0].copy()
    demand = vague_demand(top)
    if demand:
        rows = (replicas.kind == ON_SERVER) & np.isin(replicas.service, list(demand))
        found[replicas.target[rows]] = True
    return found


def open_capacity(top: Topology, headroom: Headroom, wants: Wants) -> BoolColumn:
    """(S, sites) where a service may find capacity of unknown size: in a pool, on a server next to something
    of unknown demand, at a site that states none; and wherever it may run if its own demand is unknown.
    """
    estate, allowed = top.estate, _allowed(top, headroom)
    hangs = (wants.demand > 0).astype(np.int64) @ headroom.vague.T.astype(np.int64) > 0
    places = allowed & (hangs | ~wants.known[:, None])
    found = np.zeros((len(places), len(estate.sites)), np.bool_)
    for pool, site in enumerate(headroom.pool_site.tolist()):
        found[:, site] |= places[:, pool]
    stated = set(np.unique(estate.fleet.site).tolist()) | set(top.pool_site.tolist())
    for row, site in enumerate(estate.sites):
        if headroom.beside[row] or (site.role == "full" and row not in stated):
            sites = [may_run_at(estate, service) for service in estate.services]
            found[:, row] |= np.array([names is None or site.id in names for names in sites], np.bool_)
    return found


def wants_of(top: Topology, headroom: Headroom, demand: IntColumn, known: BoolColumn, n: IntColumn) -> Wants:
    """Demands of services, for the pools of given capacity."""
    hangs = (demand > 0).astype(np.int64) @ headroom.vague.T.astype(np.int64) > 0
    eligible, services = _allowed(top, headroom) & ~hangs, top.estate.services
    kinds, which = np.unique(eligible, axis=0, return_inverse=True)
    return Wants(
        demand,
        known,
        np.array([max(1, service.spread.per_server) for service in services], np.int64),
        np.array([_site_cap(s, count) for s, count in zip(services, n.tolist(), strict=True)], np.int64),
        eligible,
        kinds,
        which.reshape(-1).astype(np.int32),
        order_of_services(top),
    )


def useful_shapes(headroom: Headroom, wants: Wants) -> BoolColumn:
    """(G,) shapes that fit a replica of any service."""
    found = np.zeros(len(headroom.count), np.bool_)
    least = wants.demand.min(axis=0) if len(wants.demand) else np.zeros(RESOURCE_COUNT, np.int64)
    holds_any(wants.asking, least, headroom.amounts, headroom.pool, found)
    return found


def order_of_services(top: Topology) -> IndexColumn:
    """Services in placement order: tier, then users, then id."""
    services = top.estate.services
    tier = np.array([2**31 if s.tier is None else s.tier for s in services], np.int64)
    return np.lexsort((np.arange(len(services)), -audience(top.estate), tier)).astype(np.int32)


def _site_cap(service: Service, n: int) -> int:
    share = service.spread.per_site
    return UNBOUNDED if share is None else floor_share(share.numerator, share.denominator, n)


def _allowed(top: Topology, headroom: Headroom) -> BoolColumn:
    """(S, P) by eligible sites and classes, and bare or pool according to where a service runs today."""
    estate, replicas = top.estate, top.estate.replicas
    pooled = pools_of(replicas, estate.fleet) >= 0
    on_server, on_pool = (
        np.bincount(replicas.service[here], minlength=len(estate.services)) > 0
        for here in ((replicas.kind == ON_SERVER) & ~pooled, pooled)
    )
    declared = np.array([name in top.pool_index for name in headroom.pool_names], np.bool_)
    table = np.ones((len(estate.services), len(headroom.pool_names)), np.bool_)
    table[on_server & ~on_pool] &= ~declared
    table[on_pool & ~on_server] &= declared
    class_index = {c.id: number for number, c in enumerate(estate.classes)}
    known: dict[tuple[tuple[str, ...] | None, tuple[str, ...] | None], BoolColumn] = {}
    for row, requested in enumerate(estate.services):
        key = (may_run_at(estate, requested), requested.eligible_classes)
        if key == (None, None):
            continue
        if key not in known:
            sites = _named(top.site_index, key[0], headroom.pool_site)
            known[key] = sites & (declared | _named(class_index, key[1], headroom.pool_class))
        table[row] &= known[key]
    return table


def _named(index: dict[str, int], names: tuple[str, ...] | None, column: IndexColumn) -> BoolColumn:
    """Rows of a column with one of some names; all rows if no name is given."""
    if names is None:
        return np.ones(len(column), np.bool_)
    return np.isin(column, [index[name] for name in names if name in index])


@dataclass(frozen=True, slots=True, eq=False)
class Power:
    """Known budgets, in watts; columns: for each server the number of the budget of its rack, first and
    second feed, hall and site, -1 unknown; sets: see `feed_sets`.
    """

    names: tuple[str, ...]
    budgets: tuple[int, ...]
    columns: tuple[IndexColumn, ...]
    sets: IndexColumn


@dataclass(frozen=True, slots=True, eq=False)
class Reserves:
    """Masks over the fleet."""

    usable: BoolColumn
    """May take replicas."""
    dark: BoolColumn
    """Only after a boot."""
    by_hand: BoolColumn
    """Dark servers without remote control."""
    last: BoolColumn
    """Of those, servers that people can boot in a stated time: used after all others."""
    over_power: BoolColumn
    """Dark servers that no budget can power."""
    held_by: IndexColumn
    """Number of the budget that blocks such a server, in `budgets`, else -1."""
    budgets: tuple[str, ...]


def reserves(top: Topology) -> Reserves:
    """Usable servers of an estate. A dark server counts only if it is known that it can be booted."""
    fleet, estate = top.estate.fleet, top.estate
    full = np.array([s.role == "full" for s in estate.sites], np.bool_)
    fit = (fleet.pool < 0) & (fleet.state != CONDEMNED)
    if len(fleet):
        fit &= full[fleet.site] & fleet.capacity_known[:, 0] & fleet.capacity_known[:, 1]
    dark = fleet.state == DARK
    by_hand = fit & dark & (fleet.bmc == BMC_NO)
    boots = np.array([c.boot_ms is not None for c in estate.classes] + [False], np.bool_)
    power = power_of(top)
    bootable = _within_odds(top, fit & dark & ~by_hand & boots[fleet.server_class], power.sets)
    held_by = _over_power(power, bootable & fleet.watts_known, fleet.watts, load_of(top, power))
    over = held_by >= 0
    last = by_hand & boots[fleet.server_class] & ("boot" in estate.limits.manual_ms)
    return Reserves((fit & ~dark) | (bootable & ~over), dark, by_hand, last, over, held_by, power.names)


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
    included = np.zeros_like(rows)
    included[chosen[rank < odds[fleet.server_class[chosen]] * size // 1000]] = True
    return included


def feed_sets(top: Topology) -> IndexColumn:
    """Racks with the same feeds share a number; -1 without feeds."""
    index: dict[tuple[str, ...], int] = {}
    return np.array(
        [index.setdefault(r.feeds, len(index)) if r.feeds else -1 for r in top.estate.racks], np.int32
    )


def _rank_and_size(key: IntColumn) -> tuple[IntColumn, IntColumn]:
    """Rank of each entry among equal ones, and the number of equal ones."""
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
    """(budgets,) current load in watts."""
    fleet = top.estate.fleet
    on = ((fleet.state == SERVING) | (fleet.state == SPARE)) & fleet.watts_known
    load = np.zeros(len(power.names), np.int64)
    for column in power.columns:
        known = on & (column >= 0)
        load += np.bincount(column[known], fleet.watts[known], len(load)).astype(np.int64)
    return load


def _over_power(power: Power, left: BoolColumn, watts: IntColumn, load: IntColumn) -> IndexColumn:
    """(servers,) budget of their rack, feeds, hall or site that cannot carry a dark server, -1 else; servers
    by name, the first that still fit are kept.

    Budgets include everything that is on today: no load of a lost part is subtracted, because a budget
    outside the loss gains nothing from it. A rack with two feeds may have to run on either, so its whole load
    counts on both.
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
    """Running sum within equal keys, in the given order."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    total = np.cumsum(values[order])
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    before = np.repeat(total[starts] - values[order][starts], np.diff(np.r_[starts, len(key)]))
    found = np.empty(len(key), np.int64)
    found[order] = total - before
    return found


def power_of(top: Topology) -> Power:
    """Known budgets, and what each of them carries."""
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
