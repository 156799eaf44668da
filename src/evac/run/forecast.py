"""Forecasts when everything is on and each service restored, by learning from the run so far and simulating
the rest. Pure.

Durations are learned per kind of step and predicted length (servers of one class have the same prediction):
future ones are drawn from measured ones, slow and failed ones included, in a deterministic order. The rest of
the run is then simulated under the same limits, in the same order of starts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from heapq import heappop, heappush
from types import MappingProxyType
from typing import Final

from evac.model.records import dataclass
from evac.model.step_id import MOVED
from evac.run.agenda import Agenda
from evac.run.boots import outages, silent_servers
from evac.run.values import RunStep
from evac.run.view import BUSY, RunView
from evac.steps.registry import kind_of

GOLDEN: Final = 0.6180339887498949
"""Multiples of this, modulo one, are evenly spread, however many are taken."""
PRIOR: Final = 4
"""While fewer were measured, the prediction counts as well."""
LATE_SHARE: Final = 4
"""A step that has run longer than anything measured is assumed to have a quarter of that time left."""


@dataclass(frozen=True, slots=True)
class LearnedRow:
    """For one kind and predicted length: successful steps, failed ones, and the mean of measured over
    predicted, in permille.
    """

    kind: str
    predicted_ms: int
    measured: int
    failed: int
    permille: int


class _Alike:
    """Steps that are alike: sorted permille of the prediction of successful ones; failed: how many failed.
    least: the minimum that the longest-running one has already reached.
    """

    __slots__ = ("drawn", "failed", "found", "least")

    def __init__(self) -> None:
        self.found: list[int] = []
        self.failed = self.drawn = self.least = 0

    def draw(self, beyond: int) -> int:
        """The next permille above `beyond`."""
        self.drawn += 1
        first = bisect_right(self.found, beyond) if beyond else 0
        left = len(self.found) - first
        spread = self.drawn * GOLDEN % 1.0
        if beyond and not left:
            return max(1_000 if not self.found else 0, self.least, beyond + beyond // LATE_SHARE)
        if not left or (len(self.found) < PRIOR and spread * PRIOR >= len(self.found)):
            return max(1_000, beyond, self.least)
        return self.found[first + int(spread * left)]


class Measured:
    """failing: sorted durations of failed boots; share: rate of failed boots."""

    def __init__(self, view: RunView, now_ms: int) -> None:
        self._alike: dict[tuple[str, int], _Alike] = {}
        self._waiting = silent_servers.are_waiting(view)
        self.failing: list[int] = []
        boots = []
        for i, step in enumerate(view.steps):
            if view.attempts[i] and step.duration_ms and not step.manual:
                self._measure(view, i, now_ms)
                if kind_of(step.kind).boots:
                    boots.append(i)
        for alike in self._alike.values():
            alike.found.sort()
        self.failing.sort()
        self.share = self._share(view, boots, now_ms)
        booted = (one for (kind, _), one in self._alike.items() if kind_of(kind).boots)
        self._most = max(booted, key=lambda one: len(one.found), default=_Alike())
        self._owed = 0.0
        self._failed = 0

    def _measure(self, view: RunView, i: int, now_ms: int) -> None:
        step, phase = view.steps[i], view.phases[i]
        alike = self._alike.setdefault((step.kind, step.duration_ms), _Alike())
        if phase == "running":
            alike.least = max(alike.least, (now_ms - view.started[i]) * 1_000 // step.duration_ms)
        if view.ended[i] < view.started[i]:
            return
        took_ms = view.ended[i] - view.started[i]
        if phase == "succeeded":
            alike.found.append(took_ms * 1_000 // step.duration_ms)
        elif i in view.boots.refused or i in self._waiting:
            return  # says nothing about the server: it is retried once the cause is fixed
        elif i in view.boots.quarantined or phase == "failed":
            alike.failed += 1
            if kind_of(step.kind).boots:
                self.failing.append(took_ms * max(1, view.tries[i]))

    def _share(self, view: RunView, boots: list[int], now_ms: int) -> float:
        """Failure rate of boots begun so long ago that failing ones have failed."""
        if not self.failing:
            return 0.0
        most_ms = self.failing[len(self.failing) * 9 // 10]
        begun = sum(1 for i in boots if i in view.boots.quarantined or view.started[i] <= now_ms - most_ms)
        return len(self.failing) / max(begun, len(self.failing), 1)

    def next_failure(self, ran_ms: int) -> int:
        """How long the next boot takes to fail, spread evenly by the rate; -1: it comes up. ran_ms: how long
        it has already run.
        """
        if not self.failing or ran_ms >= self.failing[-1]:
            return -1
        self._owed += self.share
        if self._owed < 1.0:
            return -1
        self._owed -= 1.0
        self._failed += 1
        return max(ran_ms, self.failing[int(self._failed * GOLDEN % 1.0 * len(self.failing))])

    def next_permille(self, step: RunStep, ran_ms: int) -> int:
        """Permille of the prediction that the next such step takes: from similar steps or, for a boot of a
        class with none up yet, from the class with most measurements.
        """
        alike, boots = self._alike.get((step.kind, step.duration_ms)), kind_of(step.kind).boots
        beyond = ran_ms * 1_000 // step.duration_ms
        if alike is not None and (alike.found or not boots):
            return alike.draw(beyond)
        least = 0 if alike is None else alike.least
        return max(least, self._most.draw(beyond) if boots else 1_000)

    def summary(self) -> tuple[LearnedRow, ...]:
        return tuple(
            LearnedRow(kind, predicted, len(one.found), one.failed, sum(one.found) // max(1, len(one.found)))
            for (kind, predicted), one in sorted(self._alike.items())
        )


TURNS: Final = 400
"""Resolution: ends within this fraction of the longest step are handled together."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where a run is heading."""

    at_ms: int
    """When it was made; all times are wall clock, 0 if unknown."""
    boots: int
    up: int
    """Total, and on by now."""
    floor: int
    """How many will not come up."""
    on_ms: int
    planned_on_ms: int
    """When the last boot ends, and when the plan said it would."""
    end_ms: int
    """End of the run."""
    services: Mapping[str, int]
    """When each service is restored, except those already restored."""
    learned: tuple[LearnedRow, ...]
    waits: bool = False
    """Something waits for a person and is assumed to be done at once."""


