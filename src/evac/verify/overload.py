"""Feeds that a loss overloads, found again one rack at a time, and what runs only behind them.

A feed counts here only if its budget and the power of what it carries are stated: what is unknown beyond
that is for the shared derivation, which finds no less.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from evac.derive.domains import Topology
from evac.model.estate import Estate
from evac.model.fleet import SERVING, SPARE, IntColumn
from evac.model.plan import Plan
from evac.verify.congestion import left_after
from evac.verify.needs import with_members
from evac.verify.reading import Violation
from evac.verify.unknown_places import lost_feeds, lost_racks, lost_servers, may_be_taken


def overloaded_feeds(estate: Estate, names: Collection[str]) -> set[str]:
    """Feeds that carry more than their budget, and more than before, once these domains are lost; in turn
    those that then carry their load. Empty if no rack goes dark by that.
    """
    before = _carried(estate, with_members(estate, {*estate.lost}))
    found = set[str]()
    while True:
        carried = _carried(estate, {*names, *found})
        more = {
            feed.id
            for feed in estate.feeds
            if feed.power_budget_watts is not None
            and carried.get(feed.id, 0) > max(feed.power_budget_watts, before.get(feed.id, 0))
        }
        if not more:
            break
        found |= more
    return found if lost_racks(estate, {*names, *found}) != lost_racks(estate, names) else set()


def _carried(estate: Estate, names: Collection[str]) -> dict[str, int]:
    """Feed that is left -> watts that it carries. A rack draws evenly from its feeds that are left."""
    gone, dark = lost_feeds(estate, names), lost_racks(estate, names)
    found, drawn = dict[str, int](), _drawn(estate, names).tolist()
    for rack, watts in zip(estate.racks, drawn, strict=True):
        feeds = [] if rack.id in dark else [feed for feed in rack.feeds if feed not in gone]
        for feed in feeds:
            found[feed] = found.get(feed, 0) - (-watts // len(feeds))
    return found


def _drawn(estate: Estate, names: Collection[str]) -> IntColumn:
    """(racks,) watts of the servers that run and are in none of these domains."""
    fleet = estate.fleet
    on = np.isin(fleet.state, (SERVING, SPARE)) & fleet.watts_known & (fleet.rack >= 0)
    on &= ~lost_servers(estate, names)
    watts = np.zeros(len(estate.racks), np.int64)
    np.add.at(watts, fleet.rack[on], fleet.watts[on])
    return watts


def check_overload(top: Topology, plan: Plan) -> list[Violation]:
    """F1: a plan restores nothing, and calls nothing unaffected, that may be lost behind a feed that the loss
    overloads.
    """
    estate = top.estate
    if plan.scenario.kind != "lose" or all(feed.power_budget_watts is None for feed in estate.feeds):
        return []
    names = with_members(estate, {*plan.scenario.domains, *estate.lost})
    feeds = overloaded_feeds(estate, names)
    if not feeds:
        return []
    wider = names | feeds
    fewer = left_after(top, wider) < left_after(top, names)
    rows = may_be_taken(top, wider).union(estate.replicas.service[fewer].tolist())
    states = {outcome.service: outcome.state for outcome in plan.outcomes}
    words = "may be lost behind a feed that carries too much, the plan says"
    return [
        Violation("F1", name, f"{words} {states.get(name, 'unaffected')}")
        for name in sorted(estate.services[row].id for row in rows)
        if states.get(name) not in ("unknown", "unplaced")
    ]
