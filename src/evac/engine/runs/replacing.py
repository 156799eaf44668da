"""What another loss asks of a run under way, and what the register says when its plan was replaced. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from evac.drivers.port import Action
from evac.engine.stores.guards import Mark
from evac.model.run_policy import Envelope
from evac.run import envelope
from evac.run.values import SETTLED
from evac.run.view import RunView

REPLACEABLE: Final = frozenset({"pending", "awaiting_approval", "running", "paused", "monitoring"})
"""Phases in which a run takes another plan."""


@dataclass(frozen=True, slots=True)
class Concerned:
    """A run under way, as another loss sees it. accounted: sites that its plan takes as lost. untyped: sites
    whose names it waits for. places: sites at which it still does something. plans: how many it had.
    """

    run: str
    accounted: frozenset[str]
    leaving: tuple[str, ...]
    untyped: tuple[str, ...]
    places: frozenset[str]
    plans: int


def places_of(view: RunView, actions_of: Callable[[RunView, str], Sequence[Action]]) -> frozenset[str]:
    """Sites at which something is still to be done, or is under way."""
    found: set[str] = set()
    for i, step in enumerate(view.steps):
        if view.phases[i] in SETTLED:
            continue
        found.add(step.site)
        for action in actions_of(view, step.id):
            given = action.parameters
            found |= {action.at, str(given.get("to", "")), str(given.get("candidate", ""))}
    return frozenset(found - {""})


def ends_after(ends: Mapping[str, Mark], gone: Collection[str]) -> dict[str, Mark]:
    """What the register says at the end of a run whose plan was replaced: a lost site stays lost."""
    return {site: mark for site, mark in ends.items() if site not in gone and mark != "active"}


def asks_of(view: RunView, agreed: Envelope) -> tuple[str, ...]:
    """What a person must agree to before the run goes on; empty where nobody is asked."""
    needed = view.spec.envelope
    given = (envelope.outside(one, needed) for one in view.approved_by.values())
    closest = min(given, key=len, default=envelope.outside(agreed, needed))
    asks = (closest or ("an approval",)) if view.approvals < view.spec.approvals else ()
    return (*asks, *(f"the name of {site} typed" for site in view.untyped))
