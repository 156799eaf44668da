"""A plan read against its instance: names become indices, milliseconds ticks; unknown names are violations.

`milestones` says when milestones hold, from the steps alone: rules F11, F13, F18, F19 read these times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Candidate, Instance, ToolNeed, Use
from evac.model.objectives import accepts
from evac.model.plan import Plan, Step
from evac.model.records import dataclass
from evac.model.step_id import MILES, MOVED
from evac.model.units import QUANTITY_LIMIT
from evac.steps.kind import Place
from evac.steps.registry import kind_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One broken rule: its number, what it is about, and the words."""

    rule: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Timed:
    """A step in ticks. service, store: index or -1; rows: (row, replicas) pairs."""

    step: Step
    start: int
    end: int
    service: int = -1
    store: int = -1
    rows: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True, eq=False)
class Reading:
    """The steps of a plan by kind, and what could not be read.

    `base_at`, `top_at`, `gone_at` are filled by `milestones`: ticks at which base and top begin to
    hold and at which a shed ends the base (H where it never happens).
    """

    instance: Instance
    plan: Plan
    violations: list[Violation]
    steps: list[Timed] = field(default_factory=list)
    by_kind: dict[str, list[Timed]] = field(default_factory=dict)
    starts: dict[tuple[int, str], list[Timed]] = field(default_factory=dict)
    verifies: dict[tuple[int, str], Timed] = field(default_factory=dict)
    shifts: dict[int, Timed] = field(default_factory=dict)
    sheds: dict[int, list[Timed]] = field(default_factory=dict)
    fences: dict[int, Timed] = field(default_factory=dict)
    promotes: dict[int, Timed] = field(default_factory=dict)
    boots: dict[int, Timed] = field(default_factory=dict)

    def complain(self, rule: str, subject: str, message: str) -> None:
        self.violations.append(Violation(rule, subject, message))

    def of_kind(self, kind: str) -> list[Timed]:
        return self.by_kind.get(kind, [])


def read(instance: Instance, plan: Plan) -> Reading:
    """Indexes a plan. Every name that the instance lacks is a violation of F2 or F1."""
    reading = Reading(instance, plan, [])
    lookup = _Lookup(instance)
    seen: set[str] = set()
    for step in plan.steps:
        if step.id in seen:
            reading.complain("F1", step.id, "two steps have this id")
        seen.add(step.id)
        timed = _timed(reading, lookup, step)
        if timed is not None:
            reading.steps.append(timed)
            reading.by_kind.setdefault(step.kind, []).append(timed)
            _file(reading, timed)
    return reading


class _Lookup:
    """Names to indices of one instance."""

    def __init__(self, instance: Instance) -> None:
        self.service = {name: row for row, name in enumerate(instance.services.id)}
        self.store = {store.id: row for row, store in enumerate(instance.stores)}
        self._row_names = instance.row_names

    @cached_property
    def row(self) -> dict[str, int]:
        """Rows of servers and pools; built on demand, as there are many and not every plan names one."""
        return {name: row for row, name in enumerate(self._row_names)}


def _timed(reading: Reading, lookup: _Lookup, step: Step) -> Timed | None:
    tick = reading.instance.tick_ms
    if step.start_ms % tick or step.end_ms % tick:
        reading.complain("F1", step.id, f"times are not multiples of the {tick} ms tick")
        return None
    start, end = step.start_ms // tick, step.end_ms // tick
    if not 0 <= start <= end <= reading.instance.horizon:
        reading.complain("F1", step.id, "is not between 0 and the horizon")
        return None
    if step.count > QUANTITY_LIMIT:
        reading.complain("F3", step.id, "has more actions than evac can count")
        return None
    service = store = -1
    kind = kind_of(step.kind)
    if kind.target == "service" and not kind.releases:
        service = lookup.service.get(step.target, -1)
        if service < 0:
            reading.complain("F2", step.id, f"no service {step.target}")
            return None
    if kind.target == "store":
        store = lookup.store.get(step.target, -1)
        if store < 0:
            reading.complain("F2", step.id, f"{step.target} is not a store that lost its primary")
            return None
    rows = _rows(reading, lookup, step)
    return None if rows is None else Timed(step, start, end, service, store, rows)


def _rows(reading: Reading, lookup: _Lookup, step: Step) -> tuple[tuple[int, int], ...] | None:
    kind = kind_of(step.kind)
    if kind.boots:
        row = lookup.row.get(step.target, -1)
        if row < 0:
            reading.complain("F2", step.id, f"{step.target} is lost, condemned, or not evac's to boot")
            return None
        return ((row, 1),)
    if not (kind.is_timed and kind.replicas):
        return ()
    found = []
    for name, count in step.servers:
        row = lookup.row.get(name, -1)
        if row < 0 or count < 1:
            reading.complain("F2", step.id, f"{name} is lost, condemned, or not available for placement")
            return None
        found.append((row, count))
    if sum(count for _, count in found) != step.count:
        reading.complain("F3", step.id, f"count {step.count} is not the sum over its servers")
    return tuple(found)


