"""Operations on incidents, given an open store: one with everything, all of them, a new note, papers, a
status page.

note/<incident>/<id>    one note of a person, written once and never changed
status-export/<site>    state of the export of the public status page there
noted                   the key of the last note; its revision shows that there is a new one

A run of 100,000 steps has several hundred thousand records, which take seconds to read, bind and replay.
Callers that show an incident repeatedly keep a fold of its run and read only new records.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Literal

import orjson

from evac.app import runs
from evac.app.access_log import is_of_no_run
from evac.app.runs import INCIDENT
from evac.engine.plans.library import get_plan
from evac.engine.runs.reading import decode_all, run_of_incident
from evac.engine.stores.stalled_commits import is_protection
from evac.estate.codecs import plan as plan_codec
from evac.incident import records
from evac.incident.components import StatusPage, status_page
from evac.incident.dora import classify
from evac.incident.incident import Dossier, Summary, summary
from evac.incident.regulator import basics, check_fact, duties
from evac.incident.services import Fate, Walk
from evac.incident.timeline import Telling, timeline
from evac.model.collector import collector_at_rest
from evac.model.errors import Corrupt, EvacError, InvalidInput, RunError
from evac.model.plan import Plan
from evac.run.values import Event
from evac.run.view import RunView
from evac.store.anchors import Anchor
from evac.store.journal import read
from evac.store.port import Change, Compare, Put, Store, entries
from evac.views import incident_view as views
from evac.views.incident_document import entry_shown, incident_course, incident_short
from evac.views.sheet import Sheet, sheet_markdown, sheet_page
from evac.views.words import wall_clock_here

KEPT: Final = 4


class RunFold:
    """One run. After `read_on`: its record, the fate of its services, and its facts."""

    def __init__(self, run: str, incident: str) -> None:
        self.run, self.incident = run, incident
        self._forget()

    def _forget(self) -> None:
        self._head: Anchor | None = None
        self._events: list[Event] = []
        self._record: records.RunRecord | None = None
        self._telling: Telling | None = None
        self._walk: Walk | None = None

    @property
    def record(self) -> records.RunRecord:
        assert self._record is not None
        return self._record

    @property
    def telling(self) -> Telling:
        assert self._telling is not None
        return self._telling

    @property
    def view(self) -> RunView:
        """Its state after the last record; must not be modified."""
        return self.telling.view

    def fates(self, record: records.RunRecord, begun_ms: int, begun: records.Source) -> tuple[Fate, ...]:
        """As `services.fates`, from the record as last read."""
        if self._walk is None or self._walk.since != (begun_ms, begun):
            self._walk = Walk(record, begun_ms, begun)
        self._walk.read_on(record.events)
        return self._walk.found()

    async def read_on(self, store: Store) -> None:
        """Read new records; a journal that does not continue from the last position is read from its start.
        Raises RunError if there is none, Corrupt, Unavailable.
        """
        try:
            await self._read(store)
        except Corrupt:
            if self._head is None:
                raise
            self._forget()
            await self._read(store)

    async def _read(self, store: Store) -> None:
        with collector_at_rest():
            await self._read_new(store)

    async def _read_new(self, store: Store) -> None:
        new, head = list[Event](), self._head
        async for segment in read(store, self.run, head or 0):
            new += decode_all(segment.records)
            head = Anchor(self.run, segment.number, segment.last, segment.hash)
        if head is None:
            raise RunError("run-unknown", f"no such run: {self.run[:80]}", "evac run list")
        events = [*self._events, *new]
        if self._telling is None or any(event.kind == "plan_replaced" for event in new):
            await self._begin(store, events)
        self._head, self._events = head, events
        self.telling.read_on(events)
        known = self.record
        self._record = records.RunRecord(known.spec, tuple(events), known.others, known.plans)

    async def _begin(self, store: Store, events: Sequence[Event]) -> None:
        """Start with the steps of all its plans."""
        first, others = await runs.specs_of(store, self.run, events)
        found = {spec.plan: await _plan(store, spec.plan) for spec in (first, *others)}
        plans = {digest: plan for digest, plan in found.items() if plan is not None}
        self._telling, self._walk = Telling(self.incident, first, others), None
        self._record = records.RunRecord(first, (), others, plans)


class Folds:
    """Folds of the runs last used. For one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, RunFold] = OrderedDict()

    def of(self, run: str, incident: str) -> RunFold:
        """The fold of a run, possibly still empty."""
        found = self._kept.pop(run, None) or RunFold(run, incident)
        self._kept[run] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    def summary_of(self, dossier: Dossier) -> Summary:
        """The summary of a dossier just made from these folds. Raises RunError."""
        if not dossier.runs:
            return summary(dossier)
        return summary(dossier, self.of(dossier.runs[0].run, dossier.incident).fates)


