"""EV136: feeds that could trip unnoticed in a cold start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding
from evac.drivers.capabilities import BootsServers, SwitchesPower
from evac.drivers.registry import can
from evac.model.fleet import BMC_NO, CONDEMNED, BoolColumn, IntColumn

LEAST: Final = 2
"""Minimum number of queryable servers behind a feed for a run to watch it: a single one may itself have
failed.
"""
_FEW: Final = (
    f"no circuit is known, and fewer than {LEAST} servers behind each have a BMC that can be queried"
)
_FIX: Final = f"Add the circuit of a feed under endpoints, or the BMC addresses of {LEAST} servers behind it."


def check(context: Context) -> Iterator[Finding]:
    """Warning if a run boots servers remotely and would not notice one of their feeds tripping; note if it is
    not stated how to query the controllers of the site, so that people boot there.
    """
    estate, losses = context.estate, context.impacts.losses.index
    asked = {e.subject for e in estate.endpoints if can(e.driver, BootsServers) and e.subject == e.at}
    count, reached = _behind(context)
    nobody = np.zeros_like(reached)
    for site in estate.sites:
        known = site.id in asked
        seen = reached if known else nobody
        feeds = _unseen(context, site.id, count, seen) if site.role == "full" else []
        if not feeds:
            continue
        why = _FEW if known else "the estate has no circuit, and no endpoint for the BMCs of the site"
        yield RULE.finding(
            context,
            "warning" if known else "note",
            site.id,
            f"{counted(len(feeds), 'feed')} of {site.id} could trip unnoticed in a cold start: "
            f"{listed(feeds)}: {why}",
            _FIX if known else "Add an endpoint for the BMCs of the site (redfish, ipmi), or for each feed.",
            losses=[losses[site.id]] if site.id in losses else [],
            paths=(f"feeds/{feeds[0]}", f"sites/{site.id}"),
        )


def _behind(context: Context) -> tuple[IntColumn, IntColumn]:
    """(feeds,) servers behind each that may boot, and those of `_fewest` that can be queried if the
    management controllers of their site can be.
    """
    fleet = context.estate.fleet
    boots = np.asarray((fleet.state != CONDEMNED) & (fleet.rack >= 0))
    reached = np.asarray(boots & (fleet.bmc != BMC_NO) & (fleet.bmc_address != b""))
    return _by_feed(context, boots), _fewest(context, reached)


def _unseen(context: Context, site: str, count: IntColumn, reached: IntColumn) -> list[str]:
    """Feeds of a site that cannot be watched. count, reached (feeds,): servers behind each, and those that
    can be queried.
    """
    estate = context.estate
    circuits = {
        e.subject
        for e in estate.endpoints
        if can(e.driver, SwitchesPower) and e.at == site and "circuit" in e.settings
    }
    return [
        feed.id
        for row, feed in enumerate(estate.feeds)
        if feed.site == site and count[row] and reached[row] < LEAST and feed.id not in circuits
    ]


def _per_rack(context: Context, servers: BoolColumn) -> IntColumn:
    """(feed, rack) pairs of the estate: how many of these servers (V,) are in that rack."""
    estate, top = context.estate, context.impacts.top
    by_rack = np.bincount(estate.fleet.rack[servers], minlength=len(estate.racks))
    return np.asarray(by_rack[top.feed_racks], np.int64)


def _by_feed(context: Context, servers: BoolColumn) -> IntColumn:
    """(feeds,) of these servers (V,), each counted for every feed of its rack."""
    found = np.zeros(len(context.estate.feeds), np.int64)
    np.add.at(found, context.impacts.top.feed_rows, _per_rack(context, servers))
    return found


def _fewest(context: Context, servers: BoolColumn) -> IntColumn:
    """(feeds,) of these servers (V,), behind a feed, those on the smallest number of feeds: the others go
    dark only if all of theirs trip.
    """
    estate, top = context.estate, context.impacts.top
    each = _per_rack(context, servers)
    feeds = top.rack_feed_count[top.feed_racks].astype(np.int64)
    least = np.full(len(estate.feeds), np.iinfo(np.int64).max)
    there = each > 0
    np.minimum.at(least, top.feed_rows[there], feeds[there])
    found = np.zeros(len(estate.feeds), np.int64)
    mine = there & (feeds == least[top.feed_rows])
    np.add.at(found, top.feed_rows[mine], each[mine])
    return found


RULE = Rule(
    "feed-trips-unseen",
    "EV136",
    "A feed could trip unnoticed in a cold start",
    check,
    per_loss=False,
)
