"""Chooses which plan of the library to make next. Pure: entries, scenarios and a time in, a choice out.

First plans come before better ones: no fitting plan is worse than one that could be improved. Among first
plans, single sites come first, then pairs of sites, then the domains whose loss affects most users.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Final, Literal

from evac.model.records import dataclass

Work = Literal["now", "make", "search", "confirm"]
"""now: the first fitting plan, before everything else, because a site burns. make: the first fitting plan.
search: a better one, in the time left. confirm: review the existing one.
"""

RANK: Final[Mapping[str, int]] = {"site": 0, "pair": 1}
KINDS: Final = ("site", "pair", "group", "hall", "feed")
RETRY_MS: Final = 15_000
RETRY_SHARE: Final = 20
"""Delay before retrying a scenario that got no plan; or this many times what the last try took, if longer: a
planner that crashed or ran out of time proves nothing about the estate.
"""


@dataclass(frozen=True, slots=True)
class Ready:
    """The library entry of one scenario."""

    lost: tuple[str, ...]
    plan: str
    """Digest; empty if no plan could be made, with the problem."""
    estate: str
    """Digest of the observed estate that it fits; empty if this version's checker did not accept it."""
    at_ms: int
    """Wall clock when it was made or last confirmed."""
    took_ms: int = 0
    problem: str = ""
    basis: str = ""
    """Its planning input, see `model.basis`."""
    kind: str = ""
    """Of the domain, or `pair`."""
    people: int = 0
    """Users without a service after the loss."""
    searched: bool = True
    """No better plan is searched for."""
    made_ms: int = 0
    """Of making it, without queueing."""


@dataclass(frozen=True, slots=True)
class WantedPlan:
    """A scenario that wants a plan."""

    lost: tuple[str, ...]
    kind: str
    """`site`, `pair`, or of the domain."""
    people: int = 0
    """See `Ready`."""
    takes: str = ""
    """Same for scenarios that can share one plan; empty if unknown."""

    @property
    def name(self) -> str:
        return "+".join(self.lost)


@dataclass(frozen=True, slots=True)
class Choice:
    wanted: WantedPlan
    work: Work


def scenarios_of(sites: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Each site and each pair, single ones first; at least one site always remains."""
    ordered = sorted(sites)
    single = [(site,) for site in ordered if len(ordered) > 1]
    pairs = list(combinations(ordered, 2)) if len(ordered) > 2 else []
    return (*single, *pairs)


def in_order(sites: Sequence[str], more: Sequence[WantedPlan]) -> tuple[WantedPlan, ...]:
    """All scenarios once each, most wanted first. more: details of those and of other domains."""
    known = {one.lost: one for one in more}
    kinds = ("site", "pair")
    first = [known.pop(lost, WantedPlan(lost, kinds[len(lost) - 1])) for lost in scenarios_of(sites)]
    rest = sorted(known.values(), key=lambda one: (RANK.get(one.kind, 2), -one.people, one.lost))
    return (*first, *(one for one in rest if one.lost))


def choose(
    wanted: Sequence[WantedPlan],
    ready: Mapping[tuple[str, ...], Ready],
    estate: str,
    busy: Collection[tuple[str, ...]],
    now_ms: int,
    most_age_ms: int,
    searches: bool,
) -> Choice | None:
    """What to do next; None if nothing is due.

    busy: scenarios being worked on; others that share their plan wait. most_age_ms: the longest time since
    the last review. searches: whether a search, which takes long, may begin.
    """
    taken = {one.takes for one in wanted if one.takes and one.lost in busy}
    free = [one for one in wanted if one.lost not in busy and one.takes not in taken]
    for one in free:
        found = ready.get(one.lost)
        if found is None or found.estate != estate:
            return Choice(one, "make")
    if searches:
        for one in free:
            found = ready[one.lost]
            if found.plan and not found.searched:
                return Choice(one, "search")
    for one in free:
        found = ready[one.lost]
        if not found.plan and now_ms - found.at_ms > max(RETRY_MS, RETRY_SHARE * found.took_ms):
            return Choice(one, "make")
        if found.at_ms < now_ms - most_age_ms:
            return Choice(one, "confirm")
    return None
