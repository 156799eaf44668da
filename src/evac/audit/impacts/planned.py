"""Verdicts from plans: losses that people ask about are planned, and the plan decides the fate of each
service.

The estimate says what is down and why; whether and when a service comes back is then decided as in `evac
plan`. On small estates every loss is planned, on larger ones all but those of servers and pairs, on the
largest those of sites, and of groups and halls if there are few. Estimates for the others are proved, or
marked as unproved (`proved`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Final

from evac.audit.impacts.all_losses import (
    DEGRADED,
    LOST,
    NOT_PROVED,
    PLANNED,
    RECOVERS,
    SHED,
    UNAFFECTED,
    UNKNOWN,
    Impacts,
)
from evac.audit.impacts.stores import NEVER
from evac.derive.domains import topology
from evac.model.estate import Estate
from evac.model.fleet import CodeColumn, np
from evac.model.plan import Outcome
from evac.model.reason import Reason
from evac.model.scenario import lose
from evac.planning import compiled
from evac.planning.plan import Foreseen, foresee

PLANNED_MOST: Final = 2_000
"""Every loss is planned up to this size: fault domains of an estate times the size of their plans (services,
servers, pools).
"""
PLACES_MOST: Final = 5_000
"""The same for all but the losses of single servers and of pairs. In plain Python this takes 3 s for the
median of random estates and 30 s at worst, so kernels are not compiled for it. A plan that uses capacity of
unknown size proves nothing there, or on larger estates: see `as_planned`.
"""
LARGE_MOST: Final = 1_000_000
"""On larger estates, sites, then groups, then halls are planned up to this size. All others are estimated,
even if few are requested, so that each question has one answer.
"""
LARGE_KINDS: Final = ("site", "group", "hall")
SMALL_KINDS: Final = ("feed", "rack", "provider")
PLAIN_MOST: Final = 300
"""Up to this size of the requested losses, plans in plain Python finish before compiled kernels are
loaded.
"""
_SEARCH: Final = "evac.planning.evacuation.search"
"""The module whose kernel searches for plans. It takes the longest to load."""


def planned_kinds(estate: Estate) -> frozenset[str] | None:
    """Kinds of the losses that are planned; None for all."""
    each, counts = _size_of_a_plan(estate), _counts(estate)
    everything = sum(counts.values()) * each
    if everything <= PLANNED_MOST:
        return None
    if everything <= PLACES_MOST:
        return frozenset(counts)
    found, size = set[str](), 0
    for kind in LARGE_KINDS:
        size += counts[kind] * each
        if size > LARGE_MOST:
            break
        found.add(kind)
    return frozenset(found)


def planned_size(estate: Estate, losses: int) -> int:
    """Total size of the plans needed for this many losses, of all kinds or of the large ones."""
    kinds = planned_kinds(estate)
    if kinds is not None:
        losses = min(losses, sum(count for kind, count in _counts(estate).items() if kind in kinds))
    return losses * _size_of_a_plan(estate)


def _counts(estate: Estate) -> dict[str, int]:
    """The fault domains of each kind."""
    named = (estate.sites, estate.groups, estate.halls, estate.feeds, estate.racks)
    providers = {provider.id for provider in estate.providers}
    providers |= {service.provided_by for service in estate.services if service.external}
    return dict(zip(LARGE_KINDS + SMALL_KINDS, map(len, (*named, providers)), strict=True))


def _size_of_a_plan(estate: Estate) -> int:
    return len(estate.services) + len(estate.fleet) + len(estate.pools)


def plain_where_small(estate: Estate, losses: int) -> AbstractContextManager[None]:
    """Run kernels as plain Python if that finishes sooner than loading or compiling them. A process that has
    them in memory runs them ten times as fast.
    """
    if planned_kinds(estate) is not None or _search_is_loaded():
        return nullcontext()
    small = planned_size(estate, losses) <= PLAIN_MOST
    return compiled.interpreted() if small or compiled.kernels_are_kept() is None else nullcontext()


def _search_is_loaded() -> bool:
    searches = (one for one in compiled.ALL if one.__module__ == _SEARCH and "compiled" in vars(one))
    return any(one.compiled.signatures for one in searches)


def as_planned(found: Impacts, now: Estate, told: Callable[[float], None] = lambda share: None) -> Impacts:
    """The same impacts with the verdicts of plans, for planned losses. now: the estate with what is lost, of
    which the plans are made, as everywhere else. told: receives the completed share.
    """
    kinds = planned_kinds(found.estate)
    numbers = range(len(found.losses)) if kinds is None else found.losses.of_kind(*kinds).tolist()
    if not (len(numbers) or now.lost):
        return found
    with plain_where_small(found.estate, len(numbers)):
        return _as_planned(found, now, numbers, told)


def _as_planned(
    found: Impacts, now: Estate, numbers: Sequence[int], told: Callable[[float], None]
) -> Impacts:
    estate, losses, large = found.estate, found.losses, planned_kinds(found.estate) is not None
    fate, ready, untimed = found.fate.copy(), found.ready_ms.copy(), found.untimed.copy()
    away = found.away.copy()
    methods, reasons = list(found.methods), dict[tuple[int, int], Reason]()
    facts: dict[int, tuple[str, ...]] = {}
    top, already = (topology(now), foresee(now, lose(*now.lost)).outcomes) if now.lost else (found.top, ())
    earlier = {one.service: one for one in already}
    never = {name for name, one in earlier.items() if one.state in ("shed", "unplaced", "unknown")}
    gone = [row for row, service in enumerate(estate.services) if service.id in never]
    _doubt_estimates(fate, numbers, gone)
    for done, number in enumerate(numbers):
        told(done / len(numbers))
        foreseen = foresee(now, lose(*losses.members[number]), top)
        by_service = {outcome.service: outcome for outcome in foreseen.outcomes}
        outcomes = foreseen.outcomes
        methods[number] = PLANNED
        for row, service in enumerate(estate.services):
            outcome = by_service.get(service.id)
            down = bool(found.down[number, row])
            fate[number, row] = _fate(outcome, by_service, down, foreseen)
            untouched = found.fate[number, row] == UNAFFECTED and fate[number, row] == DEGRADED
            if untouched and _is_as_before(outcome, earlier.get(service.id)):
                fate[number, row] = UNAFFECTED
            if large and fate[number, row] == UNKNOWN and found.fate[number, row] == LOST:
                fate[number, row] = LOST  # a plan may try capacity of unknown size, which proves nothing
            back = None if outcome is None else outcome.recovery_ms
            away[number, row] = down or (outcome is not None and outcome.goes_down)
            if outcome is None or outcome.state != "shed" or not foreseen.vague:
                ready[number, row] = 0 if not away[number, row] else NEVER if back is None else back
            untimed[number, row] = down and fate[number, row] in (RECOVERS, DEGRADED) and back is None
            if outcome is not None and outcome.why is not None:
                reasons[number, row] = outcome.why
        missing = {o.why.fact for o in outcomes if o.state == "unknown" and o.why is not None and o.why.fact}
        if missing:
            facts[number] = tuple(sorted(missing))
    return replace(
        found,
        away=away,
        fate=fate,
        ready_ms=ready,
        untimed=untimed,
        methods=tuple(methods),
        reasons=reasons,
        facts=facts,
    )


def _doubt_estimates(fate: CodeColumn, planned: Sequence[int], gone: Sequence[int]) -> None:
    """Estimates do not see what is lost already: what its plan does not restore, they do not either. planned:
    losses with a plan of their own; gone: such services.
    """
    some = np.ix_(np.setdiff1d(np.arange(len(fate)), planned), np.array(gone, np.int64))
    fate[some] = np.where(np.isin(fate[some], (RECOVERS, DEGRADED)), NOT_PROVED, fate[some])


def _fate(outcome: Outcome | None, others: Mapping[str, Outcome], down: bool, foreseen: Foreseen) -> int:
    """The code of a plan's verdict on one service; down: right after the loss."""
    if outcome is None:
        return UNAFFECTED
    if outcome.state == "unknown":
        return UNKNOWN
    if outcome.state in ("shed", "unplaced"):
        root, seen = outcome, set[str]()
        while root.needs in others and root.needs not in seen:
            seen.add(root.needs)
            root = others[root.needs]
        if _is_open(root, foreseen):
            return NOT_PROVED
        return SHED if outcome.state == "shed" else LOST
    away = down or outcome.base_outage_ms > 0
    moved = outcome.service in foreseen.moved and not away
    if moved and outcome.state == "restored" and outcome.top_outage_ms == 0:
        return UNAFFECTED
    return RECOVERS if away and outcome.state != "degraded" else DEGRADED


def _is_as_before(outcome: Outcome | None, earlier: Outcome | None) -> bool:
    """Whether a service lacks replicas for no longer than it does without this loss. earlier: its outcome by
    the plan for what is lost already.
    """
    if outcome is None or earlier is None or outcome.goes_down or earlier.goes_down:
        return False
    return outcome.state == earlier.state and outcome.top_outage_ms <= earlier.top_outage_ms


def _is_open(outcome: Outcome, foreseen: Foreseen) -> bool:
    """Whether a longer search may restore or keep what a plan does not."""
    if outcome.state == "shed":
        return foreseen.vague
    return outcome.why is not None and outcome.why.kind in ("capacity-not-found", "capacity-taken")
