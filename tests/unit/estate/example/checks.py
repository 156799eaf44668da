"""Independent arithmetic over an estate, for tests: nothing of it comes from the generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evac.model.estate import Estate, Service, Store
from evac.model.fleet import CONDEMNED, SERVING
from evac.model.units import ceil_share, floor_share

Ints = NDArray[np.int64]


def free_room(estate: Estate) -> Ints:
    """(V, R) capacity left on every server."""
    demand = np.array([s.demand for s in estate.services], np.int64)
    used = np.zeros_like(estate.fleet.capacity)
    np.add.at(used, estate.replicas.target, demand[estate.replicas.service] * estate.replicas.count[:, None])
    return estate.fleet.capacity - used


def placement_faults(estate: Estate) -> list[str]:
    """Everything that is wrong with where replicas stand; empty for a feasible estate."""
    fleet, replicas = estate.fleet, estate.replicas
    found = []
    if free_room(estate).min() < 0:
        found.append("over-commit")
    if not (fleet.state[replicas.target] == SERVING).all():
        found.append("replica on a server that is not serving")
    nominal = np.array([s.replicas for s in estate.services])
    if not (np.bincount(replicas.service, replicas.count, len(nominal)) == nominal).all():
        found.append("replicas differ from the nominal count")
    bounds = np.searchsorted(replicas.service, np.arange(len(estate.services) + 1))
    rows = [replicas.target[bounds[i] : bounds[i + 1]] for i in range(len(estate.services))]
    for service, servers in zip(estate.services, rows, strict=True):
        found.extend(f"{service.id}: {fault}" for fault in _faults(estate, service, servers))
    heavy = [servers for s, servers in zip(estate.services, rows, strict=True) if s.conflict_group]
    together = np.concatenate(heavy) if heavy else np.zeros(0, np.int32)
    if len(np.unique(together)) != len(together):
        found.append("a conflict group shares a server")
    return found


def _faults(estate: Estate, service: Service, servers: NDArray[np.int32]) -> list[str]:
    fleet, count = estate.fleet, service.replicas or 0
    found = []
    if len(np.unique(servers)) != len(servers):
        found.append("twice on one server")
    classes = {estate.classes[i].id for i in np.unique(fleet.server_class[servers]).tolist()}
    if service.eligible_classes is not None and not classes <= set(service.eligible_classes):
        found.append("class not eligible")
    sites = {estate.sites[i].id for i in np.unique(fleet.site[servers]).tolist()}
    if service.eligible_sites is not None and not sites <= set(service.eligible_sites):
        found.append("site not eligible")
    spread = service.spread
    for share, most, word in (
        (spread.per_rack, int(np.bincount(fleet.rack[servers]).max()), "rack"),
        (spread.per_site, int(np.bincount(fleet.site[servers]).max()), "site"),
        (spread.per_feed, _most_on_a_feed(estate, servers), "feed"),
    ):
        if share is not None and most > floor_share(share.numerator, share.denominator, count):
            found.append(f"{most} in one {word}")
    return found


def _most_on_a_feed(estate: Estate, servers: NDArray[np.int32]) -> int:
    per_feed: dict[str, int] = {}
    racks, counts = np.unique(estate.fleet.rack[servers], return_counts=True)
    for rack, count in zip(racks.tolist(), counts.tolist(), strict=True):
        for feed in estate.racks[rack].feeds:
            per_feed[feed] = per_feed.get(feed, 0) + count
    return max(per_feed.values())


def lost_servers(estate: Estate, domain: str) -> NDArray[np.bool_]:
    """(V,) servers that the loss of a site, a hall, a rack or a shared fate takes."""
    members = {g.id: g.members for g in estate.groups}.get(domain, (domain,))
    racks = [any(f"{r.id}/".startswith(f"{m}/") or r.hall == m for m in members) for r in estate.racks]
    return np.array(racks, np.bool_)[estate.fleet.rack]


def surviving(estate: Estate, lost: NDArray[np.bool_]) -> Ints:
    """(S,) replicas that a loss leaves of every service."""
    alive = ~lost[estate.replicas.target]
    return np.bincount(
        estate.replicas.service[alive], estate.replicas.count[alive], len(estate.services)
    ).astype(np.int64)


def base_counts(estate: Estate) -> Ints:
    """(S,) smallest count of replicas that serves."""
    return np.array(
        [ceil_share(s.share.numerator, s.share.denominator, s.replicas or 0) for s in estate.services]
    )


def base_left_out(estate: Estate, lost: NDArray[np.bool_], shed: bool) -> list[str]:
    """Services whose base finds no room after a loss, by first fit in order of tier and size.

    `shed`: the replicas of sheddable services above their own base give way. Of the dark servers
    only those count that come up by the odds of their class.
    """
    free = free_room(estate)
    base, left = base_counts(estate), surviving(estate, lost)
    open_servers = ~lost & (estate.fleet.state != CONDEMNED) & _comes_up(estate)
    if shed:
        _give_way(estate, free, lost, np.maximum(0, left - base))
    demand = np.array([s.demand for s in estate.services], np.int64)
    tiers = np.array([s.tier for s in estate.services])
    missing = []
    for row in np.lexsort((-demand[:, 0], tiers)).tolist():
        count = int(max(0, base[row] - left[row]))
        if count and _restart(estate, row, count, demand[row], free, open_servers, lost) < count:
            missing.append(estate.services[row].id)
    return missing


def _comes_up(estate: Estate) -> NDArray[np.bool_]:
    odds = np.array([c.boot_odds_permille or 0 for c in estate.classes])[estate.fleet.server_class]
    return np.asarray((estate.fleet.state < 2) | (np.arange(len(odds)) * 7 % 1_000 < odds))


def _give_way(estate: Estate, free: Ints, lost: NDArray[np.bool_], surplus: Ints) -> None:
    for row, service in enumerate(estate.services):
        if service.sheddable:
            servers = estate.replicas.target[estate.replicas.service == row]
            free[servers[~lost[servers]][: surplus[row]]] += np.array(service.demand, np.int64)


def _restart(
    estate: Estate,
    row: int,
    count: int,
    demand: Ints,
    free: Ints,
    open_servers: NDArray[np.bool_],
    lost: NDArray[np.bool_],
) -> int:
    service, fleet = estate.services[row], estate.fleet
    own = estate.replicas.target[estate.replicas.service == row]
    own = own[~lost[own]]
    classes = [i for i, c in enumerate(estate.classes) if c.id in (service.eligible_classes or ())]
    fits = open_servers & np.isin(fleet.server_class, classes) & (free >= demand).all(axis=1)
    if service.eligible_sites is not None:
        fits &= np.isin(fleet.site, [i for i, s in enumerate(estate.sites) if s.id in service.eligible_sites])
    fits[own] = False
    order = np.flatnonzero(fits)
    order = order[np.argsort(fleet.state[order], kind="stable")]
    if service.spread.per_rack is not None:
        cap = floor_share(
            service.spread.per_rack.numerator, service.spread.per_rack.denominator, service.replicas or 0
        )
        held = np.bincount(fleet.rack[own], minlength=len(estate.racks))
        by_rack = np.argsort(fleet.rack[order], kind="stable")
        racks = fleet.rack[order][by_rack]
        ordinal = np.arange(len(racks)) - np.searchsorted(racks, racks) + held[racks]
        order = order[np.sort(by_rack[ordinal < cap])]
    free[order[:count]] -= demand
    return len(order[:count])


def copies_left(store: Store, lost_site: str) -> bool:
    """Whether a copy fresh enough, and a majority where votes count, stand outside a site."""
    outside = [m for m in store.members if m.at.split("/", maxsplit=1)[0] != lost_site]
    fresh = [m for m in outside if m.mode != "none" and (m.lag_ms or 0) <= (store.rpo_ms or 0)]
    votes = sum(m.votes for m in store.members)
    return bool(fresh) and (not store.quorum or 2 * sum(m.votes for m in outside) > votes)
