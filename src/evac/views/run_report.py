"""A run for people: one screen made from its document, and events as lines.

The screen is made from the document alone, so it is the same whether the document was replayed from a store
or read from the API of a war room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from evac.model.foreign_text import without_controls
from evac.model.step_id import LimitId
from evac.run.limits import LimitRow
from evac.run.values import ENDED, Event
from evac.views.documents import MOST_URGENT, RunDocument, StepRow, slow_words, took_ms, trouble_of
from evac.views.sheet import Page
from evac.views.wait_words import forecast_facts, urgency
from evac.views.words import (
    NO_LEADER,
    duration,
    listed,
    moment,
    moment_ms,
    number,
    people,
    plural,
    wall_clock_here,
)

SHOWN: Final = 12
_WIDE: Final = 100
_DIGEST: Final = 23
_OTHER_COLUMNS: Final = 24
"""The width of attempt, duration, indentation and the spaces between columns."""
_LEAST_DETAIL: Final = 20
_TELLING: Final = (
    "attested_by",
    "proven_by",
    "proof",
    "role",
    "synchronous",
    "diverged_transactions",
    "lost_bytes",
    "reached",
    "archive",
    "upstream",
    "answers",
    "running",
    "wanted",
    "status",
)
_QUIET: Final = frozenset({"epoch", "version", "token", "limits", "kept_for_restart", "reached_at", "as_of"})
"""Facts for programs only: they are in the JSON."""
STYLE_OF: Final = {
    "succeeded": "ok",
    "succeeded_with_exceptions": "warning",
    "failed": "error",
    "timed_out": "error",
    "cancelled": "warning",
    "paused": "warning",
    "awaiting_approval": "warning",
    "rolling_back": "warning",
}


_STYLE_OF_GROUP: Final = {"together": "ok", "apart": "error", "unknown": "unknown", "waiting": ""}

Document = Mapping[str, Any]


def event_row(number_: int, event: Event) -> dict[str, Any]:
    """One event: number in the journal, time, kind, step, attempt, and what the kind carries."""
    row: dict[str, Any] = {"event": number_, "at": moment(event.at_ms), "kind": event.kind}
    if event.step:
        row |= {"step": event.step, "attempt": event.attempt}
    return row | {"data": dict(event.data)}


def event_line(row: Document, output: str) -> str:
    """One line, as JSON or for people."""
    if output == "jsonl":
        return json.dumps(row, ensure_ascii=False) + "\n"
    return without_controls(f"{row['event']:6} {row['at']} {row['kind']:18} {row.get('step', '')}\n")


def run_text(document: RunDocument, width: int, colour: bool, most: int = SHOWN) -> str:
    """One screen: the state of the run, what waits for a person, the most urgent steps, and the next command.
    `document`: with its steps by urgency; `most`: how many of them are shown.
    """
    page = Page(width, colour)
    page.title(f"{document.run}: {_headline(document)}")
    page.line()
    page.facts(_facts(document, width))
    wants = document.waits_for
    if wants:
        page.line()
        page.line("Waiting for a person", "bold")
        for words in wants[:SHOWN]:
            page.line(f"- {words}", "warning")
        if len(wants) > SHOWN:
            page.line(f"and {number(len(wants) - SHOWN)} more", "dim")
    _table(page, document, width, most)
    page.line()
    page.line(f"next: {_next(document)}", "dim")
    return page.text()


def _headline(document: RunDocument) -> str:
    counts = document.counts
    words = document.state.replace("_", " ")
    if document.left:
        words += f": {document.why}"
    done = sum(counts.get(phase, 0) for phase in ("succeeded", "skipped"))
    return f"{words}, {number(done)} of {plural(sum(counts.values()), 'step')} done"


def _facts(document: RunDocument, width: int) -> Iterable[tuple[str, str, str]]:
    state, why, plan = document.state, document.why, document.plan_digest
    if document.silent_since:
        at_ms = moment_ms(document.silent_since)
        at = wall_clock_here().both(at_ms, at_ms, True)
        yield "store", f"has not answered since {at}: everything below shows the state at that time", "error"
    if document.not_taken_over:
        yield "not running", f"the leader cannot take it over: {document.not_taken_over}", "error"
    for drift in document.drifted[-SHOWN:]:
        after = "evac corrected it" if drift.corrected else "evac does not correct it: a person must look"
        style = "warning" if drift.corrected else "error"
        yield "undone elsewhere", f"{drift.step}, seen at {_clock(drift.at)}; {after}", style
    if (rest := len(document.drifted) - SHOWN) > 0:
        yield "", f"and {number(rest)} before these", "dim"
    for one in document.left[:SHOWN]:
        affected = f", {people(one.people)} people" if one.people else ""
        yield one.label, f"{one.name}: {one.words}{affected}", "warning"
    yield "state", state.replace("_", " ") + (f" ({why})" if why else ""), STYLE_OF.get(state, "")
    yield "incident", document.incident, ""
    yield "scenario", document.question or "-", ""
    yield "plan", plan if width >= _WIDE else f"{plan[:_DIGEST]}…", "dim"
    yield "leader", document.leader or NO_LEADER, "" if document.leader or state in ENDED else "error"
    began_ms = moment_ms(document.started_at)
    agreed = not document.approvals_needed or began_ms > 0
    beforehand = "in advance, by policy" if agreed else "not yet"
    proofs = document.approval_proofs
    named = [f"{who} ({proofs[who]})" if who in proofs else who for who in document.approved_by]
    yield "approved", listed(named) or beforehand, ""
    safe: dict[str, list[str]] = {}
    for lost in document.most_lost:
        if lost.milliseconds == 0:
            safe.setdefault(lost.known, []).append(lost.store)
        else:
            yield "worst-case loss", lost.sentence, "warning"
    for words, stores in safe.items():
        yield "worst-case loss", f"{listed(stores)}: {words}", ""
    for group in document.groups:
        yield "recovery group", group.words, _STYLE_OF_GROUP[group.state]
    if began_ms > 0:
        end_ms = moment_ms(document.ended_at or document.as_of)
        yield "took" if state in ENDED else "running for", duration(max(0, end_ms - began_ms)), ""
    if document.forecast is not None:
        yield from forecast_facts(document.forecast)
    for row in document.limits_changed[:SHOWN]:
        yield "limit", limit_words(row), "warning" if row.held >= row.now else ""
    if slow := slow_words(document):
        yield "late", slow, ""
    counts = document.counts
    yield "steps", ", ".join(f"{number(counts[p])} {p}" for p in MOST_URGENT if counts.get(p)) or "none", ""


def _clock(at: str) -> str:
    at_ms = moment_ms(at)
    return wall_clock_here().both(at_ms, at_ms, True)


def limit_words(row: LimitRow) -> str:
    """`power:pangyo 43,065 W instead of 86,130 W, 37,900 W held`. row: of a limit that a person changed."""
    unit = " W" if LimitId.parse(row.limit).is_watts else ""
    now, whole, held = (f"{number(value)}{unit}" for value in (row.now, row.whole, row.held))
    full = "; nothing starts until there is capacity" if row.held >= row.now else ""
    return f"{row.limit} {now} instead of {whole}, {held} held{full}"


def _table(page: Page, document: RunDocument, width: int, most: int) -> None:
    rows, whole = document.steps[:most], sum(document.counts.values())
    if not rows:
        return
    longest = max(len(row.id) for row in rows) + max(len(row.state) for row in rows)
    left = width - longest - _OTHER_COLUMNS
    now_ms = moment_ms(document.ended_at or document.as_of)
    page.line()
    page.table(
        ("step", "state", "try", "took", "detail"),
        [(row.id, row.state, str(row.attempts), _took(row, now_ms), _detail(row, left)) for row in rows],
        right=(2, 3),
        whole=(0,) if left >= _LEAST_DETAIL else (),
    )
    if whole > len(rows):
        page.line(f"and {plural(whole - len(rows), 'more step')}: evac run show --output json", "dim")


def _took(row: StepRow, now_ms: int) -> str:
    took = took_ms(row, now_ms)
    return "-" if took is None else duration(took)


def _detail(row: StepRow, width: int) -> str:
    """What went wrong or what it waits for, in full; for what is done, as much as fits on the line."""
    words = trouble_of(row)
    if row.state in ("pending", "ready") and row.evidence and not row.waits_for and not row.verbs:
        return "was done, and will be done again"
    return words or _short(row.evidence, max(width, _LEAST_DETAIL)) or row.gate or "-"


def _short(evidence: Mapping[str, Any], width: int) -> str:
    """Whole facts only, as many as fit, the most informative first."""
    rank = {key: n for n, key in enumerate(_TELLING)}
    words = ""
    for key in sorted(evidence, key=lambda key: (rank.get(key, len(rank)), key)):
        if key in _QUIET or evidence[key] in ("", None):
            continue
        of_person = key == "proven_by" and words
        fact = f" ({evidence[key]})" if of_person else f"{key.replace('_', ' ')} {evidence[key]}"
        more = fact if of_person or not words else f", {fact}"
        if len(words) + len(more) > width - 2:
            return f"{words} …" if words else f"{more[: width - 2]} …"
        words += more
    return words


def _next(document: RunDocument) -> str:
    """The command that ends the most important wait, or else the one that shows more."""
    run = document.run
    if document.state in ENDED:
        if document.left or document.state == "cancelled":  # it may have left a mark on its sites
            return "evac status ESTATE"
        return f"evac run verify {run}, then evac run events {run}"
    waits = [one for one in document.waits if one.next]
    if waits:
        return min(waits, key=urgency).next
    return f"evac run watch {run}"
