"""The difference between an estate and its home state: what a failback starts there, and stops elsewhere."""

from __future__ import annotations

from dataclasses import replace

from evac.derive.affected import counts_by_service, sites_left
from evac.derive.domains import Loss, Topology, lost_now, server_row, site_of_replicas
from evac.derive.pools import home_replicas_in, replicas_lost, replicas_off, replicas_running
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, BoolColumn, IntColumn, Replicas, np, pools_of
from evac.model.instance import Leaving
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class WayHome:
    """A failback to some domains. missing: (S,) replicas that belong there and are not there; leaving: by
    service, what stops elsewhere once they serve.
    """

    missing: IntColumn
    home: IntColumn
    """(S,) replicas at home."""
    total: IntColumn
    """(S,) the same, without those of sites that are not lost where fewer run, for example as someone scaled
    them down.
    """
    surviving: IntColumn
    """(S,) what runs and stays; what waits in what is lost does not run."""
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
        return WayHome(missing, total, total, total - missing, sites_left(top, here), ())
    now = _running(top)
    inside = home_replicas_in(top, lost, home)
    belongs = counts_by_service(home, inside, services)
    here = replicas_lost(top, lost, replicas=now)
    there = counts_by_service(now, here, services)
    missing = np.minimum(np.maximum(0, belongs - there), _short_of_home(top, now, home))
    short, elsewhere = _short_of_home(top, now, home, by_site=True), _users_elsewhere(top, home)
    leaves = (missing > 0) | ((belongs > 0) & (short == 0) & elsewhere) | _kept_out(top, lost, home)
    at_home, runs = counts_by_service(home, home.count, services), counts_by_service(now, now.count, services)
    over = np.array([service.id in estate.surplus for service in estate.services], np.bool_)
    gone = counts_by_service(home, home_replicas_in(top, lost_now(top), home), services)
    unsure = np.array([service.id in estate.unsure for service in estate.services], np.bool_)
    known = (gone == 0) & ~elsewhere & ~unsure  # nobody asks about sites that the failback does not name
    stops = leaves | (((belongs > 0) | known) & (short == 0) & over)
    stays = _stay_at_site(top, lost, now, home)
    leaving = _leaving(top, now, home, here > 0, stops, runs + missing - at_home, stays)
    stays_lost = np.where(inside > 0, 0, home_replicas_in(top, lost_now(top), home))
    still_lost = counts_by_service(home, stays_lost, services)
    total, surviving = np.minimum(at_home, runs + missing + still_lost), np.minimum(runs, at_home - missing)
    return WayHome(missing, at_home, total, surviving, leaves, leaving)


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


def without_surplus(top: Topology, n: IntColumn, surviving: IntColumn, ran: IntColumn) -> IntColumn:
    """(S,) replicas to have after a loss or a restore. If a run left too many of a service, no more than are
    declared, or survive; and what an earlier loss took of them counts for nothing either. n, surviving, ran:
    (S,) replicas before, what is left of them, and what ran: the others wait in what was lost before.
    """
    services, home = top.estate.services, top.estate.home
    if home is None:
        return n
    over = np.array([service.id in top.estate.surplus for service in services], np.bool_)
    declared = counts_by_service(home, home.count, len(services))
    most = np.where(over, np.maximum(surviving, declared), np.maximum(ran, declared))
    return np.minimum(n, most)


def _users_elsewhere(top: Topology, home: Replicas) -> BoolColumn:
    """(S,) services with users that are sent to sites where home has none of it: what a run leaves that ended
    between start and shift.
    """
    at_home = np.zeros((len(top.estate.services), len(top.estate.sites) + 1), np.bool_)
    at_home[home.service, site_of_replicas(top, home)] = True
    found, index = np.zeros(len(at_home), np.bool_), top.site_index
    for row, service in enumerate(top.estate.services):
        sent = top.estate.traffic.get(service.id, ())
        found[row] = not all(at in index and at_home[row, index[at]] for at in sent)
    return found


def _kept_out(top: Topology, lost: Loss, home: Replicas) -> BoolColumn:
    """(S,) services with users that a run sent away from a site where they return to."""
    services, sites = top.estate.services, top.estate.sites
    found = np.zeros(len(services), np.bool_)
    if not top.estate.sent_away:
        return found
    own = np.array([service.id in top.estate.sent_away for service in services], np.bool_)
    rows = np.flatnonzero((home_replicas_in(top, lost, home) > 0) & own[home.service])
    sent = np.zeros((len(services), len(sites) + 1), np.bool_)
    sent[:, -1] = True  # an unknown place keeps no users out
    for row in np.flatnonzero(own).tolist():
        users = top.estate.traffic.get(services[row].id, ())
        sent[row, [top.site_index[site] for site in users if site in top.site_index]] = True
    out = ~sent[home.service[rows], site_of_replicas(top, home)[rows]]
    found[home.service[rows[out]]] = True
    return found


