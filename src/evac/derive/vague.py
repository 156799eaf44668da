"""Unknown amounts: the demand of a replica, the capacity of a pool or a site, and the load of a server.

What runs keeps running, whatever it uses. But the free capacity next to it is unknown, and so is whether
something of unknown demand fits. A replica with only a known site may be on any serving server or in any pool
there; if the site has one pool and no such server, it is in the pool. A pool that can hold all replicas of
everything that may run at its site has enough free, wherever they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from evac.derive.domains import Loss, Topology, may_run_at, site_of_replicas
from evac.derive.in_doubt import in_doubt
from evac.derive.pools import placement_of, unplaced
from evac.derive.tripping import tripped
from evac.model.fleet import AT_SITE, ON_SERVER, SERVING, BoolColumn, IndexColumn, IntColumn, pools_of
from evac.model.instance import Present, Vague
from evac.model.reason import SERVERS
from evac.model.scenario import Scenario
from evac.model.units import RESOURCE_COUNT, RESOURCE_WORDS, UNBOUNDED

NEEDED = 2
"""Resources that every service needs: cpu and memory. Others default to zero if not stated."""


def vague_demand(top: Topology) -> Mapping[int, tuple[tuple[int, str], ...]]:
    """Service -> (resource, path) of a replica's unknown demand."""

    def work() -> dict[int, tuple[tuple[int, str], ...]]:
        found = {}
        for row, service in enumerate(top.estate.services):
            missing = [resource for resource in range(NEEDED) if service.demand[resource] is None]
            path = f"services/{service.id}/demand"
            if len(missing) == NEEDED:
                found[row] = tuple((resource, path) for resource in missing)
            elif missing:
                found[row] = tuple((resource, f"{path}/{RESOURCE_WORDS[resource]}") for resource in missing)
        return found

    return top.once("vague demand", work)


def only_pool(top: Topology) -> IntColumn:
    """(sites,) the pool that contains everything at a site; -1: it may be on servers or in other pools."""
    fleet, count = top.estate.fleet, np.bincount(top.pool_site, minlength=len(top.estate.sites))
    found = np.full(len(top.estate.sites), -1, np.int64)
    found[top.pool_site] = np.arange(len(top.pool_site))
    found[count != 1] = -1
    found[fleet.site[(fleet.pool < 0) & (fleet.state == SERVING)]] = -1
    return found


def crowded(top: Topology) -> tuple[BoolColumn, BoolColumn]:
    """(servers,) and (pools,) that may hold replicas with only a known site, or of a service that may run
    anywhere. If it is unknown what runs on servers, every serving server may hold some.
    """

    def work() -> tuple[BoolColumn, BoolColumn]:
        estate, fleet, replicas = top.estate, top.estate.fleet, top.estate.replicas
        sites = np.zeros(len(estate.sites), np.bool_)
        sites[replicas.target[(replicas.kind == AT_SITE) & (replicas.count > 0)]] = True
        sites &= only_pool(top) < 0
        sites |= unplaced(top).any(axis=1)
        bare = (fleet.pool < 0) & (fleet.state == SERVING)
        if knows_servers(top):
            bare &= sites[fleet.site]
        return bare, sites[top.pool_site]

    return top.once("crowded", work)


def may_be_full(top: Topology, pool: int, capacity: IntColumn) -> bool:
    """Whether replicas that may be in a pool make unknown what is free of this capacity (R,) of it. If every
    replica of every service that may run at its site, or has replicas there, fits, what is free cannot be too
    little, however they are placed.
    """
    if not crowded(top)[1][pool]:
        return False
    needed, known = _most_at_sites(top)
    site = int(top.pool_site[pool])
    return not (known[site] and (capacity >= needed[site]).all())


def _most_at_sites(top: Topology) -> tuple[IntColumn, BoolColumn]:
    """(sites, R) demand of all replicas of all services that may run at a site or do, and (sites,) whether
    the files state it and how many replicas there are.
    """

    def work() -> tuple[IntColumn, BoolColumn]:
        estate, replicas, sites = top.estate, top.estate.replicas, site_of_replicas(top)
        may = unplaced(top).copy()
        for row, service in enumerate(estate.services):
            names = may_run_at(estate, service)
            may[
                slice(None) if names is None else [top.site_index[n] for n in names if n in top.site_index],
                row,
            ] = True
        may[sites[sites >= 0], replicas.service[sites >= 0]] = True
        may[:, [service.external for service in estate.services]] = False
        placed = np.bincount(replicas.service, replicas.count, len(estate.services)).astype(np.int64)
        stated = np.array([1 if s.replicas is None else s.replicas for s in estate.services], np.int64)
        demand = np.array([[amount or 0 for amount in s.demand] for s in estate.services], np.int64)
        demand = demand.reshape(-1, RESOURCE_COUNT) * np.maximum(placed, stated)[:, None]
        silent = np.isin(np.arange(len(estate.services)), list(vague_demand(top)))
        silent |= (placed == 0) & np.array([one.replicas is None for one in estate.services], np.bool_)
        known = np.asarray(~may[:, silent].any(axis=1), np.bool_)
        return may.astype(np.int64) @ demand, known

    return top.once("most at sites", work)


def crowd_of(top: Topology, site: int) -> str:
    """Path of the fact without which it is unknown what is free at a crowded site."""
    nowhere = np.flatnonzero(unplaced(top)[site]).tolist()
    services, sites = top.estate.services, top.estate.sites
    return placement_of(services[nowhere[0]].id) if nowhere else f"sites/{sites[site].id}/replicas"


