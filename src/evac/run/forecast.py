"""When everything is on, and each service back: what was learned so far, and the rest played forward. Pure.

Durations are learned for each kind of step and each predicted length (servers of one class are predicted
alike): what is to come is drawn from what was measured, slow ones and dead ones included, in an order that
is the same each time. The rest of the run is then played under the same limits, in the same order of starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from types import MappingProxyType
from typing import Final

from evac.model.step_id import StepId
from evac.run.agenda import Agenda
from evac.run.boots import outages, silent_servers
from evac.run.learning import Learned, Measured
from evac.run.values import RunStep
from evac.run.view import BUSY, RunView
from evac.steps.registry import kind_of

TURNS: Final = 400
"""Moments in the longest step: ends within one of them are taken together."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where a run is heading."""

    at_ms: int
    """When it was made; all times are of the wall clock, 0 where nothing can be said."""
    boots: int
    up: int
    """In all, and on by now."""
    floor: int
    """How many will not come up."""
    on_ms: int
    planned_on_ms: int
    """When the last boot ends, and when the plan said so."""
    end_ms: int
    """Of the run."""
    services: Mapping[str, int]
    """When each is back, those that are back left out."""
    learned: tuple[Learned, ...]
    waits: bool = False
    """Something waits for a person, and is taken as done at once."""


def forecast(view: RunView, now_ms: int) -> Forecast:
    """Where the run is heading, if nothing changes and nobody is waited for."""
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
    """The rest of the run on a copy of it. ends: step -> when it ends."""

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
        """What is under way ends as drawn; what only a person can settle is settled at once."""
        view = self.view
        again = view.boots.refused | silent_servers.are_waiting(view)
        for i, phase in enumerate(view.phases):
            if phase in ("pending", "ready") and (i in view.boots.gates or view.steps[i].gate):
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
        """Service -> when its last base check, or the move of its traffic, is done."""
        found: dict[str, int] = {}
        for i, step in enumerate(self.view.steps):
            kind = kind_of(step.kind)
            last = kind.moves_traffic or (kind.checks and StepId.parse(step.id).milestone == "base")
            if last and i in self.ends:
                found[step.target] = max(found.get(step.target, 0), self.ends[i])
        return dict(sorted(found.items()))
