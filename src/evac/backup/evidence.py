"""Evidence of backups in evac's own store: append-only, and each event is kept once.

backups/seen/<moment>-<digest>   an event that no leader has moved into the journal yet
backups/known/<data set>         the state that follows from all events of one data set (`known`), and the
                                 backups that are being taken
journal `backups`                every event, hash-chained; the agents of other sites keep its heads

Each event is written together with the state that follows from it, in one transaction; the leader moves
events into the journal. `evac run verify backups` proves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson

from evac.backup.known import Begun, Known, after, begin, with_incomplete
from evac.engine.clock import Clock
from evac.model.backup import NOTHING_SEEN, BackupEvent, BackupFacts, Incomplete, Lacks, Stray
from evac.model.errors import Conflict, Corrupt, Unavailable
from evac.model.records import dataclass
from evac.store.journal import Journal, last_of, records_after
from evac.store.port import Compare, Delete, Entry, Lease, Put, Store, all_entries
from evac.views.documents import Mismatch, read

STREAM: Final = "backups"
SEEN: Final = "backups/seen/"
KNOWN: Final = "backups/known/"
STRAYS: Final = "backups/strays/"
RECALLED: Final = "backups/recalled"
"""Written once the incomplete backups of older versions are part of the state."""
LOOK_S: Final = 2.0
BATCH: Final = 20
TRIES: Final = 20
HISTORY_READ: Final = 200_000
"""Maximum number of newest events of the journal searched for a history."""
HOUR_MS: Final = 3_600_000
READ_MS: Final = 10_000
"""Minimum interval between reads of the store: a thousand data sets have a thousand entries."""


def encoded(event: BackupEvent) -> bytes:
    """Canonical encoding: equal events have equal bytes."""
    return orjson.dumps(event, option=orjson.OPT_SORT_KEYS)


def event_of(value: bytes) -> BackupEvent:
    """Decode an event. Raises Corrupt if it is not one."""
    found: BackupEvent = _read(BackupEvent, value)
    return found


def _read(shape: type[Any], value: bytes) -> Any:
    try:
        return read(shape, orjson.loads(value), "$")
    except (Mismatch, ValueError) as error:
        raise Corrupt(f"cannot read the backup records in the store: {error}") from error


class Evidence:
    """Reads and writes the evidence of one store. `chore` runs while a controller leads."""

    def __init__(self, store: Store, look_s: float = LOOK_S) -> None:
        self._store, self._look_s = store, look_s
        self._guard: Lease | None = None
        self._journal: Journal | None = None
        self._recalled = False

    async def add(self, event: BackupEvent, then: Callable[[Known], Known] = lambda known: known) -> Known:
        """Keep an event and the state that follows from it; an existing event changes nothing. then: what
        else follows from it. Raises Unavailable, Corrupt.
        """
        value = encoded(event)
        digest = hashlib.sha256(value).hexdigest()[:24]
        key = f"{SEEN}{event.at_ms:015d}-{digest}"
        return await self._change(event.data_set, lambda known: then(after(known, event)), Put(key, value))

    async def begin(self, data_set: str, begun: Begun) -> Known:
        """Record that a backup or a copy is about to be made: until its end is recorded, what its tool lists
        is not known to be complete. Raises Unavailable, Corrupt.
        """
        return await self._change(data_set, lambda known: begin(known, begun))

    async def _change(
        self, data_set: str, change: Callable[[Known], Known], event: Put | None = None
    ) -> Known:
        """Change the state of a data set together with a new event. Changes nothing if the event exists."""
        key = KNOWN + quote(data_set, safe="")
        for _ in range(TRIES):
            entry = await self._store.get(key)
            before = Known(data_set) if entry is None else _read(Known, entry.value)
            if event is not None and await self._store.get(event.key) is not None:
                return before
            known = change(before)
            compares = [Compare(key, 0 if entry is None else entry.revision)]
            changes = [Put(key, orjson.dumps(known))]
            if event is not None:
                compares.append(Compare(event.key, 0))
                changes.insert(0, event)
            with contextlib.suppress(Conflict):
                await self._store.transact(compares, changes)
                return known
        raise Unavailable(f"the records for backups of {data_set} changed {TRIES} times in the meantime")

    async def note_strays(self, endpoint: str, strays: Iterable[Stray]) -> None:
        """Replace the list of backups in a repository that belong to no data set."""
        key = STRAYS + quote(endpoint, safe="")
        rows = [orjson.loads(orjson.dumps(one)) for one in strays]
        entry = await self._store.get(key)
        value = orjson.dumps(rows)
        if (entry is None and rows) or (entry is not None and entry.value != value):
            with contextlib.suppress(Conflict):  # a concurrent listing
                await self._store.transact(
                    [Compare(key, 0 if entry is None else entry.revision)], [Put(key, value)]
                )

    async def known(self, data_set: str) -> Known:
        """The state of one data set. Raises Corrupt, Unavailable."""
        entry = await self._store.get(KNOWN + quote(data_set, safe=""))
        return Known(data_set) if entry is None else _read(Known, entry.value)

    async def all_known(self) -> dict[str, Known]:
        """Data set -> its known state."""
        found = [_read(Known, entry.value) for entry in await all_entries(self._store, KNOWN)]
        return {one.data_set: one for one in found}

    async def lacks(self) -> dict[str, Lacks]:
        """Data set -> which of its backups lack something, or may. Raises Corrupt, Unavailable."""
        return {name: one.lacks for name, one in (await self.all_known()).items()}

    async def recall_incomplete(self) -> None:
        """Once in the life of a store: remember the incomplete backups that older versions of evac recorded
        only as events. An event that cannot be read names none. Raises Corrupt, Unavailable.
        """
        if self._recalled or await self._store.get(RECALLED) is not None:
            self._recalled = True
            return
        found: dict[str, list[Incomplete]] = {}
        async for _, record in records_after(self._store, STREAM, 0, proven=False):
            _note_incomplete(record, found)
        for entry in await all_entries(self._store, SEEN):
            _note_incomplete(entry.value, found)
        for data_set, incomplete in sorted(found.items()):
            if incomplete:
                await self._change(data_set, _recalling(incomplete))
        with contextlib.suppress(Conflict):  # another process did the same
            await self._store.transact([Compare(RECALLED, 0)], [Put(RECALLED, b"1")])
        self._recalled = True

    async def facts(self) -> BackupFacts:
        """The input of verdicts."""
        known = (await self.all_known()).values()
        strays: list[Stray] = []
        for entry in await all_entries(self._store, STRAYS):
            strays += [read(Stray, one, "$") for one in orjson.loads(entry.value)]
        return BackupFacts(
            tuple(seen for one in known for seen in one.copies),
            tuple(sorted((proof for one in known for proof in one.proofs), key=lambda proof: proof.at_ms)),
            tuple(strays),
            tuple(alarm for one in known for alarm in one.alarms),
            tuple(change for one in known for change in one.credentials),
            tuple(restore for one in known for restore in one.measured),
        )

    async def history(self, data_set: str, most: int) -> list[BackupEvent]:
        """The newest events of one data set, newest first. Raises Corrupt, Unavailable."""
        found: dict[bytes, BackupEvent] = {}
        end = await last_of(self._store, STREAM)
        if end is not None:
            start = max(0, end.records - HISTORY_READ)
            async for _, record in records_after(self._store, STREAM, start, proven=False):
                if f'"{data_set}"'.encode() in record and (event := event_of(record)).data_set == data_set:
                    found[record] = event
        for entry in await all_entries(self._store, SEEN):
            event = event_of(entry.value)
            if event.data_set == data_set:
                found[entry.value] = event
        return sorted(found.values(), key=lambda event: event.at_ms, reverse=True)[:most]

    async def chore(self, guard: Lease) -> None:
        """Move events into the journal; after a failure the next round starts again. Raises LeaseLost,
        Unavailable.
        """
        try:
            await self.recall_incomplete()
            for entry in await self._store.list(SEEN, limit=BATCH):
                await self._move(entry, guard)
        except BaseException:
            self._journal = None
            raise
        await asyncio.sleep(self._look_s)

    async def _move(self, entry: Entry, guard: Lease) -> None:
        if self._guard != guard or self._journal is None:
            self._journal, self._guard = await Journal.at_end(self._store, STREAM, guard), guard
        assert self._journal is not None
        moved = (Compare(entry.key, entry.revision),)
        try:
            await self._journal.append([entry.value], guard, moved, (Delete(entry.key),))
        except Conflict:  # another leader moved it, or something else writes the journal
            self._journal = None


def _note_incomplete(record: bytes, found: dict[str, list[Incomplete]]) -> None:
    """Copies are known by their originals."""
    with contextlib.suppress(Corrupt):
        event = event_of(record)
        if event.kind == "taken":
            found.setdefault(event.data_set, []).extend(after(Known(event.data_set), event).incomplete)


def _recalling(incomplete: Sequence[Incomplete]) -> Callable[[Known], Known]:
    return lambda known: with_incomplete(known, *incomplete)


@dataclass(frozen=True, slots=True)
class BackupsSeen:
    """facts: of all data sets. at_ms: the moment for their ages, a whole hour; None if nothing is known, so
    that nothing is recomputed as time passes.
    """

    facts: BackupFacts = NOTHING_SEEN
    at_ms: int | None = None


NO_BACKUPS: Final = BackupsSeen()


class BackupsReader:
    """Reads them periodically; if a read fails, the previous result stays."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._evidence, self._clock = Evidence(store), clock
        self._last, self._read_ms = NO_BACKUPS, -READ_MS

    async def read(self) -> BackupsSeen:
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._read_ms < READ_MS:
            return self._last
        self._read_ms = now_ms
        with contextlib.suppress(Corrupt, Unavailable):
            facts = await self._evidence.facts()
            at_ms = self._clock.now_ms() // HOUR_MS * HOUR_MS
            self._last = BackupsSeen(facts, None if facts == NOTHING_SEEN else at_ms)
        return self._last
