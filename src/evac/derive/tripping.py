"""Feeds that may trip: what a lost feed leaves to the others is more than they can supply.

A rack draws evenly from its feeds that are left. A feed that carries more than its budget, because another is
lost, may trip, and then its load moves to the next. Whatever runs only behind such feeds may be lost too. A
budget counts as stated: the margin that is kept free of it is still there to be used. If the power of a
server behind a feed is unknown, or the budget of the feed, it is unknown whether the feed carries more.
"""

from __future__ import annotations

from evac.derive.domains import Loss, Topology, loss, lost_now, racks_without_feed, resolve
from evac.derive.hidden_power import hidden_draws
from evac.model.fleet import SERVING, SPARE, BoolColumn, IntColumn, np
from evac.model.reason import BUDGET, LOAD
from evac.model.records import dataclass
from evac.model.units import UNBOUNDED


@dataclass(frozen=True, slots=True, eq=False)
class Tripped:
    """Feeds that a loss may overload, in order, and everything that is lost if they trip."""

    feeds: tuple[str, ...]
    lost: Loss
    unstated: tuple[str, ...]
    """Those of the feeds whose budget is not stated."""

    @property
    def fact(self) -> str:
        """Path of what is unknown."""
        return f"feeds/{self.feeds[0]}/{BUDGET if self.feeds[0] in self.unstated else LOAD}"


def load_of_budget(top: Topology, name: str) -> str:
    """Path of the load of a feed, rack, hall or site."""
    return f"{resolve(top, name).kind}s/{name}/{LOAD}"


def tripped(top: Topology, lost: Loss) -> Tripped | None:
    """What a loss may take by overloading feeds; None if it overloads none. Nothing beyond the loss may be
    lost because of a budget that is exceeded without it.
    """
    budgets, unstated = _budgets(top)
    shared = lost.feeds[top.feed_rows] & ~lost.racks[top.feed_racks]
    if not shared.any() or not (unstated | (budgets < UNBOUNDED)).any():
        return None
    now = lost_now(top)
    before = _loads(top, now.feeds, now.racks, now.servers)
    feeds, racks = lost.feeds, lost.racks
    while True:
        load = _loads(top, feeds, racks, lost.servers)
        over = (load > budgets) & (load > before) | _unknown_rises(top, feeds, racks, lost.servers, now)
        over &= ~feeds
        if not over.any():
            break
        feeds = feeds | over
        racks = racks | racks_without_feed(top, feeds)
    ids = [feed.id for feed in top.estate.feeds]
    names = tuple(ids[row] for row in np.flatnonzero(feeds & ~lost.feeds).tolist())
    if not names or (racks == lost.racks).all():
        return None
    unknown = tuple(ids[row] for row in np.flatnonzero(feeds & ~lost.feeds & unstated).tolist())
    return Tripped(names, loss(top, (*lost.domains, *names)), unknown)


def _budgets(top: Topology) -> tuple[IntColumn, BoolColumn]:
    """(feeds,) watts, at least `UNBOUNDED` if unlimited or not stated; (feeds,) not stated."""

    def work() -> tuple[IntColumn, BoolColumn]:
        stated = [feed.power_budget_watts for feed in top.estate.feeds]
        watts = [UNBOUNDED if one is None else one for one in stated]
        return np.array(watts, np.int64), np.array([one is None for one in stated], np.bool_)

    return top.once("feed budgets", work)


def _unknown_rises(
    top: Topology, feeds: BoolColumn, racks: BoolColumn, servers: BoolColumn, now: Loss
) -> BoolColumn:
    """(feeds,) that carry more when these feeds, racks and servers are gone, and whose budget is not stated,
    or is beside a load that is not: servers of unknown power, or power of the site behind no known feed.
    """
    fleet, count = top.estate.fleet, len(top.estate.racks)
    on = np.isin(fleet.state, (SERVING, SPARE)) & ~servers
    hidden = hidden_draws(top, on)["feed"]
    on = on & (fleet.rack >= 0)
    loaded = np.bincount(fleet.rack[on], minlength=count) > 0
    unknown = np.bincount(fleet.rack[on & ~fleet.watts_known], minlength=count) > 0
    budgets, unstated = _budgets(top)
    if not (unknown.any() or hidden.any() or unstated.any()):
        return np.zeros(len(feeds), np.bool_)
    live, before = (
        ~gone[top.feed_rows] & ~dead[top.feed_racks]
        for gone, dead in ((feeds, racks), (now.feeds, now.racks))
    )
    fewer = np.bincount(top.feed_racks[live], minlength=count) < np.bincount(
        top.feed_racks[before], minlength=count
    )
    more, some = (
        np.bincount(top.feed_rows[live], flags[top.feed_racks[live]], len(feeds)) > 0
        for flags in (fewer & loaded, unknown)
    )
    vague = unstated | (budgets < UNBOUNDED) & (some | hidden[top.feed_site])
    return np.asarray(more & vague, np.bool_)


def _loads(top: Topology, feeds: BoolColumn, racks: BoolColumn, servers: BoolColumn) -> IntColumn:
    """(feeds,) watts that each carries when these feeds, racks and servers are gone."""
    fleet, count = top.estate.fleet, len(top.estate.racks)
    on = np.isin(fleet.state, (SERVING, SPARE)) & fleet.watts_known & (fleet.rack >= 0) & ~servers
    watts = np.bincount(fleet.rack[on], fleet.watts[on], count).astype(np.int64)
    live = ~feeds[top.feed_rows] & ~racks[top.feed_racks]
    behind, rack = top.feed_rows[live], top.feed_racks[live]
    share = -(-watts // np.maximum(1, np.bincount(rack, minlength=count)))
    return np.bincount(behind, share[rack], len(feeds)).astype(np.int64)
