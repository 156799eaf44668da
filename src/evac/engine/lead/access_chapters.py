"""Chapters of the access journal: one a month (UTC), so that policy can expire the oldest.

Each chapter is a journal of its own. Its first record names the head of the previous chapter. Before a
chapter is deleted, a record in the newest one names its head: what remains is one chain that says what was
deleted and when.

access-log/<stream> {"stream", "from_ms", "deleted"} deleted: head of one that was deleted, or null

A store that evac used before there were chapters has one named `access`, which is the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import orjson

from evac.model.access import AccessRecord
from evac.model.records import dataclass
from evac.store.anchors import Anchor, prefix_of, verify_chain
from evac.store.journal import last_of, records_after
from evac.store.port import MAX_CHANGES, Change, Delete, Entry, Lease, Put, Store

STREAM: Final = "access"
"""Access journal as people name it; also its first chapter in older stores."""
INDEX: Final = "access-log/"
CHAPTERS_MOST: Final = 1_200
MONTHS_ASKED: Final = 3
LINK: Final = "follows"
DELETED: Final = "deleted"
REPAIRED: Final = "repaired"
"""Keys of records whose values are heads."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """from_ms: when it began. deleted: its head, if it was deleted. unread: its entry cannot be read; it is
    then assumed to begin with its month and not to be deleted.
    """

    stream: str
    from_ms: int = 0
    deleted: Anchor | None = None
    unread: bool = False

    @property
    def from_month_ms(self) -> int:
        """Start of its month, from its name; 0 if the name has none."""
        try:
            begun = datetime.strptime(f"{self.stream} +0000", f"{STREAM}-%Y-%m %z")
        except ValueError:
            return 0
        return int(begun.timestamp() * 1_000)

    def put(self) -> Put:
        """The write of its entry in the list."""
        gone = None if self.deleted is None else asdict(self.deleted)
        told = {"stream": self.stream, "from_ms": self.from_ms, "deleted": gone}
        return Put(INDEX + self.stream, orjson.dumps(told))


def stream_at(now_ms: int) -> str:
    """The chapter for a point in time."""
    return f"{STREAM}-{datetime.fromtimestamp(now_ms / 1_000, UTC):%Y-%m}"


def streams_since(stream: str, now_ms: int) -> list[str]:
    """Possible chapters after one, by calendar month, up to a point in time; at most `MONTHS_ASKED`."""
    found, at_ms = list[str](), now_ms
    while (named := stream_at(at_ms)) > stream and len(found) < MONTHS_ASKED:
        found.append(named)
        at_ms = _month_beside(at_ms, -1)
    return found[::-1]


async def chapters_of(store: Store) -> list[Chapter]:
    """Oldest first, including deleted ones and those whose entry was lost. Raises Unavailable."""
    found = [_chapter_in(entry) for entry in await store.list(INDEX, limit=CHAPTERS_MOST)]
    listed = {one.stream for one in found}
    if STREAM not in listed and await last_of(store, STREAM) is not None:
        found.append(Chapter(STREAM))
    months = sorted(one.from_month_ms for one in found if one.from_month_ms)
    if not months:
        return found
    for by in (-1, 1):  # from the first month on to beyond the last, and from the first one back
        at_ms = months[0]
        for _ in range(CHAPTERS_MOST):
            at_ms = _month_beside(at_ms, by)
            one = Chapter(stream_at(at_ms), at_ms, unread=True)
            if one.stream in listed:
                continue
            if await last_of(store, one.stream) is not None:
                found.append(one)
            elif not months[0] < at_ms < months[-1]:
                break
    return sorted(found, key=lambda one: one.stream)


def _month_beside(at_ms: int, by: int) -> int:
    """Start of the month after (1) or before (-1) that of `at_ms`."""
    first = datetime.fromtimestamp(at_ms / 1_000, UTC).replace(day=1, hour=0, minute=0, second=0)
    other = first + timedelta(days=32) if by > 0 else first - timedelta(days=1)
    return int(other.replace(day=1).timestamp() * 1_000)


def _chapter_in(entry: Entry) -> Chapter:
    stream = entry.key.removeprefix(INDEX)
    try:
        told = orjson.loads(entry.value)
        gone = None if told["deleted"] is None else Anchor(**told["deleted"])
        if told["stream"] == stream:
            return Chapter(stream, int(told["from_ms"]), gone)
    except (ValueError, KeyError, TypeError):
        pass
    return replace(begun_by_name(stream), unread=True)


def begun_by_name(stream: str) -> Chapter:
    """A chapter whose entry is lost: assumed to begin with its month."""
    return Chapter(stream, Chapter(stream).from_month_ms)


def record_with(at_ms: int, kind: str, what: str, key: str, head: Anchor) -> bytes:
    """A record of the journal about another chapter."""
    return orjson.dumps({**asdict(AccessRecord(at_ms, kind, what=what)), key: asdict(head)})


def link_record(at_ms: int, head: Anchor) -> bytes:
    return record_with(at_ms, "log-chapter", f"follows {head.stream}: {head.records} records", LINK, head)


def deleted_record(at_ms: int, head: Anchor) -> bytes:
    what = f"deleted {head.stream}: {head.records} records, as access_log in the policy requires"
    return record_with(at_ms, "log-deleted", what, DELETED, head)


def repaired_record(at_ms: int, head: Anchor, words: str) -> bytes:
    """A record of a repair. head: of the repaired chapter, which later chapters may not name."""
    return record_with(at_ms, "log-repaired", words, REPAIRED, head)


def lost_record(at_ms: int) -> bytes:
    """The placeholder for a lost record."""
    what = "this record was changed or deleted in the store"
    return orjson.dumps(asdict(AccessRecord(at_ms, "log-lost", what=what)))


def expired(chapters: Iterable[Chapter], now_ms: int, keep_ms: int) -> list[Chapter]:
    """Chapters whose last record is older than `keep_ms`: the next one began before then. 0 keeps all."""
    there = [one for one in chapters if one.deleted is None]
    return [one for one, after in pairwise(there) if keep_ms and after.from_ms < now_ms - keep_ms]


async def unread_entry(store: Store, raw: Store, stream: str) -> Entry | None:
    """What is in the place of a chapter's entry that is lost or cannot be read; None if it can. raw: the
    store below its seal. Raises Unavailable.
    """
    if not any(one.stream == stream and one.unread for one in await chapters_of(store)):
        return None
    return await raw.get(INDEX + stream) or Entry(INDEX + stream, b"", 0)


async def delete_segments(store: Store, stream: str, guard: Lease) -> None:
    """Of a chapter whose deletion is recorded. Raises LeaseLost, Unavailable."""
    while page := await store.list(prefix_of(stream), limit=MAX_CHANGES):
        changes: tuple[Change, ...] = tuple(Delete(entry.key) for entry in page)
        await store.transact((), changes, guard)


async def newest_of(store: Store) -> str:
    """The chapter being written; empty if there is none."""
    there = [one.stream for one in await chapters_of(store) if one.deleted is None]
    return there[-1] if there else ""


async def verify_chapters(store: Store, anchors: Iterable[Anchor]) -> tuple[list[Anchor], list[str]]:
    """The heads of all present chapters, oldest first, and the problems found: in each chain, in the links
    between chapters, and chapters missing without a deletion by policy. A link broken by a recorded repair is
    no problem. anchors: heads kept elsewhere, of any chapter.
    """
    anchors, chapters = list(anchors), await chapters_of(store)
    heads, problems, empty = list[Anchor](), list[str](), list[str]()
    there = [one.stream for one in chapters if one.deleted is None]
    problems += [
        f"{one.stream}: changed: its entry {INDEX}{one.stream} is lost or cannot be read"
        for one in chapters
        if one.unread
    ]
    for stream in there:
        problems += [f"{stream}: {one}" for one in await verify_chain(store, stream, anchors)]
        head = await last_of(store, stream)
        if head is None:
            empty.append(stream)
        else:
            heads.append(head)
    links, gone, repaired = await _named_in(store, [one.stream for one in heads])
    problems += [
        f"missing: chapter {stream} does not exist, and no record says that it was deleted"
        for stream in empty
        if stream not in gone
    ]
    problems += _unlinked(heads, links, gone, repaired)
    for stream in sorted({one.stream for one in anchors} - set(there)):
        problems.append(f"cut-off: agents keep heads of chapter {stream}, which does not exist")
    return heads, problems


async def _named_in(
    store: Store, streams: Iterable[str]
) -> tuple[dict[str, Anchor], dict[str, Anchor], dict[str, Anchor]]:
    """What records of chapters say about other chapters. Returns chapter -> the head it names of the previous
    one; -> its head when policy deleted it; -> its head after a repair. Raises Unavailable.
    """
    links, gone, repaired = dict[str, Anchor](), dict[str, Anchor](), dict[str, Anchor]()
    for stream in streams:
        async for number, record in records_after(store, stream, 0, 2**53, proven=False):
            with contextlib.suppress(ValueError, TypeError):  # whoever reads the records says it
                row = orjson.loads(record)
                if number == 1 and LINK in row:
                    links[stream] = Anchor(**row[LINK])
                if DELETED in row:
                    deleted = Anchor(**row[DELETED])
                    gone[deleted.stream] = deleted
                if REPAIRED in row:
                    left = Anchor(**row[REPAIRED])
                    repaired[left.stream] = left
    return links, gone, repaired


async def erased(store: Store, stream: str) -> Anchor | None:
    """The head of this chapter as the next one names it, if nothing of it is left and no record says that it
    was deleted; without records if no chapter follows. Raises Unavailable.
    """
    found = [one for one in await chapters_of(store) if one.deleted is None]
    if await last_of(store, stream) is not None:
        return None
    links, gone, _ = await _named_in(store, [one.stream for one in found if one.stream != stream])
    named = next((one for one in links.values() if one.stream == stream), None)
    listed = any(one.stream == stream for one in found)
    if stream in gone or not (listed or named):
        return None
    return named or Anchor(stream, 0, 0, "")


def _unlinked(
    heads: list[Anchor],
    links: Mapping[str, Anchor],
    gone: Mapping[str, Anchor],
    repaired: Mapping[str, Anchor],
) -> list[str]:
    """Problems of links. heads: of present chapters. links: chapter -> the head it names of the previous one.
    gone: chapter -> its head when policy deleted it. repaired: its head after a repair.
    """
    problems, by_stream = list[str](), {one.stream: one for one in heads}
    for before, head in zip([None, *heads], heads, strict=False):
        link = links.get(head.stream)
        if link is None:
            if before is not None and head.stream not in repaired:
                problems.append(f"changed: {head.stream} does not state that it follows {before.stream}")
            continue
        known = by_stream.get(link.stream)
        if known is None and link.stream in gone and gone[link.stream] != link:
            problems.append(
                f"changed: when {link.stream} was deleted, it did not end where {head.stream} says it does"
            )
        elif known is None and link.stream not in gone:
            problems.append(
                f"missing: {link.stream}, before {head.stream}; no record says that it was deleted"
            )
        elif known is not None and known not in (link, repaired.get(link.stream)):
            problems.append(f"changed: {link.stream} does not end where {head.stream} says it does")
        elif before is not None and before.stream != link.stream:
            problems.append(f"changed: {head.stream} follows {link.stream}, not {before.stream}")
    return problems


def linked_to(record: bytes) -> Anchor | None:
    """The head of the previous chapter, from the first record of one. Raises ValueError, TypeError."""
    row = orjson.loads(record)
    return Anchor(**row[LINK]) if LINK in row else None
