"""The fences that a promotion waits for. Pure.

Invariant: no promotion before every fence of its store is done or attested; a skipped one proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from evac.steps.registry import kind_of

if TYPE_CHECKING:
    from evac.run.view import RunView


def fences_of(view: RunView) -> dict[str, list[int]]:
    """Data set -> numbers of its fences in the present plan. A fence that a newer plan does by other means
    belongs to an earlier plan, so a skipped one is no longer required.
    """
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for i, step in enumerate(view.steps):
        if kind_of(step.kind).fences and i not in view.leftover:
            key, turn = (step.data_set or step.target, str(step.id.in_plan)), (step.id.turn, i)
            newest[key] = max(newest.get(key, turn), turn)
    found: dict[str, list[int]] = {}
    for (data_set, _), (_, i) in newest.items():
        found.setdefault(data_set, []).append(i)
    return found


LASTING: Final[frozenset[str]] = frozenset({"network", "power"})
"""Proofs that hold only while a device stays as it was set: someone may switch it back."""


def lasting_fences(view: RunView, step: str) -> list[str]:
    """Fences of the store that a step promotes which rely on a device, not on a person's word."""
    mine = view.steps[view.number(step)]
    fences = fences_of(view) if view.agenda is None else view.agenda.fences
    return [
        view.steps[i].id
        for i in fences.get(mine.data_set or mine.target, [])
        if view.phases[i] == "succeeded"
        and view.evidence.get(i, {}).get("proof") in LASTING
        and "attested_by" not in view.evidence[i]
    ]


def is_fenced(view: RunView, i: int, fences: Mapping[str, list[int]]) -> bool:
    """Whether every fence of the store that step i promotes is done or attested; a skipped one is not."""
    step = view.steps[i]
    mine = fences.get(step.data_set or step.target, [])
    return bool(mine) and all(view.phases[j] == "succeeded" for j in mine)
