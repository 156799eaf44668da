"""The projected course of a run compared with its plan, and its charts, computed once for all viewers.

The forecast is the one that `evac run show` uses. Since when a run has been behind follows from its
journal alone: a step is late from `TOLERANCE_MS` after its planned end until it is settled, and the run
is behind since the start of the current unbroken stretch in which some step was late. A hundred thousand
steps are drawn as one row for each kind of work and for each of a few services; planned work is drawn
below actual work.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

import numpy as np

from evac.incident.services import PLANNED
from evac.model.plan import Outcome, Plan
from evac.model.records import dataclass
from evac.model.step_id import MOVED
from evac.run.forecast import forecast
from evac.run.values import ENDED, SETTLED, Event
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.views import live_charts
from evac.views.documents import RunShown
from evac.views.live_charts import Impact, impact_of
from evac.views.wait_words import WaitRow, servers_words
from evac.views.words import duration, moment_ms, number
from evac.web.room import WarRoom

TOLERANCE_MS: Final = 60_000
LARGE: Final = 2_000
"""Number of steps from which on a page is updated at intervals instead of with each event."""
AGE_MS: Final = 5_000
LARGE_AGE_MS: Final = 10_000
RUNS_KEPT: Final = 8
TABLE_MOST: Final = 100
SERVICES: Final = 30
SPARE: Final = 1.03
PARTS: Final = ("start", "verify", "shift")


@dataclass(frozen=True, slots=True)
class Behind:
    """since_ms: 0 if no step is late. step: the first one that was late in that stretch."""

    since_ms: int = 0
    step: str = ""


@dataclass(frozen=True, slots=True)
class Projection:
    """The projection as of at_ms. Times are wall clock, 0 if unknown. planned_ms: the planned end;
    end_ms: the projected end, or the actual one. services: when each service that is still down will be
    restored; back: when each restored one was. waits: assumes that whatever waits for a person is done
    now. servers: how many of the servers that it boots are up, when all will be, and a state; empty if it
    boots none.
    """

    at_ms: int
    begun_ms: int
    planned_ms: int
    end_ms: int
    over: bool
    services: Mapping[str, int]
    back: Mapping[str, int]
    behind: Behind
    waits: bool = False
    servers: tuple[str, str] = ("", "")

    @property
    def late_ms(self) -> int:
        """Positive: later than planned."""
        return self.end_ms - self.planned_ms if self.begun_ms else 0


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything that a page of a run is made from."""

    run: RunShown
    said: Projection
    plan: Plan | None
    """None if it is no longer stored, so that objectives are unknown."""
    created_ms: int
    events: Sequence[tuple[int, Event]]
    """The last events, with their numbers."""
    show: str = ""
    """Only steps in this phase; empty: all."""
    begin: int = 0
    """The first step of the page of steps."""

    @property
    def moves(self) -> bool:
        """Whether the plan moves services while they keep serving."""
        return self.plan is not None and self.plan.scenario.kind in PLANNED


