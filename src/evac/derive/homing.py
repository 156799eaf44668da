"""The difference between an estate and its home state: what a failback starts there, and stops elsewhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from evac.derive.affected import counts_by_service, sites_left
from evac.derive.domains import Loss, Topology, lost_now, server_row, site_of_replicas
from evac.derive.pools import replicas_lost, replicas_off, replicas_running
from evac.model.fleet import AT_SITE, ON_POOL, BoolColumn, IntColumn, Replicas, np, pools_of
from evac.model.instance import Leaving
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class WayHome:
    """A failback to some domains. missing: (S,) replicas that belong there and are not there; total: (S,)
    replicas at home; leaving: by service, what stops elsewhere once they serve.
    """

    missing: IntColumn
    total: IntColumn
    leaves: BoolColumn
    """(S,) whether traffic moves home with the replicas."""
    leaving: tuple[Leaving, ...]


def way_home(top: Topology, lost: Loss) -> WayHome:
    """lost: the domains that things return to. According to the files alone, home is empty and everything is
    missing.
    """
    estate, services = top.estate, len(top.estate.services)
    now, home = estate.replicas, estate.home
    if home is None:
        here = replicas_lost(top, lost)
        missing, total = counts_by_service(now, here, services), counts_by_service(now, now.count, services)
        return WayHome(missing, total, sites_left(top, here), ())
    now = _running(top)
    belongs = counts_by_service(home, replicas_lost(top, lost, replicas=home), services)
    here = replicas_lost(top, lost, replicas=now)
    there = counts_by_service(now, here, services)
    missing = np.minimum(np.maximum(0, belongs - there), _short_of_home(top, now, home))
    short, elsewhere = _short_of_home(top, now, home, by_site=True), _users_elsewhere(top, home)
    leaves = (missing > 0) | ((belongs > 0) & (short == 0) & elsewhere)
    total = counts_by_service(home, home.count, services)
    over = np.array([service.id in estate.surplus for service in estate.services], np.bool_)
    gone = counts_by_service(home, replicas_lost(top, lost_now(top), replicas=home), services)
    unsure = np.array([service.id in estate.unsure for service in estate.services], np.bool_)
    known = (gone == 0) & ~elsewhere & ~unsure  # nobody asks about sites that the failback does not name
    stops = leaves | (((belongs > 0) | known) & (short == 0) & over)
    surplus = counts_by_service(now, now.count, services) + missing - total
    stays = _stay_at_site(top, lost, now, home)
    return WayHome(missing, total, leaves, _leaving(top, now, home, here > 0, stops, surplus, stays))


def _running(top: Topology) -> Replicas:
    """What runs now: nothing on servers that are off, and nothing in what was lost or left before. What waits
    there is neither at home nor elsewhere, and what a cut failback started there is started again, which
    changes nothing.
    """
    now = replicas_running(top)
    gone = replicas_lost(top, lost_now(top), replicas=now)
    return replace(now, count=(now.count - gone).astype(now.count.dtype)) if gone.any() else now


def runs_there(top: Topology, lost: Loss) -> frozenset[int]:
    """Services with replicas that run in some domains: not on servers that are off, nor in what was lost
    before.
    """
    before = np.maximum(replicas_lost(top, lost_now(top)), replicas_off(top))
    return frozenset(top.estate.replicas.service[replicas_lost(top, lost) > before].tolist())


def without_surplus(top: Topology, n: IntColumn, surviving: IntColumn) -> IntColumn:
    """(S,) replicas to have after a loss or a restore. If a run left too many of a service, no more than are
    declared, or survive. n, surviving: (S,) replicas before, and what is left of them.
    """
    services, home = top.estate.services, top.estate.home
    if home is None or not top.estate.surplus:
        return n
    over = np.array([service.id in top.estate.surplus for service in services], np.bool_)
    declared = counts_by_service(home, home.count, len(services))
    return np.where(over, np.maximum(surviving, np.minimum(n, declared)), n)


def _users_elsewhere(top: Topology, home: Replicas) -> BoolColumn:
    """(S,) services with users that are sent to sites where home has none of it: what a run leaves that ended
    between start and shift.
    """
    sites, own = (site_of_replicas(top, home) + 1).tolist(), home.service.tolist()
    names, at_home = ("", *(site.id for site in top.estate.sites)), set(zip(own, sites, strict=True))
    known = {(top.estate.services[service].id, names[site]) for service, site in at_home}
    sent = ((service.id, top.estate.traffic.get(service.id, ())) for service in top.estate.services)
    return np.array([not known.issuperset((name, at) for at in to) for name, to in sent], np.bool_)


def _short_of_home(top: Topology, now: Replicas, home: Replicas, by_site: bool = False) -> IntColumn:
    """(S,) replicas that places at home have less than declared; a pool runs them on any of its servers.
    by_site: a site is one place.
    """
    short = Counter(dict.fromkeys(_keys(top, home, by_site), 0))
    for replicas, sign in ((home, 1), (now, -1)):
        for key, count in zip(_keys(top, replicas, by_site), replicas.count.tolist(), strict=True):
            short[key] += sign * count
    found = np.zeros(len(top.estate.services), np.int64)
    for key, count in short.items():
        found[key[0]] += max(0, count)
    return found


def _stay_at_site(top: Topology, lost: Loss, now: Replicas, home: Replicas) -> Counter[_Key]:
    """(service, kind, site) -> replicas that are at home although the files name other servers or pools of
    their site, for sites where nothing returns.
    """
    returns = np.append(lost.sites, False)
    returns[top.estate.fleet.site[lost.servers]] = True
    returns[top.pool_site[lost.pools]] = True
    wanted, exact = Counter[_Key](), Counter[_Key]()
    rows = zip(_keys(top, home), _keys(top, home, True), _sites(top, home), home.count.tolist(), strict=True)
    for key, at_site, site, count in rows:
        exact[key] += count
        wanted[at_site] += 0 if returns[site] else count
    rows = zip(_keys(top, now), _keys(top, now, True), _sites(top, now), now.count.tolist(), strict=True)
    for key, at_site, _, count in rows:
        stays = min(count, exact[key])
        exact[key] -= stays
        wanted[at_site] -= stays
    return wanted


def _sites(top: Topology, replicas: Replicas) -> list[int]:
    return [int(site) for site in site_of_replicas(top, replicas).tolist()]


def _leaving(
    top: Topology,
    now: Replicas,
    home: Replicas,
    here: BoolColumn,
    stops: BoolColumn,
    surplus: IntColumn,
    at_site: Counter[_Key],
) -> tuple[Leaving, ...]:
    """For services that return or have too many replicas since a run: replicas in excess of home's number at
    their places, in the order of the table. stops: (S,) these services. at_site: see `_stay_at_site`.
    """
    declared = Counter[_Key]()
    for key, count in zip(_keys(top, home), home.count.tolist(), strict=True):
        declared[key] += count
    found: dict[int, dict[str, int]] = {}
    for row, (key, wide) in enumerate(zip(_keys(top, now), _keys(top, now, True), strict=True)):
        service, left, count = key[0], int(surplus[key[0]]), int(now.count[row])
        stays = min(count, declared[key])
        declared[key] -= stays
        if more := max(0, min(count - stays, at_site[wide])):
            at_site[wide] -= more
            stays += more
        if here[row] or left <= 0 or not stops[service]:
            continue
        if over := min(left, count - stays):
            surplus[service] -= over
            places, name = found.setdefault(service, {}), place_name(top, key[1], key[2])
            places[name] = places.get(name, 0) + over
    return tuple(Leaving(service, tuple(sorted(places.items()))) for service, places in sorted(found.items()))


_Key = tuple[int, int, int]
"""(service, kind, target)."""


def _keys(top: Topology, replicas: Replicas, by_site: bool = False) -> list[_Key]:
    """Of each binding; a replica on a server of a pool is in the pool. by_site: all replicas at a site share
    the key of one that is stated by its site alone.
    """
    pool = pools_of(replicas, top.estate.fleet)
    kind = np.where(pool >= 0, ON_POOL, replicas.kind)
    target = np.where(pool >= 0, pool, replicas.target)
    if by_site:
        target, kind = site_of_replicas(top, replicas), np.full_like(kind, AT_SITE)
    return list(zip(replicas.service.tolist(), kind.tolist(), target.tolist(), strict=True))


def place_name(top: Topology, kind: int, target: int) -> str:
    """The target of a binding as steps name it: a server, a pool, or `site:` and a site."""
    estate = top.estate
    if kind == AT_SITE:
        return f"site:{estate.sites[target].id}"
    return estate.pools[target].id if kind == ON_POOL else estate.fleet.server_name(target)


def pool_of_server(top: Topology, name: str) -> str:
    """The pool that owns a server; empty if none does, or if there is no such server."""
    row = server_row(top.estate, name)
    pool = int(top.estate.fleet.pool[row]) if row >= 0 else -1
    return top.estate.pools[pool].id if pool >= 0 else ""
