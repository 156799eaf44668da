"""One event moves a run, or one of its steps, as the tables allow; other events are refused. Pure."""

from __future__ import annotations

from evac.model.errors import RunError
from evac.run.table import RUN_TABLE, STEP_TABLE
from evac.run.values import Event
from evac.run.view import RunView


def refused(view: RunView, event: Event, why: str) -> RunError:
    of = f" of {event.step}" if event.step else ""
    return RunError("event-refused", f"event {view.events}: {event.kind}{of} {why}", "run: evac run verify")


def run_moves(view: RunView, event: Event, trigger: str) -> None:
    new = RUN_TABLE.get((view.phase, trigger))
    if new is None:
        raise refused(view, event, f"is not allowed while the run is {view.phase}")
    if new != view.phase:
        view.phase, view.phase_ms = new, event.at_ms


def moves(view: RunView, event: Event, trigger: str) -> int:
    """Moves the step (and the run) by both tables; returns the step's number."""
    i = view.index.get(event[2], -1)
    if i < 0:
        raise refused(view, event, "does not name a step of this run")
    run = RUN_TABLE.get((view.phase, trigger))
    old = view.phases[i]
    new = STEP_TABLE.get((old, trigger))
    if run is None or new is None:
        raise refused(view, event, f"is not allowed: the run is {view.phase}, the step {old}")
    if run != view.phase:
        view.phase, view.phase_ms = run, event.at_ms
    if new != old:
        view.turn(i, new)
    elif view.watched:
        view.changed.append(i)
    return i


def of_attempt(view: RunView, event: Event) -> None:
    i = view.index.get(event[2], -1)
    if i >= 0 and view.attempts[i] != event[3]:
        raise refused(view, event, f"is for attempt {event[3]}; the step is at attempt {view.attempts[i]}")
