"""EV123: automation that would undo a step of recovery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity
from evac.model.estate import Automation
from evac.steps.registry import PLANNED

_PAUSE: Final = {
    True: "it can be paused",
    False: "it cannot be paused",
    None: "it is not stated whether it can be paused",
}
_RECOVERING: Final = frozenset(
    kind.name
    for kind in PLANNED.values()
    if kind.boots or kind.makes_primary or kind.moves_traffic or kind.replicas > 0
)


def check(context: Context) -> Iterator[Finding]:
    """Error if it cannot be paused and would undo what a loss makes necessary; note if it can be.

    Warning if that is unknown, if it does not say what it manages, or if it would undo only what frees
    capacity.
    """
    for item in context.estate.automations:
        if not item.undoes:
            continue
        losses = _needed(context, item)
        severity = _severity(item, bool(losses))
        managed = listed(item.manages) if item.manages else "it is unknown what it manages"
        yield RULE.finding(
            context,
            severity,
            item.id,
            f"{item.kind} {item.id} undoes {', '.join(item.undoes)} ({managed});"
            f" {_PAUSE[item.can_be_paused]}",
            "Make it pausable and pause it first in every plan, or change its desired state.",
            losses=losses,
            paths=(f"automations/{item.id}/can_be_paused", f"automations/{item.id}"),
        )


def _severity(item: Automation, needed: bool) -> Severity:
    if item.can_be_paused:
        return "note"
    if item.can_be_paused is False and needed and _RECOVERING & set(item.undoes):
        return "error"
    return "warning"


def _needed(context: Context, item: Automation) -> list[int]:
    """Losses after which something that it manages must be started, moved or promoted."""
    impacts = context.impacts
    services = [impacts.graph.index[name] for name in item.manages if name in impacts.graph.index]
    if not services:
        return []
    return context.worst_first(np.flatnonzero(impacts.down[:, services].any(axis=1)).tolist())


RULE = Rule(
    "rival-automation",
    "EV123",
    "Automation would undo a step",
    check,
    per_loss=False,
)
