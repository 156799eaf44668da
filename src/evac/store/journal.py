"""Journals: streams of records in create-once, hash-chained segments, written under a lease by one writer.

Appends that wait at the same time are written together. An uncertain outcome is resolved by reading back
before anything else is written, so that a record is never there twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import field
from itertools import takewhile
from typing import Final

from evac.model.errors import Conflict, Corrupt, EvacError, Unavailable
from evac.model.records import dataclass
from evac.store.anchors import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    MAX_RECORDS,
    PAGE_SEGMENTS,
    Anchor,
    Segment,
    check_record,
    decode,
    encode,
    hash_of,
    key_of,
    prefix_of,
)
from evac.store.port import MAX_KEY_BYTES, MAX_TRANSACTION_BYTES, Change, Compare, Entry, Lease, Put, Store

TRIES: Final = 3
"""Attempts to write one segment before its outcome is reported as unknown."""
PENDING_MOST: Final = 100_000
STEPPED_OVER_MOST: Final = 10_000
FEW: Final = 8
"""Segments requested at once when searching for the last one."""


@dataclass(slots=True)
class _Waiting:
    """One pending append. `done`: how many of its records are written."""

    records: Sequence[bytes]
    sizes: list[int]
    guard: Lease | None
    compares: Sequence[Compare]
    changes: Sequence[Change]
    answer: asyncio.Future[Anchor]
    done: int = 0

    @property
    def plain(self) -> bool:
        return not self.compares and not self.changes


@dataclass(slots=True)
class _Batch:
    """The next segment: the appends in it, and how many records of each."""

    records: list[bytes] = field(default_factory=list)
    parts: list[tuple[_Waiting, int]] = field(default_factory=list)
    size: int = 0


class Journal:
    """One stream, open for appending. One task at a time writes; any number may wait in `append`. If an
    append raises `Unavailable`, the journal is in doubt and refuses more until `settle` has found out.
    """

    def __init__(self, store: Store, stream: str, head: Anchor, token: int) -> None:
        self.stream = stream
        self._store = store
        self._head = head
        self._token = token
        self._pending: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._doubts: tuple[bytes, ...] = ()
        self.unread = 0
        """The first segment that `at_end` found missing or changed; 0: none."""

    @property
    def head(self) -> Anchor:
        """The last segment known to be written."""
        return self._head

    @property
    def in_doubt(self) -> bool:
        return bool(self._doubts)

    @classmethod
    async def create(
        cls,
        store: Store,
        stream: str,
        guard: Lease | None,
        compares: Sequence[Compare] = (),
        changes: Sequence[Change] = (),
        records: Sequence[bytes] = (),
    ) -> Journal:
        """A new stream with its first records (at most one segment), in one transaction with `changes`.
        Raises `Conflict` if the stream exists or a compare fails.
        """
        journal = cls(store, stream, Anchor(stream, 0, 0, ""), 0)
        assert len(records) <= MAX_RECORDS
        assert sum(map(check_record, records)) <= MAX_BODY_BYTES
        await journal._commit(records, guard, compares, changes)
        return journal

    @classmethod
    async def open(
        cls,
        store: Store,
        stream: str,
        visit: Callable[[Segment], None] | None = None,
        after: Anchor | None = None,
    ) -> Journal:
        """An existing stream, read and checked from its start, or from an anchor that the caller trusts.
        `visit` is called with every segment read. Raises `Corrupt`, also if the stream does not exist.
        """
        head, token = after, 0
        async for segment in read(store, stream, after or 0):
            if visit is not None:
                visit(segment)
            head, token = Anchor(stream, segment.number, segment.last, segment.hash), segment.token
        if head is None:
            raise Corrupt(f"no such journal: {stream}")
        return cls(store, stream, head, token)

    @classmethod
    async def at_end(cls, store: Store, stream: str, guard: Lease | None) -> Journal:
        """Opens a stream at its end, for a writer that does not need its past; creates it if it does not
        exist.

        An unreadable entry in the next place keeps that place and is skipped: neither it nor a gap stops the
        writer, and readers that want proof see both. Raises Corrupt (too many such entries), LeaseLost,
        Unavailable.
        """
        end, proven = await last_of(store, stream), 0
        with contextlib.suppress(Corrupt):
            head = await head_of(store, stream)
            proven = head.segment if head else 0
        number = first = end.segment if end else 0
        while await _entry(store, key_of(stream, number + 1), taken=True) is not None:
            number += 1
            if number - first > STEPPED_OVER_MOST:
                raise Corrupt(f"someone else wrote to the journal {stream}")
        if end is not None or number:
            entry = await store.get(key_of(stream, end.segment)) if end and guard is None else None
            token = decode(stream, first, entry.value).token if entry else 0
            end = end or Anchor(stream, 0, 0, "")
            made = cls(store, stream, Anchor(stream, number, end.records, end.hash), token)
            made.unread = proven + 1 if proven < number else 0
            return made
        try:
            return await cls.create(store, stream, guard)
        except Conflict:
            return await cls.open(store, stream)

    async def append(
        self,
        records: Sequence[bytes],
        guard: Lease | None,
        compares: Sequence[Compare] = (),
        changes: Sequence[Change] = (),
    ) -> Anchor:
        """Writes the records in order; durable when it returns. Compares and changes go with the first one.
        At most 256 records that fit into a segment are written all or none; more take several transactions.

        Raises `Conflict` (a compare failed, or someone else writes this stream), `LeaseLost`, and
        `Unavailable` if the outcome stays unknown: then call `settle`.
        """
        assert records or compares or changes
        if self._doubts:
            raise Unavailable(f"the end of {self.stream} is uncertain: resolve that first")
        if len(self._pending) >= PENDING_MOST:
            raise Unavailable(f"{PENDING_MOST} appends to {self.stream} are already waiting")
        answer: asyncio.Future[Anchor] = asyncio.get_running_loop().create_future()
        sizes = [check_record(record) for record in records]
        self._pending.append(_Waiting(records, sizes, guard, compares, changes, answer))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name=f"journal {self.stream}")
        return await answer

    async def settle(self, guard: Lease | None) -> tuple[bytes, ...]:
        """Resolves a doubt: returns the records that were written after all, or () if they never will be. It
        writes an empty segment in place of the doubtful one, so that one of the two is there for good.
        """
        doubts = {hash_of(value): value for value in self._doubts}
        if not doubts:
            return ()
        await self._commit((), guard, (), ())
        value = doubts.get(self._head.hash)
        return () if value is None else decode(self.stream, self._head.segment, value).records

    async def close(self) -> None:
        """Waits for pending writes. The store stays open."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write_all(self) -> None:
        try:
            while self._pending:
                batch = self._next_batch()
                first = batch.parts[0][0]
                fresh = first.done == 0
                try:
                    await self._commit(
                        batch.records,
                        first.guard,
                        first.compares if fresh else (),
                        first.changes if fresh else (),
                    )
                except EvacError as error:
                    self._fail(batch, error)
                else:
                    self._advance(batch)
        finally:
            self._fail_pending()

    def _next_batch(self) -> _Batch:
        """The appends at the front of the queue, joined while their guards are the same and they fit."""
        first = self._pending[0]
        batch = _Batch()
        room = self._room(first)
        for waiting in self._pending:
            if batch.parts and not (first.plain and waiting.plain and waiting.guard == first.guard):
                break
            taken = self._take(batch, waiting, room)
            if batch.parts and waiting.done == 0 and taken < len(waiting.records):
                break  # what fits a segment of its own is never torn over two
            batch.records += waiting.records[waiting.done : waiting.done + taken]
            batch.parts.append((waiting, taken))
            if waiting.done + taken < len(waiting.records):
                break
        return batch

    @staticmethod
    def _room(first: _Waiting) -> int:
        """Bytes of records that fit next to the changes of the first append."""
        if first.done or first.plain:
            return MAX_BODY_BYTES
        taken = sum(
            MAX_KEY_BYTES + (len(change.value) if isinstance(change, Put) else 0) for change in first.changes
        )
        return min(MAX_BODY_BYTES, MAX_TRANSACTION_BYTES - taken - MAX_KEY_BYTES - MAX_HEADER_BYTES)

    @staticmethod
    def _take(batch: _Batch, waiting: _Waiting, room: int) -> int:
        """How many more records of one append fit; the first append of a batch always fits."""
        size, taken = batch.size, 0
        most = MAX_RECORDS - len(batch.records)
        for record_size in waiting.sizes[waiting.done : waiting.done + most]:
            if size + record_size > room and (taken or batch.parts):
                break
            size += record_size
            taken += 1
        batch.size = size
        return taken

    def _advance(self, batch: _Batch) -> None:
        for waiting, taken in batch.parts:
            waiting.done += taken
            if waiting.done >= len(waiting.records):
                self._pending.popleft()
                if not waiting.answer.done():
                    waiting.answer.set_result(self._head)

    def _fail(self, batch: _Batch, error: EvacError) -> None:
        for waiting, _ in batch.parts:
            self._pending.popleft()
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
        if self._doubts:
            self._fail_pending()

    def _fail_pending(self) -> None:
        """Answers pending appends when no one writes any more: in doubt, or the writer was cancelled."""
        while self._pending:
            answer = self._pending.popleft().answer
            if not answer.done():
                answer.set_exception(
                    Unavailable(f"the end of {self.stream} is uncertain: resolve that first")
                )

    async def _commit(
        self,
        records: Sequence[bytes],
        guard: Lease | None,
        compares: Sequence[Compare],
        changes: Sequence[Change],
    ) -> None:
        """Writes one segment after the head, or finds it already there. A doubt begins or ends here."""
        head, token = self._head, guard.stamp if guard else self._token
        value = encode(self.stream, head.segment + 1, head.records + 1, token, head.hash, records)
        key, unsure, before = key_of(self.stream, head.segment + 1), bool(self._doubts), self._doubts
        self._doubts = (*before, value)  # until known otherwise, also when this task is cancelled
        for tries_left in reversed(range(TRIES)):
            try:
                await self._store.transact((Compare(key, 0), *compares), (Put(key, value), *changes), guard)
            except Unavailable:
                unsure = True
                if await self._is_written(key):
                    return
                if tries_left == 0:
                    raise
            except EvacError as error:
                # A message that was doubled on its way conflicts with itself; the first of a stream may
                # as well be that of somebody who created the same before.
                taken = isinstance(error, Conflict) and error.key == key and head.segment > 0
                if (taken or unsure) and await self._is_written(key, must_know=True):
                    return
                self._doubts = before
                raise
            else:
                self._head = Anchor(
                    self.stream, head.segment + 1, head.records + len(records), hash_of(value)
                )
                self._token, self._doubts = token, ()
                return

    async def _is_written(self, key: str, must_know: bool = False) -> bool:
        """Whether one of the doubtful segments is there; then it becomes the head. `must_know`: raise
        `Unavailable` instead of treating it as no.
        """
        try:
            entry = await self._store.get(key)
        except Unavailable:
            if must_know:
                raise
            return False
        if entry is None:
            return False
        if entry.value not in self._doubts:
            self._doubts = ()
            raise Conflict(key, f"someone else is writing to the journal {self.stream}: reopen it")
        segment = decode(self.stream, self._head.segment + 1, entry.value)
        self._head = Anchor(self.stream, segment.number, segment.last, segment.hash)
        self._token, self._doubts = segment.token, ()
        return True


