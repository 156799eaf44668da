"""The room that is left, in shapes: servers with the same pool and the same free amounts count as one.

Free amounts are rounded down to a few leading bits, so that ninety thousand servers become a few
thousand shapes and no room is seen that is not there. Fragmentation stays visible: a replica still
has to fit on one server. What a service may use follows the rules of the planning instance.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from evac.audit.losses import Rows
from evac.audit.reserves import Reserves
from evac.model.domain import Topology
from evac.model.estate import Service
from evac.model.fleet import (
    DARK,
    ON_POOL,
    ON_SERVER,
    SERVING,
    SPARE,
    BoolColumn,
    IndexColumn,
    IntColumn,
    Replicas,
)
from evac.model.units import RESOURCE_COUNT, UNBOUNDED, floor_share
from evac.planning.alike import alike, least_of

SHAPES_WANTED: Final = 2_500
MOST_BITS: Final = 6
LEAST_BITS: Final = 2


@dataclass(frozen=True, eq=False)
class Wants:
    """What a replica of each service asks for, S rows.

    demand (S, R), unknown taken as 0; known: cpu or memory is known; per_server; site_cap;
    eligible (S, P) by pool; kinds (K, P): its different rows, kind (S,): which one is a service's;
    order: services as they are served, tier then people then id.
    """

    demand: IntColumn
    known: BoolColumn
    per_server: IntColumn
    site_cap: IntColumn
    eligible: BoolColumn
    kinds: BoolColumn
    kind: IndexColumn
    order: IndexColumn

    @cached_property
    def asking(self) -> Asking:
        """The same, as kernels take it."""
        return Asking(
            self.demand, self.known, self.per_server, self.site_cap, self.kinds, self.kind, self.order
        )


@dataclass(frozen=True, eq=False)
class Room:
    """G shapes over P pools (site x class of bare servers, then declared pools).

    free (R, G); count (G); pool, site (G); stage (G): used, empty or dark; is_pool (G).
    pool_names, pool_site, pool_class (class index, -1 none): P. server_shape: (servers,) shape of
    a usable server, -1 else; row_start, row_server: usable servers by row of the losses.
    """

    free: IntColumn
    count: IntColumn
    pool: IndexColumn
    site: IndexColumn
    stage: IndexColumn
    is_pool: BoolColumn
    pool_names: tuple[str, ...]
    pool_site: IndexColumn
    pool_class: IndexColumn
    server_shape: IndexColumn
    row_start: IntColumn
    row_server: IndexColumn

    @cached_property
    def amounts(self) -> IntColumn:
        """(G, R) free amounts, shape by shape."""
        return np.ascontiguousarray(self.free.T)

    def lost_shapes(self, rows: IndexColumn) -> IntColumn:
        """(G,) usable servers that lost rows take of each shape."""
        found = np.zeros(len(self.count), np.int64)
        count_shapes_of(rows, self.row_start, self.row_server, self.server_shape, found)
        return found


def demands(top: Topology) -> tuple[IntColumn, BoolColumn]:
    """(S, R) demand of a replica with unknown as 0, and (S,) whether cpu or memory is known."""
    services = top.estate.services
    table = [[0 if a is None else a for a in s.demand] for s in services]
    known = [s.demand[0] is not None or s.demand[1] is not None for s in services]
    return np.array(table, np.int64).reshape(len(services), RESOURCE_COUNT), np.array(known, np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Used:
    """What replicas take: (servers, R) and (pools, R)."""

    servers: IntColumn
    pools: IntColumn


def used_amounts(top: Topology, demand: IntColumn, kept: BoolColumn | None = None) -> Used:
    """What replicas take; `kept` (S,) leaves out services that are shed."""
    taken = demand if kept is None else demand * kept[:, None]
    estate = top.estate
    return Used(
        _taken(estate.replicas, ON_SERVER, taken, len(estate.fleet)),
        _taken(estate.replicas, ON_POOL, taken, len(estate.pools)),
    )


def _taken(replicas: Replicas, kind: int, demand: IntColumn, size: int) -> IntColumn:
    """(size, R) taken on targets of a kind."""
    here = replicas.kind == kind
    target, service, count = replicas.target[here], replicas.service[here], replicas.count[here]
    columns = [np.bincount(target, demand[service, r] * count, size) for r in range(RESOURCE_COUNT)]
    return np.stack(columns, axis=1).astype(np.int64).reshape(size, RESOURCE_COUNT)


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Usable servers: which, their stage, free amounts (n, R), and whether nothing is on them."""

    server: IndexColumn
    stage: IntColumn
    free: IntColumn
    empty: BoolColumn

    def rounded(self, bits: int) -> IntColumn:
        """Free amounts as shapes tell them apart; what is empty is as large as its class says."""
        found = _leading_bits(self.free, bits)
        found[self.empty] = self.free[self.empty]
        return found


