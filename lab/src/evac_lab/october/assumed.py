"""Every number that decides an hour of the story, with where it comes from, read from the estate itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from evac.model.estate import Estate
from evac.views.october_page import PUBLISHED_POWER_MS, Assumption
from evac.views.words import duration, number, percent
from evac_lab.october.playing import FASTEST_PERMILLE, SLOWEST_PERMILLE

_PRESS: Final = "published: reports on the outage of 15 October 2022"
UNKNOWN_SOURCE: Final = "assumed"


def assumptions(
    estate: Estate, site: str, share_permille: int, faults: Mapping[str, int]
) -> tuple[Assumption, ...]:
    """share_permille: of the power that is back; faults: words -> permille of the servers."""
    sources = {fact.path: fact.source or UNKNOWN_SOURCE for fact in estate.facts}

    def source(path: str) -> str:
        parts = path.split("/")
        found = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((sources[one] for one in found if one in sources), UNKNOWN_SOURCE)

    return (
        Assumption("servers in the building", number(_servers_at(estate, site)), source(f"sites/{site}")),
        Assumption("power is back after", duration(PUBLISHED_POWER_MS), f"{_PRESS}: most of it, after a day"),
        Assumption(
            "power that is back at first",
            percent(share_permille),
            f"{_PRESS}; that all feeds get the same share is assumed",
        ),
        Assumption("until the loss is believed", duration(estate.detection_ms), source("detection")),
        Assumption("until a plan is approved", duration(estate.approval_ms), source("approval")),
        *_classes(estate, source),
        *_hands(estate, source),
        *(
            Assumption(words, percent(permille), "assumed: no figure was published; drawn from the seed")
            for words, permille in sorted(faults.items())
        ),
        Assumption(
            "how long steps take beside the plan",
            f"{FASTEST_PERMILLE / 10:g} to {SLOWEST_PERMILLE / 10:g} %",
            "assumed: drawn from the seed for each step; boots are timed by the simulated fleet",
        ),
        Assumption("messages can be sent", "messenger-chat-front", source("services/messenger-chat-front")),
    )


def _servers_at(estate: Estate, site: str) -> int:
    row = next(n for n, one in enumerate(estate.sites) if one.id == site)
    return int((estate.fleet.site == row).sum())


def _classes(estate: Estate, source: Callable[[str], str]) -> Iterator[Assumption]:
    for one in estate.classes:
        if one.boot_ms is not None:
            where = source(f"classes/{one.id}")
            yield Assumption(f"boot of a {one.id} server", duration(one.boot_ms), where)


def _hands(estate: Estate, source: Callable[[str], str]) -> Iterator[Assumption]:
    limits = estate.limits
    if limits.hands_at_once:
        where = source("limits")
        yield Assumption("people on the floor", number(limits.hands_at_once), where)
        for kind, least in sorted(limits.manual_ms.items()):
            yield Assumption(f"{kind} by hand takes at least", duration(least), where)