async def _plan(store: Store, digest: str) -> Plan | None:
    """None if it is not a plan of services, such as one that only protects a store."""
    try:
        data = await get_plan(store, digest)
        return None if is_protection(data) else plan_codec.decode(data, digest)
    except EvacError:
        return None


PaperForm = Literal["json", "markdown", "html", "sheet"]
PaperKind = Literal["summary", "timeline", "whole-timeline", "report"]


def list_paper(rows: Sequence[tuple[Dossier, Summary]], form: PaperForm) -> str | Sheet:
    """List of all incidents."""
    if form == "json":
        found = [views.summary_row(incident_course(*row)) for row in rows]
        return views.json_of("evac-incidents", {"incidents": found})
    return written(views.list_sheet([incident_short(*row) for row in rows]), form)


def paper(
    found: Dossier,
    about: Summary,
    kind: PaperKind,
    form: PaperForm,
    now_ms: int,
    entries: Sequence[records.Entry] | None = None,
) -> str | Sheet:
    """One paper of one incident. entries: its timeline, if already known."""
    if kind == "report":
        told = basics(found, about, now_ms)
        parts = told, classify(found, about, told), duties(found, about, told)
        return views.report_json(*parts) if form == "json" else written(views.report_sheet(*parts), form)
    if kind == "summary" and form == "json":
        return views.json_of("evac-incident", views.summary_row(incident_course(found, about)))
    short = incident_short(found, about)
    rows = timeline(found, about) if entries is None else entries
    chosen = [entry for entry in rows if kind == "whole-timeline" or entry.weight == "main"]
    shown = [entry_shown(n, entry) for n, entry in enumerate(chosen, 1)]
    if kind == "summary":
        return written(views.show_sheet(short, shown, now_ms), form)
    if form == "json":
        return views.timeline_json(short, shown)
    return written(views.timeline_sheet(short, shown), form)


def written(sheet: Sheet, form: PaperForm) -> str | Sheet:
    if form == "sheet":
        return sheet
    return sheet_page(sheet) if form == "html" else sheet_markdown(sheet)


NOTE: Final = "note/"
NOTED: Final = "noted"
EXPORTED: Final = "status-export/"
PAGE: Final = 500


async def names(store: Store) -> list[str]:
    """All incidents, including those with notes only; sorted."""
    found = set(await notes_alone(store))
    async for entry in entries(store, INCIDENT, PAGE):
        found.add(entry.key.removeprefix(INCIDENT))
        if len(found) > runs.RUNS_MOST:
            break
    return sorted(found)


async def notes_alone(store: Store) -> list[str]:
    """All incidents with notes; sorted."""
    found: set[str] = set()
    after = ""
    while page := await store.list(NOTE, after, PAGE):
        found |= {entry.key.removeprefix(NOTE).partition("/")[0] for entry in page}
        after = f"{page[-1].key.rpartition('/')[0]}/\U0010ffff"  # skip the other notes of this incident
        if len(found) > runs.RUNS_MOST:
            break
    return sorted(found)


async def notes_of(store: Store, incident: str) -> tuple[records.Note, ...]:
    """Notes in order of their ids. Raises InvalidInput for an invalid note."""
    prefix, found = f"{NOTE}{incident}/", []
    async for entry in entries(store, prefix, PAGE):
        try:
            row = orjson.loads(entry.value)
        except orjson.JSONDecodeError:
            row = None
        found.append(records.from_data(incident, entry.key.removeprefix(prefix), row))
        if len(found) >= records.NOTES_MOST:
            break
    return tuple(found)


async def _readable_notes(store: Store, incident: str) -> tuple[records.Note, ...]:
    with contextlib.suppress(InvalidInput):
        return await notes_of(store, incident)
    return ()


async def published(store: Store) -> list[tuple[str, int, str, str]]:
    """(key, when, title, text) of every published update; invalid notes are omitted."""
    found = []
    async for entry in entries(store, NOTE, PAGE):
        incident, _, id = entry.key.removeprefix(NOTE).partition("/")
        with contextlib.suppress(InvalidInput, orjson.JSONDecodeError):
            note = records.from_data(incident, id, orjson.loads(entry.value))
            if note.kind == "update":
                text = "\n\n".join(filter(None, (note.text, note.other_text)))
                title = " / ".join(filter(None, (note.name, note.other_name)))
                if note.due_ms:
                    text += f"\n\nNext update by {wall_clock_here().both(note.due_ms, note.at_ms)}."
                found.append((f"{incident}/{id}", note.at_ms, title, text))
    return found


