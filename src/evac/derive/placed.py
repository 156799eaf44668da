"""Replicas by place, as steps and runs name places: in a table, and on servers that are off."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from evac.derive.domains import Topology, lost_now, site_of
from evac.derive.homing import place_name
from evac.derive.pools import places_off, replicas_running
from evac.model.errors import UnknownDomain
from evac.model.fleet import AT_SITE, CONDEMNED, ON_POOL, ON_SERVER, BoolColumn, Fleet, Replicas, np


class PlaceCounts:
    """Replicas by place in a table, and the sites of places."""

    def __init__(self, top: Topology) -> None:
        self._top = top
        self._row = {service.id: row for row, service in enumerate(top.estate.services)}
        replicas = top.estate.replicas
        self._begin = np.searchsorted(replicas.service, np.arange(len(self._row) + 1))

    def running(self, service: str) -> dict[str, int]:
        """Counts of a service without places that are off."""
        found = self._counts(service, replicas_running(self._top))
        return {place: count for place, count in found.items() if count}

    def of(self, service: str) -> dict[str, int]:
        """Counts of a service; empty if the estate does not have it."""
        return self._counts(service, self._top.estate.replicas)

    def _counts(self, service: str, replicas: Replicas) -> dict[str, int]:
        row = self._row.get(service, -1)
        if row < 0:
            return {}
        found: dict[str, int] = {}
        for i in range(int(self._begin[row]), int(self._begin[row + 1])):
            name = place_name(self._top, int(replicas.kind[i]), int(replicas.target[i]))
            found[name] = found.get(name, 0) + int(replicas.count[i])
        return found

    def site(self, place: str) -> str:
        """The site of a server, a pool or `site:` and a site; empty if it no longer exists."""
        top = self._top
        if place.startswith("site:"):
            return place.removeprefix("site:")
        if place in top.pool_index:
            return top.estate.pools[top.pool_index[place]].site
        try:
            return site_of(top, place) or ""
        except UnknownDomain:
            return ""

    def spread(
        self, site: str, there: Mapping[str, int], wanted: int, last: Collection[str] = ()
    ) -> dict[str, int]:
        """Spread this many replicas over a site: on their known places, first by name; additional ones in the
        pool there, or somewhere at the site. last: places after all others.
        """
        found: dict[str, int] = {}
        for place, count in sorted(there.items(), key=lambda one: (one[0] in last, one)):
            found[place] = min(count, wanted)
            wanted -= found[place]
        if wanted > 0:
            pools = [pool.id for pool in self._top.estate.pools if pool.site == site]
            place = next((p for p in found if p in pools), pools[0] if len(pools) == 1 else f"site:{site}")
            found[place] = found.get(place, 0) + wanted
        return {place: count for place, count in found.items() if count}


class PlacedOff:
    """Replicas that are placed on servers that are off, before a run."""

    def __init__(self, top: Topology, counts: PlaceCounts) -> None:
        self._top, self._counts = top, counts

    def servers(self, places: Iterable[str], on: Collection[str]) -> set[str]:
        """The servers of some places that are off: what starts there shows that they are on. Of a pool, all
        that are not condemned, because nobody knows on which of them it started; none if some were booted or
        seen on. on: these.
        """
        off = _are_off(self._top, self._top.estate.fleet, set(places), lost_now(self._top).servers)
        found = {place: self._of_place(place) for place in off}
        return {server for servers in found.values() if set(servers).isdisjoint(on) for server in servers}

    def _of_place(self, place: str) -> list[str]:
        """A server, or the servers of a pool."""
        if place not in self._top.pool_index:
            return [place]
        fleet, row = self._top.estate.fleet, self._top.pool_index[place]
        mine = np.flatnonzero((fleet.pool == row) & (fleet.state != CONDEMNED))
        return fleet.server_names(mine.astype(np.int32))

    def stay(
        self, placed: Mapping[str, dict[str, int]], servers: Mapping[str, bool], wanted: Mapping[str, int]
    ) -> None:
        """Places them there again after the run, as many as are missing, unless their server is on now.
        placed: service -> replicas by place; servers: whether they are on, for those that the run switched.
        wanted: service -> replicas that it should have, if these may be more than it had.
        """
        for service, now in placed.items():
            before, running = self._counts.of(service), self._counts.running(service)
            missing = max(wanted.get(service, 0), sum(before.values())) - sum(now.values())
            for place, count in before.items():
                is_on = place in running or any(servers.get(one) for one in self._of_place(place))
                waits = 0 if is_on else min(count, max(missing, 0))
                if waits:
                    now[place] = now.get(place, 0) + waits
                    missing -= waits


def running_of(
    top: Topology, fleet: Fleet, placed: Mapping[str, Mapping[str, int]], waits: BoolColumn
) -> dict[str, dict[str, int]]:
    """Service -> replicas by place without those on servers that are off. fleet: as it is now; waits: (V,)
    servers in what is lost.
    """
    off = _are_off(top, fleet, {place for counts in placed.values() for place in counts}, waits)
    return {
        service: {place: count for place, count in counts.items() if place not in off}
        for service, counts in placed.items()
    }


def _are_off(top: Topology, fleet: Fleet, names: set[str], waits: BoolColumn) -> set[str]:
    """Those of some places where nothing runs, because their server is off."""
    pairs = zip(sorted(names), known_places(top, sorted(names), waits), strict=True)
    known = [(name, *place) for name, place in pairs if place]
    columns = np.array([place for _, *place in known], np.int64).reshape(-1, 2).T
    off = places_off(top, fleet, columns[0].astype(np.uint8), columns[1].astype(np.int32))
    return {name for (name, *_), dark in zip(known, off.tolist(), strict=True) if dark}


def known_places(top: Topology, names: list[str], waits: BoolColumn) -> list[tuple[int, int] | None]:
    """(kind, target) of servers, pools and whole sites by their step names; None if the estate does not have
    it. If a pool owns the server, the pool places the replica, unless it waits there. waits: (V,) servers in
    what is lost.
    """
    estate = top.estate
    pools = {pool.id: (ON_POOL, row) for row, pool in enumerate(estate.pools)}
    known = pools | {f"site:{site.id}": (AT_SITE, row) for row, site in enumerate(estate.sites)}
    bare = sorted({name for name in names if name not in known})
    keys, fleet = np.array([name.encode() for name in bare], "S"), estate.fleet
    rows = np.searchsorted(fleet.name, keys)
    servers: dict[str, tuple[int, int]] = {}
    for name, key, row in zip(bare, keys, rows.tolist(), strict=True):
        if row < len(fleet) and fleet.name[row] == key:
            pool = int(fleet.pool[row])
            servers[name] = (ON_SERVER, row) if pool < 0 or waits[row] else (ON_POOL, pool)
    return [known.get(name) or servers.get(name) for name in names]
