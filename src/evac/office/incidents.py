"""Incidents as the war room shows them: each replayed from its journals on a thread and cached.

An incident is replayed from its start, so it is read again only when a record was added to the journal of its
run, to the watch journal, or to people's notes; for a run of thousands of steps, at most every half minute.
Memory is bounded: a few whole incidents, and one line for each of the most recently listed ones.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Final, TypeVar, cast

import orjson

from evac.app import incidents
from evac.app.incidents import Folds
from evac.app.status_export import About, PublicStatus
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import STREAM as WATCH
from evac.incident.components import StatusPage
from evac.incident.incident import Dossier, Summary
from evac.incident.records import Entry, Notice
from evac.incident.timeline import grouped, timeline
from evac.model.collector import collector_at_rest
from evac.model.errors import RunError
from evac.model.records import dataclass
from evac.office.runs import Borrowed, Register
from evac.office.values import ExportSeen, RunShort
from evac.store.journal import head_of, last_of
from evac.store.port import Entry as StoreEntry
from evac.store.port import Store
from evac.views.incident_document import IncidentShort, IncidentShown, incident_document
from evac.views.wait_words import LARGE

FILES_MOST: Final = 4
EXPORTS_MOST: Final = 64
LINES_MOST: Final = 1_000
NAME_MOST: Final = 400
"""Bytes; a store key cannot be much longer."""
PUBLIC_MS: Final = 5_000
SELDOM_MS: Final = 30_000
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class IncidentFile:
    """Everything about one incident: the known facts, what follows from them, and its timeline."""

    dossier: Dossier
    about: Summary
    entries: tuple[Entry, ...]
    story: tuple[tuple[Entry, ...], ...]
    """The entries that a reader needs, grouped by record."""
    document: IncidentShown


class IncidentDesk:
    """One per office. `noted` grows with every note that a person writes."""

    def __init__(self, store: Store, clock: Clock, register: Register) -> None:
        self._store, self._clock, self._register = store, clock, register
        self.noted = 0
        self.exports: tuple[ExportSeen, ...] = ()
        self._names: tuple[int, tuple[str, ...]] = (-1, ())
        self._thread = ThreadPoolExecutor(1, "incidents")
        self._borrowed: Borrowed | None = None
        self._files: OrderedDict[str, tuple[object, IncidentFile]] = OrderedDict()
        self._folds = Folds()
        self._lines: OrderedDict[str, tuple[object, IncidentShort]] = OrderedDict()
        self._under_way: dict[tuple[str, object], asyncio.Task[IncidentFile]] = {}
        self._status: PublicStatus | None = None
        self._public: tuple[object, StatusPage] | None = None
        self._watched: tuple[int, tuple[Notice, ...]] = (-1, ())

    async def look(self) -> None:
        """Checks for new notes and for the state of the status page exports. Raises Unavailable."""
        entry = await self._store.get(incidents.NOTED)
        self.noted = 0 if entry is None else entry.revision
        rows = await self._store.list(incidents.EXPORTED, limit=EXPORTS_MOST)
        self.exports = tuple(found for row in rows if (found := _export(row)) is not None)

    async def names(self) -> list[str]:
        """Open ones first, then the rest, newest first; those without a run by name."""
        if self._names[0] != self.noted:
            self._names = (self.noted, tuple(await incidents.notes_alone(self._store)))
        runs = self._runs()
        rows = {row.incident: row for row in reversed(runs)}
        loose = [name for name in self._names[1] if name not in rows]
        ordered = sorted(rows.values(), key=lambda row: (not row.open, -row.created_ms, row.incident))
        opened = [row.incident for row in ordered if row.open]
        return [*opened, *sorted(loose, reverse=True), *(row.incident for row in ordered if not row.open)]

    def _runs(self) -> tuple[RunShort, ...]:
        open_runs, ended = self._register.lines
        return (*open_runs, *ended)

    async def lines(self, names: list[str]) -> list[IncidentShort]:
        """The readable ones among them, in the order of `names`."""
        found = []
        for name in names:
            stamp = await self._stamp(name)
            kept = self._lines.get(name)
            if kept is None or kept[0] != stamp:
                await self.file(name)
                kept = self._lines[name]
            found.append(kept[1])
        return found

    async def file(self, name: str) -> IncidentFile:
        """Everything about one incident, by its name or that of its run. Raises RunError if there is none."""
        if len(name.encode()) > NAME_MOST or not name.isprintable():
            raise _unknown(name)
        stamp = await self._stamp(name)
        kept = self._files.get(name)
        if kept is not None and kept[0] == stamp:
            self._files.move_to_end(name)
            return kept[1]
        task = self._under_way.get((name, stamp))
        if task is None:
            task = asyncio.create_task(self._read(name, stamp), name=f"read {name}")
            self._under_way[name, stamp] = task
            task.add_done_callback(lambda done: self._over(name, stamp, done))
        return await asyncio.shield(task)

    def _over(self, name: str, stamp: object, done: asyncio.Task[IncidentFile]) -> None:
        self._under_way.pop((name, stamp), None)
        if not done.cancelled():
            done.exception()  # whoever asked may be gone

    async def _stamp(self, name: str) -> object:
        """What an incident is derived from: records of its run and of the watch journal, and the last note of
        all.
        """
        head = await last_of(self._store, WATCH)
        watched = head.records if head else 0
        row = next((row for row in self._runs() if name in (row.incident, row.run)), None)
        if row is None:
            return (watched, self.noted)
        if row.open:
            seldom = row.steps >= LARGE
            return (self._clock.now_ms() // SELDOM_MS if seldom else (row.events, watched), self.noted)
        ended = await head_of(self._store, row.run)
        return (ended.records if ended else 0, watched, self.noted)

    async def _read(self, name: str, stamp: object) -> IncidentFile:
        now_ms = self._clock.now_ms()
        found = await self.apart(lambda: asyncio.run(self._file(name, now_ms)))
        self._files[name] = (stamp, found)
        self._lines[name] = (stamp, found.document.incident)
        while len(self._files) > FILES_MOST:
            self._files.popitem(last=False)
        while len(self._lines) > LINES_MOST:
            self._lines.popitem(last=False)
        return found

    async def _file(self, name: str, now_ms: int) -> IncidentFile:
        """Runs on the thread."""
        with collector_at_rest():
            return await self._made(name, now_ms)

    async def _made(self, name: str, now_ms: int) -> IncidentFile:
        store = cast(Store, self._borrowed)
        head = await last_of(store, WATCH)
        if self._watched[0] != (head.records if head else 0):
            seen = await incidents.watched(store)
            self._watched = (seen[-1].number if seen else 0, seen)
        dossier = await incidents.dossier(store, name, now_ms, self._watched[1], self._folds.of)
        about = self._folds.summary_of(dossier)
        runs = [record.run for record in dossier.runs]
        tellings = {run: self._folds.of(run, dossier.incident).telling for run in runs}
        entries = timeline(dossier, about, tellings)
        story = grouped([entry for entry in entries if entry.weight == "main"])
        return IncidentFile(dossier, about, entries, story, incident_document(dossier, about, entries))

    async def apart(self, work: Callable[[], Answer]) -> Answer:
        """Runs a long function on the incidents thread. Raises what it raises."""
        loop = asyncio.get_running_loop()
        self._borrowed = self._borrowed or Borrowed(self._store, loop)
        return await loop.run_in_executor(self._thread, copy_context().run, work)

    async def reading(self, work: Callable[[Store], Answer]) -> Answer:
        """The same for a function that reads the store from there."""
        return await self.apart(lambda: work(cast(Store, self._borrowed)))

    async def public(self, about: About) -> StatusPage:
        """The content of the public status page, at most a few seconds old."""
        stamp = (self.noted, self._clock.now_ms() // PUBLIC_MS, about)
        if self._public is None or self._public[0] != stamp:
            now_ms = self._clock.now_ms()
            self._public = (stamp, await self.apart(lambda: asyncio.run(self._page(about, now_ms))))
        return self._public[1]

    async def _page(self, about: About, now_ms: int) -> StatusPage:
        """Runs on the thread."""
        self._status = self._status or PublicStatus(cast(Store, self._borrowed), self._folds)
        return await self._status.page(about, now_ms)

    async def check_known(self, name: str) -> str:
        """The name of an incident, by its name or that of its run. Raises RunError."""
        row = next((row for row in self._runs() if name in (row.incident, row.run)), None)
        if row is not None:
            return row.incident
        if name in await self.names() or name in await incidents.names(self._store):
            return name
        raise _unknown(name)

    def close(self) -> None:
        if self._borrowed is not None:
            self._borrowed.end()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _export(row: StoreEntry) -> ExportSeen | None:
    """None if it cannot be read."""
    try:
        told = orjson.loads(row.value)
        site = row.key.removeprefix(incidents.EXPORTED)
        languages = tuple(map(str, told.get("languages", ())))
        return ExportSeen(site, int(told["ok_ms"]), int(told["since_ms"]), str(told["problem"]), languages)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _unknown(name: str) -> RunError:
    return RunError("incident-unknown", f"no such incident: {name[:80]}", "to list them: GET /v1/incidents")
