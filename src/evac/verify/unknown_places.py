"""Services whose place after a loss is unknown, and where they may run, found again one place at a time."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from evac.derive.domains import Topology, may_run_at, site_of_replicas
from evac.derive.hidden_power import hidden_power
from evac.derive.pools import replicas_running
from evac.model.estate import Estate, Service
from evac.model.fleet import AT_SITE, CONDEMNED, ON_POOL, ON_SERVER, BoolColumn


def lost_racks(estate: Estate, names: Collection[str]) -> set[str]:
    """Racks in any of these domains: by name, hall or site, or without any feed."""
    halls, feeds = _lost_halls(estate, names), _lost_feeds(estate, names)
    return {
        rack.id
        for rack in estate.racks
        if rack.id in names
        or rack.site in names
        or rack.hall in halls
        or (rack.feeds and feeds.issuperset(rack.feeds))
    }


def _lost_halls(estate: Estate, names: Collection[str]) -> set[str]:
    return {hall.id for hall in estate.halls if hall.id in names or hall.site in names}


def _lost_feeds(estate: Estate, names: Collection[str]) -> set[str]:
    return {feed.id for feed in estate.feeds if feed.id in names or feed.site in names}


def may_be_taken(top: Topology, names: Collection[str], servers: BoolColumn) -> set[int]:
    """Services with running replicas that may or may not be in these domains: the files do not say it.
    servers: (V,) those that are certainly in them.
    """
    estate, fleet, replicas = top.estate, top.estate.fleet, replicas_running(top)
    halls, racks, feeds = _lost_halls(estate, names), lost_racks(estate, names), _lost_feeds(estate, names)
    whole, unnamed = {site.id for site in estate.sites if site.id in names}, hidden_power(top).tolist()
    dark = {site.id for site, open_one in zip(estate.sites, unnamed, strict=True) if open_one}
    with_hall = {hall.site for hall in estate.halls if hall.id in halls}
    with_feed = {feed.site for feed in estate.feeds if feed.id in feeds}
    parts = with_hall | (with_feed & dark) | {rack.site for rack in estate.racks if rack.id in racks}
    parts -= whole
    single = {estate.sites[row].id for row in np.unique(fleet.site[servers]).tolist()}
    some = parts | (single - whole)
    in_rack = [
        rack.id not in racks
        and ((rack.hall is None and rack.site in with_hall) or (not rack.feeds and rack.site in with_feed))
        for rack in estate.racks
    ]
    loose = np.array([*in_rack, False], np.bool_)[fleet.rack]
    open_sites = np.array([site.id in parts for site in estate.sites], np.bool_)
    loose = np.where(fleet.rack < 0, open_sites[fleet.site], loose) & ~servers
    usable = (fleet.pool >= 0) & (fleet.state != CONDEMNED)
    owning, unclear = (set(fleet.pool[usable & one].tolist()) for one in (np.True_, loose))
    pools = [
        row in unclear or (row not in owning and pool.site in some) for row, pool in enumerate(estate.pools)
    ]
    sites = [site.id in some for site in estate.sites]
    found = set[int]()
    for kind, open_ones in ((AT_SITE, sites), (ON_POOL, pools), (ON_SERVER, loose)):
        here = (replicas.kind == kind) & (replicas.count > 0)
        found.update(replicas.service[here][np.array(open_ones, np.bool_)[replicas.target[here]]].tolist())
    touched = some | whole
    for row in placed_in_part(estate):
        if touched.intersection(estate.services[row].sites or (site.id for site in estate.sites)):
            found.add(row)
    return found


def placed_in_part(estate: Estate) -> list[int]:
    """Services with replicas that the files do not place."""
    home = estate.replicas if estate.home is None else estate.home
    placed = np.zeros(len(estate.services), np.int64)
    np.add.at(placed, home.service, home.count)
    wanted = (1 if service.replicas is None else service.replicas for service in estate.services)
    pairs = zip(placed.tolist(), wanted, estate.services, strict=True)
    return [row for row, (some, all_of_it, one) in enumerate(pairs) if some < all_of_it and not one.external]


def placed_nowhere(top: Topology) -> list[int]:
    """Services for which the files name no place at all."""
    replicas = top.estate.replicas
    placed = set(replicas.service[(site_of_replicas(top) >= 0) & (replicas.count > 0)].tolist())
    return [row for row, one in enumerate(top.estate.services) if not (row in placed or one.sites)]


def may_arrive(estate: Estate, service: Service, lost: Collection[str], in_part: bool) -> set[str]:
    """Sites where all of a service may run besides those where some is left. in_part: the files do not place
    all of it; lost: whole sites.
    """
    fleet, allowed = estate.fleet, may_run_at(estate, service)
    used = {estate.sites[row].id for row in np.unique(fleet.site).tolist()}
    used |= {pool.site for pool in estate.pools} | {site.id for site in estate.sites if site.role == "full"}
    found = used if allowed is None else used.intersection(allowed)
    if in_part:
        found |= set(service.sites) or {site.id for site in estate.sites}
    return found - {site.id for site in estate.sites if site.role == "witness" or site.id in lost}
