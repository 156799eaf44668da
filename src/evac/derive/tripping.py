"""Feeds that may trip: what a lost feed leaves to the others is more than they can supply.

A rack draws evenly from its feeds that are left. A feed that carries more than its budget, because another is
lost, may trip, and then its load moves to the next. Whatever runs only behind such feeds may be lost too. A
budget counts as stated: the margin that is kept free of it is still there to be used.
"""

from __future__ import annotations

from typing import Final

from evac.derive.domains import Loss, Topology, loss, lost_now, racks_without_feed
from evac.model.fleet import SERVING, SPARE, BoolColumn, IntColumn, np
from evac.model.records import dataclass
from evac.model.units import UNBOUNDED

LOAD: Final = "load"
"""The last part of the path of what is unknown: whether a feed carries what is left to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Tripped:
    """Feeds that a loss overloads, in order, and everything that is lost if they trip."""

    feeds: tuple[str, ...]
    lost: Loss

    @property
    def fact(self) -> str:
        """Path of what is unknown."""
        return f"feeds/{self.feeds[0]}/{LOAD}"


def tripped(top: Topology, lost: Loss) -> Tripped | None:
    """What a loss may take by overloading feeds; None if it overloads none. Nothing beyond the loss may be
    lost because of a budget that is exceeded without it.
    """
    budgets = _budgets(top)
    shared = lost.feeds[top.feed_rows] & ~lost.racks[top.feed_racks]
    if not shared.any() or (budgets >= UNBOUNDED).all():
        return None
    now = lost_now(top)
    before = _loads(top, now.feeds, now.racks, now.servers)
    feeds, racks = lost.feeds, lost.racks
    while True:
        load = _loads(top, feeds, racks, lost.servers)
        over = ~feeds & (load > budgets) & (load > before)
        if not over.any():
            break
        feeds = feeds | over
        racks = racks | racks_without_feed(top, feeds)
    names = tuple(top.estate.feeds[row].id for row in np.flatnonzero(feeds & ~lost.feeds).tolist())
    if not names or (racks == lost.racks).all():
        return None
    return Tripped(names, loss(top, (*lost.domains, *names)))


def _budgets(top: Topology) -> IntColumn:
    """(feeds,) watts; UNBOUNDED if not stated."""

    def work() -> IntColumn:
        stated = [feed.power_budget_watts for feed in top.estate.feeds]
        return np.array([UNBOUNDED if watts is None else watts for watts in stated], np.int64)

    return top.once("feed budgets", work)


def _loads(top: Topology, feeds: BoolColumn, racks: BoolColumn, servers: BoolColumn) -> IntColumn:
    """(feeds,) watts that each carries when these feeds, racks and servers are gone."""
    fleet, count = top.estate.fleet, len(top.estate.racks)
    on = np.isin(fleet.state, (SERVING, SPARE)) & fleet.watts_known & (fleet.rack >= 0) & ~servers
    watts = np.bincount(fleet.rack[on], fleet.watts[on], count).astype(np.int64)
    live = ~feeds[top.feed_rows] & ~racks[top.feed_racks]
    behind, rack = top.feed_rows[live], top.feed_racks[live]
    share = -(-watts // np.maximum(1, np.bincount(rack, minlength=count)))
    return np.bincount(behind, share[rack], len(feeds)).astype(np.int64)
