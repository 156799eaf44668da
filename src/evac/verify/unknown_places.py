"""Places that may be lost too, services that may run there, and where they may run, found again one place at
a time.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from evac.derive.domains import Topology, may_run_at, site_of_replicas
from evac.derive.hidden_power import hidden_power
from evac.derive.pools import replicas_running
from evac.model.estate import Estate, Service
from evac.model.fleet import AT_SITE, CONDEMNED, ON_POOL, ON_SERVER, BoolColumn
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.verify.needs import with_members
from evac.verify.reading import Violation


def lost_racks(estate: Estate, names: Collection[str]) -> set[str]:
    """Racks in any of these domains: by name, hall or site, or without any feed."""
    halls, feeds = _lost_halls(estate, names), lost_feeds(estate, names)
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


def lost_feeds(estate: Estate, names: Collection[str]) -> set[str]:
    return {feed.id for feed in estate.feeds if feed.id in names or feed.site in names}


def lost_servers(estate: Estate, names: Collection[str]) -> BoolColumn:
    """(V,) servers in any of these domains: by name, rack, hall or site, or in a rack without any feed."""
    fleet = estate.fleet
    racks = lost_racks(estate, names)
    in_racks = np.array([*(rack.id in racks for rack in estate.racks), False], np.bool_)
    in_sites = np.array([*(site.id in names for site in estate.sites), False], np.bool_)
    gone = in_racks[fleet.rack] | in_sites[fleet.site]
    others = {one.id for some in (estate.sites, estate.halls, estate.feeds, estate.racks) for one in some}
    own = [name.rsplit("/", 1)[-1].encode() for name in names if name not in others]
    return gone | np.isin(fleet.name, own) if own else gone


@dataclass(frozen=True, slots=True, eq=False)
class MayBeLost:
    """What may or may not be in some domains: the files do not say it."""

    sites: frozenset[str]
    """The sites that contain these domains."""
    servers: BoolColumn
    """(V,)"""
    pools: tuple[bool, ...]
    """By number, those with such servers or with unknown servers."""


def may_be_lost(top: Topology, names: Collection[str]) -> MayBeLost:
    """names: domains that are lost; linear in servers and racks."""
    estate, fleet, servers = top.estate, top.estate.fleet, lost_servers(top.estate, names)
    halls, racks, feeds = _lost_halls(estate, names), lost_racks(estate, names), lost_feeds(estate, names)
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
    usable, owned = fleet.state != CONDEMNED, fleet.pool >= 0
    before = lost_servers(estate, with_members(estate, {*estate.lost}))
    owning, unclear = (set(fleet.pool[owned & one].tolist()) for one in (usable | before, usable & loose))
    pools = [
        row in unclear or (row not in owning and pool.site in some) for row, pool in enumerate(estate.pools)
    ]
    return MayBeLost(frozenset(some), loose, tuple(pools))


def may_be_taken(top: Topology, names: Collection[str]) -> set[int]:
    """Services with running replicas that may or may not be in these domains."""
    estate, replicas, doubt = top.estate, replicas_running(top), may_be_lost(top, names)
    sites = [site.id in doubt.sites for site in estate.sites]
    found = set[int]()
    for kind, open_ones in ((AT_SITE, sites), (ON_POOL, doubt.pools), (ON_SERVER, doubt.servers)):
        here = (replicas.kind == kind) & (replicas.count > 0)
        found.update(replicas.service[here][np.array(open_ones, np.bool_)[replicas.target[here]]].tolist())
    touched = doubt.sites.union(site.id for site in estate.sites if site.id in names)
    for row in placed_in_part(estate):
        if touched.intersection(estate.services[row].sites or (site.id for site in estate.sites)):
            found.add(row)
    return found


def check_places(top: Topology, plan: Plan) -> list[Violation]:
    """F1: a plan restores nothing, and calls nothing unaffected, that may be in what is lost."""
    if plan.scenario.kind not in ("lose", "evacuate"):
        return []
    names = with_members(top.estate, {*plan.scenario.domains, *top.estate.lost})
    states = {outcome.service: outcome.state for outcome in plan.outcomes}
    services = sorted(top.estate.services[row].id for row in may_be_taken(top, names))
    return [
        Violation("F1", name, f"may run in what is lost, the plan says {states.get(name, 'unaffected')}")
        for name in services
        if states.get(name) not in ("unknown", "unplaced")
    ]


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
