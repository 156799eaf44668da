"""Servers and pools that each loss may take besides those that it certainly takes: see `derive.in_doubt`."""

from __future__ import annotations

import numpy as np

from evac.audit.impacts.losses import Losses, lost_in_part
from evac.derive.domains import Topology
from evac.derive.hidden_power import hidden_power, pools_with_servers, unplaced_servers
from evac.model.fleet import CONDEMNED, BoolColumn, IndexColumn
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class MayTake:
    """By kind of what is unknown: a place at all, the hall of a rack, the feeds of a rack."""

    at: tuple[BoolColumn, BoolColumn, BoolColumn]
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
    usable, without = fleet.state != CONDEMNED, unplaced_servers(top)
    racked = fleet.rack >= 0
    servers = (without["rack"] & usable, without["hall"] & racked & usable, without["feed"] & racked & usable)
    pools = [
        np.bincount(fleet.pool[v & (fleet.pool >= 0)], minlength=len(top.pool_site)) > 0 for v in servers
    ]
    pools[0] |= ~pools_with_servers(top)
    halls, feeds = lost_in_part(top, losses)
    number = np.repeat(np.arange(len(losses)), np.diff(losses.start))
    is_rack = losses.row < len(top.estate.racks)
    racks = np.zeros_like(halls)
    racks[number[is_rack], rows.site[losses.row[is_rack]]] = True
    anywhere = halls | racks & ~losses.sites | feeds & hidden_power(top)
    return MayTake(
        (anywhere, halls, feeds),
        tuple(tuple(np.unique(rows.of_server[v & (fleet.site == site)]) for site in sites) for v in servers),
        tuple(pools),
        top.pool_site,
    )
