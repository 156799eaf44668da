"""A small world for runs: it carries effects out as a script or a seed says, and keeps every event.

It stands where the engine stands, without time of its own: durations are added to the present.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from evac.run.decide import decide, next_ms, withdraw
from evac.run.patience import again_ms
from evac.run.state import RunView, apply
from evac.run.values import ENDED, Effect, Event, RunSpec

Outcome = Callable[[str, int], str]
"""(step, attempt) -> ok, retry, refuse, lost (done, and nobody knows), gone (not done, and nobody knows)."""


def created(spec: RunSpec, at_ms: int = 0) -> Event:
    return Event("run_created", at_ms, data={"run": spec.run, "plan": spec.plan})


@dataclass
class World:
    """done: what is true outside. acts: (step, attempt) of every execution, in order."""

    spec: RunSpec
    outcome: Outcome = lambda step, attempt: "ok"
    takes_ms: Callable[[str], int] = lambda step: 100
    others: Sequence[RunSpec] = ()
    now_ms: int = 0
    token: int = 1
    events: list[Event] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    acts: list[tuple[str, int]] = field(default_factory=list)
    pending: list[tuple[int, int, Event]] = field(default_factory=list)
    view: RunView = field(init=False)

    def __post_init__(self) -> None:
        self.view = RunView(self.spec, self.others)

    def put(self, event: Event) -> None:
        self.events.append(event)
        apply(self.view, event)

    def say(self, kind: str, step: str = "", attempt: int = 0, **data: object) -> None:
        self.put(Event(kind, self.now_ms, step, attempt, data))

    def begin(self) -> None:
        self.put(created(self.spec, self.now_ms))

    def take_over(self, events: Sequence[Event]) -> None:
        """A new leader: the journal as it is, and none of what was in flight."""
        self.events, self.pending = [], []
        self.view = RunView(self.spec, self.others)
        for event in events:
            self.put(event)
        self.token += 1
        if self.view.created and self.view.phase not in ENDED:
            self.say("leader_changed", owner=f"c{self.token}", token=self.token)

    def perform(self, effect: Effect) -> None:
        step, attempt = effect.step, effect.attempt
        if effect.kind == "record":
            assert effect.event is not None
            self.put(effect.event)
        elif effect.kind == "start":
            self.say("step_started", step, attempt, token=self.token)
            if not self.view.steps[self.view.index[step]].manual:
                self._execute(step, attempt)
        elif effect.kind == "observe":
            outcome = "done" if step in self.done else "absent"
            self._later(50, Event("step_observed", 0, step, attempt, {"outcome": outcome}))
        elif effect.kind == "undo":
            self.say("undo_started", step, attempt, token=self.token)
            self.done.discard(step)
            self._later(self.takes_ms(step), Event("undo_done", 0, step, attempt, {}))

    def _execute(self, step: str, attempt: int) -> None:
        self.acts.append((step, attempt))
        outcome = self.outcome(step, attempt)
        if outcome in ("ok", "lost"):
            self.done.add(step)
        kind, data = "step_succeeded", {}
        if outcome in ("retry", "refuse"):
            tries = self.view.tries[self.view.index[step]]
            wait = again_ms(self.view.spec.patience, tries) if outcome == "retry" else -1
            kind, data = "step_failed", {"code": outcome, "message": "", "again_ms": wait}
        elif outcome in ("lost", "gone"):
            kind, data = "step_unknown", {"message": "no answer"}
        self._later(self.takes_ms(step), Event(kind, 0, step, attempt, data))

    def _later(self, after_ms: int, event: Event) -> None:
        at_ms = self.now_ms + after_ms
        heappush(
            self.pending, (at_ms, len(self.events) * 1000 + len(self.pending), event._replace(at_ms=at_ms))
        )

    def settle(self) -> None:
        """Carries out everything that is due now."""
        while effects := decide(self.view, self.now_ms):
            for effect in effects:
                self.perform(effect)

    def step(self) -> bool:
        """Everything due now, then on to the next moment; False where there is none."""
        self.settle()
        times = [self.pending[0][0]] if self.pending else []
        wake = next_ms(self.view)
        if wake is not None:
            times.append(max(wake, self.now_ms + 1) if not self.pending else wake)
        if self.view.phase in ENDED or not times:
            return False
        self.now_ms = max(self.now_ms, min(times))
        while self.pending and self.pending[0][0] <= self.now_ms:
            self._land(heappop(self.pending)[2])
        return True

    def _land(self, event: Event) -> None:
        """A result, as the engine takes it: what was decided of its step meanwhile stands over it."""
        i = self.view.index.get(event.step, -1)
        expected = {"step_observed": "unknown", "undo_done": "undoing"}.get(event.kind, "running")
        if i < 0 or (self.view.phases[i], self.view.attempts[i]) == (expected, event.attempt):
            self.put(event)
        else:
            withdraw(self.view, event.step)

    def finish(self, most: int = 10_000) -> str:
        """Runs until the end, or until a person is needed; the phase then."""
        while self.step():
            most -= 1
            assert most, f"the run does not end: {self.view.phase}, {self.view.counts}"
        return self.view.phase


def overused(spec: RunSpec, events: Sequence[Event]) -> list[str]:
    """Limits that were exceeded, counted from the events alone and not as evac counts."""
    steps = {step.id: step for step in spec.steps}
    found = []
    for limit in spec.limits:
        begun: list[tuple[int, int]] = []
        held: dict[str, int] = {}
        for event in events:
            units = sum(u for name, u, _ in steps[event.step].uses if name == limit.id) if event.step else 0
            if event.kind in ("step_started", "undo_started") and units:
                begun = [one for one in begun if one[0] > event.at_ms - limit.window_ms]
                begun.append((event.at_ms, units))
                held[event.step] = units
            elif event.kind in _RESULTS and event.data.get("outcome") != "unclear":
                held.pop(event.step, None)
            used = sum(u for _, u in begun) if limit.kind == "rate" else sum(held.values())
            if used > limit.capacity:
                found.append(f"{limit.id} at {event.at_ms}: {used}")
    return found


_RESULTS = frozenset(
    {
        "step_succeeded",
        "step_failed",
        "step_observed",
        "step_skipped",
        "step_attested",
        "undo_done",
        "undo_failed",
    }
)


def seeded_outcomes(seed: int) -> Outcome:
    """The same for the same step and attempt, whatever the order of calls."""

    def outcome(step: str, attempt: int) -> str:
        chance = random.Random(f"{seed}/{step}/{attempt}").random()
        if attempt >= 3:
            return "ok"
        return "ok" if chance < 0.6 else "retry" if chance < 0.75 else "lost" if chance < 0.9 else "gone"

    return outcome