def knows_servers(top: Topology) -> bool:
    """Whether a replica is known to be on a server outside pools; on any server if none of those serves."""
    fleet, replicas = top.estate.fleet, top.estate.replicas
    servers = replicas.target[replicas.kind == ON_SERVER]
    if not len(servers):
        return False
    return bool((fleet.pool[servers] < 0).any() or (fleet.pool[fleet.state == SERVING] >= 0).all())


def held_by_pools(top: Topology) -> tuple[BoolColumn, IntColumn]:
    """(K,) bindings that pools hold, also on their servers, and (K,) the pool of each, -1 for the others."""
    replicas = top.estate.replicas
    pool = pools_of(replicas, top.estate.fleet)
    at_site = replicas.kind == AT_SITE
    pool[at_site] = only_pool(top)[replicas.target[at_site]]
    return pool >= 0, pool


def vague_amounts(
    top: Topology,
    scenario: Scenario,
    chosen: IndexColumn,
    pools: list[int],
    capacity: IntColumn,
    owners: list[str],
    present: Present,
    home: BoolColumn,
    lost: Loss,
    unsure: Mapping[int, str],
) -> Vague:
    """The unknown amounts in the rows of a loss, evacuation or restore: servers, pools, sites without either;
    in those of a failback, servers that may not get power.

    capacity (N, R) and owners (N,): of pools and sites, and their paths. home: (V,) rows of a restored
    domain: what returns home fits there, as it did before. lost: servers and pools that it may take too count
    as capacity of unknown size. unsure: dark row -> path of the load without which it may not get power.
    """
    asked = [any(s.demand[resource] for s in top.estate.services) for resource in range(RESOURCE_COUNT)]
    if scenario.kind not in ("lose", "evacuate", "restore"):
        boots = {
            row: tuple((r, path) for r in range(RESOURCE_COUNT) if asked[r]) for row, path in unsure.items()
        }
        return Vague(MappingProxyType({}), MappingProxyType(boots))
    demand, (servers, _) = vague_demand(top), crowded(top)
    first = len(chosen)
    rows: dict[int, tuple[tuple[int, str], ...]] = {}
    for number, (amounts, owner) in enumerate(zip(capacity.tolist(), owners, strict=True), first):
        missing = tuple(
            (resource, f"{owner}/{RESOURCE_WORDS[resource]}" if owner.startswith("pools/") else owner)
            for resource, amount in enumerate(amounts)
            if amount >= UNBOUNDED and asked[resource]
        )
        if missing:
            rows[number] = missing
    crowds = np.flatnonzero(servers[chosen])
    for row, site in zip(crowds.tolist(), top.estate.fleet.site[chosen[crowds]].tolist(), strict=True):
        rows[row] = tuple((r, crowd_of(top, site)) for r in range(RESOURCE_COUNT) if asked[r])
    for row, pool in enumerate(pools, first):
        if may_be_full(top, pool, capacity[row - first]):
            path = crowd_of(top, int(top.pool_site[pool]))
            rows[row] = rows.get(row, ()) + tuple((r, path) for r in range(RESOURCE_COUNT) if asked[r])
    for row, path in unsure.items():
        rows[row] = rows.get(row, ()) + tuple((r, path) for r in range(RESOURCE_COUNT) if asked[r])
    leaving = scenario.kind in ("lose", "evacuate")
    for row, path in _unsafe(top, lost, chosen, pools, scenario.kind == "lose") if leaving else ():
        rows[row] = rows.get(row, ()) + tuple((r, path) for r in range(RESOURCE_COUNT) if asked[r])
    for line in np.flatnonzero(np.isin(present.service, list(demand))).tolist():
        row = int(present.row[line])
        rows[row] = rows.get(row, ()) + demand[int(present.service[line])]
    away = {row: missing for row, missing in sorted(rows.items()) if not home[row]}
    asking = {} if scenario.kind == "restore" else {service: one[0][1] for service, one in demand.items()}
    return Vague(MappingProxyType(asking), MappingProxyType(away))


def _unsafe(
    top: Topology, lost: Loss, chosen: IndexColumn, pools: list[int], is_loss: bool
) -> Iterator[tuple[int, str]]:
    """(row, path of the missing fact) of servers and pools that a loss may take too: behind feeds that may
    trip, or where it is unknown which hall or rack they are in and which feeds power them. is_loss: no feed
    trips where everything leaves in order.
    """
    fleet, doubt, more = top.estate.fleet, in_doubt(top, lost), tripped(top, lost) if is_loss else None
    if more is not None:
        in_pools = np.bincount(fleet.pool[_in_pool(top, more.lost.servers)], minlength=len(top.estate.pools))
        behind = np.r_[more.lost.servers[chosen], in_pools[pools] > 0]
        yield from ((row, more.fact) for row in np.flatnonzero(behind).tolist())
    site = np.r_[fleet.site[chosen], top.pool_site[pools]]
    for row in np.flatnonzero(np.r_[doubt.servers[chosen], doubt.pools[pools]]).tolist():
        yield row, f"sites/{top.estate.sites[int(site[row])].id}/{SERVERS}"


def _in_pool(top: Topology, servers: BoolColumn) -> BoolColumn:
    """(V,) those of some servers that belong to a pool."""
    return servers & (top.estate.fleet.pool >= 0)
