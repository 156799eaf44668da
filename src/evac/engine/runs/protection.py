"""Which copies confirm commits after a run: steps added to the plan, and stores left without one.

A promotion sets who confirms from its first commit if policy names the next copy. Otherwise a copy must
follow first, and a separate step then makes it confirm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evac.derive.domains import site_of
from evac.derive.stores import loses_confirming, primary_site, wants_confirming
from evac.drivers.port import Action
from evac.drivers.registry import DRIVERS, spec_of
from evac.engine.runs.ground import Ground
from evac.engine.runs.step_actions import is_protected_by_us, protect_action, release_action
from evac.model.estate import Store
from evac.model.records import dataclass
from evac.model.step_id import StepId
from evac.run.values import RunStep
from evac.steps.protect import Protect
from evac.steps.registry import kind_of

REJOIN_MS: Final = 60_000
"""Archiving and rewinding a copy's own writes takes as long as there are writes, and nothing waits for it."""
PROTECT_MS: Final = 1_000


def rejoin_ms(actions: Sequence[Action]) -> int:
    """How long one try of a rejoin may take. Only the agent knows whether a member has to be rebuilt, so any
    rejoin through it has the time of a rebuild, also if the agent falls silent.
    """
    specs = (spec_of(action.driver) for action in actions if action.driver not in DRIVERS)
    return max(REJOIN_MS, *(spec.on_site_ms for spec in specs if spec is not None), 0)


@dataclass(frozen=True, slots=True)
class Protection:
    """steps: make copies confirm commits again. missing: stores that the run leaves without one."""

    steps: tuple[tuple[RunStep, Action], ...]
    missing: tuple[str, ...]


def protection_after(
    ground: Ground, steps: Sequence[RunStep], actions: Mapping[str, tuple[Action, ...]]
) -> Protection:
    """For each store that the run moves or repoints a copy of: a failover, return or way home ends with a
    copy that confirms every commit if the store may lose nothing or had one before. The copy must follow
    first; until then commits would hang.

    A silent copy keeps its role, so one that confirmed may have stopped since it was last seen: where a run
    repoints the only one, it makes sure that it confirms.
    """
    found: list[tuple[RunStep, Action]] = []
    missing: list[str] = []
    for name, store in sorted(ground.stores.items()):
        promotes = [s for s in steps if s.target == name and kind_of(s.kind).makes_primary]
        follows = [s for s in steps if s.target == name and kind_of(s.kind).follows]
        confirming = [site_of(ground.top, m.at) for m in store.members if m.mode == "sync"]
        had_copy = bool(confirming)
        primary = ground.candidates.get(name, "") or primary_site(ground.top, store)
        if not (promotes or follows):
            released = _release(ground, store, steps)
            if released is not None:
                found.append(released)
                if not released[1].parameters["synchronous"]:
                    missing.append(name)
            elif _stays_unconfirmed(ground, store, primary) or _is_unconfirmed(ground, store, primary):
                missing.append(name)
            continue
        if not wants_confirming(ground.top, store) or not is_protected_by_us(ground, store, primary):
            continue
        promoting = [action for step in promotes for action in actions[step.id] if action.verb == "promote"]
        if any(action.parameters.get("synchronous") for action in promoting):
            continue
        if had_copy and not promotes:
            follows = [step for step in follows if [_copy_of(actions[step.id])] == confirming]
            if not follows:
                continue
        refused = ground.policy.store(name).on_sync_loss == "async" and ground.plan.scenario.kind == "lose"
        made = None
        for follow in () if refused else follows:
            copy = _copy_of(actions[follow.id])
            action = protect_action(ground, store, primary, copy) if copy not in ("", primary) else None
            if action is not None:
                after = (follow.id, *(step.id for step in promotes))
                made = _protect_step(action, follow.start_ms + follow.duration_ms, after), action
                break
        if made is not None:
            found.append(made)
        elif store.rpo_ms == 0 and (promotes or not had_copy):
            missing.append(name)
    return Protection(tuple(found), tuple(missing))


def _release(ground: Ground, store: Store, steps: Sequence[RunStep]) -> tuple[RunStep, Action] | None:
    """The step that releases the commits that a step of the run awaits, if a person would have to."""
    waits = (s for s in steps if s.target == store.id and kind_of(s.kind).awaits_commits)
    awaited = next(waits, None)
    action = None if awaited is None or awaited.manual else release_action(ground, store)
    if awaited is None or action is None:
        return None
    return _protect_step(action, awaited.start_ms, awaited.after), action


def _copy_of(actions: Sequence[Action]) -> str:
    """The site of the copy that a step makes follow; empty if a person does it."""
    return next((action.at for action in actions if action.verb == "rejoin"), "")


def _stays_unconfirmed(ground: Ground, store: Store, primary: str) -> bool:
    """Whether the loss takes every copy that confirms the commits of a remaining primary, and no run by evac
    itself makes another copy, or none, confirm them.
    """
    gone = tuple((site_of(ground.top, member.at) or "") in ground.left for member in store.members)
    answered = ground.policy.mode != "advise" and ground.policy.store(store.id).on_sync_loss != "ask"
    lost = ground.plan.scenario.kind == "lose" and loses_confirming(store, gone)
    return lost and not answered and is_protected_by_us(ground, store, primary)


def _is_unconfirmed(ground: Ground, store: Store, primary: str) -> bool:
    """Whether a store that may lose nothing, with a copy in what is lost, has a primary elsewhere, and none
    that confirms its commits: someone promoted it before, and no run of evac is due for it.
    """
    hit = any(of == store.id for of, _ in ground.dead) and primary not in ("", *ground.left)
    bare = store.rpo_ms == 0 and not any(member.mode == "sync" for member in store.members)
    lost = ground.plan.scenario.kind == "lose"
    return lost and hit and bare and is_protected_by_us(ground, store, primary)


def _protect_step(action: Action, start_ms: int, after: Sequence[str]) -> RunStep:
    return RunStep(
        id=StepId(Protect.name, action.target),
        kind=Protect.name,
        target=action.target,
        start_ms=start_ms,
        duration_ms=PROTECT_MS,
        after=tuple(dict.fromkeys(after)),
        data_set=action.target,
        site=action.at,
        deadline_ms=REJOIN_MS,
    )
