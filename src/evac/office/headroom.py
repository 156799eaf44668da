"""Capacity as pages show it: what is free, by site and class of servers and by pool, and where that is not
clear, because it is unknown what runs there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit import AuditReport
from evac.audit.impacts.free_capacity import servers_beside_unknown, vague_pools
from evac.model.estate import Pool
from evac.model.fleet import BoolColumn, IntColumn
from evac.model.records import dataclass
from evac.model.units import RESOURCE_COUNT, RESOURCES


@dataclass(frozen=True, slots=True)
class Amount:
    """One resource: the total, what replicas use, and what is free on servers that may take more."""

    resource: str
    total: int
    used: int
    free: int


@dataclass(frozen=True, slots=True)
class Room:
    """Free capacity of one server class at a site, or of a pool."""

    site: str
    name: str
    kind: str
    """`class` or `pool`."""
    servers: int
    amounts: tuple[Amount, ...]


def rooms_of(report: AuditReport) -> Iterator[Room]:
    """Headroom by site and class of bare servers, then by declared pools; only where more may be placed, and
    without servers, and amounts of pools, whose free part is unknown.
    """
    impacts = report.impacts
    supply, estate = impacts.capacity.supply, impacts.estate
    fleet, usable = estate.fleet, supply.found.usable & ~servers_beside_unknown(impacts.top)
    vague = vague_pools(impacts.top)
    total = np.where(fleet.capacity_known, fleet.capacity, 0)
    used = supply.stock.used.servers
    free = np.maximum(total - used, 0)
    width = len(estate.classes) + 1
    rows = np.flatnonzero(usable)
    key = fleet.site[rows].astype(np.int64) * width + fleet.server_class[rows] + 1
    for pair in np.unique(key).tolist():
        mine = rows[key == pair]
        site, number = estate.sites[pair // width].id, pair % width - 1
        name = estate.classes[number].id if number >= 0 else ""
        amounts = _amounts(total[mine].sum(axis=0), used[mine].sum(axis=0), free[mine].sum(axis=0))
        yield Room(site, name, "class", len(mine), amounts)
    for number, pool in enumerate(estate.pools):
        taken = np.where(vague[number], 0, supply.stock.used.pools[number])
        whole = np.array(_stated(pool), np.int64)
        whole[vague[number]] = 0
        amounts = _amounts(whole, taken, np.maximum(whole - taken, 0))
        yield Room(pool.site, pool.id, "pool", int((fleet.pool == number).sum()), amounts)


def _stated(pool: Pool) -> list[int]:
    return [amount or 0 for amount in pool.usable]


def _amounts(total: IntColumn, used: IntColumn, free: IntColumn) -> tuple[Amount, ...]:
    return tuple(
        Amount(RESOURCES[n], int(total[n]), int(used[n]), int(free[n])) for n in range(RESOURCE_COUNT)
    )


def joined(parts: list[tuple[Amount, ...]]) -> tuple[Amount, ...]:
    return tuple(
        Amount(name, *(sum(getattr(p[n], field) for p in parts) for field in ("total", "used", "free")))
        for n, name in enumerate(RESOURCES)
    )


def unclear_servers(report: AuditReport) -> BoolColumn:
    """(servers,) that may take replicas, but it is unknown what runs on them."""
    impacts = report.impacts
    return impacts.capacity.supply.found.usable & servers_beside_unknown(impacts.top)


def unclear_pools(report: AuditReport) -> list[Pool]:
    """Pools that state an amount whose free part is unknown."""
    vague = vague_pools(report.impacts.top).tolist()
    return [
        pool
        for pool, unknown in zip(report.impacts.estate.pools, vague, strict=True)
        if any(is_so and amount is not None for is_so, amount in zip(unknown, pool.capacity, strict=True))
    ]


def unclear_amounts(report: AuditReport) -> list[tuple[int | None, ...]]:
    """By site, how much capacity these have of each resource; None: not known."""
    top, beside = report.impacts.top, unclear_servers(report)
    fleet, vague = top.estate.fleet, vague_pools(top)
    stated = np.array([_stated(pool) for pool in top.estate.pools], np.int64).reshape(vague.shape)
    found = []
    for number in range(len(top.estate.sites)):
        mine = beside & (fleet.site == number)
        whole = np.where(vague, stated, 0)[top.pool_site == number].sum(axis=0)
        whole += fleet.capacity[mine].sum(axis=0)
        known = np.all(fleet.capacity_known[mine], axis=0)
        pairs = zip(whole.tolist(), known.tolist(), strict=True)
        found.append(tuple(amount if is_known else None for amount, is_known in pairs))
    return found
