"""Services, servers and pools that each loss may take besides those that it certainly takes, because the
files do not say where exactly they are: as `derive.in_doubt`, for all losses at once. What may be lost
already is in doubt after every loss.
"""

from __future__ import annotations

import numpy as np

from evac.audit.impacts.losses import Losses, Presence, tripping
from evac.derive.domains import Topology, lost_now, lost_with
from evac.derive.hidden_power import hidden_power, pools_with_servers, unplaced_servers
from evac.derive.in_doubt import sites_in_part
from evac.derive.pools import replicas_lost, unplaced
from evac.model.fleet import CONDEMNED, BoolColumn, IndexColumn
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class InPart:
    """(L, sites) each: where a site is lost in part after a loss, and not as a whole."""

    halls: BoolColumn
    """A hall is lost."""
    feeds: BoolColumn
    """A feed is lost."""
    parts: BoolColumn
    """More than single servers is lost."""
    some: BoolColumn
    """Anything that runs is lost."""
    touched: BoolColumn
    """Anything is lost, also a feed that supplies nothing."""


def lost_in_part(top: Topology, losses: Losses) -> InPart:
    """Of all losses, with what is lost already."""

    def work() -> InPart:
        halls, feeds, racks, single = np.zeros((4, *losses.sites.shape), np.bool_)
        now, rows, count = lost_now(top), losses.rows, len(top.estate.racks)
        for site in range(len(top.estate.sites)):
            halls[:, site] = losses.halls[:, top.hall_site == site].any(axis=1)
        halls[:, top.hall_site[now.halls]] = True
        alone = losses.of_kind("feed")
        feeds[alone, losses.site[alone]] = True
        for number in losses.of_kind("group", "pair").tolist() if len(top.estate.feeds) else ():
            feeds[number, top.feed_site[lost_with(top, losses.members[number]).feeds]] = True
        feeds[:, top.feed_site[now.feeds]] = True
        number, site_of = np.repeat(np.arange(len(losses)), np.diff(losses.start)), rows.site[losses.row]
        for table, here in (
            (racks, losses.row < count),
            (single, losses.row >= count + len(top.estate.sites)),
        ):
            table[number[here], site_of[here]] = True
        racks[:, top.rack_site[now.racks]] = True
        single[:, top.estate.fleet.site[now.servers]] = True
        left = ~(losses.sites | now.sites)
        known = halls | racks
        parts = known | feeds & hidden_power(top)
        tables = (halls, feeds, parts, parts | single, known | feeds | single)
        return InPart(*(np.asarray(table & left, np.bool_) for table in tables))

    return top.once(("lost in part", losses.members), work)


def unjudged(top: Topology, found: Presence, losses: Losses) -> BoolColumn:
    """(L, S) services that a loss may or may not take: below a site because it is unknown in which part of it
    something is, anywhere because not even the site is known, and behind feeds that may trip.
    """
    part, now, whole = lost_in_part(top, losses), lost_now(top), tripping(top, losses)
    parts, some = part.parts.copy(), part.some.copy()
    for number, more in whole.items():
        also_some, also_parts = sites_in_part(top, more.lost, hidden_power(top))
        parts[number] |= also_parts
        some[number] |= also_some
    open_question = np.zeros((len(losses), len(found.n)), np.bool_)
    for where, services in (
        (some, found.loose),
        (parts, found.rack_unknown),
        (part.halls, found.hall_unknown),
        (part.feeds, found.feeds_unknown),
        (some | losses.sites | now.sites, unplaced(top)),
    ):
        if services.any():
            open_question |= where.astype(np.float32) @ services.astype(np.float32) > 0
    replicas = top.estate.replicas
    for number, more in whole.items():
        taken = replicas_lost(top, more.lost) > replicas_lost(top, lost_with(top, losses.members[number]))
        open_question[number, replicas.service[taken]] = True
    return open_question


@dataclass(frozen=True, slots=True, eq=False)
class MayTake:
    """By kind of what is unknown: the rack of a server, the hall of a rack, the feeds of a rack, the servers
    of a pool.
    """

    at: tuple[BoolColumn, ...]
    """(L, sites) each, where a loss may take such servers."""
    rows: tuple[tuple[IndexColumn, ...], ...]
    """Rows of such servers, by kind and site."""
    pools: tuple[BoolColumn, ...]
    """(P,) pools with such servers, by kind."""
    pool_site: IndexColumn

    @property
    def any(self) -> BoolColumn:
        """(L,) losses that may take some."""
        sites = [
            [
                bool(len(rows)) or bool((some & (self.pool_site == site)).any())
                for site, rows in enumerate(here)
            ]
            for here, some in zip(self.rows, self.pools, strict=True)
        ]
        flags = (at & np.array(one, np.bool_) for at, one in zip(self.at, sites, strict=True))
        return np.asarray(sum(flag.any(axis=1) for flag in flags) > 0, np.bool_)

    def rows_of(self, number: int) -> IndexColumn:
        """Rows that one loss may take."""
        found = [
            rows[site]
            for at, rows in zip(self.at, self.rows, strict=True)
            for site in np.flatnonzero(at[number]).tolist()
        ]
        return np.concatenate([np.empty(0, np.int32), *found]).astype(np.int32)

    def pools_of(self, number: int) -> IndexColumn:
        """Pools that one loss may take in part."""
        found = np.zeros(len(self.pool_site), np.bool_)
        for at, some in zip(self.at, self.pools, strict=True):
            found |= some & at[number, self.pool_site]
        return np.flatnonzero(found).astype(np.int32)


def may_take(top: Topology, losses: Losses) -> MayTake:
    """What all losses may take."""
    fleet, sites, rows = top.estate.fleet, range(len(top.estate.sites)), losses.rows
    usable, without, racked = fleet.state != CONDEMNED, unplaced_servers(top), fleet.rack >= 0
    loose = (without["rack"], without["hall"] & racked, without["feed"] & racked, np.zeros_like(usable))
    servers = [some & usable for some in loose]
    pools = [
        np.bincount(fleet.pool[v & (fleet.pool >= 0)], minlength=len(top.pool_site)) > 0 for v in servers
    ]
    pools[-1] = ~pools_with_servers(top)
    part = lost_in_part(top, losses)
    return MayTake(
        (part.parts, part.halls, part.feeds, part.some),
        tuple(tuple(np.unique(rows.of_server[v & (fleet.site == site)]) for site in sites) for v in servers),
        tuple(pools),
        top.pool_site,
    )