def forecast(view: RunView, now_ms: int) -> Forecast:
    """The expected course if nothing changes and no person is waited for."""
    measured = Measured(view, now_ms)
    play = _Play(view, now_ms, measured)
    play.run()
    boots = [i for i, step in enumerate(view.steps) if kind_of(step.kind).boots]
    planned = max((view.steps[i].start_ms + view.steps[i].duration_ms for i in boots), default=0)
    again = sum(outages.held(view, server) for server in view.boots.unreplaced)
    open_ones = view.boots.refused | silent_servers.are_waiting(view)
    gone = len(view.boots.quarantined - open_ones)
    lost = gone - again + sum(1 for i in boots if view.phases[i] == "failed" and i not in open_ones)
    return Forecast(
        now_ms,
        len(boots),
        sum(1 for i in boots if view.phases[i] == "succeeded"),
        lost + play.floor,
        max((play.ends.get(i, view.ended[i]) for i in boots), default=0),
        max(view.started_ms, 0) + planned if boots else 0,
        play.now_ms,
        MappingProxyType(play.services()),
        measured.summary(),
        play.waits,
    )


class _Play:
    """The rest of the run, on a copy of it. ends: step -> when it ends."""

    def __init__(self, view: RunView, now_ms: int, measured: Measured) -> None:
        self.now_ms, self.floor, self.ends = now_ms, 0, dict[int, int]()
        self.measured = measured
        self.waits = view.phase in ("paused", "awaiting_approval", "pending") or bool(view.held)
        self.view = view.fork()
        self.view.phase, self.view.pause, self.view.held = "running", None, ""
        self.view.boots.tripped.clear()
        self.waits = self.waits or bool(self.view.boots.unreplaced)
        self.view.boots.unreplaced.clear()
        self.under_way: list[tuple[int, int]] = []
        self.quantum = max(100, max((s.duration_ms for s in view.steps), default=0) // TURNS)
        self._prepare()

    def _prepare(self) -> None:
        """Running steps end as drawn; what only a person can settle is settled at once."""
        view = self.view
        again = view.boots.refused | silent_servers.are_waiting(view)
        for i, phase in enumerate(view.phases):
            if phase in ("pending", "ready") and view.stated_gate(i):
                self.waits = self.waits or phase == "ready"
                view.gates_open.add(i)
            if phase in BUSY:
                self.waits = self.waits or i in view.manual_running
                heappush(self.under_way, (self._end_of(i, view.started[i]), i))
            elif i in again:
                self.waits = True
                view.tries[i] = 0
                view.turn(i, "ready")
            elif phase == "failed":
                self.waits = self.waits or i not in view.boots.given_up
                view.turn(i, "skipped")

    def run(self) -> None:
        view, agenda = self.view, Agenda(self.view, self.now_ms)
        while True:
            agenda.follow(view, self.now_ms)
            for i in agenda.spent:
                if view.phases[i] == "ready":
                    view.turn(i, "skipped")
            agenda.spent, agenda.stuck, agenda.observe = [], [], []
            while (i := agenda.next_start(view)) >= 0:
                self._begin(i)
            then = self._next(agenda)
            if then is None:
                return
            self.now_ms = max(then, self.now_ms)
            while self.under_way and self.under_way[0][0] <= self.now_ms:
                self._end(heappop(self.under_way)[1])

    def _next(self, agenda: Agenda) -> int | None:
        times = [self.under_way[0][0]] if self.under_way else []
        timed = self.view.limits.next_ms()
        if timed is not None and any(any(parked.values()) for parked in agenda.parked.values()):
            times.append(self._on_grid(timed))
        if agenda.asleep and agenda.timers:
            times.append(max(agenda.timers[0][0], self.now_ms + 1))
        return min(times, default=None)

    def _on_grid(self, at_ms: int) -> int:
        return -(-at_ms // self.quantum) * self.quantum

    def _begin(self, i: int) -> None:
        view = self.view
        view.attempts[i] += 1
        view.started[i] = self.now_ms
        if view.uses[i]:
            view.limits.take(view.needs(i), self.now_ms)
            view.keep(i, view.attempts[i])
        view.turn(i, "running")
        heappush(self.under_way, (self._end_of(i, self.now_ms), i))

    def _end_of(self, i: int, begun: int) -> int:
        step = self.view.steps[i]
        if not step.duration_ms or step.manual:
            return max(self.now_ms, begun + step.duration_ms)
        return self._on_grid(max(self.now_ms, self._drawn(step, begun)))

    def _drawn(self, step: RunStep, begun: int) -> int:
        ran_ms = self.now_ms - begun
        if kind_of(step.kind).boots and (fails_ms := self.measured.next_failure(ran_ms)) >= 0:
            self.floor += 1
            return begun + fails_ms
        return begun + self.measured.next_permille(step, ran_ms) * step.duration_ms // 1_000

    def _end(self, i: int) -> None:
        self.ends[i] = self.view.ended[i] = self.now_ms
        self.view.turn(i, "succeeded")

    def services(self) -> dict[str, int]:
        """Service -> when its last base check, or its traffic shift, is done."""
        found: dict[str, int] = {}
        for i, step in enumerate(self.view.steps):
            kind = kind_of(step.kind)
            last = kind.moves_traffic or (kind.checks and step.id.milestone in ("base", MOVED))
            if last and i in self.ends:
                found[step.target] = max(found.get(step.target, 0), self.ends[i])
        return dict(sorted(found.items()))