def _file(reading: Reading, timed: Timed) -> None:
    step, kind = timed.step, kind_of(timed.step.kind)
    if kind.fences:
        _file_once(reading, reading.fences, timed.store, timed, "F14")
    elif kind.makes_primary or kind.is_awaited:
        _file_once(reading, reading.promotes, timed.store, timed, "F14")
    elif kind.boots:
        _file_once(reading, reading.boots, timed.rows[0][0], timed, "F7")
    elif kind.moves_traffic:
        _file_once(reading, reading.shifts, timed.service, timed, "F1")
    elif (kind.replicas > 0 or kind.checks) and step.milestone not in MILES:
        reading.complain(
            "F1", step.id, f"claims to reach {step.milestone or 'nothing'}, which is not a milestone"
        )
    elif kind.replicas > 0:
        reading.starts.setdefault((timed.service, step.milestone), []).append(timed)
    elif kind.frees_capacity:
        reading.sheds.setdefault(timed.service, []).append(timed)
    elif kind.checks:
        if (timed.service, step.milestone) in reading.verifies:
            reading.complain("F1", step.id, "a second verify of this milestone")
        reading.verifies[(timed.service, step.milestone)] = timed


def _file_once(reading: Reading, table: dict[int, Timed], key: int, timed: Timed, rule: str) -> None:
    if key in table:
        reading.complain(rule, timed.step.id, f"a second {timed.step.kind} of {timed.step.target}")
    table[key] = timed


def comes_on_by_itself(instance: Instance, row: int) -> bool:
    """Whether a row needs no boot once it has power, and so no person or tool."""
    kind = int(instance.rows.boot_kind[row])
    return kind >= 0 and instance.boot_kinds[kind].by_itself


def boots_by_hand(instance: Instance, row: int) -> bool:
    """Whether only people can boot a row: then its kind already has their duration and uses."""
    kind = int(instance.rows.boot_kind[row])
    return kind >= 0 and instance.boot_kinds[kind].by_hand


def need_of(reading: Reading, timed: Timed) -> ToolNeed | None:
    """The tools that a step needs, and its manual way; None for steps without tools."""
    if timed.step.milestone == "base" and timed.service in reading.instance.services.alone:
        return None
    return reading.instance.tools.get(kind_of(timed.step.kind).like)


def way_of(reading: Reading, timed: Timed) -> Candidate | None:
    """The candidate that a step uses for its store; None if the instance has no such candidate."""
    taken = timed.step.kind, timed.step.candidate
    ways = reading.instance.stores[timed.store].candidates
    return next((way for way in ways if (way.kind, way.id) == taken), None)


def as_promoted(reading: Reading, timed: Timed) -> Candidate | None:
    """The candidate that a step uses, with what it lacks: if an evacuated site goes dark before all is sent,
    that depends on when this plan has its old primary stop taking writes.
    """
    way, lost = way_of(reading, timed), reading.instance.stores[timed.store]
    if way is None or way.cut is None:
        return way
    fence = reading.fences.get(timed.store) if lost.is_fenced else None
    written_ms = (timed.start if fence is None else fence.end) * reading.instance.tick_ms
    last_sent_ms = way.cut.dark_ms - way.cut.lag_ms
    lacks_ms = min(max(written_ms - last_sent_ms, 0), way.cut.lag_ms)
    beyond = not accepts(lost.limit_ms, lacks_ms)
    named = lost.id in reading.plan.waivers
    return replace(
        way, loss_ms=lacks_ms, confirms=not lacks_ms, allowed=named or not beyond, waived=named and beyond
    )


def uses_of(reading: Reading, timed: Timed) -> tuple[Use, ...]:
    """What one unit action of a step holds, from the instance alone."""
    return kind_of(timed.step.kind).uses(reading.instance, _place(reading, timed))


def regular_ticks(reading: Reading, timed: Timed) -> int | None:
    """Duration of a step with tools; None if the instance has none."""
    return kind_of(timed.step.kind).ticks(reading.instance, _place(reading, timed))


def _place(reading: Reading, timed: Timed) -> Place:
    row = timed.rows[0][0] if timed.rows else -1
    pool = int(reading.instance.rows.pool[row]) if row >= 0 else -1
    return Place(timed.step, timed.service, timed.store, row, pool)


@dataclass(frozen=True, slots=True, eq=False)
class Milestones:
    """Ticks, S each (H: never). base_at, top_at: from when a milestone holds; base_gone, top_gone: from when
    a shed ends it for good; base_since, top_since: from when it did not hold before it does: the grace where
    it was lost, a shed where its replicas start again elsewhere; primary_at: D stores; members: component ->
    services.
    """

    base_at: Ints
    top_at: Ints
    base_gone: Ints
    top_gone: Ints
    base_since: Ints
    top_since: Ints
    primary_at: Ints
    members: dict[int, tuple[int, ...]]


