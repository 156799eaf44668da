"""One verdict: where an estate is small enough, every loss is planned, and the plan says what becomes of it.

The estimate says what is down and why; whether a service comes back, and when, is then what `evac plan` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Final

from evac.audit.impacts.all_losses import (
    DEGRADED,
    LOST,
    PLANNED,
    RECOVERS,
    SHED,
    UNAFFECTED,
    UNKNOWN,
    Impacts,
)
from evac.audit.impacts.stores import NEVER
from evac.model.estate import Estate
from evac.model.plan import Outcome
from evac.model.scenario import lose
from evac.planning import compiled
from evac.planning.plan import foresee

PLANNED_MOST: Final = 2_000
"""Fault domains of an estate times what their losses are planned on (services, servers, pools): where it is
more, losses are estimated, also where few are asked about, so that each question has one answer."""
PLAIN_MOST: Final = 300
"""The same, of the losses that are asked about, up to which plans in plain Python are there before compiled
kernels are loaded."""


def planned_size(estate: Estate, losses: int) -> int:
    """How much the plans of so many losses are; 0 where they are estimated."""
    each = len(estate.services) + len(estate.fleet) + len(estate.pools)
    places = (estate.sites, estate.halls, estate.feeds, estate.racks, estate.groups)
    providers = {provider.id for provider in estate.providers}
    providers |= {service.provided_by for service in estate.services if service.external}
    return losses * each if sum(map(len, (*places, providers))) * each <= PLANNED_MOST else 0


def plain_where_small(estate: Estate, losses: int) -> AbstractContextManager[None]:
    """Kernels called within run as plain Python where that answers sooner than loading or compiling them."""
    size = planned_size(estate, losses)
    as_compiled = not size or (size > PLAIN_MOST and compiled.kernels_are_kept() is not None)
    return nullcontext() if as_compiled else compiled.interpreted()


def as_planned(found: Impacts) -> Impacts:
    """The same impacts with the verdicts of plans, where there are few enough to plan each loss."""
    count = len(found.losses)
    if not planned_size(found.estate, count):
        return found
    with plain_where_small(found.estate, count):
        return _as_planned(found)


def _as_planned(found: Impacts) -> Impacts:
    estate, losses = found.estate, found.losses
    fate, ready, untimed = found.fate.copy(), found.ready_ms.copy(), found.untimed.copy()
    methods, reasons = list(found.methods), dict[tuple[int, int], str]()
    facts: dict[int, tuple[str, ...]] = {}
    for number in range(len(losses)):
        outcomes = foresee(estate, lose(*losses.members[number]), found.top)
        by_service = {outcome.service: outcome for outcome in outcomes}
        methods[number] = PLANNED
        for row, service in enumerate(estate.services):
            outcome = by_service.get(service.id)
            down = bool(found.down[number, row])
            fate[number, row] = _fate(outcome, by_service, down)
            back = None if outcome is None else outcome.recovery_ms
            ready[number, row] = 0 if not down else NEVER if back is None else back
            untimed[number, row] = down and fate[number, row] in (RECOVERS, DEGRADED) and back is None
            if outcome is not None and outcome.reason:
                reasons[number, row] = outcome.reason
        missing = {o.why.fact for o in outcomes if o.state == "unknown" and o.why is not None and o.why.fact}
        if missing:
            facts[number] = tuple(sorted(missing))
    return replace(
        found,
        fate=fate,
        ready_ms=ready,
        untimed=untimed,
        methods=tuple(methods),
        reasons=reasons,
        facts=facts,
    )


def _fate(outcome: Outcome | None, others: Mapping[str, Outcome], down: bool) -> int:
    """The code of what a plan says of one service; down: right after the loss."""
    if outcome is None:
        return UNAFFECTED
    if outcome.state == "unknown":
        return UNKNOWN
    if outcome.state == "shed":
        return SHED
    if outcome.state == "unplaced":
        seen = set[str]()
        while outcome.needs in others and outcome.needs not in seen:
            seen.add(outcome.needs)
            outcome = others[outcome.needs]
        return UNKNOWN if outcome.why is not None and outcome.why.kind == "capacity-not-found" else LOST
    return RECOVERS if down and outcome.state != "degraded" else DEGRADED
