"""Power as the checker reads it: budgets, what is on without a boot, and the order in which a dark domain
gets power.

Written from docs/explanation/cold-start.md, deliberately not from `derive`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from evac.derive.domains import Loss
from evac.model.estate import Estate
from evac.model.fleet import CONDEMNED, SERVING, SPARE
from evac.model.instance import WHOLE, PowerStep, Use
from evac.model.reason import OffReason
from evac.model.scenario import Scenario
from evac.model.step_id import limit_id
from evac.model.units import UNLIMITED
from evac.verify.limits import Limits, usable

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Budgets:
    """Steady watts that feeds, halls, racks and sites can carry: the lowest stated value of each, less
    margin. What is unlimited has none.
    """

    def __init__(self, estate: Estate, scenario: Scenario) -> None:
        said = [(feed.id, feed.power_budget_watts) for feed in estate.feeds]
        for hall in estate.halls:
            said += [(hall.id, hall.power_budget_watts), (hall.id, hall.cooling_watts)]
        said += [(rack.id, rack.power_budget_watts) for rack in estate.racks]
        said += [(site.id, site.power_budget_watts) for site in estate.sites]
        least: dict[str, int] = {}
        for name, watts in (*said, *scenario.power):
            if watts is not None and watts < UNLIMITED:
                least[name] = min(watts, least.get(name, watts))
        number = {name: row for row, name in enumerate(least)}
        self.names = tuple(least)
        self.watts = np.array([usable(watts, estate) for watts in least.values()], np.int64)
        feeds = max((len(rack.feeds) for rack in estate.racks), default=0)
        self._of_rack = np.full((len(estate.racks) + 1, feeds + 2), -1, np.int64)
        for row, rack in enumerate(estate.racks):
            above = (*rack.feeds, rack.hall or "", rack.id)
            self._of_rack[row, : len(above)] = [number.get(name, -1) for name in above]
        self._of_site = np.array([number.get(site.id, -1) for site in estate.sites] + [-1], np.int64)

    def of(self, rack: Ints, site: Ints) -> Ints:
        """(N, C) budget numbers of what is in a rack and at a site; -1: none or unknown."""
        return np.column_stack([self._of_rack[rack], self._of_site[site]])

    def draw(self, rack: Ints, site: Ints, watts: Ints) -> Ints:
        """(budgets,) watts that N loads draw from each."""
        drawn = np.zeros(len(self.names) + 1, np.int64)
        np.add.at(drawn, self.of(rack, site), watts[:, None])
        return drawn[:-1]


class Power:
    """What is on without a boot, and how a restored domain gets its power, feed after feed.

    Arrays of racks have R + 1 entries: the last is for servers without a known rack.
    """

    def __init__(self, estate: Estate, lost: Loss, scenario: Scenario, limits: Limits) -> None:
        self.estate, self.limits, self.budgets = estate, limits, Budgets(estate, scenario)
        fleet, racks = estate.fleet, len(estate.racks)
        self.rack, self.site = fleet.rack.astype(np.int64), fleet.site.astype(np.int64)
        restored, was_on = scenario.kind == "restore", np.isin(fleet.state, (SERVING, SPARE))
        seen = lost.servers & (fleet.state != CONDEMNED) & _named(estate, scenario.on if restored else ())
        self.dark: Bools = lost.servers & ~seen
        """(V,) servers without power at first."""
        self.rises: Bools = self.dark & (fleet.state != CONDEMNED) & restored
        """(V,) servers that a restore brings up."""
        self.on: Bools = seen | (was_on if scenario.kind == "failback" else was_on & ~lost.servers)
        """(V,) servers on without a boot; those of `by_itself` later than others."""
        self.by_itself: Bools = np.zeros(len(fleet), np.bool_)
        """(V,) servers that come on with their power."""
        self.steps: list[PowerStep] = []
        self.power_at, self.least, self.network = np.zeros((3, racks + 1), np.int64)
        """Ticks at which racks have power, whatever the order of feeds, and from then until their switches
        and BMCs answer.
        """
        self.step_of = np.full(racks + 1, -1, np.int64)
        """Number of the power step that racks wait for, -1: none."""
        self.refused: dict[int, OffReason] = {}
        """Rack -> why it stays without power."""
        if restored and self.dark.any():
            self._restore(lost, was_on, seen)

    def _restore(self, lost: Loss, was_on: Bools, seen: Bools) -> None:
        estate, fleet, racks = self.estate, self.estate.fleet, self.estate.racks
        row_of_site = {site.id: row for row, site in enumerate(estate.sites)}
        self._rack_site = np.array([row_of_site[rack.site] for rack in racks], np.int64)
        lit = np.zeros(len(racks) + 1, np.bool_)
        lit[self.rack[seen]] = True
        dark_racks = lost.racks & ~lit[:-1]
        feed_row = {feed.id: row for row, feed in enumerate(estate.feeds)}
        links = [(feed_row[feed], row) for row, rack in enumerate(racks) for feed in rack.feeds]
        self._feed, self._fed = np.array(links, np.int64).reshape(len(links), 2).T
        """Feed and rack of every line between the two."""
        fed = np.bincount(self._feed, minlength=len(feed_row))
        fed_dark = np.bincount(self._feed[dark_racks[self._fed]], minlength=len(feed_row))
        has_power = {rack.feeds[0] for row, rack in enumerate(racks) if lit[row] and len(rack.feeds) == 1}
        lost_feeds = lost.feeds & np.array([feed.id not in has_power for feed in estate.feeds], np.bool_)
        dark_feeds = (fed > 0) & (lost_feeds | (fed == fed_dark))
        feeds_of = np.bincount(self._fed, minlength=len(racks))
        live = np.zeros(len(racks), np.bool_)
        live[self._fed[~dark_feeds[self._feed]]] = True
        self._waits: Bools = dark_racks & ~live & (feeds_of > 0)
        policy = [
            estate.classes[row].power_on if row >= 0 else None for row in range(-1, len(estate.classes))
        ]
        always, as_before = (np.array([one == word for one in policy], np.bool_) for word in ("on", "last"))
        here = self.rises & np.append(self._waits, False)[self.rack]
        self.by_itself = here & (
            always[fleet.server_class + 1] | (as_before[fleet.server_class + 1] & was_on)
        )
        self._loads(dark_racks & ~live)
        drawn = self.on & fleet.watts_known
        self._load = self.budgets.draw(self.rack[drawn], self.site[drawn], fleet.watts[drawn])
        self._least(np.flatnonzero(dark_feeds), self._waits.copy())
        self._close_all(np.flatnonzero(dark_feeds).tolist())
        self._without_feeds(np.flatnonzero(dark_racks & (feeds_of == 0)))
        self.least = np.minimum(self.least, self.power_at)
        self.by_itself &= ~self.is_refused[self.rack]
        self.on = self.on | self.by_itself

    @property
    def is_refused(self) -> Bools:
        found = np.zeros(len(self.step_of), np.bool_)
        found[list(self.refused)] = True
        return found

    def _loads(self, dark: Bools) -> None:
        """By rack: servers that come up; for those that come on by themselves their watts, and their inrush
        with its ticks.
        """
        fleet, limits, classes = self.estate.fleet, self.limits, self.estate.classes
        self._rising, self._watts, self._inrush, self._lasts = np.zeros((4, len(self.step_of)), np.int64)
        lasts = np.array([0, *(limits.ticks(one.inrush_ms) for one in classes)], np.int64)
        inrush = np.array([0, *(one.inrush_watts or 0 for one in classes)], np.int64) * (lasts > 0)
        np.add.at(self._rising, self.rack[self.rises], 1)
        known = self.by_itself & fleet.watts_known
        np.add.at(self._watts, self.rack[known], fleet.watts[known])
        rack, kind = self.rack[self.by_itself], fleet.server_class[self.by_itself] + 1
        np.add.at(self._inrush, rack, inrush[kind])
        np.maximum.at(self._lasts, rack, lasts[kind])
        up = {hall.id: limits.ticks(hall.network_up_ms) for hall in self.estate.halls}
        self.network[:-1] = [up.get(rack.hall or "", 0) for rack in self.estate.racks]
        self.network[:-1][~dark] = 0

    def _closing(self, feed: int) -> tuple[int, bool]:
        """Ticks to close a feed, and whether a person does it."""
        one = self.estate.feeds[feed]
        if any(endpoint.subject == one.id for endpoint in self.estate.endpoints):
            return self.limits.ticks(one.close_ms), False
        return self.limits.ticks(self.estate.limits.manual_ms.get("power", 0)), True

    def _least(self, feeds: Ints, waits: Bools) -> None:
        """The earliest power of each rack: if its quickest feed is closed first."""
        quickest = np.full(len(waits), np.iinfo(np.int64).max)
        for feed in feeds.tolist():
            racks = self._fed[self._feed == feed]
            quickest[racks] = np.minimum(quickest[racks], self._closing(feed)[0])
        self.least[:-1][waits] = quickest[waits]

    def _close_all(self, feeds: list[int]) -> None:
        """Next is the feed that powers most servers without power; ties go to the first by id."""
        self._holds: dict[int, list[tuple[int, int, int]]] = {}
        while feeds:
            gain = np.bincount(
                self._feed, (self._rising[:-1] * self._waits)[self._fed], len(self.estate.feeds)
            )
            feed = min(feeds, key=lambda row: (-gain[row], self.estate.feeds[row].id))
            feeds.remove(feed)
            self._close(feed)
        for rack in np.flatnonzero(self._waits).tolist():
            self.refused.setdefault(rack, OffReason("power-late"))

    def _close(self, feed: int) -> None:
        """Closes a feed as a whole, or first without the outlets of servers that come on by themselves, and
        then rack by rack.
        """
        racks = self._fed[(self._feed == feed) & self._waits[self._fed]]
        rising = racks[(self._watts[racks] > 0) | (self._inrush[racks] > 0)]
        at_once = racks if self._breaks(rising) is None else np.setdiff1d(racks, rising)
        length, by_hand = self._closing(feed)
        step = self._step(self.estate.feeds[feed].id, length, by_hand, at_once, ())
        if step < 0 or len(at_once) == len(racks):
            return
        by_hand_ticks = self.limits.ticks(self.estate.limits.manual_ms.get("power", 0))
        for rack in rising.tolist():
            alone = np.array([rack])
            why = self._breaks(alone)
            if why is not None:
                self.refused[rack], self._waits[rack] = why, False
            else:
                self._step(self.estate.racks[rack].id, by_hand_ticks, True, alone, (step,))

    def _breaks(self, racks: Ints) -> OffReason | None:
        """The budget exceeded if these racks come on at once; None if none."""
        if not len(racks):
            return None
        load = self._load + self.budgets.draw(racks, self._rack_site[racks], self._watts[racks])
        for number in np.flatnonzero(load > self.budgets.watts)[:1].tolist():
            name, limit = self.budgets.names[number], int(self.budgets.watts[number])
            return OffReason("above-power-budget", name, int(load[number]), limit)
        for feed, watts in self._inrush_of(racks):
            number = self.limits.number.get(limit_id("inrush", feed))
            if number is not None and watts > self.limits.rows[number].capacity:
                return OffReason("above-inrush-limit", feed, watts, self.limits.rows[number].capacity)
        return None

    def _inrush_of(self, racks: Ints) -> list[tuple[str, int]]:
        """Inrush watts that racks draw from each of their feeds; zeros left out."""
        drawn: dict[str, int] = {}
        for rack, watts in zip(racks.tolist(), self._inrush[racks].tolist(), strict=True):
            for feed in self.estate.racks[rack].feeds if watts else ():
                drawn[feed] = drawn.get(feed, 0) + watts
        return sorted(drawn.items())

    def _step(self, target: str, length: int, by_hand: bool, racks: Ints, after: tuple[int, ...]) -> int:
        """Powers racks as early as limits allow; returns the number of the step, -1: never."""
        uses = self.limits.hold("hands") if by_hand else ()
        for feed, watts in self._inrush_of(racks):
            uses += self.limits.hold(limit_id("inrush", feed), watts, length, int(self._lasts[racks].max()))
        start = self._earliest(uses, length, max((self.steps[number].end for number in after), default=0))
        if start + length > self.limits.horizon:
            return -1
        for use in uses:
            begin = start + use.offset
            line = begin, begin + (length if use.hold == WHOLE else use.hold), use.units
            self._holds.setdefault(use.limit, []).append(line)
        self.steps.append(PowerStep(target, start, start + length, uses, by_hand, after))
        self.power_at[racks], self.step_of[racks] = start + length, len(self.steps) - 1
        self._waits[racks] = False
        self._load += self.budgets.draw(racks, self._rack_site[racks], self._watts[racks])
        return len(self.steps) - 1

    def _earliest(self, uses: Iterable[Use], length: int, since: int) -> int:
        """First tick from `since` on at which all uses fit; after the horizon: never.

        Either everything fits at once, or something that was in the way has just ended.
        """
        starts, full = np.array([since], np.int64), []
        for use in uses:
            left = self.limits.rows[use.limit].capacity - use.units
            if left < 0:
                return self.limits.horizon + 1
            begin, end = _stretches(self._holds.get(use.limit, []), left)
            full.append((use, begin, end))
            starts = np.append(starts, end - use.offset)
        fits = starts >= since
        for use, begin, end in full:
            first = starts + use.offset
            last = first + (length if use.hold == WHOLE else use.hold)
            fits &= np.searchsorted(begin, last, "left") == np.searchsorted(end, first, "right")
        return int(starts[fits].min())

    def _without_feeds(self, racks: Ints) -> None:
        """Racks without a known feed have power when all steps of the site have ended."""
        site_of = {feed.id: feed.site for feed in self.estate.feeds}
        site_of |= {rack.id: rack.site for rack in self.estate.racks}
        last: dict[str, int] = {}
        for step in self.steps:
            last[site_of[step.target]] = max(step.end, last.get(site_of[step.target], 0))
        for rack in racks.tolist():
            self.power_at[rack] = last.get(self.estate.racks[rack].site, 0)
        self.power_at[-1] = max(last.values(), default=0)


def _named(estate: Estate, names: tuple[str, ...]) -> Bools:
    """(V,) servers of these names."""
    if not names:
        return np.zeros(len(estate.fleet), np.bool_)
    return np.isin(estate.fleet.name, np.array([name.encode() for name in names], "S"))


def _stretches(held: list[tuple[int, int, int]], left: int) -> tuple[Ints, Ints]:
    """First ticks and ends of the intervals with more than `left` units held, in order."""
    changes: dict[int, int] = {}
    for begin, end, units in held:
        changes[begin] = changes.get(begin, 0) + units
        changes[end] = changes.get(end, 0) - units
    ticks = sorted(changes)
    over = np.cumsum([changes[tick] for tick in ticks])[:-1] > left
    order = np.array(ticks, np.int64)
    return order[:-1][over], order[1:][over]
