"""The access journal: who signed in, who was refused, what people requested, in one chain of chapters.

War rooms write batches next to it. The leader moves them into the month's chapter, whose heads the agents of
other sites keep, and deletes expired chapters (`evac.engine.lead.access_chapters`). `evac run verify access`
proves it.

seen/<moment>-<random> a batch of records that no leader has moved yet
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from typing import Any, Final

import orjson

from evac.engine.lead import access_chapters as chapters
from evac.model.access import AccessRecord
from evac.model.errors import Conflict, Corrupt, Unavailable
from evac.model.records import dataclass
from evac.store.journal import Journal, last_of, records_after
from evac.store.port import Change, Compare, Delete, Lease, Put, Store

STREAM: Final = chapters.STREAM
SEEN: Final = "seen/"
LOOK_S: Final = 2.0
EXPIRE_MS: Final = 3_600_000
"""How often to look for expired chapters."""
BATCHES: Final = 20
"""Batches that are moved at a time."""
RECORDS_MOST: Final = 200
"""Records of one batch."""
TEXT_MOST: Final = 500


def batch_of(records: Sequence[AccessRecord], now_ms: int) -> Put:
    """What a war room writes. At most `RECORDS_MOST` records."""
    rows = [_short(one) for one in records[:RECORDS_MOST]]
    return Put(f"{SEEN}{now_ms:013d}-{os.urandom(6).hex()}", orjson.dumps(rows))


def _short(one: AccessRecord) -> dict[str, Any]:
    cut = {key: value[:TEXT_MOST] if isinstance(value, str) else value for key, value in asdict(one).items()}
    return {key: value for key, value in cut.items() if value not in ("", 0)}


def record_of(told: Mapping[str, Any]) -> AccessRecord:
    """Parses a record. Raises Corrupt."""
    try:
        known = {one.name: told[one.name] for one in fields(AccessRecord) if one.name in told}
        found = AccessRecord(**known)
    except TypeError as error:
        raise Corrupt("cannot read a record of the access log") from error
    if type(found.at_ms) is not int or not isinstance(found.kind, str):
        raise Corrupt("cannot read a record of the access log")
    return found


@dataclass(slots=True)
class AccessJournal:
    """One per controller. `chore` runs while it leads. now_ms: wall clock. keep_ms: present retention by
    policy; 0 keeps records forever.
    """

    store: Store
    now_ms: Callable[[], int]
    keep_ms: Callable[[], int] = lambda: 0
    look_s: float = LOOK_S
    _guard: Lease | None = field(default=None, init=False)
    _journal: Journal | None = field(default=None, init=False)
    _kept_ms: int = field(default=0, init=False)

    async def chore(self, guard: Lease) -> None:
        """One pass; whatever fails, the next one starts again. Raises LeaseLost, Unavailable."""
        try:
            await self._move(guard)
            await self._expire(guard)
        except BaseException:
            self._journal = None
            raise
        await asyncio.sleep(self.look_s)

    async def _move(self, guard: Lease) -> None:
        for entry in await self.store.list(SEEN, limit=BATCHES):
            if self._guard != guard or self._journal is None or self._is_over(self._journal.stream):
                await self._open(guard)
            assert self._journal is not None
            records = list(_rows(entry.value))
            changes: tuple[Change, ...] = (Delete(entry.key),)
            try:
                await self._journal.append(records, guard, (Compare(entry.key, entry.revision),), changes)
            except Conflict:  # another leader moved it, or someone else writes the journal
                self._journal = None

    def _is_over(self, stream: str) -> bool:
        """Whether a new chapter is due; a clock that goes back starts none."""
        return stream < chapters.stream_at(self.now_ms())

    async def _open(self, guard: Lease) -> None:
        """Opens the chapter of this month, creating it if missing."""
        stream, now_ms = await chapters.newest_of(self.store), self.now_ms()
        head = await last_of(self.store, stream) if stream else None
        if head is not None and not self._is_over(stream):
            self._journal = await Journal.at_end(self.store, stream, guard)
        else:
            begun = chapters.Chapter(chapters.stream_at(now_ms), now_ms)
            first = () if head is None else (chapters.link_record(now_ms, head),)
            try:
                self._journal = await Journal.create(
                    self.store, begun.stream, guard, (), (begun.put(),), first
                )
            except Conflict:
                self._journal = await Journal.at_end(self.store, begun.stream, guard)
        self._guard = guard

    async def _expire(self, guard: Lease) -> None:
        """Deletes chapters past retention: first the record, then the data."""
        now_ms = self.now_ms()
        if now_ms - self._kept_ms < EXPIRE_MS and self._kept_ms <= now_ms:
            return
        found = await chapters.chapters_of(self.store)
        for one in chapters.expired(found, now_ms, self.keep_ms()):
            head = await last_of(self.store, one.stream)
            if head is None:
                continue
            if self._guard != guard or self._journal is None:
                await self._open(guard)
            assert self._journal is not None
            record = chapters.deleted_record(now_ms, head)
            gone = replace(one, deleted=head).put()
            await self._journal.append((record,), guard, (), (gone,))
            found = [*found, replace(one, deleted=head)]
        for one in found:
            if one.deleted is not None:  # what a leader before began as well
                await chapters.delete_segments(self.store, one.stream, guard)
        self._kept_ms = now_ms


def _rows(value: bytes) -> Sequence[bytes]:
    """Records of a batch; unreadable ones are skipped so that they block nothing."""
    try:
        told = orjson.loads(value)
    except orjson.JSONDecodeError:
        return ()
    rows = told if isinstance(told, list) else []
    found = []
    for row in rows[:RECORDS_MOST]:
        with contextlib.suppress(Corrupt):
            found.append(orjson.dumps(_short(record_of(row if isinstance(row, Mapping) else {}))))
    return found


async def access_records(store: Store, broken: Callable[[str], object] = str) -> list[AccessRecord]:
    """All records, oldest first, including batches not moved yet and what is left of a damaged chapter.
    broken: called for each unreadable record with its place. Raises Unavailable.
    """
    found: list[AccessRecord] = []
    for chapter in await chapters.chapters_of(store):
        if chapter.deleted is None:
            async for number, record in records_after(store, chapter.stream, 0, 2**53, proven=False):
                try:
                    found.append(record_of(orjson.loads(record)))
                except (Corrupt, ValueError, TypeError):
                    broken(f"{chapter.stream}: unreadable: record {number}")
    with contextlib.suppress(Unavailable):
        for entry in await store.list(SEEN, limit=1_000):
            found += [record_of(orjson.loads(row)) for row in _rows(entry.value)]
    return sorted(found, key=lambda one: one.at_ms)
