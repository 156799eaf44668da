"""A copy of a store that can be carried, and a new embedded store made of one.

What is copied is what a later controller must know: runs, journals, plans, registers, epochs, notes.
What is not copied is true only where and when it was written: leases, votes, requests that wait, and proofs
about the world (what was seen, permitted, checked), which must be made anew.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evac.model.errors import StoreError
from evac.store.anchors import decode
from evac.store.generation import KEY as GENERATION_KEY
from evac.store.generation import SUPERSEDED_KEY
from evac.store.port import MAX_CHANGES, Compare, Put, Store, check_transaction
from evac.store.sqlite_file import connect, in_words, prepare

JOURNALS: Final = "journal/"
LEFT_KEYS: Final = frozenset({"sign", GENERATION_KEY, SUPERSEDED_KEY})
LEFT: Final = (
    "answer/",
    "answered/",
    "asked/",
    "notices/",
    "permit/",
    "proposal/",
    "request/",
    "session/",
    "sighting/",
    "standing/",
    "status-export/",
    "votes/",
    "withdrawn/",
    "witness/",
)
TRIES: Final = 4
FILL_BYTES: Final = 1_000_000
PAGE: Final = 64


@dataclass(frozen=True, slots=True)
class Copied:
    """entries: key -> value; journals: stream -> its segments. still: whether nothing changed meanwhile."""

    entries: Mapping[str, bytes]
    journals: Mapping[str, tuple[bytes, ...]]
    still: bool


async def copy_of(store: Store) -> Copied:
    """Everything that is worth carrying. Other keys are read before and after the journals: where they differ
    it is read again, a few times. Raises StoreError.
    """
    entries = await _entries(store)
    for _ in range(TRIES):
        journals = await _journals(store)
        again = await _entries(store)
        if again == entries:
            return Copied(entries, journals, True)
        entries = again
    return Copied(entries, await _journals(store), False)


async def _entries(store: Store) -> dict[str, bytes]:
    found = {}
    async for key, value in _all(store, ""):
        if not key.startswith((JOURNALS, *LEFT)) and key not in LEFT_KEYS:
            found[key] = value
    return found


async def _journals(store: Store) -> dict[str, tuple[bytes, ...]]:
    found: dict[str, list[bytes]] = {}
    async for key, value in _all(store, JOURNALS):
        stream, _, number = key.removeprefix(JOURNALS).rpartition("/")
        decode(stream, int(number), value)  # raises Corrupt for what is no segment
        found.setdefault(stream, []).append(value)
    return {stream: tuple(segments) for stream, segments in found.items()}


async def _all(store: Store, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
    after = ""
    while page := await store.list(prefix, after, PAGE):
        for entry in page:
            yield entry.key, entry.value
        after = page[-1].key


async def fill_store(store: Store, entries: Iterable[tuple[str, bytes]], last: tuple[str, bytes]) -> None:
    """The same in a store that holds nothing. last: written when all the rest is there; a store without it
    was not filled to its end. Raises StoreError where it holds anything.
    """
    if await store.list("", limit=1):
        raise StoreError(
            "store-not-empty",
            "the store holds something already, and what it holds is not overwritten",
            "name an empty one: new members, or another prefix (?prefix=NAME); what was cut off when the "
            "store was full already goes on with the very same command",
        )
    batch: list[Put] = []
    size = 0
    for key, value in entries:
        if batch and (len(batch) == MAX_CHANGES or size + len(key) + len(value) > FILL_BYTES):
            await _put_new(store, batch)
            batch, size = [], 0
        batch.append(Put(key, value))
        size += len(key) + len(value)
    if batch:
        await _put_new(store, batch)
    await _put_new(store, [Put(*last)])


async def _put_new(store: Store, batch: list[Put]) -> None:
    await store.transact([Compare(one.key, 0) for one in batch], batch)


def fill(path: Path, entries: Iterable[tuple[str, bytes]], first: int) -> None:
    """A new embedded store with these entries. first: where its count of revisions and tokens begins.

    Raises StoreError for a file that is there, and for entries that no store takes.
    """
    with in_words(path):
        connection = connect(path)
        try:
            prepare(connection, path)
            connection.execute("BEGIN IMMEDIATE")
            revision = first
            for key, value in entries:
                check_transaction((), (Put(key, value),))
                revision += 1
                row = (key, revision, 0, zlib.crc32(value), value)
                connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
            connection.execute("UPDATE state SET revision = ?", (revision,))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
