"""Chapters of the journal of access: one for each month (UTC), so that policy can have the oldest deleted.

Each chapter is a journal of its own. The first record of one names the head of the chapter before, and before
a chapter is deleted a record of the newest one names its head: what is left is one chain, which says what is
no longer there and when it went.

    access-log/<stream>    {"stream", "from_ms", "deleted"}    deleted: head of one that was deleted, or null

A store that evac used before there were chapters has one named `access`, which is the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import orjson

from evac.model.access import AccessRecord
from evac.model.errors import Corrupt
from evac.store.anchors import Anchor, prefix_of, verify_chain
from evac.store.journal import head_of, records_after
from evac.store.port import MAX_CHANGES, Change, Delete, Lease, Put, Store

STREAM: Final = "access"
"""Of all of it, for people; and of its first chapter in older stores."""
INDEX: Final = "access-log/"
CHAPTERS_MOST: Final = 1_200
MONTHS_ASKED: Final = 3
LINK: Final = "follows"
DELETED: Final = "deleted"
"""Keys of records, whose values are heads."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """from_ms: when it was begun. deleted: its head, of one that is not there any more."""

    stream: str
    from_ms: int = 0
    deleted: Anchor | None = None

    def put(self) -> Put:
        gone = None if self.deleted is None else asdict(self.deleted)
        told = {"stream": self.stream, "from_ms": self.from_ms, "deleted": gone}
        return Put(INDEX + self.stream, orjson.dumps(told))


def stream_at(now_ms: int) -> str:
    """The chapter of a moment."""
    return f"{STREAM}-{datetime.fromtimestamp(now_ms / 1_000, UTC):%Y-%m}"


def streams_since(stream: str, now_ms: int) -> list[str]:
    """The chapters that there could be after one, by the calendar, up to a moment; `MONTHS_ASKED` at most."""
    found, at_ms = list[str](), now_ms
    while (named := stream_at(at_ms)) > stream and len(found) < MONTHS_ASKED:
        found.append(named)
        first = datetime.fromtimestamp(at_ms / 1_000, UTC).replace(day=1, hour=0, minute=0, second=0)
        at_ms = int(first.timestamp() * 1_000) - 1_000
    return found[::-1]


async def chapters_of(store: Store) -> list[Chapter]:
    """Oldest first, deleted ones too. Raises Corrupt, Unavailable."""
    found = []
    for entry in await store.list(INDEX, limit=CHAPTERS_MOST):
        try:
            told = orjson.loads(entry.value)
            gone = None if told["deleted"] is None else Anchor(**told["deleted"])
            found.append(Chapter(str(told["stream"]), int(told["from_ms"]), gone))
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{entry.key} cannot be read") from error
    listed = any(one.stream == STREAM for one in found)
    if not listed and await head_of(store, STREAM) is not None:
        found.append(Chapter(STREAM))
    return sorted(found, key=lambda one: one.stream)


def record_with(at_ms: int, kind: str, what: str, key: str, head: Anchor) -> bytes:
    """A record of the journal about another chapter."""
    return orjson.dumps({**asdict(AccessRecord(at_ms, kind, what=what)), key: asdict(head)})


def link_record(at_ms: int, head: Anchor) -> bytes:
    return record_with(at_ms, "log-chapter", f"follows {head.stream}: {head.records} records", LINK, head)


def deleted_record(at_ms: int, head: Anchor) -> bytes:
    what = f"deleted {head.stream}: {head.records} records, as access_log in the policy requires"
    return record_with(at_ms, "log-deleted", what, DELETED, head)


def expired(chapters: Iterable[Chapter], now_ms: int, keep_ms: int) -> list[Chapter]:
    """Those whose last record is older than `keep_ms`: the next one began before then. 0 keeps all."""
    there = [one for one in chapters if one.deleted is None]
    return [one for one, after in pairwise(there) if keep_ms and after.from_ms < now_ms - keep_ms]


async def delete_segments(store: Store, stream: str, guard: Lease) -> None:
    """Of a chapter whose deletion is recorded. Raises LeaseLost, Unavailable."""
    while page := await store.list(prefix_of(stream), limit=MAX_CHANGES):
        changes: tuple[Change, ...] = tuple(Delete(entry.key) for entry in page)
        await store.transact((), changes, guard)


async def newest_of(store: Store) -> str:
    """The chapter that is written now; empty where there is none."""
    there = [one.stream for one in await chapters_of(store) if one.deleted is None]
    return there[-1] if there else ""


async def verify_chapters(store: Store, anchors: Iterable[Anchor]) -> tuple[list[Anchor], list[str]]:
    """The heads of all chapters that are there, oldest first, and what is wrong: with the chain of each, with
    the links between them, and with what is missing and was not deleted as policy says. anchors: heads that
    others kept, of any chapter.
    """
    anchors, chapters = list(anchors), await chapters_of(store)
    heads, problems = list[Anchor](), list[str]()
    links, gone = dict[str, Anchor](), set[Anchor]()
    there = [one.stream for one in chapters if one.deleted is None]
    for stream in there:
        problems += [f"{stream}: {one}" for one in await verify_chain(store, stream, anchors)]
        head = await head_of(store, stream)
        if head is None:
            problems.append(
                f"missing: chapter {stream} does not exist, and no record says that it was deleted"
            )
            continue
        heads.append(head)
        try:
            async for number, record in records_after(store, stream, 0, 2**53):
                row = orjson.loads(record)
                if number == 1 and LINK in row:
                    links[stream] = Anchor(**row[LINK])
                if DELETED in row:
                    gone.add(Anchor(**row[DELETED]))
        except (Corrupt, ValueError, TypeError):
            continue  # the chain says it
    problems += _unlinked(heads, links, gone)
    for stream in sorted({one.stream for one in anchors} - set(there)):
        problems.append(f"cut-off: agents hold heads of chapter {stream}, which does not exist")
    return heads, problems


def _unlinked(heads: list[Anchor], links: Mapping[str, Anchor], gone: set[Anchor]) -> list[str]:
    """heads: of the chapters that are there. links: chapter -> the head that it names of the one before."""
    problems, by_stream = list[str](), {one.stream: one for one in heads}
    for before, head in zip([None, *heads], heads, strict=False):
        link = links.get(head.stream)
        if link is None:
            if before is not None:
                problems.append(f"changed: {head.stream} does not say that it follows {before.stream}")
            continue
        known = by_stream.get(link.stream)
        if known is None and link not in gone:
            problems.append(
                f"missing: {link.stream}, before {head.stream}; no record says that it was deleted"
            )
        elif known is not None and known != link:
            problems.append(f"changed: {link.stream} does not end where {head.stream} says it does")
        elif before is not None and before.stream != link.stream:
            problems.append(f"changed: {head.stream} follows {link.stream}, not {before.stream}")
    return problems


def linked_to(record: bytes) -> Anchor | None:
    """The head of the chapter before, of the first record of one. Raises ValueError, TypeError."""
    row = orjson.loads(record)
    return Anchor(**row[LINK]) if LINK in row else None
