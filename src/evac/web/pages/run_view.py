"""What the page of a run says, as plain values for its templates. Pure: a run in, words out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from evac.incident.timeline import told
from evac.model.plan import Outcome
from evac.office.values import RunShort
from evac.run.values import CORRUPT, ENDED, Event
from evac.run.view import RunView
from evac.views import documents, live_charts
from evac.views.decisions import asked_words, cost_words, decision_of, waiting_words, why_words
from evac.views.live_charts import Impact
from evac.views.run_report import STYLE_OF, limit_words
from evac.views.wait_words import WaitRow, urgency
from evac.views.words import GONE, duration, listed, moment_ms, number, people, plural, wall_clock_here
from evac.web.pages.projection import TOLERANCE_MS, Projection, Shown, charts, curves, impact, words_of

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
NOTABLE_MS: Final = 5_000
"""Smaller differences from the plan are ignored."""
RUN_LOOK: Final[Mapping[str, str]] = {
    "succeeded": "good",
    "failed": "bad",
    "timed_out": "bad",
    CORRUPT: "bad",
}


def context(shown: Shown) -> dict[str, Any]:
    """Everything that the page shows."""
    view, said, document = shown.run.view, shown.said, documents.run_head(shown.run)
    services = service_rows(shown)
    late = [row for row in services if row["late"]]
    ended = document.state in ENDED
    wants = () if ended else document.waits
    felt = impact(shown)
    return {
        "run": document.run,
        "incident": document.incident,
        "at_ms": said.at_ms,
        "scenario": document.question,
        "plan": document.plan_digest,
        "answer": _answer(document, said, len(wants), len(late)),
        "cards": _cards(document, shown, late, felt),
        "waits": [wait_line(one) for one in wants[:WAITS_MOST]],
        "waits_rest": max(0, len(wants) - WAITS_MOST),
        "asks": document.verbs,
        "held": document.held_by,
        "servers": said.servers,
        "losses": document.most_lost,
        "ended": ended,
        "slow": documents.slow_words(document),
        "left": document.left[:SERVICES_MOST],
        "left_rest": max(0, len(document.left) - SERVICES_MOST),
        "approved": [f"{who} ({words})" for who, words in document.approval_proofs.items()],
        "limits": [limit_words(row) for row in document.limits_changed],
        "charts": charts(shown, wants),
        "legend": live_charts.LEGEND,
        "curve": curves(shown, felt, wants),
        "next": next_action(shown, wants),
        "state": _state(document),
        "look": "warn" if wants else RUN_LOOK.get(document.state, ""),
        "counts": _counts(document),
        "begun_ms": said.begun_ms,
        "services": services[:SERVICES_MOST],
        "services_rest": max(0, len(services) - SERVICES_MOST),
        "objectives": shown.plan is not None,
        "waits_counted": said.waits,
        "steps": steps_page(view, shown.show, shown.begin, said.at_ms),
        "events": event_rows(view, shown.events),
        "events_all": document.events,
        "events_after": max(0, document.events - len(shown.events)) if not document.silent_since else 0,
        "silent": bool(document.silent_since),
        "untaken": document.not_taken_over,
        "drifted": [(row.step, moment_ms(row.at), row.corrected) for row in document.drifted[-WAITS_MOST:]],
        "drifted_rest": max(0, len(document.drifted) - WAITS_MOST),
    }


def _answer(document: documents.RunHead, said: Projection, wants: int, late: int) -> tuple[str, str]:
    """Return (sentence, state): the progress of the run at a glance."""
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
        return f"{words} No controller leads: nothing happens until one does.", "error"
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
    return words + (", if the waiting step is completed now." if said.waits else ".")


def hour(at_ms: int, now_ms: int, zone: bool = True) -> str:
    """`14:52:03 KST`, without seconds but with its date if that is not today; a dash for never."""
    if at_ms <= 0:
        return "-"
    wall = wall_clock_here()
    today = wall.at(at_ms).date() == wall.at(now_ms).date()
    return (wall.local if zone else wall.bare)(at_ms, now_ms, today)


def beside(late_ms: int) -> str:
    """The difference from the plan in words."""
    if abs(late_ms) < NOTABLE_MS:
        return "as planned"
    size = duration(abs(late_ms) // 1_000 * 1_000)
    return f"{size} {'later' if late_ms > 0 else 'earlier'} than planned"


def _cards(
    document: documents.RunHead, shown: Shown, late: Sequence[Mapping[str, Any]], felt: Impact | None
) -> list[dict[str, str]]:
    said = shown.said
    name = "Ended" if said.over else "Projected finish"
    end, planned = hour(said.end_ms, said.at_ms, zone=False), hour(said.planned_ms, said.at_ms)
    more = f"planned {planned}" if said.begun_ms else "not started"
    if said.waits and not said.over:
        more = f"if approved now; {more}"
    cards = [_card(name, end, more, "")]
    gap = abs(said.late_ms) // 1_000 * 1_000
    if said.begun_ms and gap >= NOTABLE_MS:
        words = "later than planned" if said.late_ms > 0 else "earlier than planned"
        since = f", behind since {hour(said.behind.since_ms, said.at_ms)}" if said.behind.since_ms else ""
        cards.append(_card("Against plan", duration(gap), f"{words}{since}", ""))
    else:
        cards.append(_card("Against plan", "on time" if said.begun_ms else "-", "", ""))
    if felt is not None:
        back, down = len(felt.services) - len(felt.down), felt.down
        more = f"down: {listed([one.service for one in down], 3)}" if down else "nothing is down"
        cards.append(_card("Services restored", f"{back} of {len(felt.services)}", more, ""))
        peak = people(felt.peak, felt.unstated)
        more = f"the peak was {peak}" if felt.unstated else f"at most; the peak was {peak}"
        now = people(felt.people_now, felt.unstated_now)
        grave = "error" if felt.down and not said.over else ""
        cards.append(_card("People without a service", now, more, grave))
    if shown.plan is None:
        cards.append(_card("Will miss their objective", "not known", "the plan cannot be read", "unknown"))
    else:
        names = listed([row["id"] for row in late], 3) or "no service"
        cards.append(_card("Will miss their objective", number(len(late)), names, "error" if late else ""))
    failed = document.counts.get("failed", 0)
    if failed or felt is None:
        more = f"{number(document.counts.get('unknown', 0))} in doubt"
        cards.append(_card("Failed steps", number(failed), more, "error" if failed else ""))
    return cards


def _state(document: documents.RunHead) -> str:
    words = document.state.replace("_", " ")
    return "Waiting for a person" if document.waits and document.state not in ENDED else words.capitalize()


def _counts(document: documents.RunHead) -> str:
    """`31 of 52 steps done, 1 running, 0 failed, 0 in doubt`."""
    counts = document.counts
    done = counts.get("succeeded", 0) + counts.get("skipped", 0)
    rest = f"{number(counts.get('failed', 0))} failed, {number(counts.get('unknown', 0))} in doubt"
    running = number(counts.get("running", 0))
    return f"{number(done)} of {plural(sum(counts.values()), 'step')} done, {running} running, {rest}"


def _card(name: str, value: str, more: str, state: str) -> dict[str, str]:
    return {"name": name, "value": value, "more": more, "state": state}


def wait_line(row: WaitRow) -> dict[str, Any]:
    """What is waiting, and the requests that would end it; a hold is released on the page Hold."""
    verbs = [verb for verb in row.verbs if verb != "release"]
    return {"words": row.words, "step": row.step, "verbs": verbs, "code": row.facts.get("code", "")}


def next_action(shown: Shown, waits: Sequence[WaitRow]) -> dict[str, Any] | None:
    """The one thing for a person to do next, with its cost and who waits for it; None if nothing is
    waiting.
    """
    asked = [row for row in waits if any(verb != "release" for verb in row.verbs)]
    if not asked:
        return None
    row = min(asked, key=urgency)
    verbs = [verb for verb in row.verbs if verb != "release"]
    path = f"/runs/{quote(shown.run.view.spec.run, safe='')}/ask?verb="
    step = f"&step={quote(row.step, safe='')}" if row.step else ""
    found: dict[str, Any] = {
        "title": row.words[:1].upper() + row.words[1:],
        "since_ms": moment_ms(row.since),
        "href": f"{path}{verbs[0]}{step}",
        "label": "Review and approve" if verbs[0] == "approve" else verbs[0].capitalize(),
        "others": [(verb.capitalize(), f"{path}{verb}{step}") for verb in verbs[1:]],
        "cost": "",
        "waits": "",
        "code": row.facts.get("code", ""),
        "command": row.next,
        "step": row.step,
        "words": "",
    }
    if row.kind == "gate" or row.kind == "approval":
        asks = decision_of(shown.run, row.step if row.kind == "gate" else "", shown.plan)
        words = waiting_words(asks)
        found |= {
            "title": asked_words(asks),
            "words": why_words(asks) if row.kind == "gate" else "",
            "cost": cost_words(asks),
            "waits": f"{words[:1].upper()}{words[1:]}." if words else "",
        }
    return found


def service_rows(shown: Shown) -> list[dict[str, Any]]:
    """Each service that the run restores: planned, projected or actual time, and its objective; late ones
    first.
    """
    said = shown.said
    if shown.plan is None:
        times = {**said.back, **said.services}
        return [_service(None, name, shown, 0, at) for name, at in sorted(times.items())]
    lost_ms = shown.created_ms - shown.plan.detection_ms if shown.created_ms else 0
    times, unstated = {**said.back, **said.services}, shown.plan.unstated
    rows = [
        _service(one, one.service, shown, lost_ms, times.get(one.service, 0), one.service not in unstated)
        for one in shown.plan.outcomes
        if one.state != "running"
    ]
    return sorted(rows, key=lambda row: (not row["late"], row["tier_key"], -row["people_key"], row["id"]))


def _service(
    one: Outcome | None, name: str, shown: Shown, lost_ms: int, at_ms: int, stated: bool = True
) -> dict[str, Any]:
    """One row. stated: whether the estate states how many people use it."""
    said, back = shown.said, name in shown.said.back
    base = one.base_ms if one is not None else None
    planned = said.begun_ms + base if base is not None and said.begun_ms else 0
    limit = lost_ms + one.rto_ms if one is not None and one.rto_ms is not None and lost_ms > 0 else 0
    given_up = one is not None and (base is None or one.state in GONE)
    stays = base == 0 and not given_up and not (one is not None and one.goes_down)
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
        "people": None if one is None or not stated else one.people,
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
    """The current state of a service. moves: the plan moves services while they keep serving."""
    if one is not None and (one.base_ms is None or one.state in GONE):
        if one.state == "unknown":
            return "cannot be judged", "unknown"
        return ("shed", "warning") if one.state == "shed" else ("not coming back", "error")
    if back:
        return ("restored, late", "error") if late else ("restored", "ok")
    if moves:
        return "serves, to be moved", "note"
    if one is not None and not one.goes_down:
        return "degraded", "warning"
    return "down", "error"


def _forecast(late: bool, stated: bool, when: int) -> str:
    """What is expected of a service that is not restored yet: never shown as a state, nor in its colour."""
    if late:
        return "misses its objective"
    if not when:
        return "not known"
    return "expected within its objective" if stated else "expected"


QUIET: Final = frozenset({"pending", "succeeded", "skipped", "undone"})
"""Phases of steps that need no one: collapsed on the first page of all steps."""


def steps_page(view: RunView, show: str, begin: int, now_ms: int) -> dict[str, Any]:
    """One page of the steps. show: a phase, or empty for all, those that need attention first."""
    if show:
        numbers: Iterable[int] = (i for i in view.ranked if view.phases[i] == show)
    else:
        rank = {phase: n for n, phase in enumerate(documents.MOST_URGENT)}
        numbers = sorted(range(len(view.steps)), key=lambda i: (rank[view.phases[i]], view.rank[i]))
    found = list(numbers)
    begin = min(begin, max(0, len(found) - 1)) // STEPS * STEPS
    end = min(len(found), begin + STEPS)
    lines = [(i, step_line(documents.step_row(view, i), now_ms)) for i in found[begin:end]]
    folds = not show and not begin
    quiet = [line for i, line in lines if folds and view.phases[i] in QUIET and not line["detail"]]
    return {
        "rows": [line for _, line in lines if line not in quiet],
        "quiet": quiet,
        "total": len(found),
        "begin": begin,
        "end": end,
        "before": begin - STEPS if begin else None,
        "after": end if end < len(found) else None,
        "show": show,
        "kinds": [
            (p, f"{number(view.counts[p])} {STEP_STATE.get(p, p)}")
            for p in documents.MOST_URGENT
            if view.counts.get(p)
        ],
    }


def step_line(row: documents.StepRow, now_ms: int) -> dict[str, Any]:
    took = documents.took_ms(row, now_ms)
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
        "detail": documents.trouble_of(row),
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
    """The rows of the list of runs."""
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
