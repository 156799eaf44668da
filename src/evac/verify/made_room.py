"""Capacity that would be free if lower tiers made way, and how long sheds take to free it: for rule F17."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evac.verify.capacity import FinalPlacement, free_room
from evac.verify.reading import Reading

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


class EndState:
    """How things stand at the end of a plan, and what of it is the same for every service that asks."""

    def __init__(self, reading: Reading, final: FinalPlacement) -> None:
        self.reading, self.final = reading, final
        self.stood: Ints = np.maximum(final.count - final.started, 0)
        """Replicas of each final binding that stood there before the plan."""
        self.started: Ints = np.minimum(final.started, final.count)
        """Replicas of each final binding that the plan started."""
        self._first = np.searchsorted(final.service, np.arange(len(reading.instance.services) + 1))

    def bindings(self, service: int) -> slice:
        """Final bindings of a service: one a row."""
        return slice(int(self._first[service]), int(self._first[service + 1]))

    def standing(self, service: int) -> int:
        return int(self.final.count[self.bindings(service)].sum())

    @cached_property
    def free(self) -> Ints:
        """(V, R) room as things stand at the end."""
        return free_room(self.reading.instance, self.final, self.reading)

    @cached_property
    def pools(self) -> tuple[Bools, Bools]:
        """(S, P) each: pools in which the plan started any of a service, and in which any of it is."""
        instance, final = self.reading.instance, self.final
        started, any_of_it = np.zeros((2, *instance.eligible.shape), np.bool_)
        for table, count in ((started, self.started), (any_of_it, self.stood + self.started)):
            at = np.flatnonzero(count > 0)
            table[final.service[at], instance.rows.pool[final.row[at]]] = True
        return started, any_of_it

    @cached_property
    def on(self) -> Ints:
        """(V,) ticks from which rows are on."""
        on = np.zeros(len(self.reading.instance.rows), np.int64)
        for row, timed in self.reading.boots.items():
            on[row] = timed.end
        return on

    @cached_property
    def shed(self) -> tuple[Ints, Ints]:
        """(V, R) room that sheds of the plan make; (V,) ticks of the shortest of them, or NEVER."""
        reading, s = self.reading, self.reading.instance.services
        lines = [
            (victim, row, gone)
            for victim, steps in reading.sheds.items()
            for timed in steps
            for row, gone in timed.rows
        ]
        victim, row, gone = np.array(lines, np.int64).reshape(len(lines), 3).T
        made, done = np.zeros_like(self.free), np.full(len(self.free), NEVER, np.int64)
        _add(made, row, s.demand[victim] * gone[:, None])
        np.minimum.at(done, row, s.shed[victim])
        return made, done

    @cached_property
    def spread(self) -> _Spread:
        return _Spread(self.reading)


class _Spread:
    """Racks, feeds and sites, and how they lie in one another, which they need not."""

    def __init__(self, reading: Reading) -> None:
        rows, s = reading.instance.rows, reading.instance.services
        rack, feed = (np.where(rows.is_pool, -1, place) for place in (rows.rack, rows.feed_group))
        parts = np.column_stack([rack, feed, rows.site]).astype(np.int64)
        self._levels = []
        for place, cap in ((rack, s.rack_cap), (feed, s.feed_cap), (rows.site, s.site_cap)):
            parts, part = np.unique(parts, axis=0, return_inverse=True)
            self._levels.append((place, cap, parts[:, 0], part.reshape(-1)))
            parts = parts[:, 1:]

    def most(self, service: int, fit: Ints, mine: Ints) -> int:
        """Most replicas that spread leaves of what fits row by row, an upper count. fit, mine: (V,) what
        would fit, and what is there.

        The count is the least of those by racks, by feeds and by sites alone, and of one after the other:
        there, what a rack takes counts for each feed and each site it lies in, and what a feed takes for each
        of its sites.
        """
        all_of_it, least = fit, int(fit.sum())
        for place, cap, first, part in self._levels:
            known = place >= 0
            have = np.bincount(place[known], mine[known], int(place.max(initial=0)) + 1).astype(np.int64)
            left = np.maximum(int(cap[service]) - have, 0)
            total = np.bincount(place[known], all_of_it[known], len(left)).astype(np.int64)
            least = min(least, int(np.minimum(total, left).sum() + all_of_it[~known].sum()))
            total = np.bincount(part, fit, len(first)).astype(np.int64)
            fit = np.where(first >= 0, np.minimum(total, left[first]), total)
        return min(least, int(fit.sum()))


class Displaced:
    """What of lower tiers makes way for a service: `may` (S,) may leave, and of that `sheddable` (S,) may be
    shed where it stood before the plan."""

    def __init__(self, end_state: EndState, may: Bools, sheddable: Bools, service: int) -> None:
        self._end_state, self._service = end_state, service
        s = end_state.reading.instance.services
        self._lower = (s.tier > s.tier[service]) & may
        self._shed = self._lower & sheddable

    def anything(self) -> bool:
        """Whether a lower tier keeps or gets anything where the service may run."""
        eligible = self._end_state.reading.instance.eligible[self._service]
        started, any_of_it = self._end_state.pools
        there = started[self._lower & ~self._shed].any(axis=0) | any_of_it[self._shed].any(axis=0)
        return bool((there & eligible).any())

    def room(self) -> tuple[int, Ready]:
        """Replicas that would fit if all of it made way: an upper count, by rows, racks, feeds and sites;
        and the rows that would take one.
        """
        end_state, service = self._end_state, self._service
        instance, final = end_state.reading.instance, end_state.final
        s, rows = instance.services, instance.rows
        stood = np.where(self._shed[final.service], end_state.stood, 0)
        leaves = stood + np.where(self._lower[final.service], end_state.started, 0)
        at, room = np.flatnonzero(leaves), end_state.free.copy()
        _add(room, final.row[at], s.demand[final.service[at]] * leaves[at, None])
        fit = np.full(len(rows), 2**31, np.int64)
        for turn, resource in enumerate(np.flatnonzero(s.demand[service]).tolist()):
            part = room[:, resource] // s.demand[service, resource]
            fit = np.minimum(fit, part) if turn else part
        mine, own = np.zeros(len(rows), np.int64), end_state.bindings(service)
        mine[final.row[own]] = final.count[own]
        each = 1 if s.conflict[service] >= 0 else 2**31
        fit = np.where(rows.is_pool, fit, np.minimum(fit, np.minimum(s.per_server[service] - mine, each)))
        fit = np.where(instance.eligible[service][rows.pool], np.maximum(fit, 0), 0)
        return end_state.spread.most(service, fit, mine), self._ready(room, stood, np.flatnonzero(fit > 0))

    def _ready(self, room: Ints, stood: Ints, fit: NDArray[np.intp]) -> Ready:
        """When rows that would take a replica could do so. room: with all that leaves; stood: of each final
        binding what a shed has to take away.
        """
        end_state, final = self._end_state, self._end_state.final
        s, rows = end_state.reading.instance.services, end_state.reading.instance.rows
        made, shortest = end_state.shed
        before, done, due = room - made, shortest.copy(), np.full(len(rows), NEVER, np.int64)
        at = np.flatnonzero(stood)
        _add(before, final.row[at], -s.demand[final.service[at]] * stood[at, None])
        np.minimum.at(due, final.row[at], s.shed[final.service[at]])
        done[(before >= s.demand[self._service]).all(axis=1)] = 0
        return Ready(rows.pool[fit].astype(np.int64), end_state.on[fit], done[fit], due[fit])


def _add(room: Ints, row: Ints, amounts: Ints) -> None:
    """Adds (N, R) amounts to (V, R) rows, some of which come several times."""
    for resource, amount in enumerate(amounts.T):
        np.add.at(room[:, resource], row, np.ascontiguousarray(amount))
