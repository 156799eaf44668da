"""A new plan midway through a run: completed and running steps stay, the rest is replaced. Pure.

A step has the same id in every plan, so a finished step is recognised and never repeated. If the new plan
means something else by the same id (the store is now promoted at another site, because the first one burnt as
well), that is another step: it gets the id with `~2` appended, and so its own key.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from evac.model.records import dataclass
from evac.model.step_id import StepId, act, is_another_act, plan_id
from evac.run.values import RunLimit, RunSpec, RunStep, StepPhase
from evac.steps.registry import kind_of

KEPT: Final = frozenset({"running", "unknown", "undoing", "succeeded", "skipped"})
"""Phases of steps that a new plan leaves alone."""

_PART: Final = 8_192
"""Steps per part."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a run executes after another plan has taken over."""

    spec: RunSpec
    """Steps of both plans."""
    renamed: Mapping[str, str]
    """Id in the new plan -> id in the run, if different."""
    kept: frozenset[str]
    leftover: frozenset[str]
    """Kept steps without a result that the new plan does not have."""


def ids_of(step: str, plans: int) -> Iterator[str]:
    """Ids that a plan's step may have in a run that has had this many plans, newest first."""
    for turn in range(plans + 1, 1, -1):
        yield act(step, turn)
    yield step


def merging(
    old: Mapping[str, tuple[RunStep, StepPhase]],
    new: RunSpec,
    attempts: Mapping[str, int],
    limits: Sequence[RunLimit] = (),
    left: Collection[str] = (),
) -> Generator[None, None, Merged]:
    """What the run executes from now on, in parts. old: its steps with their phases; attempts: of every
    step ever tried; limits: those in force so far; left: steps that stay unchanged whatever their phase.
    """
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
    """A running step continues under limits that the new plan lowered; it then uses them completely."""
    if all(units <= capacity[name] for name, units, _ in step.uses):
        return step
    uses = tuple((name, min(units, capacity[name]), hold_ms) for name, units, hold_ms in step.uses)
    return replace(step, uses=uses)


def _rewired(step: RunStep, known: set[str], names: Mapping[str, str]) -> RunStep:
    """The step with dependencies mapped to steps that exist. names: ids that differ in the run."""
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
    """The run's id for a new plan's step: its own, or the next free one if it is another act. several:
    whether the run has others with that id.
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
    """Whether a completed fence proves a fence of the new plan: same old primary, and for any candidate or
    for this one.
    """
    if was.kind != step.kind or not kind_of(step.kind).fences or phase != "succeeded" or not was.act:
        return False
    return was.data_set == step.data_set and step.act in (was.act, f"{was.act}>{step.act.partition('>')[2]}")
