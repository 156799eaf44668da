"""The Gantt of a run: what was planned lies behind what was done. Pure.

A hundred thousand steps are drawn as a row for each kind of work and a row for each of a few services: what a
screen holds and an eye reads. Times of the axis count from the beginning of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from evac.model.plan import Outcome
from evac.run.values import SETTLED
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.views import svg
from evac.views.words import duration, number
from evac.web.pages.projection import Projection

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
        if step.kind in PARTS:
            found.services.setdefault(step.target, {}).setdefault(step.kind, Span()).add(view, i, now)
    return found


def charts(view: RunView, said: Projection, outcomes: Iterable[Outcome]) -> dict[str, str]:
    """Two charts as SVG; empty before the run has begun."""
    if not said.begun_ms or not view.steps:
        return {"kinds": "", "services": ""}
    now = max(0.0, ((said.end_ms if said.over else said.at_ms) - said.begun_ms) / 1_000)
    found = spans_of(view, now)
    ends = [span.planned[1] for span in found.kinds.values()]
    upto = SPARE * max(60.0, now, *ends, (said.end_ms - said.begun_ms) / 1_000)
    kinds = [_row(_kind_label(kind, span), [(kind, span)], now, said) for kind, span in found.kinds.items()]
    limits = {o.service: o for o in outcomes}
    chosen = _chosen(found, limits)
    rows = [_row(name, list(found.services[name].items()), now, said) for name in chosen]
    return {
        "kinds": svg.gantt("kinds", "Work by kind of step", _told(found, now), kinds, upto),
        "services": svg.gantt(
            "services",
            "Services, as planned and as they come back",
            "The table of services says the same in words.",
            rows,
            upto,
        )
        if rows
        else "",
    }


def _kind_label(kind: str, span: Span) -> str:
    left_out = f", {number(span.skipped)} skipped" if span.skipped else ""
    return f"{words_of(kind)} ({number(span.done - span.skipped)} of {number(span.count)}{left_out})"


def words_of(kind: str) -> str:
    return kind_of(kind).work


def _chosen(found: Spans, limits: dict[str, Outcome]) -> list[str]:
    """Services of the highest tiers that most people use, in the order in which the plan has them back."""

    def weight(name: str) -> tuple[int, int, str]:
        known = limits.get(name)
        return (9 if known is None else known.tier, 0 if known is None else -known.people, name)

    heavy = sorted(found.services, key=weight)[:SERVICES]
    return sorted(heavy, key=lambda name: (max(s.planned[1] for s in found.services[name].values()), name))


def _row(label: str, parts: Sequence[tuple[str, Span]], now: float, said: Projection) -> svg.Row:
    """The planned bars first, so that the actual ones lie on them; then a line for now."""
    bars = [
        svg.Bar(
            span.planned[0], span.planned[1], "planned", f"{words_of(kind)}, planned: {_span(span.planned)}"
        )
        for kind, span in parts
    ]
    bars += [
        svg.Bar(span.actual[0], span.actual[1], f"actual {kind}", f"{words_of(kind)}: {_span(span.actual)}")
        for kind, span in parts
        if span.actual[1] or span.actual[0] < float("inf")
    ]
    if not said.over:
        bars.append(svg.Bar(now, now, "nowline", "now"))
    return svg.Row(label, tuple(bars))


def _span(span: tuple[float, float]) -> str:
    return f"{duration(round(span[0] * 1_000))} to {duration(round(span[1] * 1_000))}"


def _told(found: Spans, now: float) -> str:
    """The chart in words, for who cannot see it."""
    told = []
    for kind, span in found.kinds.items():
        words = f"{_kind_label(kind, span)} done, planned {_span(span.planned)}"
        if span.actual[0] < float("inf"):
            words += f", so far {_span(span.actual)}"
        told.append(words)
    return f"{duration(round(now * 1_000))} after the beginning. " + "; ".join(told) + "."