def standing_of(top: Topology, servers: IndexColumn, used: IntColumn) -> Standing:
    """Some usable servers, given what is used on all (servers, R)."""
    fleet, taken = top.estate.fleet, used.take(servers, axis=0)
    free = fleet.capacity.take(servers, axis=0)
    free *= fleet.capacity_known.take(servers, axis=0)
    free -= taken
    # Column by column: four values a server are too few for numpy to go along them quickly.
    empty = np.ones(len(servers), np.bool_)
    for column in taken.T:
        empty &= column == 0
    stage = np.where(fleet.state[servers] == DARK, STAGE_DARK, np.where(empty, STAGE_EMPTY, STAGE_USED))
    return Standing(servers, stage, np.maximum(free, 0, out=free), empty)


def room_of(top: Topology, rows: Rows, found: Reserves, used: Used) -> Room:
    """The shapes of an estate, given what is used: bare shapes, then declared pools."""
    servers = np.flatnonzero(found.usable).astype(np.int32)
    standing = standing_of(top, servers, used.servers)
    pairs, pool_of_server = _pairs(top, servers)
    first, shape, levels = _shapes(pool_of_server, standing)
    free = standing.free[first] if len(first) else np.empty((0, RESOURCE_COUNT), np.int64)
    least_of(standing.free, shape, free)
    of_server = np.full(len(top.estate.fleet), -1, np.int32)
    of_server[servers] = shape
    whole, declared = _declared(top, used.pools)
    count = len(levels)
    pool_site = np.array([s for s, _ in pairs] + [int(top.pool_site[p]) for p in declared], np.int32)
    pool = np.r_[levels[:, 1], len(pairs) + np.arange(len(declared))].astype(np.int32)
    in_order = np.argsort(rows.of_server[servers], kind="stable")
    start = np.searchsorted(rows.of_server[servers][in_order], np.arange(rows.count + 1))
    return Room(
        free=np.ascontiguousarray(np.concatenate([free, whole]).T),
        count=np.r_[np.bincount(shape, minlength=count), np.ones(len(declared), np.int64)].astype(np.int64),
        pool=pool,
        site=pool_site[pool] if len(pool) else pool,
        stage=np.r_[levels[:, 0], np.zeros(len(declared), np.int64)].astype(np.int32),
        is_pool=np.arange(len(pool)) >= count,
        pool_names=_pool_names(top, pairs, declared),
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


def _pool_names(top: Topology, pairs: list[tuple[int, int]], declared: list[int]) -> tuple[str, ...]:
    estate = top.estate
    bare = [f"{estate.sites[s].id}:{estate.classes[c].id if c >= 0 else ''}" for s, c in pairs]
    return (*bare, *(estate.pools[p].id for p in declared))


def _shapes(pool: IndexColumn, standing: Standing) -> tuple[IndexColumn, IndexColumn, IntColumn]:
    """First server of each shape, the shape of each server, and what shapes are told apart by: stage, pool
    and free amounts (G, 2 + R), rounded to fewer bits until shapes are few."""
    bits = MOST_BITS
    while True:
        table = np.column_stack([standing.stage, pool, standing.rounded(bits)]).astype(np.int64, copy=False)
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


def _leading_bits(values: IntColumn, bits: int) -> IntColumn:
    length = np.frexp(values.astype(np.float64))[1]
    shift = np.maximum(length - bits, 0).astype(np.int64)
    return np.asarray((values >> shift) << shift, np.int64)


def _declared(top: Topology, used: IntColumn) -> tuple[IntColumn, list[int]]:
    """Free amounts and numbers of declared pools of which cpu or memory is known."""
    estate = top.estate
    full = {s.id for s in estate.sites if s.role == "full"}
    free, numbers = [], []
    for number, pool in enumerate(estate.pools):
        total = pool_capacity(top, number)
        if pool.site in full and (total[0] is not None or total[1] is not None):
            left = [
                UNBOUNDED if t is None else t * pool.quota_permille // 1000 - int(u)
                for t, u in zip(total, used[number], strict=True)
            ]
            free.append([max(0, amount) for amount in left])
            numbers.append(number)
    return np.array(free, np.int64).reshape(len(numbers), RESOURCE_COUNT), numbers


def pool_capacity(top: Topology, number: int) -> list[int | None]:
    """Totals of a declared pool; from its member servers where no total is stated."""
    estate = top.estate
    live = (estate.fleet.pool == number) & np.isin(estate.fleet.state, (SERVING, SPARE))
    found: list[int | None] = []
    for resource, total in enumerate(estate.pools[number].capacity):
        if total is None and live.any() and estate.fleet.capacity_known[live, resource].all():
            total = int(estate.fleet.capacity[live, resource].sum())
        found.append(total)
    return found


def wants_of(top: Topology, room: Room, demand: IntColumn, known: BoolColumn, n: IntColumn) -> Wants:
    """What services ask for, against the pools of a room."""
    eligible, services = _eligible(top, room), top.estate.services
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


def useful_shapes(room: Room, wants: Wants) -> BoolColumn:
    """(G,) shapes that hold a replica of any service."""
    found = np.zeros(len(room.count), np.bool_)
    least = wants.demand.min(axis=0) if len(wants.demand) else np.zeros(RESOURCE_COUNT, np.int64)
    holds_any(wants.asking, least, room.amounts, room.pool, found)
    return found


def order_of_services(top: Topology) -> IndexColumn:
    """Services as they are served: tier, then people, then id."""
    services = top.estate.services
    tier = np.array([2**31 if s.tier is None else s.tier for s in services], np.int64)
    people = np.array([s.people or 0 for s in services], np.int64)
    return np.lexsort((np.arange(len(services)), -people, tier)).astype(np.int32)


def _site_cap(service: Service, n: int) -> int:
    share = service.spread.per_site
    return UNBOUNDED if share is None else floor_share(share.numerator, share.denominator, n)


def _eligible(top: Topology, room: Room) -> BoolColumn:
    """(S, P) by eligible sites and classes, and bare or pool according to where a service runs today."""
    estate, replicas = top.estate, top.estate.replicas
    on_server, on_pool = (
        np.bincount(replicas.service[replicas.kind == kind], minlength=len(estate.services)) > 0
        for kind in (ON_SERVER, ON_POOL)
    )
    declared = np.array([name in top.pool_index for name in room.pool_names], np.bool_)
    table = np.ones((len(estate.services), len(room.pool_names)), np.bool_)
    table[on_server & ~on_pool] &= ~declared
    table[on_pool & ~on_server] &= declared
    class_index = {c.id: number for number, c in enumerate(estate.classes)}
    known: dict[tuple[tuple[str, ...] | None, tuple[str, ...] | None], BoolColumn] = {}
    for row, wanted in enumerate(estate.services):
        key = (wanted.eligible_sites, wanted.eligible_classes)
        if key == (None, None):
            continue
        if key not in known:
            sites = _named(top.site_index, key[0], room.pool_site)
            known[key] = sites & (declared | _named(class_index, key[1], room.pool_class))
        table[row] &= known[key]
    return table


def _named(index: dict[str, int], names: tuple[str, ...] | None, column: IndexColumn) -> BoolColumn:
    """Where a column holds one of some names; everywhere if none is asked for."""
    if names is None:
        return np.ones(len(column), np.bool_)
    return np.isin(column, [index[name] for name in names if name in index])
