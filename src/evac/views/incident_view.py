"""Values of the package `incident` as sheets and as JSON documents, and a runbook as pages of paper: a
cover with questions and contacts, then a block for each step with space for initials and a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any, Final

from markupsafe import Markup

from evac.incident.dora import Classification
from evac.incident.records import Entry, Source
from evac.incident.regulator import Basics, Duty, Stated
from evac.incident.runbook import Runbook, RunbookService, RunbookStep
from evac.views import rendered
from evac.views.incident_document import EntryShown, IncidentCourse, IncidentShort, entry_shown
from evac.views.sheet import Sheet, SheetPart, local_and_utc, utc
from evac.views.words import (
    OUTCOME_WORDS,
    duration,
    listed,
    number,
    people,
    people_between,
    plural,
    time_back,
    why_words,
)

SCHEMA_VERSION: Final = 1
_MOMENTS: Final = frozenset({"2.2", "2.3", "3.2", "3.3", "4.7", "4.8"})
_UNKNOWN: Final = "not known"
STATE_WORDS: Final[Mapping[str, str]] = {
    "under way": "ongoing",
    "over": "resolved",
    "over, services down": "resolved, services still down",
}
"""State of an incident -> how people read it."""
_BACK = frozenset({"restored", "degraded", "running"})


def json_of(kind: str, body: Mapping[str, Any]) -> str:
    """A document of a kind, with sorted keys; byte-stable."""
    whole = {"kind": kind, "schema_version": SCHEMA_VERSION, **body}
    return json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def summary_row(course: IncidentCourse) -> dict[str, Any]:
    about = course.incident
    return {
        "incident": about.incident,
        "title": about.title,
        "state": about.state,
        "sites": list(about.sites),
        "begun_at": utc(about.begun_ms),
        "begun_by": about.begun_by,
        "ended_at": None if about.ended_ms is None else utc(about.ended_ms),
        "ended_by": about.ended_by,
        "commander": about.commander,
        "people_least": about.people_least,
        "people_most": about.people_most,
        "people_unstated": about.people_unstated,
        "still_down": list(about.still_down),
        "services": [
            {
                "service": fate.service,
                "tier": fate.tier,
                "people": fate.people,
                "level": fate.level,
                "changes": [{"at": utc(c.at_ms), "level": c.level, "source": c.source} for c in fate.changes],
            }
            for fate in sorted(course.touched, key=lambda one: one.service)
        ],
    }


def still_down_words(told: Mapping[str, Any]) -> str:
    """What is down or degraded according to the records, and for how many people. told: from
    `summary_row`.
    """
    lines = [
        f"  {row['service']}: {row['level']}, {people(row['people'])}, since {row['changes'][-1]['at']}"
        for row in told["services"]
        if row["level"] in ("down", "degraded")
    ]
    if not lines:
        return "according to the records, every service is restored"
    return "\n".join(("not restored according to the records:", *lines))


def list_sheet(rows: Sequence[IncidentShort]) -> Sheet:
    """One row per incident, oldest first."""
    found = [
        (
            one.incident,
            STATE_WORDS[one.state],
            one.title,
            local_and_utc(one.begun_ms),
            str(len(one.still_down)),
            one.commander or "-",
        )
        for one in rows
    ]
    head = ("incident", "state", "title", "first sign", "down", "commander")
    words = "" if found else "Each run of a plan belongs to an incident."
    parts = (SheetPart("", "", (), head, found),) if found else ()
    return Sheet(f"{plural(len(found), 'incident')}", words, parts)


def show_sheet(about: IncidentShort, entries: Sequence[EntryShown], now_ms: int) -> Sheet:
    """The state of an incident, and its newest entries."""
    until_ms = about.until_ms(now_ms)
    since = local_and_utc(about.commander_since_ms)
    count = people_between(about.people_least, about.people_most, about.people_unstated)
    facts = [
        ("state", STATE_WORDS[about.state]),
        ("title", about.title),
        ("sites", listed(about.sites) or "none known"),
        ("first sign", f"{local_and_utc(about.begun_ms)} ({about.begun_by})"),
        ("duration", duration(max(0, until_ms - about.begun_ms))),
        ("commander", f"{about.commander} since {since}" if about.commander else "no one yet"),
        ("still down", listed(about.still_down) or "nothing"),
        ("people", f"{count} without a service at some point"),
    ]
    newest = [one for one in entries if one.weight == "main"][-12:]
    rows = [(when, words, source) for when, _, words, source in map(_entry, newest)]
    last = SheetPart("Last entries", "", (), ("when", "what", "source"), rows)
    return Sheet(
        f"{about.incident}: {STATE_WORDS[about.state]}",
        "",
        (SheetPart("", "", facts), last),
        f"next: evac incident timeline {about.incident}",
    )


_TIMELINE: Final = ("when", "kind", "what", "source")


def _entry(entry: EntryShown) -> tuple[str, str, str, str]:
    source = Source(entry.stream, entry.record)
    return local_and_utc(entry.at_ms), entry.kind, entry.words, str(source)


def _records(entries: Iterable[Entry]) -> list[tuple[str, str, str, str]]:
    return [_entry(entry_shown(n, entry)) for n, entry in enumerate(entries, 1)]


def timeline_sheet(about: IncidentShort, entries: Sequence[EntryShown]) -> Sheet:
    return Sheet(
        f"Timeline of {about.incident}",
        f"{about.title}; {about.state}. {plural(len(entries), 'entry', 'entries')}.",
        (SheetPart("", "", (), _TIMELINE, [_entry(e) for e in entries]),),
        "Each entry names the journal and the record number behind it.",
    )


def timeline_json(about: IncidentShort, entries: Iterable[EntryShown]) -> str:
    rows = [
        {
            "at": utc(e.at_ms),
            "at_ms": e.at_ms,
            "kind": e.kind,
            "words": e.words,
            "run": e.run,
            "step": e.step,
            "weight": e.weight,
            "source": {"stream": e.stream, "number": e.record},
        }
        for e in entries
    ]
    return json_of("evac-incident-timeline", {"incident": about.incident, "entries": rows})


def _said(stated: Stated, moment: bool = False) -> str:
    if stated.value is None:
        return _UNKNOWN
    if type(stated.value) is int:
        return local_and_utc(stated.value) if moment else number(stated.value)
    return str(stated.value)


def report_sheet(report: Basics, dora: Classification, duties: Sequence[Duty]) -> Sheet:
    """What a regulator asks for, on paper."""
    length = duration(int(report.duration.value)) if report.duration.value is not None else _UNKNOWN
    facts = [
        ("start", f"{_said(report.start, True)} ({report.start.basis})"),
        ("detected", f"{_said(report.detected, True)} ({report.detected.basis})"),
        ("end", f"{_said(report.end, True)} ({report.end.basis})"),
        ("duration", length),
        ("cause", _said(report.cause)),
        ("sites", ", ".join(report.sites) or _UNKNOWN),
        ("people affected", f"{_said(report.people)} ({report.people.basis})"),
    ]
    services = [
        (
            s.service,
            str(s.tier),
            "unknown" if s.people is None else number(s.people),
            local_and_utc(s.down_since_ms),
            local_and_utc(s.restored_ms),
            duration(s.down_ms),
            s.basis,
        )
        for s in report.services
    ]
    away = sum(s.restored_ms is None for s in report.services)
    open_fields = sum(f.stated.value is None for f in dora.fields)
    more = f", and {report.actions_left_out} more in the timeline" if report.actions_left_out else ""
    done = f"{plural(len(report.actions), 'action')}{more}."
    parts = (
        SheetPart("What happened", "", facts),
        SheetPart(
            "Services",
            f"{plural(len(services), 'service')} went down. Not back yet: {away}."
            if services
            else "No service was down.",
            (),
            ("service", "tier", "people", "down since", "back", "down for", "proved by"),
            services,
        ),
        SheetPart(
            "Maximum data loss",
            "" if report.losses else "No promotion is on record.",
            [(one.store, one.words) for one in report.losses],
        ),
        SheetPart(
            "Korea",
            "Whether an exception applies is a legal question that is not answered here.",
            [row for duty in duties for row in _duty(duty)],
        ),
        SheetPart(
            "EU DORA: classification",
            f"A major incident: {dora.major}. {dora.why}.",
            (),
            ("threshold", "article", "met", "why"),
            [(c.name, c.article, c.met, c.why) for c in dora.criteria],
        ),
        SheetPart(
            "EU DORA: fields of the template",
            f"{plural(len(dora.fields), 'field')}, {open_fields} not known yet.",
            (),
            ("field", "name", "value", "basis"),
            [(f.number, f.name, _said(f.stated, f.number in _MOMENTS), f.stated.basis) for f in dora.fields],
        ),
        SheetPart("Actions", done, (), _TIMELINE, _records(report.actions)),
    )
    at = local_and_utc(report.at_ms)
    lead = f"{report.title}: {STATE_WORDS[report.state]}, as of {at}. Unknown values are marked as such."
    made_from = "Generated by evac from journals and people's notes."
    return Sheet(f"Report on {report.incident}", lead, parts, made_from)


def _duty(duty: Duty) -> Iterable[tuple[str, str]]:
    due = f" (by {local_and_utc(duty.due_ms)})" if duty.due_ms else " (no date yet: ongoing)"
    yield duty.words, f"{duty.due}{due}; done: {_said(duty.told, True)}. {duty.law}"
    for name, stated in duty.content:
        yield f"- {name}", _said(stated, moment=True)  # a number in the content of a duty is a time


def report_json(report: Basics, dora: Classification, duties: Sequence[Duty]) -> str:
    """Times are milliseconds since 1970; value null: not known."""
    body = {
        "basics": asdict(report),
        "dora": asdict(dora),
        "korea": [asdict(duty) for duty in duties],
        "laws": [
            "(EU) 2024/1772",
            "(EU) 2025/302",
            "Telecommunications Business Act of Korea, Article 33(2)",
        ],
    }
    return json_of("evac-incident-report", body)


def runbook_sheet(book: Runbook) -> Sheet:
    """As text, with two empty columns to write in."""
    head = ("step", "what", "where", "begins", "takes", "after", "who", "done at", "by")
    parts = [
        SheetPart(
            part.title,
            "Times count from the start of the plan.",
            (),
            head,
            [
                (
                    s.id,
                    "; ".join((s.words, *([f"do: {s.do}"] if s.do else []), *s.checks))
                    + (" (by hand)" if s.manual else ""),
                    s.where or "-",
                    duration(s.start_ms),
                    duration(s.end_ms - s.start_ms),
                    ", ".join(s.after) or "-",
                    s.owner or "-",
                    "",
                    "",
                )
                for s in part.steps
            ],
        )
        for part in book.parts
    ]
    services = [_service(one) for one in book.services]
    last = SheetPart(
        "When each service is back",
        "Counted from the loss, as planned.",
        (),
        ("service", "tier", "who", "ends", "back after", "rto", "why"),
        services,
    )
    facts = [("plan", book.digest), ("estate", book.estate_digest or "not said"), *book.people.items()]
    lead = (
        "Write down when each step was done and by whom; afterwards: evac run attest RUN STEP --reason WHY."
    )
    return Sheet(f"Runbook: {book.title}", lead, (SheetPart("", "", facts), *parts, last), "Made by evac.")


def runbook_json(book: Runbook) -> str:
    return json_of(
        "evac-runbook",
        {
            "title": book.title,
            "plan_digest": book.digest,
            "estate_digest": book.estate_digest,
            "people": dict(book.people),
            "phones": dict(book.phones),
            "parts": [asdict(part) for part in book.parts],
            "services": [asdict(service) for service in book.services],
        },
    )


def runbook_page(book: Runbook) -> str:
    """One self-contained page without scripts. Same input, same bytes."""
    return rendered("runbook.html.j2", title=title_of(book), body=runbook_body(book), book=book)


OPEN_MOST: Final = 30
"""Steps of a runbook that a screen shows at once."""


def runbook_body(book: Runbook, screen: bool = False) -> Markup:
    """The printed content, as HTML without its own styles. screen: the steps of a long one are folded."""
    parts = [(part.title, list(map(_block, part.steps))) for part in book.parts if part.steps]
    numbers = count(1)
    for _, blocks in parts:
        for block in blocks:
            block["no"] = str(next(numbers))
    text = rendered(
        "runbook_body.html.j2",
        book=book,
        title=title_of(book),
        lead=_lead(book),
        questions=_questions(book),
        contacts=list(book.people.items()),
        owners=_owners(book),
        parts=parts,
        folded=screen and sum(len(blocks) for _, blocks in parts) > OPEN_MOST,
        services=[_service(one) for one in book.services],
    )
    return Markup(text)


def title_of(book: Runbook) -> str:
    return f"{book.title[:1].upper()}{book.title[1:]}"


def _lead(book: Runbook) -> str:
    """What the runbook restores, and when to use it."""
    back = [one for one in book.services if one.state in _BACK]
    gone = [one.service for one in book.services if one.state not in _BACK]
    last = max((one.recovery_ms or 0 for one in back), default=0)
    words = f"Restores {number(len(back))} of {plural(len(book.services), 'affected service')}"
    words += f" in {duration(last)} with evac; by hand it takes longer." if last else "."
    if gone:
        words += f" Not restored: {listed(gone)}."
    return f"{words} Use this runbook only if evac cannot run."


def _questions(book: Runbook) -> list[tuple[str, tuple[str, str | Markup], tuple[str, str]]]:
    """Return (question, (answer, what to do), (other answer, what to do)); empty if nothing is lost."""
    if book.kind != "lose" or not book.lost:
        return []
    lost = listed(book.lost)
    be = "Is" if len(book.lost) == 1 else "Are"
    reached = [[part for part in (book.people.get(n), book.phones.get(n)) if part] for n in book.lost]
    who = next((", ".join(parts) for parts in reached if parts), "people at that site")
    confirm = " ".join(name for name in book.lost if "/" not in name)
    command = f"evac apply {book.digest[:19]} ESTATE --execute{f' --confirm {confirm}' if confirm else ''}"
    return [
        (
            f"{be} {lost} really lost?",
            (
                "Yes",
                "two people at two other sites can't reach it, over different networks. Continue.",
            ),
            ("Not sure", f"stop. Call {who}. Two active primaries are worse than an outage."),
        ),
        (
            "Is evac running at another site?",
            ("Yes", Markup("use it: <code>{} --reason WHY</code>. Put this runbook away.").format(command)),
            ("No", "continue by hand from the first step."),
        ),
        (
            f"Can {lost} still write to its databases?",
            ("No: every fence is signed off", "you may promote."),
            ("Unknown", "do not promote anything. Fence first."),
        ),
    ]


def _owners(book: Runbook) -> list[tuple[str, str]]:
    """Return (team, the services it is responsible for)."""
    found: dict[str, list[str]] = {}
    for one in book.services:
        if one.owner:
            found.setdefault(one.owner, []).append(one.service)
    return [(owner, listed(names, 4)) for owner, names in sorted(found.items())]


def _block(step: RunbookStep) -> dict[str, str]:
    who = ", ".join(part for part in (step.owner, step.takes_part) if part)
    before = step.before
    if step.after:
        after = f"{listed(step.after, 4)} signed"
        before = f"{after}. {before[:1].upper()}{before[1:]}" if before else after
    return {
        "id": step.id,
        "words": f"{step.words[:1].upper()}{step.words[1:]}",
        "where": step.where,
        "do": step.do,
        "before": before or "-",
        "done": step.done_when or "-",
        "back": step.roll_back or "-",
        "who": who or "-",
        "phone": ", ".join(step.phones),
        "takes": duration(step.end_ms - step.start_ms),
        "manual": "by hand" if step.manual else "",
    }


def _service(one: RunbookService) -> tuple[str, ...]:
    return (
        one.service,
        str(one.tier),
        one.owner or "-",
        OUTCOME_WORDS[one.state],
        "-" if one.state not in _BACK else time_back(one.recovery_ms),
        duration(one.rto_ms) if one.rto_ms else "-",
        why_words(one.reason, one.moved) or "-",
    )
