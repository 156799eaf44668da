"""The page Backups: which data could be restored, what proves it, and what happened to one data set."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Path, Request, Response

from evac.model.backup import RESTORED
from evac.model.errors import InvalidInput
from evac.views import backup_view
from evac.views.svg import Card
from evac.views.words import duration, listed, number, plural
from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/backups", "Backups", icon="db", group="Prepare", key="b")
ROWS_MOST: Final = 200
EVENTS_READ: Final = 50
EVENTS_MOST: Final = 20
"""Events shown; a phone shows each of them on several lines."""
LOOKS: Final = {"missed": "bad", "unknown": "", "undecided": "warn", "met": "good", "waived": ""}
ENDINGS: Final = {
    "missed": "misses its policy",
    "unknown": "cannot be judged",
    "undecided": "has no policy",
    "met": "meets its policy",
    "waived": "needs no backup",
}
ICONS: Final = {"missed": "x", "unknown": "info", "undecided": "warn", "met": "check", "waived": "minus"}
Name = Annotated[str, Path(min_length=1, max_length=200, description="A store, or another data set.")]


@PAGE.router.get(PAGE.path)
async def backups(request: Request) -> Response:
    """Every data set, the worst first."""
    office = room_of(request).office
    document = await office.backups()

    def make() -> bytes:
        return frame.render(
            "backups.html.j2",
            PAGE.path,
            office.clock.now_ms(),
            answer=answer_of(document),
            cards=figures(document),
            rows=[row_of(row) for row in document.data_sets[:ROWS_MOST]],
            rest=max(0, len(document.data_sets) - ROWS_MOST),
            strays=document.strays,
            alarms=document.alarms,
            levels=backup_view.LEVELS,
            one=None,
        )

    return frame.answer(request, "page backups", (document.at, len(document.data_sets)), make)


@PAGE.router.get(PAGE.path + "/{data_set}")
async def data_set(request: Request, data_set: Name) -> Response:
    """One data set: its copies and its history. Raises InvalidInput if it does not exist."""
    office = room_of(request).office
    document = await office.backups()
    row = next((one for one in document.data_sets if one.data_set == data_set), None)
    if row is None:
        raise InvalidInput("not-found", f"the estate has no data set {data_set}", "see /backups")
    events = await office.backup_history(data_set, EVENTS_READ)
    told = [event for event in events if (event.kind, event.outcome, event.who) != ("listed", "done", "")]

    def make() -> bytes:
        return frame.render(
            "backups.html.j2",
            PAGE.path,
            office.clock.now_ms(),
            one=row_of(row),
            answer=(f"{data_set} {ENDINGS[row.state]}", _more(row), LOOKS[row.state]),
            copies=[(copy, _level(copy), backup_view.copy_facts(copy)) for copy in row.copies],
            alarms=[alarm for alarm in document.alarms if alarm.data_set == data_set],
            history=backup_view.history_sheet(
                backup_view.history_document(data_set, told[:EVENTS_MOST])
            ).parts[0],
            levels=backup_view.LEVELS,
        )

    stamp = (document.at, data_set, len(events), events[0].at_ms if events else 0)
    return frame.answer(request, "page backup", stamp, make)


def answer_of(document: backup_view.BackupsDocument) -> tuple[str, str, str]:
    """Return (sentence, details, style)."""
    if not document.data_sets:
        return "The estate lists no data to back up.", "List stores, or other data under data_sets.", "warn"
    counts = document.counts
    look = "bad" if counts["missed"] else "warn" if counts["unknown"] or counts["undecided"] else "good"
    missed = [
        f"{row.data_set} ({backup_view.behind(row)})" for row in document.data_sets if row.state == "missed"
    ]
    more = f"Missing: {listed(missed, 3)}." if missed else ""
    return backup_view.lead_words(document), more, look


def figures(document: backup_view.BackupsDocument) -> list[Card]:
    """What a person asks first: how much is proven, how much is elsewhere, how old the oldest proof is."""
    rows = [row for row in document.data_sets if row.state != "waived"]
    total = len(rows)
    proven = sum(any((copy.level or 0) >= RESTORED for copy in row.copies) for row in rows)
    outside = sum(any(copy.outside and copy.exists is not False for copy in row.copies) for row in rows)
    copies = [(copy, row.data_set) for row in rows for copy in row.copies]
    # One that is too old to count any more is the one to see here.
    proofs = [(proof.age_ms, name) for copy, name in copies if (proof := copy.proof or copy.last_proof)]
    undated = sorted({name for age, name in proofs if age is None})
    dated = [(age, name) for age, name in proofs if age is not None]
    timed = [(copy.restore_ms, name) for copy, name in copies if copy.restore_ms]
    untimed = total - len({name for _, name in timed})
    return [
        _of(total, outside, "Backup outside the domain", "no single site loss takes both"),
        _of(total, proven, "Restored as a test", "proof level 3 or higher, still valid"),
        _longest("Oldest proof", dated, "nothing is proven", listed(undated, 2)),
        _longest("Longest restore", timed, "not measured", f"{number(untimed)} more" if untimed else ""),
    ]


def _longest(name: str, found: list[tuple[int, str]], nothing: str, unknown: str) -> Card:
    """The longest that is known. unknown: of what it is not known, empty for nothing."""
    if not found:
        return Card(name, "not known" if unknown else "none", nothing)
    longest, data_set = max(found)
    return Card(name, duration(longest), f"{data_set}; unknown for {unknown}" if unknown else data_set)


def _of(total: int, count: int, name: str, more: str) -> Card:
    return Card(name, f"{number(count)} of {number(total)}", more, "" if count == total else "warn")


def row_of(row: backup_view.DataRow) -> dict[str, Any]:
    """One row of the matrix."""
    newest = [copy.age_ms for copy in row.copies if copy.age_ms is not None]
    restores = [copy.restore_ms for copy in row.copies if copy.restore_ms is not None]
    unknown = "not known" if row.copies else "-"
    return {
        "name": row.data_set,
        "kind": row.kind,
        "look": LOOKS[row.state],
        "icon": ICONS[row.state],
        "state": f"waived: {row.waived}" if row.state == "waived" else backup_view.state_words(row),
        "copies": [(copy, _level(copy)) for copy in row.copies],
        "newest": duration(min(newest)) if newest else unknown,
        "restore": duration(min(restores)) if restores else unknown,
        "rpo": "" if row.rpo_ms is None else f"RPO {duration(row.rpo_ms)}",
    }


def _level(copy: backup_view.CopyRow) -> int:
    return 0 if copy.level is None else copy.level


def _more(row: backup_view.DataRow) -> str:
    if row.waived:
        return f"{row.waived[:1].upper()}{row.waived[1:]}."
    missing = f"Missing: {backup_view.behind(row)}. " if row.state in ("missed", "unknown") else ""
    known = [copy.bytes for copy in row.copies if copy.bytes is not None]
    sizes = f"the largest has {backup_view.size(max(known))}" if known else "their size is unknown"
    return f"{missing}{plural(len(row.copies), 'backup')}; {sizes}."
