"""What the page of a run says, as plain values for its templates, with its Gantt chart. Pure: a run in,
words out.

A hundred thousand steps are drawn as a row for each kind of work and a row for each of a few services: what
a screen holds and an eye reads. What was planned is drawn behind what was done. Times of the axis count
from the beginning of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from evac.incident.services import PLANNED
from evac.incident.timeline import told
from evac.model.plan import Outcome, Plan
from evac.office.values import RunShort
from evac.run.values import CORRUPT, ENDED, SETTLED, Event
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.views import svg
from evac.views.decisions import decision_of, waiting_words
from evac.views.documents import (
    MOST_URGENT,
    RunHead,
    RunShown,
    StepRow,
    run_head,
    slow_words,
    step_row,
    took_ms,
    trouble_of,
)
from evac.views.plan_view import GONE
from evac.views.run_report import STYLE_OF, limit_words
from evac.views.wait_words import WaitRow, clock
from evac.views.words import duration, listed, moment_ms, number, plural
from evac.web.pages.projection import TOLERANCE_MS, Projection

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


WAITS_MOST: Final = 12
SERVICES_MOST: Final = 100
STEPS: Final = 50
EVENTS: Final = 25
STEP_CLASS: Final[Mapping[str, str]] = {
    "failed": "error",
    "unknown": "unknown",
    "undoing": "warning",
    "undone": "warning",
    "skipped": "warning",
    "succeeded": "ok",
    "running": "note",
}
STEP_STATE: Final[Mapping[str, str]] = {"unknown": "in doubt", "succeeded": "done", "pending": "not yet"}
RUN_CLASS: Final[Mapping[str, str]] = {**STYLE_OF, "unfinished": "unknown", CORRUPT: "error"}
FAR_OFF: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything that a page of a run is made of."""

    run: RunShown
    said: Projection
    plan: Plan | None
    """None: it is not kept, so objectives are not known."""
    created_ms: int
    events: Sequence[tuple[int, Event]]
    """The last ones, with their numbers."""
    show: str = ""
    """Only steps in this phase; empty: all."""
    begin: int = 0
    """The first step of the page of them."""

    @property
    def moves(self) -> bool:
        """Whether the plan moves services that serve meanwhile."""
        return self.plan is not None and self.plan.scenario.kind in PLANNED


def context(shown: Shown) -> dict[str, Any]:
    """Everything the page shows."""
    view, said, document = shown.run.view, shown.said, run_head(shown.run)
    services = service_rows(shown)
    late = [row for row in services if row["late"]]
    ended = document.state in ENDED
    wants = () if ended else document.waits
    return {
        "run": document.run,
        "incident": document.incident,
        "at_ms": said.at_ms,
        "scenario": document.question,
        "plan": document.plan_digest,
        "answer": _answer(document, said, len(wants), len(late)),
        "cards": _cards(document, shown, services, late),
        "waits": [wait_line(one) | {"waiting": _waiting(one, shown)} for one in wants[:WAITS_MOST]],
        "waits_rest": max(0, len(wants) - WAITS_MOST),
        "asks": document.verbs,
        "held": document.held_by,
        "servers": said.servers,
        "losses": document.most_lost,
        "ended": ended,
        "slow": slow_words(document),
        "left": document.left[:SERVICES_MOST],
        "left_rest": max(0, len(document.left) - SERVICES_MOST),
        "approved": [f"{who} ({words})" for who, words in document.approval_proofs.items()],
        "limits": [limit_words(row) for row in document.limits_changed],
        "charts": charts(view, said, shown.plan.outcomes if shown.plan else ()),
        "services": services[:SERVICES_MOST],
        "services_rest": max(0, len(services) - SERVICES_MOST),
        "objectives": shown.plan is not None,
        "waits_counted": said.waits,
        "steps": steps_page(view, shown.show, shown.begin, said.at_ms),
        "events": event_rows(view, shown.events),
        "events_all": document.events,
        "events_after": max(0, document.events - len(shown.events)),
    }


