"""Whether what is on today is within the budgets of power and cooling that the files declare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.estate.format.problems import Problems
from evac.model.diagnostic import Place
from evac.model.estate import Estate
from evac.model.fleet import SERVING, SPARE


def check_loads(estate: Estate, problems: Problems) -> None:
    """An error for each budget that carries more than it may; watts that are not known are left out."""
    for name, key, what, load, budget in _loads(estate):
        if budget is None or load <= budget:
            continue
        path = f"{name}/{key}"
        place = next((estate.places[p] for p in (path, name) if p in estate.places), Place(""))
        problems.add(
            "load-above-budget",
            f"{name.partition('/')[2]} carries {load:,} W today, and its {what} is {budget:,} W",
            place,
            "correct the budget or the watts of its servers, or move servers elsewhere",
        )


def _loads(estate: Estate) -> Iterator[tuple[str, str, str, int, int | None]]:
    """(path, key, what is declared, watts today, watts declared). A rack draws evenly from its feeds."""
    fleet = estate.fleet
    on = ((fleet.state == SERVING) | (fleet.state == SPARE)) & fleet.watts_known
    in_rack = on & (fleet.rack >= 0)
    racks = (
        np.bincount(fleet.rack[in_rack], fleet.watts[in_rack], len(estate.racks)).astype(np.int64).tolist()
    )
    sites = np.bincount(fleet.site[on], fleet.watts[on], len(estate.sites)).astype(np.int64).tolist()
    of_hall, of_feed = dict[str, int](), dict[str, int]()
    for rack, watts in zip(estate.racks, racks, strict=True):
        yield f"racks/{rack.id}", "power_budget", "power budget", watts, rack.power_budget_watts
        of_hall[rack.hall or ""] = of_hall.get(rack.hall or "", 0) + watts
        for name in rack.feeds:
            of_feed[name] = of_feed.get(name, 0) + watts // len(rack.feeds)
    for feed in estate.feeds:
        yield (
            f"feeds/{feed.id}",
            "power_budget",
            "power budget",
            of_feed.get(feed.id, 0),
            feed.power_budget_watts,
        )
    for hall in estate.halls:
        load = of_hall.get(hall.id, 0)
        yield f"halls/{hall.id}", "power_budget", "power budget", load, hall.power_budget_watts
        yield f"halls/{hall.id}", "cooling", "cooling", load, hall.cooling_watts
    for site, watts in zip(estate.sites, sites, strict=True):
        yield f"sites/{site.id}", "power_budget", "power budget", watts, site.power_budget_watts
