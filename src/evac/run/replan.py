"""A new plan in the middle of a run: what is done stays, what is under way stays, the rest is replaced. Pure.

The id of a step is the same in every plan, so a finished step is known by it and never done again. Where the
new plan means another thing by the same id (the store is now to be promoted in another site, because the
first one burnt as well), that is another step: it gets the id with `~2` behind it, and so a key of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from evac.model.step_id import StepId, act, is_another_act, plan_id
from evac.run.values import RunLimit, RunSpec, RunStep, StepPhase
from evac.steps.registry import kind_of

KEPT: Final = frozenset({"running", "unknown", "undoing", "succeeded", "skipped"})
"""Phases of steps that a new plan does not touch."""

_PART: Final = 8_192
"""Steps at a time."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a run executes once another plan has taken over."""

    spec: RunSpec
    """The steps of both plans."""
    renamed: Mapping[str, str]
    """Id in the new plan -> id in the run, where they differ."""
    kept: frozenset[str]
    leftover: frozenset[str]
    """Kept steps that the new plan does not have and that have no result yet."""


def ids_of(step: str, plans: int) -> Iterator[str]:
    """The ids that a step of a plan may have in a run that has had so many plans, the newest first."""
    for turn in range(plans + 1, 1, -1):
        yield act(step, turn)
    yield step


def merge(
    old: Mapping[str, tuple[RunStep, StepPhase]],
    new: RunSpec,
    attempts: Mapping[str, int],
    limits: Sequence[RunLimit] = (),
) -> Merged:
    """What the run executes from now on. old: steps of the run with their phases; attempts: of every step
    that the run ever tried; limits: those that held so far.
    """
    parts = merging(old, new, attempts, limits)
    while True:
        try:
            next(parts)
        except StopIteration as done:
            return cast(Merged, done.value)


def merging(
    old: Mapping[str, tuple[RunStep, StepPhase]],
    new: RunSpec,
    attempts: Mapping[str, int],
    limits: Sequence[RunLimit] = (),
    left: Collection[str] = (),
) -> Generator[None, None, Merged]:
    """As `merge`, in parts. left: steps that stay as they are whatever their phase."""
    mine = {limit.id for limit in new.limits}
    new = replace(new, limits=(*new.limits, *(limit for limit in limits if limit.id not in mine)))
    capacity = {limit.id: limit.capacity for limit in new.limits}
    several = {plan_id(name) for name in (*old, *attempts) if is_another_act(name)}
    yield
    names: dict[str, str] = {}
    for i, step in enumerate(new.steps):
        if i % _PART == _PART - 1:
            yield
        names[step.id] = _name(step, old, attempts, step.id in several)
    renamed = {plan: name for plan, name in names.items() if plan != name}
    kept = {name for name, (_, phase) in old.items() if phase in KEPT} | set(left)
    wanted = set(names.values())
    known = kept | wanted
    yield
    steps = [
        _rewired(_fitting(old[name][0], capacity), known, {})
        for name in old
        if name in kept and name not in wanted
    ]
    yield
    for i, step in enumerate(new.steps):
        if i % _PART == _PART - 1:
            yield
        name = names[step.id]
        if name in kept:
            steps.append(_rewired(_fitting(old[name][0], capacity), known, {}))
        else:
            step = _rewired(step, known, renamed)
            steps.append(step if step.id == name else replace(step, id=StepId.parse(name)))
    leftover = {
        name for name in kept if name not in wanted and old[name][1] in ("running", "unknown", "undoing")
    }
    return Merged(replace(new, steps=tuple(steps)), renamed, frozenset(kept), frozenset(leftover))


def _fitting(step: RunStep, capacity: Mapping[str, int]) -> RunStep:
    """What is under way goes on under limits that the new plan made smaller; it then takes all of them."""
    if all(units <= capacity[name] for name, units, _ in step.uses):
        return step
    uses = tuple((name, min(units, capacity[name]), hold_ms) for name, units, hold_ms in step.uses)
    return replace(step, uses=uses)


def _rewired(step: RunStep, known: set[str], names: Mapping[str, str]) -> RunStep:
    """The step, after what there is of what it was after. names: those that are others in the run."""
    after = step.after
    if known.issuperset(after) and names.keys().isdisjoint(after):
        return step
    return replace(step, after=tuple(n for n in (names.get(name, name) for name in after) if n in known))


def _name(
    step: RunStep,
    old: Mapping[str, tuple[RunStep, StepPhase]],
    attempts: Mapping[str, int],
    several: bool,
) -> str:
    """The id of a new plan's step in the run: its own, or the next free one if that is another act. several:
    whether the run knows others of it.
    """
    name, turn = step.id, 1
    while several:
        again = act(step.id, turn + 1)
        if again not in old and again not in attempts:
            break
        turn, name = turn + 1, again
    if name in old:
        was, phase = old[name]
        begun = phase in KEPT or attempts.get(name, 0) > 0
        if begun and not _same_act(was, step) and not _is_fenced_by(was, phase, step):
            return act(step.id, turn + 1)
    return name


def _same_act(a: RunStep, b: RunStep) -> bool:
    return (a.kind, a.target, a.site, a.data_set, a.act) == (b.kind, b.target, b.site, b.data_set, b.act)


def _is_fenced_by(was: RunStep, phase: StepPhase, step: RunStep) -> bool:
    """Whether a fence of the new plan is proved by one that is complete: of the same old primary, and for any
    candidate or for this one.
    """
    if was.kind != step.kind or not kind_of(step.kind).fences or phase != "succeeded" or not was.act:
        return False
    return was.data_set == step.data_set and step.act in (was.act, f"{was.act}>{step.act.partition('>')[2]}")
