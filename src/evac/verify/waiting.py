"""Replicas that wait on the lost servers of a pool in an estate as it is now: found again from its files and
an observation, one service at a time (F2).

Only a pool knows where its replicas run. So the share of them that a loss takes, rounded up, waits on the
servers that it takes, unless the run that placed them knew of the loss. If too few wait, replicas that are
gone count as survivors of the next loss, and no plan starts them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from evac.model.estate import Estate
from evac.model.fleet import CONDEMNED, ON_POOL, ON_SERVER, SERVING, SPARE, BoolColumn, IntColumn, Replicas
from evac.model.observation import Observation, UnitsSeen
from evac.model.situation import LostNow, Moved
from evac.verify.needs import with_members
from evac.verify.places import Where
from evac.verify.reading import Violation
from evac.verify.unknown_places import lost_servers

Placed = dict[str, int]
"""Place, as steps name it -> replicas."""
Counts = dict[tuple[str, bool], int]
"""(pool, whether on its lost servers) -> replicas, for pools that lost some of their servers."""


def check_waiting(files: Estate, seen: Observation, now: Estate) -> list[Violation]:
    """F2: of pools that lost some of their servers, the estate counts no replica as running that waits on
    these. files: the estate as declared, without what is known of now. Linear in services and servers.
    """
    effects = seen.effects
    if effects is None or not (files.pools and effects.lost):
        return []
    waiting = _Waiting(files, effects.moved, [one for one in effects.lost if one.state != "evacuating"])
    if not waiting.pools:
        return []
    found, units = list[Violation](), dict[str, list[UnitsSeen]]()
    for one in seen.units:
        units.setdefault(one.service, []).append(one)
    told = waiting.told(now)
    for service in files.services:
        wanted, said = waiting.of(service.id, units.get(service.id, ())), told.get(service.id, {})
        for pool in sorted({pool for pool, _ in (*wanted, *said)}):
            (runs, waits), (says, others) = (
                (table.get((pool, False), 0), table.get((pool, True), 0)) for table in (wanted, said)
            )
            if (runs, waits) != (says, others):
                words = f"{runs} replicas run in {pool} and {waits} wait on its lost servers"
                found.append(Violation("F2", service.id, f"{words}; the estate says {says} and {others}"))
    return found


class _Waiting:
    """Which replicas wait on lost servers of pools."""

    def __init__(self, files: Estate, moved: Sequence[Moved], lost: Sequence[LostNow]) -> None:
        self._files, self._lost, self._where = files, lost, Where(files)
        self._last = {service: run for run in moved for service in run.placed}
        self._turn = {run.run: run.number for run in moved if run.run}
        self._shares: dict[tuple[str, ...], dict[str, Fraction]] = {}
        fleet, self._gone = files.fleet, self._servers([one.domain for one in lost])
        usable = fleet.state != CONDEMNED
        numbers = np.unique(fleet.pool[self._gone & usable & (fleet.pool >= 0)])
        self._numbers = numbers[np.isin(numbers, fleet.pool[~self._gone & usable])]
        """Pools that lost some but not all of their servers."""
        self.pools = {files.pools[number].id for number in self._numbers.tolist()}
        rows = np.flatnonzero(np.isin(fleet.pool, self._numbers))
        names = fleet.server_names(rows.astype(np.int32))
        columns = fleet.pool[rows].tolist(), self._gone[rows].tolist()
        self._owner = {
            name: (files.pools[pool].id, gone) for name, pool, gone in zip(names, *columns, strict=True)
        }
        """Server -> its pool, and whether the server is lost."""
        lost_ones = np.flatnonzero(self._gone & (fleet.pool >= 0)).astype(np.int32)
        self._lost_in_pools = set(fleet.server_names(lost_ones))
        self._row = {service.id: row for row, service in enumerate(files.services)}
        self._begin = np.searchsorted(files.replicas.service, np.arange(len(self._row) + 1)).tolist()

    def of(self, service: str, units: Collection[UnitsSeen]) -> Counts:
        """Replicas of a service."""
        run = self._last.get(service)
        placed = self._home(service) if run is None else dict(run.placed[service])
        for one in units:
            placed = self._as_seen(placed, one)
        shares, found = self._shares_of(run), Counts()
        for place, count in placed.items():
            pool, lost = self._pool_of(place)
            waits = count if lost else 0
            if place == pool:
                waits = -int(-(count * shares.get(pool, Fraction(0))) // 1)
            _add(found, pool, waits, count - waits)
        return found

    def told(self, now: Estate) -> dict[str, Counts]:
        """Service -> its replicas as an estate says."""
        table, found = now.replicas, dict[str, Counts]()
        inside = (table.kind == ON_POOL) & np.isin(table.target, self._numbers)
        on_server = table.kind == ON_SERVER
        inside[on_server] = np.isin(now.fleet.pool[table.target[on_server]], self._numbers)
        for row in np.flatnonzero(inside).tolist():
            pool, lost = self._pool_of(_name(now, table, row))
            service, count = now.services[int(table.service[row])].id, int(table.count[row])
            _add(found.setdefault(service, {}), pool, count if lost else 0, 0 if lost else count)
        return found

    def _home(self, service: str) -> Placed:
        table, row, found = self._files.replicas, self._row[service], Placed()
        for binding in range(self._begin[row], self._begin[row + 1]):
            place = _name(self._files, table, binding)
            found[place] = found.get(place, 0) + int(table.count[binding])
        return found

    def _pool_of(self, place: str) -> tuple[str, bool]:
        """The pool in part that a place is or belongs to, if any, and whether it is a lost server of it."""
        return (place, False) if place in self.pools else self._owner.get(place, ("", False))

    def _as_seen(self, placed: Placed, seen: UnitsSeen) -> Placed:
        """What a driver is set to run at a site, on the places that are known there; the lost servers of
        pools last, and what is too many in the pool.
        """
        here = {place: count for place, count in placed.items() if self._where.site(place) == seen.site}
        if sum(here.values()) == seen.replicas:
            return placed
        found = {place: count for place, count in placed.items() if place not in here}
        left, of_site = seen.replicas, [pool.id for pool in self._files.pools if pool.site == seen.site]
        order = sorted(here, key=lambda place: (place in self._lost_in_pools, place))
        for place in order:
            found[place] = min(left, here[place])
            left -= found[place]
        first = next((place for place in order if place in of_site), "")
        more = first or (of_site[0] if len(of_site) == 1 else f"site:{seen.site}")
        found[more] = found.get(more, 0) + left
        return found

    def _shares_of(self, run: Moved | None) -> Mapping[str, Fraction]:
        """Pool -> the share of it that was lost after a run; after the files, if no run placed anything."""
        old = tuple(sorted(one.domain for one in self._lost if run is not None and self._knew(run, one)))
        if old not in self._shares:
            self._shares[old] = dict(self._lost_after(old)) if len(old) < len(self._lost) else {}
        return self._shares[old]

    def _knew(self, run: Moved, lost: LostNow) -> bool:
        """Whether a run made the mark of a loss, or began after it. A run that ended before the one that
        made it did not, whatever the clocks say.
        """
        if lost.run and lost.run == run.run:
            return True
        turn = self._turn.get(lost.run, 0)
        if run.number and turn and run.number < turn:
            return False
        return max(run.began_ms, run.since.get(lost.domain, -1)) >= lost.since_ms

    def _lost_after(self, old: Collection[str]) -> Iterator[tuple[str, Fraction]]:
        fleet, before = self._files.fleet, self._servers(old)
        gone = self._servers([one.domain for one in self._lost]) & ~before
        on = np.isin(fleet.state, (SERVING, SPARE)) & ~before
        for number, pool in enumerate(self._files.pools):
            mine = np.flatnonzero(on & (fleet.pool == number))
            if pool.id in self.pools and gone[mine].any():
                yield pool.id, _most_of(fleet.capacity[mine], fleet.capacity_known[mine], gone[mine])

    def _servers(self, domains: Collection[str]) -> BoolColumn:
        return lost_servers(self._files, with_members(self._files, set(domains)))


def _most_of(sizes: IntColumn, known: BoolColumn, gone: BoolColumn) -> Fraction:
    """The largest lost share in any resource whose sizes are all known and not all zero; of the number of
    servers if there is none.
    """
    stated = np.flatnonzero(known.all(axis=0) & sizes.any(axis=0)).tolist()
    columns = [sizes[:, resource].tolist() for resource in stated] or [[1] * len(sizes)]
    lost = np.flatnonzero(gone).tolist()
    return max(Fraction(sum(column[row] for row in lost), sum(column)) for column in columns)


def _add(found: Counts, pool: str, waits: int, runs: int) -> None:
    for key, count in (((pool, True), waits), ((pool, False), runs)):
        if pool and count:
            found[key] = found.get(key, 0) + count


def _name(estate: Estate, table: Replicas, row: int) -> str:
    """The place of a binding, as steps name it."""
    kind, target = int(table.kind[row]), int(table.target[row])
    if kind == ON_SERVER:
        return estate.fleet.server_name(target)
    return estate.pools[target].id if kind == ON_POOL else f"site:{estate.sites[target].id}"
