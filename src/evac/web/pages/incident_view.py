"""What the pages of incidents say, as plain values for their templates. Pure: an incident in, words out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from evac.app.status_export import REFRESH_MS
from evac.incident.components import Draft
from evac.incident.records import PHASES, WATCH, Entry, Source, in_order
from evac.incident.regulator import FACTS
from evac.incident.timeline import grouped
from evac.office.incidents import IncidentFile
from evac.office.values import ExportSeen
from evac.views.incident_document import FateShown, IncidentShort, IncidentShown
from evac.views.incident_view import STATE_WORDS
from evac.views.words import duration, listed, number, people, people_between, plural

ENTRIES: Final = 40
SERVICES_MOST: Final = 60
UPDATES_MOST: Final = 5
NAMED_MOST: Final = 12
MINUTE_MS: Final = 60_000
LATE_MS: Final = 3 * REFRESH_MS
_SAID_OF_MANY: Final[Mapping[str, str]] = {
    "down": "are down",
    "degraded": "are serving at reduced capacity",
    "moving": "are being moved",
    "restored": "are serving again",
    "moved": "have moved",
}
LEVEL_CLASS: Final[Mapping[str, str]] = {
    "down": "error",
    "degraded": "warning",
    "moving": "warning",
    "up": "ok",
}
LEVEL_WORDS: Final[Mapping[str, str]] = {
    "down": "down",
    "degraded": "reduced",
    "moving": "being moved",
    "up": "back",
}
KIND_CLASS: Final[Mapping[str, str]] = {
    "down": "error",
    "failed": "error",
    "loss": "error",
    "trouble": "error",
    "refused": "error",
    "degraded": "warning",
    "paused": "warning",
    "skipped": "warning",
    "verdict": "warning",
    "restored": "ok",
    "moved": "ok",
    "resolved": "ok",
    "reopened": "warning",
    "published": "note",
    "command taken": "note",
    "approved": "note",
    "note": "note",
    "draft": "note",
    "fact": "note",
    "status": "note",
}
ASKS: Final[tuple[tuple[str, str], ...]] = (
    ("note", "Write a note"),
    ("update", "Tell users"),
    ("command", "Name the commander"),
    ("state", "Set component status"),
    ("fact", "Add a fact"),
    ("resolved", "Resolve incident"),
    ("reopened", "Reopen incident"),
)


def list_rows(rows: Iterable[IncidentShort], now_ms: int) -> list[dict[str, Any]]:
    return [
        {
            "one": row,
            "state": _state(row),
            "words": STATE_WORDS[row.state].capitalize(),
            "lasts": _lasts(row, now_ms),
            "down": listed(row.still_down, 3) or "nothing",
            "people": _people(row),
        }
        for row in rows
    ]


def context(
    file: IncidentFile,
    made: Draft,
    whole: bool,
    begin: int,
    now_ms: int,
    exports: Sequence[ExportSeen],
) -> dict[str, Any]:
    """Everything that the page of one incident shows."""
    row = file.document.incident
    total = len(file.entries if whole else file.story)
    begin = min(begin, max(0, total - 1)) // ENTRIES * ENTRIES
    end = min(total, begin + ENTRIES)
    updates = [note for note in in_order(file.dossier.notes) if note.kind == "update"][::-1]
    known = {note.name for note in file.dossier.notes if note.kind == "fact"}
    services = [_service(fate, row.until_ms(now_ms)) for fate in file.document.touched]
    first, last = total - end, total - begin
    # What one record did to many services is one line.
    rows = grouped(file.entries[first:last]) if whole else file.story[first:last]
    lines = [_line(row) for row in reversed(rows)]
    return {
        "one": row,
        "answer": _answer(row, len(services), now_ms),
        "cards": _cards(row, len(services), file.about.begun),
        "asks": [ask for ask in ASKS if ask[0] != ("resolved" if row.ended_ms is not None else "reopened")],
        "phases": phases(file),
        "entries": lines,
        "whole": whole,
        "begin": begin,
        "end": end,
        "total": total,
        "before": begin - ENTRIES if begin else None,
        "after": end if end < total else None,
        "services": services[:SERVICES_MOST],
        "services_rest": max(0, len(services) - SERVICES_MOST),
        "draft": made,
        "updates": updates[:UPDATES_MOST],
        "updates_rest": max(0, len(updates) - UPDATES_MOST),
        "facts": len(known & set(FACTS)),
        "facts_all": len(FACTS),
        "plan": file.document.plan,
        "at_ms": max([now_ms, *(entry.at_ms for entry in file.entries[-1:])]),
        "losses": file.dossier.losses,
        "exported": exported(exports, now_ms),
    }


def phases(file: IncidentFile) -> list[dict[str, Any]]:
    """The phases of what was published: which are done, which one is current, and since when."""
    first: dict[str, int] = {}
    last = ""
    for note in in_order(file.dossier.notes):
        if note.kind == "update" and note.value:
            first.setdefault(note.value, note.at_ms)
            last = note.value
    reached = PHASES.index(last) if last in PHASES else -1
    return [
        {
            "name": name.capitalize(),
            "at_ms": first.get(name, 0),
            "look": "now" if n == reached else "done" if n < reached else "",
        }
        for n, name in enumerate(PHASES)
    ]


def next_phase(file: IncidentFile) -> str:
    """The phase that the form of an update proposes. It never goes back. It is Monitoring once the runs
    have ended and something is restored, and never Resolved while something is down.
    """
    said = [note.value for note in in_order(file.dossier.notes) if note.kind == "update" and note.value]
    found = "investigating"
    if runs := file.dossier.runs:
        back = any(fate.level == "up" for fate in file.document.touched)
        over = all(run.ended_ms is not None for run in runs)
        found = "monitoring" if over and back else "identified"
    return max([found, *said[-1:]], key=PHASES.index)


def _state(row: IncidentShort) -> str:
    if row.ended_ms is not None:
        return "warning" if row.still_down else "ok"
    return "error" if row.still_down else "warning"


def _lasts(row: IncidentShort, now_ms: int) -> str:
    """A duration in whole minutes, because it is read at a glance."""
    lasted = max(0, row.until_ms(now_ms) - row.begun_ms)
    return duration(lasted // MINUTE_MS * MINUTE_MS if lasted >= MINUTE_MS else lasted // 1_000 * 1_000)


def _people(row: IncidentShort) -> str:
    if not (row.people_most or row.people_unstated):
        return "not known"
    return people_between(row.people_least, row.people_most, row.people_unstated)


def _answer(row: IncidentShort, touched: int, now_ms: int) -> tuple[str, str]:
    """Return (sentence, state): the state of the incident at a glance."""
    lasts = _lasts(row, now_ms)
    if row.ended_ms is not None:
        words = f"Resolved after {lasts}."
        if row.still_down:
            are = "is" if len(row.still_down) == 1 else "are"
            names = listed(row.still_down, 3)
            words += f" {names[:1].upper()}{names[1:]} {are} still down according to the records."
            return words, _state(row)
        return f"{words} {_of(touched)} affected." if touched else words, _state(row)
    down = len(row.still_down)
    words = f"Ongoing for {lasts}: "
    if touched:
        are = "is" if down == 1 else "are"
        words += f"{number(down)} of {plural(touched, 'affected service')} {are} down."
    else:
        words += "no service is affected according to the records."
    words += "" if row.commander else " It has no commander yet."
    return words, _state(row)


def _of(count: int) -> str:
    return f"{plural(count, 'service')} {'was' if count == 1 else 'were'}"


def still_down(document: IncidentShown) -> tuple[tuple[dict[str, Any], ...], str]:
    """Return (services that are down or degraded now, worst first; how many people lack one, in words)."""
    unwell = [fate for fate in document.touched if fate.level != "up"]
    rows = tuple(
        {
            "id": fate.service,
            "words": LEVEL_WORDS[fate.level],
            "state": LEVEL_CLASS[fate.level],
            "people": fate.people,
            "since_ms": fate.changes[-1].at_ms,
        }
        for fate in unwell[:SERVICES_MOST]
    )
    without = [fate.people for fate in unwell if fate.level == "down"]
    if not without:
        return rows, ""
    said = [count for count in without if count is not None]
    most = max(said, default=0)
    return rows, people(most, len(without) - len(said)) if len(without) == 1 else people(most, len(without))


def exported(rows: Iterable[ExportSeen], now_ms: int) -> list[dict[str, Any]]:
    """The state of the exported status page: `failed`; `late` if nothing was written for longer than an
    unchanged page is left alone; otherwise `written`.
    """
    return [
        {
            "one": row,
            "at_ms": row.since_ms if row.problem else row.ok_ms,
            "state": "failed" if row.problem else "late" if now_ms - row.ok_ms > LATE_MS else "written",
        }
        for row in rows
    ]


def _cards(row: IncidentShort, touched: int, begun: Source) -> list[dict[str, Any]]:
    down, over = len(row.still_down), row.ended_ms is not None
    more = "at some point; it is unknown how many use several services" if touched > 1 else "at some point"
    return [
        _card("first sign", "", f"source: {_proof(begun)[0]}", "", row.begun_ms),
        _card(
            "still down",
            number(down),
            listed(row.still_down, 3) or "nothing",
            "error" if down else "" if over else "ok",
        ),
        _card(
            "people without a service",
            _people(row),
            more if row.people_most or row.people_unstated else "according to the records",
        ),
        _card(
            "commander",
            row.commander or "no one yet",
            "" if row.commander else "assign one",
            "" if row.commander or over else "warning",
            since_ms=row.commander_since_ms,
        ),
    ]


def _card(
    name: str, value: str, more: str, state: str = "", at_ms: int = 0, since_ms: int = 0
) -> dict[str, Any]:
    return {"name": name, "value": value, "more": more, "state": state, "at_ms": at_ms, "since_ms": since_ms}


def _service(fate: FateShown, until_ms: int) -> dict[str, Any]:
    down_ms = fate.down_ms(until_ms)
    late = fate.rto_ms is not None and down_ms > fate.rto_ms
    return {
        "id": fate.service,
        "tier": fate.tier,
        "people": fate.people,
        "words": LEVEL_WORDS[fate.level] + (", late" if late and fate.level != "down" else ""),
        "state": "error" if late else LEVEL_CLASS[fate.level],
        "since_ms": fate.down_since_ms or 0,
        "back_ms": fate.restored_ms or 0,
        "down": duration(down_ms // 1_000 * 1_000) if down_ms else "-",
        "rto": duration(fate.rto_ms) if fate.rto_ms is not None else "-",
    }


def _line(row: Sequence[Entry]) -> dict[str, Any]:
    first, words = row[0], row[0].words
    if len(row) > 1:
        names = [entry.service for entry in row]
        words = f"{plural(len(row), 'service')} {_SAID_OF_MANY[first.kind]}: {listed(names, NAMED_MOST)}"
    return {
        "at_ms": first.at_ms,
        "state": KIND_CLASS.get(first.kind, ""),
        "words": words,
        "main": first.weight == "main",
        "proof": _proof(first.source),
    }


def _proof(source: Source) -> tuple[str, str]:
    """Return (name, URL) of the record that proves something. A note is its own proof and has no URL."""
    if source.stream.startswith("note/"):
        return "a person's note", ""
    if source.stream == WATCH:
        return f"watching, record {number(source.number)}", f"/v1/notices?after={source.number - 1}&limit=1"
    address = f"/runs/{quote(source.stream)}/events?before={source.number + 1}"
    return f"record {number(source.number)}", address
