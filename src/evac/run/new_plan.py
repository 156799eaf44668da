"""Replaces the plan of a run midway. Pure.

Completed steps stay, running ones continue, and steps that have not begun come from the new plan. With tens
of thousands of steps that takes a while, so it is done in parts: a caller with other work applies it to a
copy of the view, works between two parts, and installs the copy at the end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from evac.model.errors import RunError
from evac.model.records import dataclass
from evac.run import replan
from evac.run.boots import events as boot_events
from evac.run.boots.state import Boots
from evac.run.limits import Limits
from evac.run.table import run_moves
from evac.run.values import Event, RunStep, StepPhase, bound_in, made_ms, renumbered, renumbered_facts
from evac.run.view import BUSY, PART, Replaced, RunView, Undo

STEP_SETS: Final = ("gates_open", "manual_running", "doubtful", "stuck", "leftover")
STEP_FACTS: Final = ("unclear", "unseen", "not_before", "evidence", "failures", "whys", "asks", "interrupted")
"""Fields of the view that contain step numbers, and those keyed by them."""


def take_over(view: RunView, event: Event) -> Iterator[None]:
    """The view after `plan_replaced`, once the last part is done. The first parts raise RunError for a plan
    that is unknown or cannot run.
    """
    run_moves(view, event, event.kind)
    tried: dict[str, int] = {step.id: n for step, n in zip(view.steps, view.attempts, strict=True) if n}
    attempts = {**view.replaced.attempts, **tried}
    yield
    merged = yield from _merging(view, event.data["plan"], attempts, event.data.get("given_up") == "stays")
    yield
    origin = _origins(view, merged, event.data["plan"])
    before = _Before(view)
    yield
    yield from view.laying_out(
        replace(merged.spec, approvals=event.data.get("approvals", merged.spec.approvals))
    )
    view.replaced = Replaced(
        origin,
        attempts,
        {**view.replaced.renamed, **merged.renamed},
        tuple(sorted({*view.replaced.lost, *event.data.get("lost", ())})),
        tuple(event.data.get("lost", ())),
    )
    view.limits.carry_over(before.limits)
    view.carry_kept(before.kept, merged.renamed)
    if view.boots.lost_servers:
        boot_events.reroute_all(view)
    view.plans.append(merged.spec.plan)
    view.bound, view.made = bound_in(event.data), event.data.get("made", "")
    view.planned_ms.append(made_ms(view.made) or event.at_ms)
    view.approvals.to_type = tuple(event.data.get("names", ()))
    view.monitoring_ms = 0
    view.agenda = None
    yield
    yield from _put_back(view, before, merged)
    boot_events.gate_tripped(view)
    view.approvals.count(view.spec.envelope)


def _merging(
    view: RunView, plan: str, attempts: Mapping[str, int], stays: bool
) -> Generator[None, None, replan.Merged]:
    """What the run executes from now on. stays: given-up boots are not repeated just because the new plan has
    them. Raises RunError for an unknown plan.
    """
    new = view.specs.get(plan)
    if new is None:
        raise RunError("plan-unknown", f"plan {plan} was not found", "add it to the store first")
    phases: dict[str, tuple[RunStep, StepPhase]] = {
        step.id: (step, phase) for step, phase in zip(view.steps, view.phases, strict=True)
    }
    left: set[str] = set()
    if view.boots.given_up:  # servers for the floor stay known
        again = {step.id for step in new.steps}
        for i in view.boots.given_up:
            step = view.steps[i]
            if step.id not in again:
                phases[step.id] = step, "skipped"
            elif stays:
                left.add(step.id)
    yield
    return (yield from replan.merging(phases, new, attempts, view.spec.limits, left))


def _origins(view: RunView, merged: replan.Merged, plan: str) -> dict[str, tuple[str, str]]:
    """Origin of each step: kept ones keep theirs, the others come from the new plan."""
    names = {name: old for old, name in merged.renamed.items()}
    kept = merged.kept
    return {
        step.id: view.origin_of(step.id) if step.id in kept else (plan, names.get(step.id, step.id))
        for step in merged.spec.steps
    }


@dataclass(slots=True, init=False)
class _Before:
    """State of the steps before, by their old numbers."""

    steps: Sequence[RunStep]
    index: Mapping[str, int]
    phases: list[StepPhase]
    tries: list[int]
    started: list[int]
    ended: list[int]
    since: list[int]
    limits: Limits
    kept: Mapping[str, tuple[tuple[str, int], ...]]
    """What steps keep beyond their end, by id."""
    undo: Undo
    boots: Boots
    sets: dict[str, set[int]]
    """Fields of the view by name."""
    facts: dict[str, dict[int, Any]]

    def __init__(self, view: RunView) -> None:
        self.steps, self.index, self.phases, self.tries = view.steps, view.index, view.phases, view.tries
        self.started, self.ended, self.since = view.started, view.ended, view.since
        self.limits, self.kept = view.limits, view.kept_by_step()
        self.undo, self.boots = view.undo, view.boots
        self.sets = {name: getattr(view, name) for name in STEP_SETS}
        self.facts = {name: getattr(view, name) for name in STEP_FACTS}


def _put_back(view: RunView, before: _Before, merged: replan.Merged) -> Iterator[None]:
    """Restores the state of kept steps, and the number of attempts so far of every step."""
    kept, past = merged.kept, view.replaced.attempts
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

    def number_of(i: int) -> int | None:
        return view.index.get(before.steps[i].id)

    def number_if_kept(i: int) -> int | None:
        return number_of(i) if before.steps[i].id in kept else None

    for name, numbers in before.sets.items():
        getattr(view, name).update(renumbered(numbers, number_if_kept))
    for name, facts in before.facts.items():
        getattr(view, name).update(renumbered_facts(facts, number_if_kept))
    view.undo.carry_over(before.undo, number_if_kept)
    view.leftover.update(view.index[id] for id in merged.leftover)
    view.boots.carry_over(before.boots, number_of, number_if_kept)


def _turn_back(view: RunView, i: int, before: _Before, j: int) -> None:
    """Restores step i to its state under number j, with what it holds."""
    phase, since = before.phases[j], before.started[j]
    if phase in BUSY:
        for number, units, hold_ms in view.uses[i]:
            if not hold_ms:
                view.limits.take(((number, units, 0),), since)
    if phase == "undoing" or j in before.undo.unclear:
        view.turn(i, "succeeded")
    view.turn(i, phase)
