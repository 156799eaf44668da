"""A run as people and programs read it: one screen, one JSON document, events as lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from evac.model.steps import STEP_WORDS
from evac.report.run_forecast import FORECASTS, forecast_document, forecast_facts
from evac.report.screen import Page
from evac.report.words import duration, listed, number, plural
from evac.run.state import RunView
from evac.run.values import ENDED, Event

SCHEMA_VERSION: Final = 1
SHOWN: Final = 12
_WIDE: Final = 100
_DIGEST: Final = 23
_OTHER_COLUMNS: Final = 24
"""What try, took, indent and the spaces between columns take."""
_LEAST_DETAIL: Final = 20
_TELLING: Final = (
    "attested_by", "proof", "role", "synchronous", "diverged_transactions", "lost_bytes", "archive",
    "upstream", "answers", "running", "wanted", "status",
)  # fmt: skip
_QUIET: Final = frozenset({"epoch", "version", "token", "limits", "kept_for_restart"})
"""Facts that programs read: they are in the JSON."""
_GRAVE: Final = (
    "failed",
    "unknown",
    "undoing",
    "running",
    "ready",
    "pending",
    "undone",
    "skipped",
    "succeeded",
)
_STYLE_OF: Final = {
    "succeeded": "ok", "succeeded_with_exceptions": "warning", "failed": "error", "timed_out": "error",
    "cancelled": "warning", "paused": "warning", "awaiting_approval": "warning", "rolling_back": "warning",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunShown:
    """A run with what is known beside its journal: who leads now (empty: nobody), and of each promotion the
    most that it can lose.
    """

    view: RunView
    leader: str
    now_ms: int
    losses: tuple[LossShown, ...] = ()


@dataclass(frozen=True, slots=True)
class LossShown:
    """most_ms None: nobody knows. basis: synchronous, seen, declared or unknown; words say it to people."""

    store: str
    most_ms: int | None
    basis: str
    words: str


def moment(at_ms: int) -> str | None:
    """UTC with milliseconds; None for never."""
    if at_ms <= 0:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def run_document(shown: RunShown) -> dict[str, Any]:
    """The documented document of one run."""
    view = shown.view
    return run_head(shown) | {"steps": [step_row(view, i) for i in range(len(view.steps))]}


def run_head(shown: RunShown) -> dict[str, Any]:
    """The same without its steps, of which there may be a hundred thousand."""
    view = shown.view
    return {
        "schema_version": SCHEMA_VERSION, "run": view.spec.run, "incident": view.spec.incident,
        "plan_digest": view.plans[-1], "state": view.phase, "leader": shown.leader, "token": view.token,
        "graceful": view.graceful, "held_by": view.held, "why": view.end_why,
        "approved_by": sorted(view.approved_by), "events": view.events, "waits_for": waiting(view),
        "most_lost": [
            {"store": one.store, "milliseconds": one.most_ms, "basis": one.basis, "words": one.words}
            for one in shown.losses
        ],
        "forecast": forecast_document(FORECASTS.of(view, shown.now_ms)),
        "started_at": moment(view.started_ms), "counts": dict(sorted(view.counts.items())),
    }  # fmt: skip


def step_row(view: RunView, i: int) -> dict[str, Any]:
    """One step of that document."""
    step = view.steps[i]
    code, message = view.failures.get(i, ("", ""))
    began, ended = moment(view.started[i]), moment(view.ended[i])
    return {
        "id": step.id, "kind": step.kind, "target": step.target, "state": view.phases[i],
        "attempts": view.attempts[i], "started_at": began, "ended_at": ended,
        "evidence": dict(view.evidence.get(i, {})),
        "error": {"code": code, "message": message} if code else None,
        "waits_for": view.whys.get(i, ""),
    }  # fmt: skip


def run_json(shown: RunShown) -> str:
    return json.dumps(run_document(shown), indent=2, ensure_ascii=False) + "\n"


def event_lines(events: Iterable[tuple[int, Event]]) -> Iterable[str]:
    """One JSON object a line: number in the journal, time, kind, step, attempt, and what the kind carries."""
    for number_, event in events:
        row: dict[str, Any] = {"event": number_, "at": moment(event.at_ms), "kind": event.kind}
        if event.step:
            row |= {"step": event.step, "attempt": event.attempt}
        yield json.dumps(row | {"data": dict(event.data)}, ensure_ascii=False) + "\n"


def waiting(view: RunView) -> list[str]:
    """What only a person can do now, one sentence each."""
    found: list[str] = []
    if view.phase == "awaiting_approval":
        missing = view.spec.approvals - view.approvals
        found.append(f"approval by {plural(max(missing, 1), 'more person', 'more persons')}")
    if view.held:
        found.append(f"the hold by {view.held} to be released")
    if view.phase == "paused" and view.pause is not None:
        found.append(f"the pause to end ({view.pause.by}: {view.pause.reason or 'no reason given'})")
    for i in sorted(view.manual_running):
        step = view.steps[i]
        words = STEP_WORDS.get(step.kind, step.kind)  # type: ignore[call-overload]
        found.append(f"{step.id} by hand: {words}, {step.target}; then attest it")
    for i in sorted(view.doubtful):
        found.append(f"{view.steps[i].id}: its outcome is unknown; look, then attest, retry or skip")
    for i, phase in enumerate(view.phases):
        if phase == "failed":
            _, message = view.failures.get(i, ("", ""))
            found.append(f"{view.steps[i].id} failed: retry or skip" + (f" ({message})" if message else ""))
        elif phase == "ready" and view.steps[i].gate and i not in view.gates_open:
            found.append(f"{view.steps[i].id}: {view.steps[i].gate}; agree with approve --step")
    return found


def run_text(shown: RunShown, width: int, colour: bool, most: int = SHOWN) -> str:
    """One screen: where the run stands, what waits for a person, the steps that need a look, what to type.
    most: steps that are shown.
    """
    view = shown.view
    page = Page(width, colour)
    page.title(f"{view.spec.run}: {_headline(view)}")
    page.line()
    page.facts(_facts(shown, width))
    wants = waiting(view)
    if wants:
        page.line()
        page.line("Waits for a person", "bold")
        for words in wants[:SHOWN]:
            page.line(f"- {words}", "warning")
        if len(wants) > SHOWN:
            page.line(f"and {number(len(wants) - SHOWN)} more", "dim")
    _table(page, shown, width, most)
    page.line()
    page.line(f"next: {_next(view)}", "dim")
    return page.text()


def _headline(view: RunView) -> str:
    words = view.phase.replace("_", " ")
    done = sum(view.counts.get(phase, 0) for phase in ("succeeded", "skipped"))
    return f"{words}, {number(done)} of {plural(len(view.steps), 'step')} done"


def _facts(shown: RunShown, width: int) -> Iterable[tuple[str, str, str]]:
    view = shown.view
    yield (
        "state",
        view.phase.replace("_", " ") + (f" ({view.end_why})" if view.end_why else ""),
        _STYLE_OF.get(view.phase, ""),
    )
    yield "incident", view.spec.incident, ""
    yield "question", view.spec.labels.get("scenario", "-"), ""
    yield "plan", view.plans[-1] if width >= _WIDE else f"{view.plans[-1][:_DIGEST]}…", "dim"
    leader = shown.leader or "nobody: nothing moves until a controller runs"
    yield "leader", leader, "" if shown.leader or view.phase in ENDED else "error"
    agreed = not view.spec.approvals or view.started_ms > 0
    beforehand = "by policy, beforehand" if agreed else "by nobody yet"
    yield "approved", listed(sorted(view.approved_by)) or beforehand, ""
    for one in shown.losses:
        name = "lost at most" if view.phase in ENDED else "may lose"
        yield name, f"{one.store}: {one.words}", "" if one.most_ms == 0 else "warning"
    if view.started_ms > 0:
        end = view.last_ms if view.phase in ENDED else shown.now_ms
        yield "running for", duration(max(0, end - view.started_ms)), ""
    said = FORECASTS.of(view, shown.now_ms)
    if said is not None:
        yield from forecast_facts(said)
    counts = ", ".join(f"{number(view.counts[p])} {p}" for p in _GRAVE if view.counts.get(p))
    yield "steps", counts or "none", ""


def _table(page: Page, shown: RunShown, width: int, most: int) -> None:
    """What needs a look comes first: failed, in doubt, under way; then what was last done."""
    view = shown.view
    rank = {phase: n for n, phase in enumerate(_GRAVE)}
    rows = sorted(
        range(len(view.steps)),
        key=lambda i: (rank[view.phases[i]], -view.ended[i] if view.phases[i] == "succeeded" else i),
    )[:most]
    if not rows:
        return
    longest = max(len(view.steps[i].id) for i in rows) + max(len(view.phases[i]) for i in rows)
    left = width - longest - _OTHER_COLUMNS
    page.line()
    page.table(
        ("step", "state", "try", "took", "detail"),
        [
            (view.steps[i].id, view.phases[i], str(view.attempts[i]), _took(shown, i), _detail(view, i, left))
            for i in rows
        ],
        right=(2, 3), whole=(0,) if left >= _LEAST_DETAIL else (),
    )  # fmt: skip
    if len(view.steps) > len(rows):
        page.line(
            f"and {plural(len(view.steps) - len(rows), 'step')} more: evac run show --output json", "dim"
        )


def _took(shown: RunShown, i: int) -> str:
    view = shown.view
    if not view.started[i]:
        return "-"
    end = view.ended[i] if view.ended[i] >= view.started[i] else shown.now_ms
    return duration(max(0, end - view.started[i]))


def _detail(view: RunView, i: int, width: int) -> str:
    """In full what went wrong or is waited for; of what is done as much as fits on the line."""
    code, message = view.failures.get(i, ("", ""))
    if view.phases[i] == "failed" or (code and view.phases[i] != "succeeded"):
        return f"{message} [{code}]"
    if i in view.whys:
        return view.whys[i]
    return _short(view.evidence.get(i, {}), max(width, _LEAST_DETAIL)) or view.steps[i].gate or "-"


def _short(evidence: Mapping[str, Any], width: int) -> str:
    """Whole facts only, as many as fit, those that say most first."""
    rank = {key: n for n, key in enumerate(_TELLING)}
    words = ""
    for key in sorted(evidence, key=lambda key: (rank.get(key, len(rank)), key)):
        if key in _QUIET or evidence[key] in ("", None):
            continue
        more = f"{', ' if words else ''}{key.replace('_', ' ')} {evidence[key]}"
        if len(words) + len(more) > width - 2:
            return f"{words} …" if words else f"{more[: width - 2]} …"
        words += more
    return words


def _next(view: RunView) -> str:
    run = view.spec.run
    if view.phase == "awaiting_approval":
        return f"evac approve {run} --reason WHY"
    if view.phase == "paused":
        return f"evac run resume {run} --reason WHY"
    if view.counts.get("failed") or view.doubtful:
        return f"evac run retry {run} STEP --reason WHY, or evac run skip {run} STEP --reason WHY"
    if view.phase in ENDED:
        return f"evac run verify {run}, then evac run events {run}"
    return f"evac run watch {run}"


def list_text(rows: Iterable[Mapping[str, Any]], width: int, colour: bool) -> str:
    """One line a run: newest last."""
    page = Page(width, colour)
    heads: tuple[str, ...] = ("run", "state", "question", "started, UTC")
    found = [_run_row(row) for row in rows]
    if not found:
        page.line("no runs yet; evac apply PLAN ESTATE --execute begins one")
        return page.text()
    needed = 2 + sum(2 + max(len(row[n]) for row in (heads, *found)) for n in range(len(heads)))
    if needed > width:  # the name of a run says its question, too
        heads, found = (heads[0], heads[1], heads[3]), [(row[0], row[1], row[3][5:16]) for row in found]
    page.table(heads, found, whole=(0, 1))
    return page.text()


def _run_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    began = (row["started_at"] or "-")[:19].replace("T", " ")
    return row["run"], row["state"].replace("_", " "), row["scenario"], began
