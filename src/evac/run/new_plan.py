"""Another plan takes the place of the present one in the middle of a run. Pure.

What is done stays done, and what is under way goes on; the steps that have not begun are those of the new
plan. With tens of thousands of steps that takes a while, so it is done in parts: whoever has other things to
do takes over on a copy of the view, does them between two parts, and puts the copy in its place at the end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from evac.model.errors import RunError
from evac.run import boot_events, envelope, replan
from evac.run.limits import Limits
from evac.run.transitions import run_moves
from evac.run.values import Event, RunStep, StepPhase
from evac.run.view import BUSY, PART, RunView

STEP_SETS: Final = (
    "gates_open",
    "manual_running",
    "undo_wanted",
    "in_undo",
    "doubtful",
    "stuck",
    "undo_broken",
    "leftover",
    "quarantined",
    "blind",
    "hung",
    "cycled",
    "booting",
)
STEP_FACTS: Final = (
    "unclear",
    "undo_tries",
    "not_before",
    "evidence",
    "failures",
    "whys",
    "given_up",
    "turns",
    "signs",
    "served",
    "rush_ms",
)
"""Fields of the view that hold numbers of steps, and those that hold something for such a number."""


def count_approvals(view: RunView) -> None:
    """How many persons have agreed to all that the present plan needs."""
    needed = view.spec.envelope
    view.approvals = sum(1 for given in view.approved_by.values() if envelope.covers(given, needed))


def take_over(view: RunView, event: Event) -> Iterator[None]:
    """The view after `plan_replaced`, when the last part is done. Raises RunError in the first parts, for a
    plan that is unknown or cannot run.
    """
    run_moves(view, event, event.kind)
    attempts = _attempts(view)
    yield
    merged = yield from _merging(view, event.data["plan"], attempts, event.data.get("given_up") == "stays")
    yield
    origin = _origins(view, merged, event.data["plan"])
    before = _Before(view)
    yield
    yield from view.laying_out(
        replace(merged.spec, approvals=event.data.get("approvals", merged.spec.approvals))
    )
    view.origin = origin
    view.limits.carry_over(before.limits)
    view.carry_kept(before.kept, merged.renamed)
    if view.lost_servers:
        boot_events.reroute_all(view)
    view.past, view.renamed = attempts, {**view.renamed, **merged.renamed}
    view.plans.append(merged.spec.plan)
    view.bound = event.data.get("bound", "")
    view.lost = tuple(sorted({*view.lost, *event.data.get("lost", ())}))
    view.accounted = tuple(event.data.get("lost", ()))
    view.names = tuple(event.data.get("names", ()))
    view.monitoring_ms = 0
    view.agenda = None
    yield
    yield from _put_back(view, before, merged)
    boot_events.gate_tripped(view)
    count_approvals(view)


def _attempts(view: RunView) -> dict[str, int]:
    return view.past | {step.id: n for step, n in zip(view.steps, view.attempts, strict=True) if n}


def _merging(
    view: RunView, plan: str, attempts: Mapping[str, int], stays: bool
) -> Generator[None, None, replan.Merged]:
    """What the run executes from now on. stays: boots that were given up are not begun anew because the plan
    has them, too. Raises RunError for a plan that nobody has.
    """
    new = view.specs.get(plan)
    if new is None:
        raise RunError("plan-unknown", f"nobody has the plan {plan}", "put it into the store first")
    phases: dict[str, tuple[RunStep, StepPhase]] = {
        step.id: (step, phase) for step, phase in zip(view.steps, view.phases, strict=True)
    }
    left: set[str] = set()
    if view.given_up:  # servers for the floor stay known
        again = {step.id for step in new.steps}
        for i in view.given_up:
            step = view.steps[i]
            if step.id not in again:
                phases[step.id] = step, "skipped"
            elif stays:
                left.add(step.id)
    yield
    return (yield from replan.merging(phases, new, attempts, view.spec.limits, left))


def _origins(view: RunView, merged: replan.Merged, plan: str) -> dict[str, tuple[str, str]]:
    """Where each step comes from: kept ones from where they did, the others from the new plan."""
    names = {name: old for old, name in merged.renamed.items()}
    kept = merged.kept
    return {
        step.id: view.origin_of(step.id) if step.id in kept else (plan, names.get(step.id, step.id))
        for step in merged.spec.steps
    }


_Seen = dict[str, list[tuple[str, int]]]
"""Feed or boot server -> steps by id, and when."""


@dataclass(slots=True, init=False)
class _Before:
    """What was known of the steps before, by number, and by id where the new plan needs it so."""

    index: Mapping[str, int]
    phases: list[StepPhase]
    tries: list[int]
    started: list[int]
    ended: list[int]
    since: list[int]
    limits: Limits
    kept: Mapping[str, tuple[tuple[str, int], ...]]
    in_undo: frozenset[int]
    sets: dict[str, list[str]]
    facts: dict[str, list[tuple[str, Any]]]
    seen: tuple[_Seen, _Seen]

    def __init__(self, view: RunView) -> None:
        steps = view.steps
        self.index, self.phases, self.tries = view.index, view.phases, view.tries
        self.started, self.ended, self.since = view.started, view.ended, view.since
        self.limits, self.kept = view.limits, view.kept_by_step()
        self.sets = {name: [steps[i].id for i in getattr(view, name)] for name in STEP_SETS}
        self.facts = {
            name: [(steps[i].id, value) for i, value in getattr(view, name).items()] for name in STEP_FACTS
        }
        self.in_undo = frozenset(view.in_undo)
        gone, stalled = (
            {of: [(steps[i].id, at_ms) for i, at_ms in found.items()] for of, found in table.items()}
            for table in (view.gone, view.stalled)
        )
        self.seen = gone, stalled


def _put_back(view: RunView, before: _Before, merged: replan.Merged) -> Iterator[None]:
    """Gives kept steps their state back, and every step the number of its attempts so far."""
    kept, past = merged.kept, view.past
    for i, step in enumerate(view.steps):
        if i % PART == PART - 1:
            yield
        view.attempts[i] = past.get(step.id, 0)
        if step.id not in kept:
            continue
        j = before.index[step.id]
        view.tries[i], view.started[i], view.ended[i] = before.tries[j], before.started[j], before.ended[j]
        _turn_back(view, i, before, j)
        view.since[i] = before.since[j]
    yield
    for name, ids in before.sets.items():
        found = getattr(view, name)
        found.update(view.index[id] for id in ids if id in kept)
    for name, rows in before.facts.items():
        getattr(view, name).update((view.index[id], value) for id, value in rows if id in kept)
    view.leftover.update(view.index[id] for id in merged.leftover)
    view.gone, view.stalled = (
        {of: {view.index[id]: at_ms for id, at_ms in rows if id in view.index} for of, rows in table.items()}
        for table in before.seen
    )


def _turn_back(view: RunView, i: int, before: _Before, j: int) -> None:
    """Step i is as far as it was, when its number was j, with what it holds."""
    phase, since = before.phases[j], before.started[j]
    if phase in BUSY:
        for number, units, hold_ms in view.uses[i]:
            if not hold_ms:
                view.limits.take(((number, units, 0),), since)
    if phase == "undoing" or j in before.in_undo:
        view.turn(i, "succeeded")
    view.turn(i, phase)
