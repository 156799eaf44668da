"""Power that the files place behind no budget: of servers without a rack, of racks without a hall or feeds,
and of pools whose servers are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from evac.derive.domains import Topology, lost_now
from evac.model.fleet import CONDEMNED, BoolColumn, np


def pools_with_servers(top: Topology) -> BoolColumn:
    """(P,) pools with some known servers."""
    fleet = top.estate.fleet
    known = (fleet.pool >= 0) & _counts(top)
    return np.bincount(fleet.pool[known], minlength=len(top.estate.pools)) > 0


def _counts(top: Topology) -> BoolColumn:
    """(V,) servers that are not condemned, and all that are lost already: these were there."""
    return np.asarray((top.estate.fleet.state != CONDEMNED) | lost_now(top).servers, np.bool_)


def hidden_power(top: Topology) -> BoolColumn:
    """(sites,) where something may run behind feeds that the files do not name: on a server without a rack,
    in a rack without feeds, in a pool whose servers are unknown, or where no server is known.
    """

    def work() -> BoolColumn:
        fleet, count, on = top.estate.fleet, len(top.estate.sites), _counts(top)
        hidden: BoolColumn = np.bincount(fleet.site[on], minlength=count) == 0
        hidden |= hidden_draws(top, on)["feed"]
        return hidden

    return top.once("hidden power", work)


def hidden_draws(top: Topology, on: BoolColumn) -> Mapping[str, BoolColumn]:
    """Kind of domain -> (sites,) where one of that kind may power more than the files place behind it, if
    these servers are on.
    """
    pools = np.zeros(len(top.estate.sites), np.bool_)
    pools[top.pool_site[~pools_with_servers(top)]] = True
    found = {"site": pools}
    for kind, loose in unplaced_servers(top).items():
        found[kind] = pools.copy()
        found[kind][top.estate.fleet.site[on & loose]] = True
    return found


def unplaced_servers(top: Topology) -> Mapping[str, BoolColumn]:
    """Kind of domain -> (V,) servers for which the files name no hall, feed or rack."""

    def work() -> Mapping[str, BoolColumn]:
        rack, count = top.estate.fleet.rack, len(top.estate.racks)
        in_hall, fed = np.zeros((2, count + 1), np.bool_)
        in_hall[:-1] = top.rack_hall >= 0
        fed[:-1] = top.rack_feed_count > 0
        return {"hall": ~in_hall[rack], "feed": ~fed[rack], "rack": np.asarray(rack < 0, np.bool_)}

    return top.once("unplaced servers", work)
