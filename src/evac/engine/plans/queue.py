"""Which plan of the drawer is made next. Pure: entries, a list of scenarios and a time in, a choice out.

First plans come before better ones: a scenario without a plan that fits is worse than a plan that could be
improved. Among these single sites come first, then pairs of sites, then the domains whose loss takes the
services of most people away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal

Work = Literal["now", "make", "search", "confirm"]
"""now: the first plan that fits, before everything else: a site burns. make: the first plan that fits.
search: a better one, in what time is left. confirm: the one that lies there is looked at again.
"""

RANK: Final[Mapping[str, int]] = {"site": 0, "pair": 1}
KINDS: Final = ("site", "pair", "group", "hall", "feed")
RETRY_MS: Final = 15_000
RETRY_SHARE: Final = 20
"""A scenario for which no plan could be made is tried again after so long, or after so many times what the
last try took where that is more: a planner that died or ran out of time says nothing about the estate.
"""


@dataclass(frozen=True, slots=True)
class Ready:
    """What lies in the drawer for one scenario."""

    lost: tuple[str, ...]
    plan: str
    """Digest, empty where none could be made, with the problem."""
    estate: str
    """The digest of the estate (as observed) that it fits; empty where the checker of this version did not
    accept it.
    """
    at_ms: int
    """Wall clock of its making, or of the last time that it was confirmed."""
    took_ms: int = 0
    problem: str = ""
    basis: str = ""
    """What the plan was made of, see `model.basis`."""
    kind: str = ""
    """Of the domain, or `pair`."""
    people: int = 0
    """Whom the loss leaves without a service."""
    searched: bool = True
    """No better one is looked for."""
    made_ms: int = 0
    """Of its making alone."""


@dataclass(frozen=True, slots=True)
class WantedPlan:
    """A scenario that wants a plan."""

    lost: tuple[str, ...]
    kind: str
    """`site`, `pair`, or of the domain."""
    people: int = 0
    """See `Ready`."""
    takes: str = ""
    """The same for scenarios of which one plan is enough, empty where that is not known."""

    @property
    def name(self) -> str:
        return "+".join(self.lost)


@dataclass(frozen=True, slots=True)
class Choice:
    wanted: WantedPlan
    work: Work


def scenarios_of(sites: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Each site and each pair, single ones first; never so many that none is left."""
    ordered = sorted(sites)
    single = [(site,) for site in ordered if len(ordered) > 1]
    pairs = list(combinations(ordered, 2)) if len(ordered) > 2 else []
    return (*single, *pairs)


def in_order(sites: Sequence[str], more: Sequence[WantedPlan]) -> tuple[WantedPlan, ...]:
    """All scenarios, what is wanted most first, each once. more: known of those, and of other domains."""
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
    """What is done next; None if everything is as it should be.

    busy: scenarios at which someone works; what shares its plan with one of them waits for that.
    most_age_ms: how long ago a plan may have been looked at last. searches: whether a search, which takes
    long, may begin.
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