def _answer(document: RunHead, said: Projection, wants: int, late: int) -> tuple[str, str]:
    """(sentence, state): how far the run is, in one breath."""
    counts = document.counts
    done = sum(counts.get(phase, 0) for phase in ("succeeded", "skipped"))
    state = document.state.replace("_", " ")
    words = f"{state[:1].upper()}{state[1:]}: {number(done)} of {plural(sum(counts.values()), 'step')} done"
    if document.state in ENDED:
        took = f" after {duration(max(0, said.end_ms - said.begun_ms))}" if said.begun_ms else ""
        if document.left:
            counted = f"{number(done)} of {plural(sum(counts.values()), 'step')} done{took}"
            return f"{state[:1].upper()}{state[1:]}: {document.why}. {counted}.", RUN_CLASS.get(
                document.state, ""
            )
        why = f" {document.why[:1].upper()}{document.why[1:]}." if document.why else ""
        return f"{words}{took}.{why}", RUN_CLASS.get(document.state, "")
    words += "."
    if wants:
        words += f" {plural(wants, 'thing')} {'waits' if wants == 1 else 'wait'} for a person."
    if not document.leader:
        return f"{words} No controller leads: nothing moves until one does.", "error"
    if said.begun_ms:
        words += f" {_heading(said)}"
    if late:
        words += f" {plural(late, 'service')} will be back later than promised."
    bad = counts.get("failed", 0) or late
    grave = "error" if bad else "warning" if wants or said.late_ms > TOLERANCE_MS else "ok"
    return words, grave


def _heading(said: Projection) -> str:
    """`Projected finish 14:52 UTC, 12 min later than planned: behind since 14:17 UTC.`"""
    words = f"Projected finish {hour(said.end_ms, said.at_ms)}, {beside(said.late_ms)}"
    if said.behind.since_ms:
        words += f": behind since {hour(said.behind.since_ms, said.at_ms)}"
    return words + (", if what waits for a person is done now." if said.waits else ".")


def hour(at_ms: int, now_ms: int) -> str:
    """`14:52 UTC`, with its date where that is not today; a dash for never."""
    return f"{clock(at_ms, now_ms)} UTC" if at_ms > 0 else "-"


