"""Pictures of a run for its page: a Gantt chart and the people without a service, each for wide and narrow
screens. Pure: a run in, SVG out.

A hundred thousand steps are drawn as a row for each kind of work and a row for each of a few services: what
a screen holds and an eye reads. What was planned is drawn below what was done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from evac.model.plan import Outcome
from evac.run.values import SETTLED
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.views import live_charts
from evac.views.impact import Impact, impact_of
from evac.views.wait_words import WaitRow
from evac.views.words import duration, moment_ms, number
from evac.web.pages.projection import Projection, Shown

TABLE_MOST: Final = 100
SERVICES: Final = 30
SPARE: Final = 1.03
PARTS: Final = ("start", "verify", "shift")


@dataclass(slots=True)
class Span:
    """Steps of one kind, as planned and as they were; seconds from the beginning of the run."""

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
    """By kind, in the order of the plan; by service and kind."""

    kinds: dict[str, Span] = field(default_factory=dict)
    services: dict[str, dict[str, Span]] = field(default_factory=dict)


def spans_of(view: RunView, now: float) -> Spans:
    """One walk over all steps."""
    found = Spans()
    for i in view.ranked:
        step = view.steps[i]
        found.kinds.setdefault(step.kind, Span()).add(view, i, now)
        if step.kind in PARTS or kind_of(step.kind).fences or kind_of(step.kind).makes_primary:
            found.services.setdefault(step.target, {}).setdefault(step.kind, Span()).add(view, i, now)
    return found


def charts(shown: Shown, waits: Sequence[WaitRow]) -> dict[str, list[tuple[str, str]]]:
    """The Gantt chart by service and by kind of work, each for wide and narrow screens; empty before the run
    has begun. Moments are of the wall clock.
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
    """Wide and narrow."""
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
    """Services of the highest tiers that most people use, and stores that change their primary, in the order
    in which the plan is done with them.
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
        yield live_charts.GanttBar(kind, (begin, end), told)


def _wall(span: tuple[float, float], said: Projection) -> tuple[int, int]:
    """Seconds of the run as moments of the wall clock."""
    return said.begun_ms + round(span[0] * 1_000), said.begun_ms + round(span[1] * 1_000)


def _span(span: tuple[float, float]) -> str:
    return f"{duration(round(span[0] * 1_000))} to {duration(round(span[1] * 1_000))}"


def _told(found: Spans, now: float) -> str:
    """The chart in words, for those who cannot see it."""
    told = []
    for kind, span in found.kinds.items():
        words = f"{_kind_label(kind, span)} done, planned {_span(span.planned)}"
        if span.actual[0] < float("inf"):
            words += f", so far {_span(span.actual)}"
        told.append(words)
    return f"{duration(round(now * 1_000))} after the start. " + "; ".join(told) + "."


def impact(shown: Shown, lost: bool = False) -> Impact | None:
    """Who is without a service; None where the plan is not kept, before the run has begun, or where services
    serve while they move. lost: what the run leaves is known to be lost, so before it has begun too: what is
    expected if it begins now.
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
    """The picture of people without a service, for wide and narrow screens, with its table."""
    if found is None or not found.peak:
        return {}
    since = [moment_ms(one.since) for one in waits if one.since]
    waiting = (max(min(since), found.lost_ms), found.now_ms) if since and not shown.said.over else None
    return {
        "wide": live_charts.curve(found, waiting, "cw", width, height),
        "narrow": live_charts.curve(found, waiting, "cn", live_charts.NARROW, 200),
        "rows": live_charts.table_rows(found)[:TABLE_MOST],
    }