def stamp_of(view: RunView, now_ms: int) -> tuple[int, int]:
    """What a page of a run depends on: its events and the time; for a large run only the time."""
    large = len(view.steps) >= LARGE
    return (0 if large else view.events, now_ms // (LARGE_AGE_MS if large else AGE_MS))


async def projection_of(room: WarRoom, view: RunView, now_ms: int) -> Projection:
    """Compute it once for each stamp, on a copy and in a thread, so that no other page waits for it."""
    kept: OrderedDict[str, Any] = room.tables.setdefault("projections", OrderedDict())
    run, stamp = view.spec.run, stamp_of(view, now_ms)
    if run not in kept or kept[run][0] != stamp:
        made = asyncio.ensure_future(asyncio.to_thread(projected, view.fork(), now_ms))
        kept[run] = (stamp, made)
        kept.move_to_end(run)
        while len(kept) > RUNS_KEPT:
            kept.popitem(last=False)
    found: Projection = await asyncio.shield(kept[run][1])
    return found


def projected(view: RunView, now_ms: int) -> Projection:
    """The projection of a run in its current state. Plays a copy forward; pure."""
    begun = max(0, view.started_ms)
    planned = begun + max((s.start_ms + s.duration_ms for s in view.steps), default=0) if begun else 0
    back = services_back(view)
    if view.phase in ENDED or not begun:
        end = view.last_ms if view.phase in ENDED else 0
        ended = view.phase in ENDED
        up = booted(view) if ended else ("", "")
        return Projection(now_ms, begun, planned, end, ended, {}, back, Behind(), servers=up)
    said = forecast(view, now_ms)
    coming = {name: at for name, at in said.services.items() if name not in back or at > back[name]}
    return Projection(
        now_ms,
        begun,
        planned,
        max(said.end_ms, now_ms),
        False,
        coming,
        {name: at for name, at in back.items() if name not in coming},
        behind(view, now_ms),
        said.waits,
        servers_words(said),
    )


def booted(view: RunView) -> tuple[str, str]:
    """Of a run that has ended, how many of the servers that it was to boot came up, in words; and a state."""
    boots = [i for i, step in enumerate(view.steps) if kind_of(step.kind).boots]
    up = sum(1 for i in boots if view.phases[i] == "succeeded")
    if not boots:
        return "", ""
    return f"{number(up)} of {number(len(boots))} came up", "" if up == len(boots) else "warning"


def services_back(view: RunView) -> dict[str, int]:
    """Service -> when its last base check, or the move of its traffic, was done; counted as the forecast
    does.
    """
    found: dict[str, int] = {}
    for i, step in enumerate(view.steps):
        kind = kind_of(step.kind)
        if kind.moves_traffic or (kind.checks and step.id.milestone in ("base", MOVED)):
            if view.phases[i] not in SETTLED:
                found[step.target] = 0
            elif found.get(step.target, -1) != 0:
                found[step.target] = max(found.get(step.target, 0), view.ended[i])
    return {name: at for name, at in sorted(found.items()) if at}


def behind(view: RunView, now_ms: int) -> Behind:
    """Since when some step has been late without a break, up to now."""
    if view.started_ms < 0 or not view.steps:
        return Behind()
    planned = np.array([s.start_ms + s.duration_ms for s in view.steps], np.int64)
    due = planned + view.started_ms + TOLERANCE_MS
    settled = np.array([phase in SETTLED for phase in view.phases], np.bool_)
    end = np.where(settled, np.array(view.ended, np.int64), now_ms)
    rows = np.flatnonzero(end > due)
    if not len(rows):
        return Behind()
    rows = rows[np.argsort(due[rows], kind="stable")]
    reach = np.maximum.accumulate(end[rows])
    if reach[-1] < now_ms:
        return Behind()
    gaps = np.flatnonzero(due[rows][1:] > reach[:-1])
    first = int(rows[int(gaps[-1]) + 1 if len(gaps) else 0])
    return Behind(int(due[first]) - TOLERANCE_MS, view.steps[first].id)


@dataclass(slots=True)
class Span:
    """Steps of one kind, as planned and as executed; in seconds from the start of the run."""

    count: int = 0
    done: int = 0
    skipped: int = 0
    planned: tuple[float, float] = (float("inf"), 0.0)
    actual: tuple[float, float] = (float("inf"), 0.0)

    def add(self, view: RunView, i: int, now: float) -> None:
        step = view.steps[i]
        self.count += 1
        self.done += view.phases[i] in SETTLED
        self.skipped += view.phases[i] == "skipped"
        begin, end = step.start_ms / 1_000, (step.start_ms + step.duration_ms) / 1_000
        self.planned = (min(self.planned[0], begin), max(self.planned[1], end))
        if view.started[i]:
            begun = (view.started[i] - view.started_ms) / 1_000
            ended = (view.ended[i] - view.started_ms) / 1_000 if view.ended[i] >= view.started[i] else now
            self.actual = (min(self.actual[0], begun), max(self.actual[1], ended))


@dataclass(slots=True)
class Spans:
    """By kind, in the order of the plan; and by service and kind."""

    kinds: dict[str, Span] = field(default_factory=dict)
    services: dict[str, dict[str, Span]] = field(default_factory=dict)


def spans_of(view: RunView, now: float) -> Spans:
    """Collect the spans in one pass over all steps."""
    found = Spans()
    for i in view.ranked:
        step = view.steps[i]
        found.kinds.setdefault(step.kind, Span()).add(view, i, now)
        if step.kind in PARTS or kind_of(step.kind).fences or kind_of(step.kind).makes_primary:
            found.services.setdefault(step.target, {}).setdefault(step.kind, Span()).add(view, i, now)
    return found


def charts(shown: Shown, waits: Sequence[WaitRow]) -> dict[str, list[tuple[str, str]]]:
    """The Gantt chart by service and by kind of work, each for wide and narrow screens; empty before the
    run has begun. Times are wall clock.
    """
    view, said = shown.run.view, shown.said
    if not said.begun_ms or not view.steps:
        return {"services": [], "kinds": []}
    now_ms = said.end_ms if said.over else max(said.at_ms, said.begun_ms)
    found = spans_of(view, (now_ms - said.begun_ms) / 1_000)
    ends = [span.planned[1] for span in found.kinds.values()]
    last = max(now_ms, said.end_ms, said.begun_ms + round(1_000 * max(60.0, *ends)))
    span = (said.begun_ms, said.begun_ms + round(SPARE * (last - said.begun_ms)))
    limits = {o.service: o for o in shown.plan.outcomes} if shown.plan else {}
    gates = {one.step: max(moment_ms(one.since), said.begun_ms) for one in waits if one.step}
    rows = [_target_row(name, found, gates, shown, now_ms) for name in _chosen(found, limits)]
    kinds = [
        live_charts.GanttRow(
            _kind_label(kind, one), (_wall(one.planned, said),), tuple(_done(kind, "", one, said))
        )
        for kind, one in found.kinds.items()
    ]
    clock = 0 if said.over else now_ms
    words = f"{_told(found, (now_ms - said.begun_ms) / 1_000)} The tables below show the same data."
    return {
        "services": [_both(rows, span, clock, "gs", words)] if rows else [],
        "kinds": [_both(kinds, span, clock, "gk", words)],
    }


def _both(
    rows: Sequence[live_charts.GanttRow], span: live_charts.Span, now_ms: int, name: str, words: str
) -> tuple[str, str]:
    """Both widths: wide and narrow."""
    wide = live_charts.gantt(rows, span, now_ms, f"{name}-w", words)
    return wide, live_charts.gantt(rows, span, now_ms, f"{name}-n", words, narrow=True)


def _kind_label(kind: str, span: Span) -> str:
    left_out = f", {number(span.skipped)} skipped" if span.skipped else ""
    words = words_of(kind)
    done = number(span.done - span.skipped)
    return f"{words[:1].upper()}{words[1:]} ({done} of {number(span.count)}{left_out})"


def words_of(kind: str) -> str:
    return kind_of(kind).work


def _chosen(found: Spans, limits: dict[str, Outcome]) -> list[str]:
    """Services of the highest tiers with most users, and stores whose primary changes, in the order in
    which the plan finishes them.
    """

    def weight(name: str) -> tuple[int, int, str]:
        known = limits.get(name)
        return (9 if known is None else known.tier, 0 if known is None else -known.people, name)

    heavy = sorted(found.services, key=weight)[:SERVICES]
    return sorted(heavy, key=lambda name: (max(s.planned[1] for s in found.services[name].values()), name))


def _target_row(
    name: str, found: Spans, gates: Mapping[str, int], shown: Shown, now_ms: int
) -> live_charts.GanttRow:
    said, parts = shown.said, found.services[name]
    whole: list[tuple[int, int]] = []
    for begin, end in sorted(_wall(span.planned, said) for span in parts.values()):
        if whole and begin <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        else:
            whole.append((begin, end))
    bars = [bar for kind, span in parts.items() for bar in _done(kind, name, span, said)]
    view = shown.run.view
    waits = [since for step, since in gates.items() if view.steps[view.index[step]].target == name]
    coming = said.services.get(name, 0)
    return live_charts.GanttRow(
        name,
        tuple(whole),
        tuple(bars),
        (min(waits), now_ms) if waits else None,
        (now_ms, coming) if coming > now_ms else None,
        "waits for a person" if waits else "",
    )


def _done(kind: str, name: str, span: Span, said: Projection) -> Iterator[live_charts.GanttBar]:
    if span.actual[0] < float("inf"):
        begin, end = _wall(span.actual, said)
        words = f"{name}: " if name else ""
        told = f"{words}{words_of(kind)}, {live_charts.at(begin)} to {live_charts.at(end)}"
        yield live_charts.GanttBar(kind_of(kind).colour, (begin, end), told)


def _wall(span: tuple[float, float], said: Projection) -> tuple[int, int]:
    """Convert seconds of the run to wall-clock times."""
    return said.begun_ms + round(span[0] * 1_000), said.begun_ms + round(span[1] * 1_000)


def _span(span: tuple[float, float]) -> str:
    return f"{duration(round(span[0] * 1_000))} to {duration(round(span[1] * 1_000))}"


def _told(found: Spans, now: float) -> str:
    """The chart in words, for people who cannot see it."""
    told = []
    for kind, span in found.kinds.items():
        words = f"{_kind_label(kind, span)} done, planned {_span(span.planned)}"
        if span.actual[0] < float("inf"):
            words += f", so far {_span(span.actual)}"
        told.append(words)
    return f"{duration(round(now * 1_000))} after the start. " + "; ".join(told) + "."


def impact(shown: Shown, lost: bool = False) -> Impact | None:
    """Who is without a service; None if the plan is not stored, before the run has begun, or if services
    keep serving while they move. lost: what the run evacuates is known to be lost, so there is an impact
    even before the run has begun: the forecast if it begins now.
    """
    said, plan = shown.said, shown.plan
    if plan is None or shown.moves or not (said.begun_ms or (lost and not said.over)):
        return None
    lost_ms = shown.created_ms - plan.detection_ms if shown.created_ms else said.begun_ms or said.at_ms
    now_ms = said.end_ms if said.over else said.at_ms
    coming = {} if said.over else said.services
    if not said.begun_ms:
        coming = {one.service: now_ms + one.base_ms for one in plan.outcomes if one.base_ms is not None}
    found = impact_of(plan.outcomes, plan.unstated, lost_ms, said.begun_ms, said.back, coming, now_ms)
    return found if found.services else None


def curves(
    shown: Shown,
    found: Impact | None,
    waits: Sequence[WaitRow],
    width: int = live_charts.WIDE,
    height: int = 250,
) -> dict[str, Any]:
    """The chart of people without a service, for wide and narrow screens, with its table."""
    if found is None or not found.peak:
        return {}
    since = [moment_ms(one.since) for one in waits if one.since]
    waiting = (max(min(since), found.lost_ms), found.now_ms) if since and not shown.said.over else None
    return {
        "wide": live_charts.curve(found, waiting, "cw", width, height),
        "narrow": live_charts.curve(found, waiting, "cn", live_charts.NARROW, 200),
        "rows": live_charts.table_rows(found)[:TABLE_MOST],
    }