async def read(store: Store, stream: str, after: Anchor | int = 0) -> AsyncGenerator[Segment, None]:
    """Segments after one, in order, each checked against the previous one. Raises `Corrupt`, `Unavailable`.
    `after`: a number, or an anchor that the next segment must follow.
    """
    prefix = prefix_of(stream)
    start = after.segment if isinstance(after, Anchor) else after
    chain = _Follow(stream, after if isinstance(after, Anchor) else None, start)
    if isinstance(after, Anchor) and after.segment:
        await _check_anchor(store, after)
    while page := await store.list(prefix, f"{prefix}{chain.number:012d}", PAGE_SEGMENTS):
        for entry in page:
            yield chain.next(entry.key[len(prefix) :], entry.value)


async def _check_anchor(store: Store, anchor: Anchor) -> None:
    entry = await store.get(key_of(anchor.stream, anchor.segment))
    if entry is None or hash_of(entry.value) != anchor.hash:
        raise Corrupt(f"segment {anchor.segment} of {anchor.stream} differs from the one that was anchored")


class _Follow:
    """Checks that each segment follows from the one before."""

    def __init__(self, stream: str, anchor: Anchor | None, number: int) -> None:
        self._stream = stream
        self.number = number
        known = anchor is not None or number == 0
        self._hash = (anchor.hash if anchor else "") if known else None
        self._records = anchor.records if anchor else 0
        self._token = 0

    def next(self, tail: str, value: bytes) -> Segment:
        if tail != f"{self.number + 1:012d}":
            raise Corrupt(f"segment {self.number + 1} of {self._stream} is missing")
        segment = decode(self._stream, self.number + 1, value)
        if self._hash is not None and (segment.previous, segment.first) != (self._hash, self._records + 1):
            raise Corrupt(f"segment {segment.number} of {self._stream} does not follow from the one before")
        if segment.token < self._token:
            raise Corrupt(f"segment {segment.number} of {self._stream} was written under an older token")
        self.number, self._hash = segment.number, segment.hash
        self._records, self._token = segment.last, segment.token
        return segment