def milestones(reading: Reading) -> Milestones:
    """base = end of shift, or of verify where no traffic moves; a cycle gets base together."""
    instance, s = reading.instance, reading.instance.services
    count, horizon = len(s), instance.horizon
    members: dict[int, list[int]] = {}
    for service in range(count):
        members.setdefault(int(s.component[service]), []).append(service)
    base = np.array([_base_end(reading, i) for i in range(count)], np.int64)
    for group in members.values():
        lost = [i for i in group if s.base_lost[i]]
        if len(lost) > 1:
            base[lost] = max(int(base[i]) for i in lost)
    away = {service: _away(reading, service) for service in reading.sheds}
    base_gone, base_since = np.full((2, count), horizon, np.int64)
    base_since[s.base_lost] = np.array(counted_from(instance)[0], np.int64)[s.base_lost]
    for service, (one, _) in away.items():
        if not s.base_lost[service]:
            base_since[service], base[service] = one.since, one.until
        base_gone[service] = one.gone
    primary = np.full(len(instance.stores), horizon, np.int64)
    for store, timed in reading.promotes.items():
        primary[store] = timed.end
    top, top_gone, top_since = _top(reading, base, base_gone, base_since, away)
    groups = {k: tuple(v) for k, v in members.items()}
    return Milestones(base, top, base_gone, top_gone, base_since, top_since, primary, groups)


def counted_from(instance: Instance) -> tuple[list[int], list[int]]:
    """For each service, the ticks from which outages of its base and of its top count: after the grace, but
    from the beginning for what does not hold even before.
    """
    s, grace = instance.services, instance.grace
    base = [0 if service in s.down_before else grace for service in range(len(s))]
    top = [0 if service in s.short_before else grace for service in range(len(s))]
    return base, top


def _base_end(reading: Reading, service: int) -> int:
    s, horizon = reading.instance.services, reading.instance.horizon
    if not s.base_lost[service]:
        return 0
    if s.shift[service]:
        shift = reading.shifts.get(service)
        return shift.end if shift is not None else horizon
    verify = reading.verifies.get((service, "base"))
    return verify.end if verify is not None else horizon


class _Away(NamedTuple):
    """A milestone changed by sheds: it does not hold from `since` until `until`, nor from `gone` on."""

    since: int
    until: int
    gone: int


def _away(reading: Reading, service: int) -> tuple[_Away, _Away]:
    """Shedding counts from its start: base ends when fewer than m serve, top when fewer than survived. What
    starts again elsewhere serves once it is verified.
    """
    s, horizon = reading.instance.services, reading.instance.horizon
    verify = reading.verifies.get((service, MOVED))
    back = horizon if verify is None else verify.end
    moved = sum(t.step.count for t in reading.starts.get((service, MOVED), ())) if back < horizon else 0
    found, survived = [], int(s.surviving[service])
    for needed in (int(s.m[service]), survived):
        there, first = survived, horizon
        for timed in sorted(reading.sheds[service], key=lambda t: t.start):
            there -= timed.step.count
            if first == horizon and there + (moved if back <= timed.start else 0) < needed:
                first = timed.start
        mended = first < horizon and there + moved >= needed
        found.append(_Away(first, back, horizon) if mended else _Away(horizon, 0, first))
    return found[0], found[1]


def _top(
    reading: Reading,
    base: Ints,
    base_gone: Ints,
    base_since: Ints,
    away: Mapping[int, tuple[_Away, _Away]],
) -> tuple[Ints, Ints, Ints]:
    s, horizon = reading.instance.services, reading.instance.horizon
    top, gone = base.copy(), base_gone.copy()
    since = np.where(s.top_lost, np.array(counted_from(reading.instance)[1], np.int64), horizon)
    for service, (_, whole) in away.items():
        top[service] = max(int(top[service]), whole.until)
        gone[service] = min(int(gone[service]), whole.gone)
        since[service] = min(int(since[service]), whole.since)
    for service in range(len(s)):
        if s.top_lost[service] and s.top_starts(service) > 0:
            verify = reading.verifies.get((service, "top"))
            top[service] = max(int(top[service]), verify.end if verify is not None else horizon)
        for other in s.soft[service]:
            top[service] = max(top[service], base[other])
            gone[service] = min(gone[service], base_gone[other])
            since[service] = min(since[service], base_since[other])
    return top, gone, since


def outages(reading: Reading, times: Milestones) -> tuple[Ints, Ints]:
    """(S,) ticks of [0, H) in which base and top do not hold."""
    horizon = reading.instance.horizon
    late_base = np.maximum(np.minimum(times.base_at, horizon) - times.base_since, 0)
    late_top = np.maximum(np.minimum(times.top_at, horizon) - times.top_since, 0)
    base = np.minimum(late_base + (horizon - times.base_gone), horizon)
    top = np.minimum(late_top + (horizon - np.minimum(times.top_gone, times.base_gone)), horizon)
    return base, top
