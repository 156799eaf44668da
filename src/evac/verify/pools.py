"""The usable capacity of pools after a loss, and rows of which it is unknown what is free, because they may
be lost too or may be full: derived again, one pool at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from evac.derive.domains import Topology, may_run_at, site_of_replicas
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, CONDEMNED, SERVING, SPARE, BoolColumn, Fleet
from evac.model.instance import Instance, Rows, Vague
from evac.model.reason import SERVERS
from evac.model.scenario import Scenario
from evac.model.units import RESOURCE_COUNT, UNBOUNDED
from evac.verify.needs import with_members
from evac.verify.unknown_places import lost_servers, may_be_lost, placed_in_part


def after_a_loss(top: Topology, scenario: Scenario, shared: Instance) -> tuple[Rows, Vague]:
    """Rows with the checker's own capacity of pools, and what is unknown of rows, with what the checker finds
    besides. Those of a restore or failback are not changed. Linear in servers, and in pools x services.
    """
    if scenario.kind not in ("lose", "evacuate"):
        return shared.rows, shared.vague
    estate, rows = top.estate, shared.rows
    number = {pool.id: place for place, pool in enumerate(estate.pools)}
    pools = {
        row: number[shared.row_names[row]]
        for row in np.flatnonzero(rows.fleet_row < 0).tolist()
        if shared.row_names[row] in number
    }
    names = with_members(estate, {*scenario.domains, *estate.lost})
    gone = lost_servers(estate, names)
    before = lost_servers(estate, with_members(estate, {*estate.lost}))
    capacity, found = rows.capacity.copy(), dict[int, str]()
    for row, pool in pools.items():
        left = _capacity(estate, pool, gone, before)
        capacity[row] = np.maximum(left, rows.used[row])
        if _may_be_full(top, pool, capacity[row].tolist()):
            found[row] = f"sites/{estate.pools[pool].site}/replicas"
    found |= _in_doubt(top, names, rows, pools)
    asked = [r for r in range(RESOURCE_COUNT) if any(s.demand[r] for s in estate.services)]
    more = {
        row: tuple((r, path) for r in asked) for row, path in found.items() if row not in shared.vague.rows
    }
    vague = replace(shared.vague, rows=MappingProxyType(dict(sorted({**shared.vague.rows, **more}.items()))))
    return replace(rows, capacity=capacity), vague if more else shared.vague


def _in_doubt(
    top: Topology, names: Collection[str], rows: Rows, pools: dict[int, int]
) -> Iterator[tuple[int, str]]:
    """(row, path of the missing fact) of servers and pools that may be lost too. pools: row -> its pool."""
    estate, doubt, server = top.estate, may_be_lost(top, names), rows.fleet_row
    for row in np.flatnonzero((server >= 0) & np.append(doubt.servers, False)[server]).tolist():
        yield row, f"sites/{estate.sites[int(rows.site[row])].id}/{SERVERS}"
    yield from (
        (row, f"sites/{estate.pools[pool].site}/{SERVERS}")
        for row, pool in pools.items()
        if doubt.pools[pool]
    )


def _capacity(estate: Estate, row: int, gone: BoolColumn, before: BoolColumn) -> list[int]:
    """(R,) usable by replicas. gone, before: (V,) servers that are lost after the loss and before it."""
    fleet, pool, found = estate.fleet, estate.pools[row], list[int]()
    mine = fleet.pool == row
    on = mine & np.isin(fleet.state, (SERVING, SPARE)) & ~before
    if mine.any() and not on.any():
        return [0] * RESOURCE_COUNT
    burnt = mine & before & (fleet.state != CONDEMNED)
    for resource, stated in enumerate(pool.capacity):
        total = stated
        if total is not None:
            total = _part(total, 1 - _lost_share(fleet, on | burnt, burnt, resource))
        elif on.any() and fleet.capacity_known[on, resource].all():
            total = sum(fleet.capacity[on, resource].tolist())
        usable = UNBOUNDED if total is None else total * pool.quota_permille // 1000
        found.append(_part(usable, 1 - _lost_share(fleet, on, gone, resource)))
    return found


def _part(whole: int, share: Fraction) -> int:
    """A share of a capacity, rounded down; all of it if it is unlimited and any is left."""
    if whole == UNBOUNDED and share:
        return UNBOUNDED
    return int(whole * share)


def _lost_share(fleet: Fleet, members: BoolColumn, gone: BoolColumn, resource: int) -> Fraction:
    """The lost share of one resource of some servers; of their number if their sizes are unknown."""
    sizes = fleet.capacity[members, resource].tolist()
    if not fleet.capacity_known[members, resource].all() or not any(sizes):
        sizes = [1] * len(sizes)
    pairs = zip(sizes, gone[members].tolist(), strict=True)
    return Fraction(sum(size for size, lost in pairs if lost), max(1, sum(sizes)))


def _may_be_full(top: Topology, row: int, capacity: list[int]) -> bool:
    """Whether replicas of which the place is unknown may be in a pool, and not everything that may run at its
    site fits there.
    """
    site = int(top.pool_site[row])
    needed = top.once(("checked needs of a site", site), lambda: _needed(top, site))
    if needed is None:
        return True
    return any(amount < most for amount, most in zip(capacity, needed, strict=True))


def _needed(top: Topology, site: int) -> tuple[int, ...] | None:
    """(R,) what everything that may run at a site needs; nothing if no replica of unknown place may be in a
    pool there; None if it is unknown.
    """
    estate, replicas, name = top.estate, top.estate.replicas, top.estate.sites[site].id
    in_part, nothing = placed_in_part(estate), (0,) * RESOURCE_COUNT
    somewhere = (replicas.kind == AT_SITE) & (replicas.target == site) & (replicas.count > 0)
    bare = (estate.fleet.site == site) & (estate.fleet.pool < 0) & (estate.fleet.state == SERVING)
    alone = not bare.any() and sum(pool.site == name for pool in estate.pools) == 1
    stray = {one for one in in_part if not estate.services[one].sites or name in estate.services[one].sites}
    if not stray and (alone or not somewhere.any()):
        return nothing
    here = set(replicas.service[site_of_replicas(top) == site].tolist()) | stray
    counts = np.bincount(replicas.service, replicas.count, len(estate.services)).astype(np.int64).tolist()
    needed = [0] * RESOURCE_COUNT
    for number, service in enumerate(estate.services):
        allowed = may_run_at(estate, service)
        if service.external or not (number in here or allowed is None or name in allowed):
            continue
        if None in service.demand[:2] or (not counts[number] and service.replicas is None):
            return None
        most = max(counts[number], 1 if service.replicas is None else service.replicas)
        needed = [so_far + (one or 0) * most for so_far, one in zip(needed, service.demand, strict=True)]
    return tuple(needed)