def _short_of_home(top: Topology, now: Replicas, home: Replicas, by_site: bool = False) -> IntColumn:
    """(S,) replicas that places at home have less than declared; a pool runs them on any of its servers.
    by_site: a site is one place.
    """
    keys, declared = _sums(_keys(top, home, by_site), home.count)
    short = np.maximum(0, declared - _looked_up(keys, *_sums(_keys(top, now, by_site), now.count)))
    found = np.zeros(len(top.estate.services), np.int64)
    np.add.at(found, keys // _width(top), short)
    return found


def _stay_at_site(top: Topology, lost: Loss, now: Replicas, home: Replicas) -> tuple[IntColumn, IntColumn]:
    """(keys, counts) of services and sites: replicas that are at home although the files name other servers
    or pools of their site, for sites where nothing returns.
    """
    returns = np.append(lost.sites, False)
    returns[top.estate.fleet.site[lost.servers]] = True
    returns[top.pool_site[lost.pools]] = True
    stays_there = np.where(returns[site_of_replicas(top, home)], 0, home.count)
    sites, wanted = _sums(_keys(top, home, True), stays_there)
    own = _keys(top, now)
    exact = _shared(own, now.count, _looked_up(own, *_sums(_keys(top, home), home.count)))
    return sites, wanted - _looked_up(sites, *_sums(_keys(top, now, True), exact))


def _leaving(
    top: Topology,
    now: Replicas,
    home: Replicas,
    here: BoolColumn,
    stops: BoolColumn,
    surplus: IntColumn,
    at_site: tuple[IntColumn, IntColumn],
) -> tuple[Leaving, ...]:
    """For services that return or have too many replicas since a run: replicas in excess of home's number at
    their places, in the order of the table. stops: (S,) these services. at_site: see `_stay_at_site`.
    """
    own, wide = _keys(top, now), _keys(top, now, True)
    stays = _shared(own, now.count, _looked_up(own, *_sums(_keys(top, home), home.count)))
    stays += _shared(wide, now.count - stays, np.maximum(0, _looked_up(wide, *at_site)))
    leaves = np.where(here | ~stops[now.service], 0, now.count - stays)
    keys, over = _sums(
        own, _shared(now.service.astype(np.int64), leaves, np.maximum(0, surplus)[now.service])
    )
    keys, over = keys[over > 0], over[over > 0]
    services, places = np.divmod(keys, _width(top))
    kinds, targets = np.divmod(places, _targets(top))
    found: dict[int, dict[str, int]] = {}
    columns = (column.tolist() for column in (services, kinds, targets - 1, over))
    for service, kind, target, count in zip(*columns, strict=True):
        at = place_name(top, kind, target)
        found.setdefault(service, {})[at] = found.get(service, {}).get(at, 0) + count
    return tuple(Leaving(service, tuple(sorted(places.items()))) for service, places in sorted(found.items()))


def _keys(top: Topology, replicas: Replicas, by_site: bool = False) -> IntColumn:
    """(K,) one number for service, kind and target of each binding; a replica on a server of a pool is in the
    pool. by_site: all replicas at a site share the key of one that is stated by its site alone.
    """
    pool = pools_of(replicas, top.estate.fleet)
    kind = np.where(pool >= 0, ON_POOL, replicas.kind).astype(np.int64)
    target = np.where(pool >= 0, pool, replicas.target).astype(np.int64)
    if by_site:
        target, kind = site_of_replicas(top, replicas).astype(np.int64), np.full_like(kind, AT_SITE)
    return replicas.service.astype(np.int64) * _width(top) + kind * _targets(top) + target + 1


def _targets(top: Topology) -> int:
    """More than any target of a binding; -1 is one, too."""
    return max(len(top.estate.fleet), len(top.estate.pools), len(top.estate.sites)) + 1


def _width(top: Topology) -> int:
    """More than any kind and target."""
    return (max(ON_SERVER, ON_POOL, AT_SITE) + 1) * _targets(top)


def _sums(keys: IntColumn, counts: IntColumn) -> tuple[IntColumn, IntColumn]:
    """The keys, sorted, and the sum of each."""
    found, at = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(found), np.int64)
    np.add.at(sums, at, counts)
    return found, sums


def _looked_up(wanted: IntColumn, keys: IntColumn, sums: IntColumn) -> IntColumn:
    """(len(wanted),) the sum of each key; 0 if there is none. keys: sorted."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, sums[at], 0)


def _shared(keys: IntColumn, counts: IntColumn, most: IntColumn) -> IntColumn:
    """(K,) how much of each count is taken, in the order of the table, if all of one key together take at
    most as much. most: (K,) the same for one key.
    """
    order = np.argsort(keys, kind="stable")
    sums = np.cumsum(counts[order], dtype=np.int64) - counts[order]
    begins = np.searchsorted(keys[order], keys[order])
    found = np.zeros(len(keys), np.int64)
    found[order] = np.clip(most[order] - (sums - sums[begins]), 0, counts[order])
    return found


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
