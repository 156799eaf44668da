"""Room that would be there if lower tiers made way, and how long sheds take to make it: for rule F17."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.verify.reading import Reading
from evac.verify.room import Final

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NEVER = 2**60


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """Rows on which a replica would fit, as columns: pool; the tick from which the row is on; ticks of the
    shortest shed it takes: of one in the plan, and of one that is not (NEVER: none, 0: it takes no shed).
    """

    pool: Ints
    on: Ints
    done: Ints
    due: Ints


class Leaving:
    """What of lower tiers makes way for a service: `may` (S,) may leave, and of that `sheddable` (S,) may be
    shed where it stood before the plan."""

    def __init__(self, reading: Reading, final: Final, may: Bools, sheddable: Bools, service: int) -> None:
        self._reading, self._final, self._service = reading, final, service
        s = reading.instance.services
        lower = (s.tier > s.tier[service]) & may
        stood = final.count - final.started
        self._standing = np.where((lower & sheddable)[final.service], np.maximum(stood, 0), 0)
        """Replicas of each final binding that stood there before the plan."""
        self._started = np.where(lower[final.service], np.minimum(final.started, final.count), 0)
        """Replicas of each final binding that the plan started."""

    def anything(self) -> bool:
        """Whether a lower tier keeps or gets anything where the service may run."""
        instance = self._reading.instance
        here = instance.eligible[self._service][instance.rows.pool[self._final.row]]
        return bool((here & (self._standing + self._started > 0)).any())

    def room(self, free: Ints) -> tuple[int, Ready]:
        """Replicas that would fit if all of it made way: an upper count, by rows, racks, feeds and sites;
        and the rows that would take one. free: (V, R) room as things stand at the end."""
        instance, final, service = self._reading.instance, self._final, self._service
        s, rows = instance.services, instance.rows
        room = free.copy()
        held = s.demand[final.service] * (self._standing + self._started)[:, None]
        np.add.at(room, final.row, held)
        demand = s.demand[service]
        needs = np.flatnonzero(demand)
        fit = (room[:, needs] // demand[needs]).min(axis=1) if len(needs) else np.full(len(rows), 2**31)
        mine = np.zeros(len(rows), np.int64)
        np.add.at(mine, final.row[final.service == service], final.count[final.service == service])
        each = 1 if s.conflict[service] >= 0 else 2**31
        fit = np.where(rows.is_pool, fit, np.minimum(fit, np.minimum(s.per_server[service] - mine, each)))
        fit = np.where(instance.eligible[service][rows.pool], np.maximum(fit, 0), 0)
        most = _within_spread(self._reading, service, fit, mine)
        return most, self._ready(room, np.flatnonzero(fit > 0))

    def _ready(self, room: Ints, fit: NDArray[np.intp]) -> Ready:
        """When rows that would take a replica could do so."""
        reading, final = self._reading, self._final
        s, rows = reading.instance.services, reading.instance.rows
        on = np.zeros(len(rows), np.int64)
        for row, timed in reading.boots.items():
            on[row] = timed.end
        before, done = room.copy(), np.full(len(rows), NEVER, np.int64)
        for victim, steps in reading.sheds.items():
            for timed in steps:
                for row, gone in timed.rows:
                    before[row] -= gone * s.demand[victim]
                    done[row] = min(done[row], s.shed[victim])
        at, due = np.flatnonzero(self._standing), np.full(len(rows), NEVER, np.int64)
        np.subtract.at(before, final.row[at], s.demand[final.service[at]] * self._standing[at, None])
        np.minimum.at(due, final.row[at], s.shed[final.service[at]])
        done[(before >= s.demand[self._service]).all(axis=1)] = 0
        return Ready(rows.pool[fit].astype(np.int64), on[fit], done[fit], due[fit])


def _within_spread(reading: Reading, service: int, fit: Ints, mine: Ints) -> int:
    """Most replicas that spread leaves of what fits row by row, an upper count.

    Racks, feeds and sites need not lie in one another. The count is the least of those by racks, by feeds and
    by sites alone, and of one after the other: there, what a rack takes counts for each feed and each site it
    lies in, and what a feed takes for each of its sites.
    """
    rows, s = reading.instance.rows, reading.instance.services
    rack, feed = (np.where(rows.is_pool, -1, place) for place in (rows.rack, rows.feed_group))
    levels = tuple(zip((rack, feed, rows.site), (s.rack_cap, s.feed_cap, s.site_cap), strict=True))
    parts, all_of_it, least = np.column_stack([rack, feed, rows.site]).astype(np.int64), fit, int(fit.sum())
    for place, cap in levels:
        known = place >= 0
        have = np.bincount(place[known], mine[known], int(place.max(initial=0)) + 1).astype(np.int64)
        left = np.maximum(int(cap[service]) - have, 0)
        total = np.bincount(place[known], all_of_it[known], len(left)).astype(np.int64)
        least = min(least, int(np.minimum(total, left).sum() + all_of_it[~known].sum()))
        parts, part = np.unique(parts, axis=0, return_inverse=True)
        total = np.bincount(part.reshape(-1), fit, len(parts)).astype(np.int64)
        first, parts = parts[:, 0], parts[:, 1:]
        fit = np.where(first >= 0, np.minimum(total, left[first]), total)
    return min(least, int(fit.sum()))