async def add_note(store: Store, note: records.Note, new: bool = False) -> str:
    """Write a new note; return its key. new: the incident may be unknown so far."""
    key, compares, changes = await note_changes(store, note, new)
    await store.transact(compares, changes)
    return key


async def note_changes(
    store: Store, note: records.Note, new: bool = False
) -> tuple[str, tuple[Compare, ...], tuple[Change, ...]]:
    """(key, condition, value) of a note. Raises InvalidInput for an inconsistent one, RunError for an unknown
    incident.
    """
    check_note(note)
    if not new and note.incident not in await names(store):
        raise RunError(
            "incident-unknown", f"no such incident: {note.incident}", "evac incident list; or add --new"
        )
    if len(await notes_of(store, note.incident)) >= records.NOTES_MOST:
        raise InvalidInput(
            "notes-full",
            f"an incident can have at most {records.NOTES_MOST:,} notes",
            "keep further notes elsewhere",
        )
    key = f"{NOTE}{note.incident}/{note.id}"
    return key, (Compare(key, 0),), (Put(key, orjson.dumps(records.to_data(note))), Put(NOTED, key.encode()))


def check_note(note: records.Note) -> None:
    """Raise InvalidInput for an inconsistent note."""
    records.checked_new(note)
    if note.kind == "fact":
        check_fact(note)


async def watched(store: Store) -> tuple[records.Notice, ...]:
    """The watch journal, numbered."""
    found = await runs.notices(store)
    return tuple(
        records.Notice(n, o.kind, o.at_ms, o.site, o.words, o.data) for n, o in sorted(found.items())
    )


async def dossier(
    store: Store,
    name: str,
    now_ms: int,
    notices: tuple[records.Notice, ...] | None = None,
    fold_of: Callable[[str, str], RunFold] = RunFold,
) -> Dossier:
    """Everything about one incident, by its name or that of its run. fold_of: (run, incident) -> what was
    read of it before. Raises RunError if there is none.
    """
    entry = await store.get(INCIDENT + name)
    incident, run = name, ""
    if entry is not None:
        run = run_of_incident(entry.value)
        if not run:
            raise Corrupt(f"{INCIDENT}{name} in the store does not name a run")
    elif not is_of_no_run(name) and await store.list(f"journal/{name}/", limit=1):
        run = name
        incident = await _incident_of(store, name)
    notes = await notes_of(store, incident)
    if not run and not notes:
        raise RunError("incident-unknown", f"no such incident: {name[:80]}", "evac incident list")
    seen = await watched(store) if notices is None else notices
    if not run:
        return Dossier(incident, (), seen, notes)
    fold = fold_of(run, incident)
    await fold.read_on(store)
    losses = await runs.losses_of(store, fold.view, now_ms)
    told = tuple(records.StoreLoss(loss.store, loss.most_ms, loss.words) for loss in losses)
    return Dossier(incident, (fold.record,), seen, notes, told)


async def _incident_of(store: Store, run: str) -> str:
    """The incident in the first record of the run."""
    async with aclosing(read(store, run)) as segments:
        async for segment in segments:
            return str(decode_all(segment.records[:1])[0].data["incident"])
    raise RunError("incident-unknown", f"no such incident: {run[:80]}", "evac incident list")


async def all_of(store: Store, now_ms: int) -> list[tuple[Dossier, Summary]]:
    """Every incident, oldest first. If the run of one is unreadable, only its notes are included."""
    seen, found = await watched(store), []
    for name in await names(store):
        try:
            found.append(await dossier(store, name, now_ms, seen))
        except (Corrupt, RunError, InvalidInput):
            found.append(Dossier(name, (), seen, await _readable_notes(store, name)))
    told = [(one, summary(one)) for one in found]
    return sorted(told, key=lambda row: (row[1].begun_ms, row[1].incident))


async def public_status(store: Store, title: str, public: Mapping[str, str], now_ms: int) -> StatusPage:
    """public: service -> public name. The state before the very first record is unknown."""
    told = await all_of(store, now_ms)
    seen = await watched(store)
    first = [about.begun_ms for _, about in told if about.begun_ms] + [notice.at_ms for notice in seen[:1]]
    return status_page(title, public, told, min(first, default=0), now_ms)