async def tail(
    store: Store, stream: str, after: Anchor | int = 0, proven: bool = True
) -> AsyncGenerator[Segment, None]:
    """Segments after one: the existing ones, then each new one soon after it is written, without end. Close
    it (`contextlib.aclosing`) when done. Raises as `read` does; with proven=False, which needs a number, as
    `readable`.
    """
    async with _watching(store, prefix_of(stream)) as hints:
        async for _ in hints:
            number = after.segment if isinstance(after, Anchor) else after
            found = read(store, stream, after) if proven else readable(store, stream, number)
            async with aclosing(found) as segments:
                async for segment in segments:
                    yield segment
                    after = Anchor(stream, segment.number, segment.last, segment.hash)


@asynccontextmanager
async def _watching(store: Store, prefix: str) -> AsyncGenerator[AsyncIterator[None], None]:
    """The change hints of a store, ended immediately on exit; not every iterator can be ended."""
    hints = store.watch(prefix)
    try:
        yield hints
    finally:
        if isinstance(hints, AsyncGenerator):
            await hints.aclose()


async def records_after(
    store: Store, stream: str, number: int, limit: int = 1_000_000, proven: bool = True
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Records above `number` with their numbers, from 1, at most `limit`; finds the place by binary search.
    With proven=False also beyond missing or changed segments, as `readable`.
    """
    try:
        start = await _segment_before(store, stream, number + 1)
    except Corrupt:
        if proven:
            raise
        start = 0
    found = read(store, stream, start) if proven else readable(store, stream, start)
    async for segment in found:  # closed with this one: it holds nothing open
        for position, record in enumerate(segment.records, segment.first):
            if position <= number:
                continue
            if limit <= 0:
                return
            limit -= 1
            yield position, record


async def readable(store: Store, stream: str, after: int = 0) -> AsyncGenerator[Segment, None]:
    """Every decodable segment after a number, whatever is missing or changed between them: nothing proves
    that the result is complete. Raises `Unavailable`.
    """
    prefix, last = prefix_of(stream), key_of(stream, after)
    while page := await store.list(prefix, last, PAGE_SEGMENTS):
        for entry in page:
            with contextlib.suppress(Corrupt, ValueError):
                segment = decode(stream, int(entry.key.removeprefix(prefix)), entry.value)
                if entry.key == key_of(stream, segment.number):
                    yield segment
        last = page[-1].key


async def head_of(store: Store, stream: str) -> Anchor | None:
    """The last segment; None if there is no such stream. A short stream takes one request; the end of a long
    one is found by binary search, without reading everything. Raises Corrupt, Unavailable.
    """
    found = await _few(store, stream, 1)
    if len(found) == FEW:
        low, high = FEW, FEW * 2
        while await _entry(store, key_of(stream, high)) is not None:
            low, high = high, high * 2
        while high - low >= FEW:
            middle = (low + high) // 2
            if await _entry(store, key_of(stream, middle)) is None:
                high = middle
            else:
                low = middle
        found = await _few(store, stream, low)
    if not found:
        return None
    number, entry = found[-1]
    segment = decode(stream, number, entry.value)
    return Anchor(stream, number, segment.last, segment.hash)


async def last_of(store: Store, stream: str) -> Anchor | None:
    """The last readable segment, even if one before it is missing or changed: a writer that does not need the
    past continues after it. Raises Unavailable.
    """
    found = None
    with contextlib.suppress(Corrupt):
        found = await head_of(store, stream)
    async for segment in readable(store, stream, found.segment if found else 0):
        found = Anchor(stream, segment.number, segment.last, segment.hash)
    return found


async def _entry(store: Store, key: str, taken: bool = False) -> Entry | None:
    """None also for an entry written by someone else; with `taken`, then an entry without a value."""
    try:
        return await store.get(key)
    except Corrupt:
        return Entry(key, b"", 0) if taken else None


async def _few(store: Store, stream: str, number: int) -> list[tuple[int, Entry]]:
    """At most FEW segments from one on, up to the first missing one."""
    page = await store.list(prefix_of(stream), key_of(stream, number - 1), FEW)
    numbered = enumerate(page, number)
    return list(takewhile(lambda one: one[1].key == key_of(stream, one[0]), numbered))


async def _segment_before(store: Store, stream: str, record: int) -> int:
    """A segment number to read after without missing the record."""
    head = await head_of(store, stream)
    low, high = 0, head.segment if head else 0
    while high - low > 1:
        middle = (low + high) // 2
        entry = await _entry(store, key_of(stream, middle))
        segment = None if entry is None else decode(stream, middle, entry.value)
        if segment is not None and segment.last < record:
            low = middle
        else:
            high = middle
    return low
