"""Links and ingress that may be too small for the traffic after each loss of an audit."""

from __future__ import annotations

from typing import Final

import numpy as np

from evac.audit.impacts.hits import Ground
from evac.audit.impacts.losses import LossKind
from evac.derive.congestion import congested_and_maybe, congested_today, screened
from evac.derive.domains import lost_with
from evac.model.plan import Congestion, Measure
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class After:
    """What arrives after one loss where it is too much."""

    certain: tuple[Congestion, ...]
    """Whatever the plan is."""
    possible: tuple[Congestion, ...]
    """By some plan; these include the certain ones."""
    short: frozenset[Measure]
    """Measures in which all ingress that is left is too small for all that may run."""


_LARGEST_FIRST: Final[tuple[LossKind, ...]] = (
    "site",
    "group",
    "pair",
    "hall",
    "feed",
    "provider",
    "rack",
    "server",
)
ADDED_MOST: Final = 500_000
"""Sums of a service at a link or ingress that all losses below whole sites cost together, at most."""


class Crowding:
    """Of all losses. Only what a loss itself changes counts for it; what is too small without any loss is in
    `today`. What a loss below a site changes is added up only if it may be too much at all, and for
    the largest of many losses; what others may send is an upper bound: it may say that traffic may be too
    much where every plan fits, and never the opposite.
    """

    def __init__(self, ground: Ground) -> None:
        self._top, self._losses = ground.top, ground.losses
        hosts = ground.endpoints.marked(*ground.lost.shape)
        found = screened(ground.top, ground.lost - ground.presence.off, hosts, ground.loose)
        self._at, self._possible = found.at, found.possible
        self.today = congested_today(ground.top)
        """Links and ingress that are too small now, or may be. Sorted."""
        whole = ground.losses.sites.any(axis=1)
        below = np.flatnonzero(found.possible.any(axis=1) & ~whole).tolist()
        below.sort(key=lambda number: (_LARGEST_FIRST.index(ground.losses.kinds[number]), number))
        most = ADDED_MOST // max(1, len(found.at) * ground.lost.shape[1])
        added = [*np.flatnonzero(whole).tolist(), *below[:most]]
        self._added = {number: self._add_up(number) for number in added}
        self._asked = dict[int, After]()

    def _add_up(self, number: int) -> After:
        return After(*congested_and_maybe(self._top, lost_with(self._top, self._losses.members[number])))

    def is_added(self, number: int) -> bool:
        """Whether the traffic after a loss was added up from the start. What is said of a loss follows from
        that alone, whatever was asked before.
        """
        return number in self._added

    def of(self, number: int) -> After:
        """The sums after one loss; nothing is added up if everything fits."""
        if not self.at(number):
            return After((), (), frozenset())
        if number in self._added:
            return self._added[number]
        if number not in self._asked:
            self._asked[number] = self._add_up(number)
        return self._asked[number]

    def is_certain(self, number: int) -> bool:
        """Whether the traffic is too much for something whatever the plan is; without a sum, not known."""
        return number in self._added and any(one.is_certain for one in self._added[number].certain)

    def at(self, number: int) -> tuple[tuple[tuple[str, ...], Measure], ...]:
        """The links and ingress that may be too small after a loss, sorted."""
        if number in self._added:
            return tuple((one.at, one.measure) for one in self._added[number].possible)
        return tuple(sorted(self._at[column] for column in np.flatnonzero(self._possible[number]).tolist()))
