"""What a loss below a site may take besides what it certainly takes: the files do not say in which hall or
rack something is, or which feeds power it.
"""

from __future__ import annotations

from evac.derive.domains import Domain, Loss, Topology, is_lost, lost_now, resolve, server_row
from evac.derive.hidden_power import hidden_power, pools_with_servers
from evac.model.fleet import CONDEMNED, BoolColumn, np
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class InDoubt:
    """Places that a loss may take. What it certainly takes is not among them, but for pools."""

    sites: BoolColumn
    """(sites,) sites that are or may be lost in part."""
    servers: BoolColumn
    """(V,)"""
    racks: BoolColumn
    """(racks,)"""
    pools: BoolColumn
    """(P,) pools of unknown servers, and those with such a server."""


def sites_in_part(top: Topology, lost: Loss, feeds: BoolColumn) -> tuple[BoolColumn, BoolColumn]:
    """(sites,) each: sites that a loss takes in part, and those where that is more than single servers.
    feeds: (sites,) where a lost feed counts although it takes no known rack.
    """
    parts = np.zeros(len(top.estate.sites), np.bool_)
    parts[top.feed_site[lost.feeds]] = True
    parts &= feeds
    for mask, site in ((lost.halls, top.hall_site), (lost.racks, top.rack_site)):
        parts[site[mask]] = True
    some = parts.copy()
    some[top.estate.fleet.site[lost.servers]] = True
    return some & ~lost.sites, parts & ~lost.sites


def in_doubt(top: Topology, lost: Loss) -> InDoubt:
    """A server without a rack may be in any lost rack, in a lost hall and behind a lost feed of its site. A
    rack without a hall may be in a lost hall, and one without feeds behind a lost feed.
    """
    fleet, halls, feeds = top.estate.fleet, *np.zeros((2, len(top.estate.sites)), np.bool_)
    halls[top.hall_site[lost.halls]] = True
    feeds[top.feed_site[lost.feeds]] = True
    racks = (top.rack_hall < 0) & halls[top.rack_site]
    racks |= (top.rack_feed_count == 0) & feeds[top.rack_site]
    racks &= ~lost.racks
    some, parts = sites_in_part(top, lost, hidden_power(top))
    servers = np.where(fleet.rack < 0, parts[fleet.site], np.append(racks, False)[fleet.rack])
    servers &= ~lost.servers
    pools = some[top.pool_site] & ~pools_with_servers(top)
    pools[fleet.pool[servers & (fleet.pool >= 0) & (fleet.state != CONDEMNED)]] = True
    touched, _ = sites_in_part(top, lost, np.ones(len(top.estate.sites), np.bool_))
    return InDoubt(touched, servers, racks, pools)


def doubt_now(top: Topology) -> InDoubt:
    """What may be lost already besides what is known to be."""
    return top.once("in doubt now", lambda: in_doubt(top, lost_now(top)))


def may_be_lost(top: Topology, lost: Loss, doubt: InDoubt, at: str) -> bool:
    """Whether a loss may, but need not, take what is at a path, if nothing more precise is known."""
    fleet, domain = top.estate.fleet, resolve(top, at)
    if domain.kind == "server":
        return bool(doubt.servers[server_row(top.estate, at)])
    if domain.kind not in ("site", "hall", "rack"):
        return False
    site = top.site_index[domain.site or at]
    if domain.kind == "site" or not doubt.sites[site] or is_lost(top, lost, at):
        return domain.kind == "site" and bool(doubt.sites[site])
    racks, site_servers = racks_at(top, domain), fleet.site == site
    inside = lost.servers[np.append(racks, True)[fleet.rack] & site_servers].any()
    if domain.kind == "rack":
        return bool(inside or doubt.racks[racks].any())
    behind = (lost.feeds & (top.feed_site == site)).any() and hidden_power(top)[site]
    return bool(inside or behind or lost.racks[racks].any())


def racks_at(top: Topology, domain: Domain) -> BoolColumn:
    """(racks,) the rack itself, or racks that are or may be in a hall."""
    if domain.kind == "rack":
        found = np.zeros(len(top.estate.racks), np.bool_)
        found[top.rack_index[domain.id]] = True
        return found
    loose = (top.rack_hall < 0) & (top.rack_site == top.site_index[domain.site or ""])
    return np.asarray(loose | (top.rack_hall == top.hall_index[domain.id]), np.bool_)
