"""Replicas that wait in what is lost until it is restored. Those of a pool that lost some of its servers wait
on these: as many as its lost share, rounded up, because it is unknown on which server each of them ran.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from evac.derive.domains import Loss, Topology, is_lost, loss, lost_now, topology
from evac.derive.placed import PlaceCounts
from evac.derive.pools import pool_shares, replicas_lost
from evac.model.errors import UnknownDomain
from evac.model.fleet import CONDEMNED, DARK, ON_POOL, np
from evac.model.situation import LostNow, Moved

Waits = Callable[[str, int], dict[str, int]]
"""(pool, replicas) -> how many of them wait on each of its lost servers."""


class Inside:
    """Whether a place is in what is lost."""

    def __init__(self, top: Topology, lost: Loss) -> None:
        self._top, self._lost = top, lost
        sites = np.flatnonzero(lost.sites).tolist()
        self.first_site = top.estate.sites[sites[0]].id if sites else ""

    def __call__(self, place: str) -> bool:
        top, lost = self._top, self._lost
        if place in top.pool_index:
            return bool(lost.pools[top.pool_index[place]])
        try:
            return is_lost(top, lost, place.removeprefix("site:"))
        except UnknownDomain:
            return False


def of_pools_in_part(top: Topology, lost: Loss) -> dict[str, dict[str, int]]:
    """Service -> pool -> replicas lost with some of the pool's servers."""
    replicas, pools = top.estate.replicas, list(pool_shares(top, lost))
    rows = np.flatnonzero((replicas.kind == ON_POOL) & np.isin(replicas.target, pools))
    gone = replicas_lost(top, lost)[rows].tolist()
    found: dict[str, dict[str, int]] = {}
    for row, count in zip(rows.tolist(), gone, strict=True):
        service = top.estate.services[int(replicas.service[row])].id
        found.setdefault(service, {})[top.estate.pools[int(replicas.target[row])].id] = count
    return found


def on_lost_servers(top: Topology, lost: Loss) -> Waits:
    """Where the replicas wait that a loss takes from a part of a pool: evenly on servers that it loses."""
    fleet, new = top.estate.fleet, lost.servers & ~lost_now(top).servers

    def waits(pool: str, count: int) -> dict[str, int]:
        mine = new & (fleet.pool == top.pool_index[pool]) & (fleet.state != CONDEMNED)
        rows = np.flatnonzero(mine)
        each, more = divmod(count, len(rows))
        counts = np.full(len(rows), each, np.int64)
        counts[np.arange(more) * len(rows) // max(1, more)] += 1
        used = counts > 0
        return dict(zip(fleet.server_names(rows[used].astype(np.int32)), counts[used].tolist(), strict=True))

    return waits


def with_waiting(
    before: Mapping[str, int],
    after: Mapping[str, int],
    inside: Inside,
    in_part: Mapping[str, int],
    waits_at: Waits,
) -> dict[str, int]:
    """Running and waiting replicas: first at their lost place, the others at the first lost site. in_part:
    losses of pools that lost some of their servers; waits_at: where these wait.
    """
    runs = {
        place: count - in_part.get(place, 0) for place, count in after.items() if count and not inside(place)
    }
    missing = sum(before.values()) - sum(runs.values())
    for place, count in before.items():
        waits = min(count if inside(place) else in_part.get(place, 0), max(missing, 0))
        spots = {place: waits} if inside(place) or not waits else waits_at(place, waits)
        for spot, some in spots.items():
            runs[spot] = runs.get(spot, 0) + some
        missing -= waits
    site = inside.first_site
    if missing > 0 and site:
        runs[f"site:{site}"] = runs.get(f"site:{site}", 0) + missing
    return {place: count for place, count in runs.items() if count}


def waiting_in_pools(
    top: Topology,
    placed: Mapping[str, Mapping[str, int]],
    lost: Sequence[LostNow],
    moved: Sequence[Moved],
) -> dict[str, dict[str, int]]:
    """Service -> its replicas by place, for services with replicas in pools that lost some of their servers,
    unless the run that placed them knew of the loss. placed: as runs and drivers left them. A driver says how
    many replicas it is set to run, not that they run. lost: the domains that are lost now.
    """
    last = {service: one for one in moved for service in one.placed}
    numbers = {one.run: one.number for one in moved if one.run}
    found: dict[str, dict[str, int]] = {}
    for run in (None, *{run.run: run for run in last.values()}.values()):
        known = [one.domain for one in lost if run is not None and _knew(run, one, numbers)]
        if len(known) == len(lost):
            continue
        then = _dark(top, known)
        gone = loss(then, [one.domain for one in lost])  # together: a rack is lost with both of its feeds
        if known:
            gone = replace(gone, servers=gone.servers & ~loss(top, known).servers)
        shares, waits_at, counts = pool_shares(then, gone), on_lost_servers(then, gone), PlaceCounts(then)
        shares_of = {top.estate.pools[row].id: share.worst for row, share in shares.items()}
        names = {service for service, by in last.items() if run is not None and by.run == run.run}
        if run is None:
            names = (_in_pools(top, [*shares]) | placed.keys()) - last.keys()
        for service in sorted(names):
            now = dict(placed[service] if service in placed else counts.of(service))
            for pool in sorted(now.keys() & shares_of.keys()):
                taken = math.ceil(now[pool] * shares_of[pool])
                if taken:
                    now[pool] -= taken
                    for server, count in waits_at(pool, taken).items():
                        now[server] = now.get(server, 0) + count
                    found[service] = {place: count for place, count in now.items() if count}
    return found


def _knew(run: Moved, lost: LostNow, numbers: Mapping[str, int]) -> bool:
    """Whether a run placed replicas after a loss, or because of it. numbers: of the runs that ended. A run
    that ended before the one that marked the loss did not know of it, whatever its leader's clock said.
    """
    if run.run and run.run == lost.run:
        return True
    marker = numbers.get(lost.run, 0)
    if marker and run.number and run.number < marker:
        return False
    return max(run.began_ms, run.since.get(lost.domain, -1)) >= lost.since_ms


def _dark(top: Topology, domains: Sequence[str]) -> Topology:
    """The estate with the servers of some domains off; the same object if there are none."""
    if not domains:
        return top
    fleet = top.estate.fleet
    gone = loss(top, domains).servers & (fleet.state != CONDEMNED)
    state = np.where(gone, DARK, fleet.state).astype(fleet.state.dtype)
    return topology(replace(top.estate, fleet=replace(fleet, state=state)))


def _in_pools(top: Topology, pools: Sequence[int]) -> set[str]:
    """Services with replicas in some pools, as the files declare them."""
    replicas = top.estate.replicas
    here = (replicas.kind == ON_POOL) & np.isin(replicas.target, pools)
    return {top.estate.services[row].id for row in np.unique(replicas.service[here]).tolist()}