def beside(late_ms: int) -> str:
    """Beside the plan, in whole minutes."""
    if abs(late_ms) < TOLERANCE_MS:
        return "as planned"
    size = duration(abs(late_ms) // 60_000 * 60_000)
    return f"{size} {'later' if late_ms > 0 else 'earlier'} than planned"


def _cards(
    document: RunHead,
    shown: Shown,
    services: Sequence[Mapping[str, Any]],
    late: Sequence[Mapping[str, Any]],
) -> list[dict[str, str]]:
    counts, said = document.counts, shown.said
    grave = "warning" if said.late_ms > TOLERANCE_MS else ""
    name = "ended" if said.over else "projected finish"
    end, planned, begun = (hour(ms, said.at_ms) for ms in (said.end_ms, said.planned_ms, said.begun_ms))
    cards = [_card(name, end, beside(said.late_ms) if said.begun_ms else "not begun", grave)]
    cards.append(_card("planned finish", planned, f"begun {begun}", ""))
    if shown.plan is None:
        cards.append(_card("past their objective", "not known", "the plan is not kept any more", "unknown"))
    else:
        stated = sum(1 for row in services if row["limit_ms"])
        more = f"of {plural(stated, 'service')} with an objective"
        cards.append(_card("past their objective", number(len(late)), more, "error" if late else "ok"))
    failed, doubt = counts.get("failed", 0), counts.get("unknown", 0)
    more = f"{number(counts.get('running', 0))} under way, {number(doubt)} in doubt"
    cards.append(_card("failed steps", number(failed), more, "error" if failed else "ok"))
    return cards


def _card(name: str, value: str, more: str, state: str) -> dict[str, str]:
    return {"name": name, "value": value, "more": more, "state": state}


def wait_line(row: WaitRow) -> dict[str, Any]:
    """What waits, and what can be asked of the run about it; a hold is released on the page Hold."""
    verbs = [verb for verb in row.verbs if verb != "release"]
    return {"words": row.words, "step": row.step, "verbs": verbs, "code": row.facts.get("code", "")}


def _waiting(row: WaitRow, shown: Shown) -> str:
    """Which services wait for a step that a person must approve."""
    if row.kind != "gate":
        return ""
    words = waiting_words(decision_of(shown.run, row.step, shown.plan))
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def service_rows(shown: Shown) -> list[dict[str, Any]]:
    """Each service that comes back: as planned, as projected or as it was, and its objective; late ones
    first.
    """
    said = shown.said
    if shown.plan is None:
        times = {**said.back, **said.services}
        return [_service(None, name, shown, 0, at) for name, at in sorted(times.items())]
    lost_ms = shown.created_ms - shown.plan.detection_ms if shown.created_ms else 0
    times = {**said.back, **said.services}
    rows = [
        _service(one, one.service, shown, lost_ms, times.get(one.service, 0))
        for one in shown.plan.outcomes
        if one.state != "running"
    ]
    return sorted(rows, key=lambda row: (not row["late"], row["tier_key"], -row["people_key"], row["id"]))


def _service(one: Outcome | None, name: str, shown: Shown, lost_ms: int, at_ms: int) -> dict[str, Any]:
    said, back = shown.said, name in shown.said.back
    base = one.base_ms if one is not None else None
    planned = said.begun_ms + base if base is not None and said.begun_ms else 0
    limit = lost_ms + one.rto_ms if one is not None and one.rto_ms is not None and lost_ms > 0 else 0
    given_up = one is not None and (base is None or one.state in GONE)
    stays = base == 0 and not given_up
    when = at_ms or (0 if given_up or said.over else planned)
    past = limit and (said.end_ms if said.over else said.at_ms) > limit and not back
    late = bool(limit) and not given_up and not stays and (when > limit or bool(past))
    words, state = ("stays up", "ok") if stays else _standing(one, back, late, shown.moves)
    forecast = "" if stays or back or given_up or said.over else _forecast(late, bool(limit), when)
    return {
        "id": name,
        "tier": "-" if one is None else str(one.tier),
        "tier_key": 9 if one is None else one.tier,
        "people_key": 0 if one is None else one.people,
        "people": None if one is None else one.people,
        "planned": "-" if stays else hour(planned, said.at_ms),
        "when": "-" if stays else hour(when, said.at_ms),
        "forecast": forecast,
        "back": back,
        "limit": hour(limit, said.at_ms),
        "limit_ms": limit,
        "late": late,
        "words": words,
        "state": state,
    }


def _standing(one: Outcome | None, back: bool, late: bool, moves: bool) -> tuple[str, str]:
    """How a service is now. moves: the plan moves services that serve meanwhile."""
    if one is not None and (one.base_ms is None or one.state in GONE):
        if one.state == "unknown":
            return "cannot be judged", "unknown"
        return ("shed", "warning") if one.state == "shed" else ("not coming back", "error")
    if back:
        return ("restored, late", "error") if late else ("restored", "ok")
    if moves:
        return "serves, to be moved", "note"
    if one is not None and not one.base_outage_ms:
        return "degraded", "warning"
    return "down", "error"


def _forecast(late: bool, stated: bool, when: int) -> str:
    """What is expected of a service that is not restored yet: never a state, and never in its colour."""
    if late:
        return "misses its objective"
    if not when:
        return "not known"
    return "expected before its objective" if stated else "expected"


def steps_page(view: RunView, show: str, begin: int, now_ms: int) -> dict[str, Any]:
    """One page of the steps. show: a phase, or empty for all, those that need a look first."""
    if show:
        numbers: Iterable[int] = (i for i in view.ranked if view.phases[i] == show)
    else:
        rank = {phase: n for n, phase in enumerate(MOST_URGENT)}
        numbers = sorted(range(len(view.steps)), key=lambda i: (rank[view.phases[i]], view.rank[i]))
    found = list(numbers)
    begin = min(begin, max(0, len(found) - 1)) // STEPS * STEPS
    end = min(len(found), begin + STEPS)
    return {
        "rows": [step_line(step_row(view, i), now_ms) for i in found[begin:end]],
        "total": len(found),
        "begin": begin,
        "end": end,
        "before": begin - STEPS if begin else None,
        "after": end if end < len(found) else None,
        "show": show,
        "kinds": [
            (p, f"{number(view.counts[p])} {STEP_STATE.get(p, p)}") for p in MOST_URGENT if view.counts.get(p)
        ],
    }


def step_line(row: StepRow, now_ms: int) -> dict[str, Any]:
    took = took_ms(row, now_ms)
    return {
        "id": row.id,
        "kind": words_of(row.kind),
        "state": STEP_CLASS.get(row.state, ""),
        "words": STEP_STATE.get(row.state, row.state),
        "tries": row.attempts,
        "planned": hour(moment_ms(row.planned_at), now_ms),
        "began": hour(moment_ms(row.started_at), now_ms),
        "took": "-" if took is None else duration(took),
        "predicted": duration(row.predicted_ms),
        "detail": trouble_of(row),
        "verbs": row.verbs,
    }


def event_rows(view: RunView, events: Iterable[tuple[int, Event]]) -> list[dict[str, Any]]:
    """Events in words, newest first."""
    rows = []
    for n, event in events:
        i = view.index.get(event.step, -1) if event.step else -1
        kind, words, weight = told(event, view.steps[i] if i >= 0 else None)
        rows.append(
            {"number": n, "at_ms": event.at_ms, "kind": kind, "words": words, "main": weight == "main"}
        )
    return rows[::-1]


def run_rows(rows: Sequence[RunShort]) -> list[dict[str, Any]]:
    """Lines of runs."""
    return [
        {
            "run": row,
            "words": row.state.replace("_", " "),
            "waits": listed(list(row.waits), 2),
            "state": "warning" if row.waits else RUN_CLASS.get(row.state, "note"),
            "done": number(sum(row.counts.get(phase, 0) for phase in ("succeeded", "skipped"))),
            "steps": plural(row.steps, "step") if row.steps else "",
        }
        for row in rows
    ]
