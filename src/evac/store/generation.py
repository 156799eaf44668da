"""The generation of a store, and whether its leader must not act; both are recorded in the store itself.

    generation    {"number", "opener", "at_ms"}: absent in a store that took no one's place
    superseded    {"number", "opener", "by", "at_ms"}: a newer generation, and who told of it
    behind        {"number", "site", "token", "ours", "at_ms"}: the own generation, in which the agent of a
                  site had obeyed a token above ours, which was that of the leader

The stored values apply to every controller, including restarted ones.

A new embedded store is made from a portable copy. It contains what a later controller must know: runs,
journals, plans, registers, epochs, notes. It leaves out what is true only where and when it was written:
leases, votes, waiting requests, and proofs about the world (what was seen, permitted, checked), which must be
made again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from evac.model.errors import Conflict, Corrupt, NotAllowed, StoreBehind, StoreError
from evac.model.generation import GENERATION_MOST
from evac.model.records import dataclass
from evac.store.anchors import decode as segment_of
from evac.store.port import MAX_CHANGES, Compare, Entry, Put, Store, check_transaction, entries
from evac.store.sqlite import connect, in_words, prepare

KEY: Final = "generation"
SUPERSEDED_KEY: Final = "superseded"
BEHIND_KEY: Final = "behind"
TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Generation:
    """`opener`: a random name that distinguishes two openers of the same number. `at_ms`: when, UTC."""

    number: int = 0
    opener: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Newer:
    """A generation that replaced this store. `by`: the site whose agent reported it, or who else did."""

    number: int
    opener: str
    by: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Behind:
    """In generation `number` of this store, the agent at `site` had obeyed `token`, above that of the leader,
    `ours`.
    """

    number: int
    site: str
    token: int
    ours: int
    at_ms: int

    @property
    def error(self) -> StoreBehind:
        return StoreBehind(self.site, self.token, self.ours, self.number)


async def read_generation(store: Store) -> Generation:
    """Raises `Corrupt` if it cannot be read: then no one may act. Raises `Unavailable`."""
    return decode(await store.get(KEY))


def decode(entry: Entry | None) -> Generation:
    """The content of the key `generation`. Raises `Corrupt`."""
    if entry is None:
        return Generation()
    told = _table(entry)
    return Generation(_number(entry, told), str(told.get("opener", "")), _at(entry, told))


def encode(generation: Generation) -> bytes:
    told = {"number": generation.number, "opener": generation.opener, "at_ms": generation.at_ms}
    return orjson.dumps(told)


async def raise_generation(store: Store, number: int, opener: str, at_ms: int) -> Generation:
    """Opens a newer generation in a store, or finds it already open; 0 requests nothing. Raises `NotAllowed`
    for one below that of the store: it never goes back.
    """
    for _ in range(TRIES):
        entry = await store.get(KEY)
        found = decode(entry)
        if number == 0 or number == found.number:
            return found
        if number < found.number:
            raise NotAllowed(
                "generation-older",
                f"this store has generation {found.number}, which is above {number}",
                f"remove --generation, or choose one above {found.number}",
            )
        wanted = Generation(number, opener, at_ms)
        try:
            at = entry.revision if entry is not None else 0
            await store.transact((Compare(KEY, at),), (Put(KEY, encode(wanted)),))
        except Conflict:
            continue
        return wanted
    raise Conflict(KEY)


async def read_newer(store: Store) -> Newer | None:
    """The generation that replaced this store, if one was reported. Raises `Corrupt`."""
    return decode_newer(await store.get(SUPERSEDED_KEY))


def decode_newer(entry: Entry | None) -> Newer | None:
    if entry is None:
        return None
    told = _table(entry)
    words = (str(told.get("opener", "")), str(told.get("by", "")))
    return Newer(_number(entry, told), *words, _at(entry, told))


async def write_newer(store: Store, newer: Newer) -> None:
    """Records in the store that it was replaced; a more recent record is kept."""
    for _ in range(TRIES):
        entry = await store.get(SUPERSEDED_KEY)
        known = decode_newer(entry)
        if known is not None and known.number >= newer.number:
            return
        told = {"number": newer.number, "opener": newer.opener, "by": newer.by, "at_ms": newer.at_ms}
        compare = Compare(SUPERSEDED_KEY, entry.revision if entry is not None else 0)
        try:
            await store.transact((compare,), (Put(SUPERSEDED_KEY, orjson.dumps(told)),))
        except Conflict:
            continue
        return


async def read_behind(store: Store, own: Generation) -> Behind | None:
    """Why the leader of this store must not act, as found in its own generation. Raises `Corrupt`."""
    found = _decode_behind(await store.get(BEHIND_KEY))
    return found if found is not None and found.number == own.number else None


def _decode_behind(entry: Entry | None) -> Behind | None:
    if entry is None:
        return None
    told = _table(entry)
    counts = _count(entry, told, "token"), _count(entry, told, "ours")
    return Behind(_number(entry, told), str(told.get("site", "")), *counts, _at(entry, told))


async def write_behind(store: Store, behind: Behind) -> None:
    """Records in the store that its leader must not act in this generation; the first record is kept."""
    for _ in range(TRIES):
        entry = await store.get(BEHIND_KEY)
        known = _decode_behind(entry)
        if known is not None and known.number >= behind.number:
            return
        told = {
            "number": behind.number,
            "site": behind.site,
            "token": behind.token,
            "ours": behind.ours,
            "at_ms": behind.at_ms,
        }
        compare = Compare(BEHIND_KEY, entry.revision if entry is not None else 0)
        try:
            await store.transact((compare,), (Put(BEHIND_KEY, orjson.dumps(told)),))
        except Conflict:
            continue
        return


def takes_place_of(newer: Newer | None, own: Generation) -> bool:
    """Whether `newer` replaced `own`: a greater number, or the same number from another opener."""
    if newer is None or newer.number < own.number:
        return False
    return newer.number > own.number or bool(own.number and newer.opener and newer.opener != own.opener)


def _table(entry: Entry) -> dict[str, Any]:
    try:
        told = orjson.loads(entry.value)
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"the value of {entry.key} is not JSON") from error
    if not isinstance(told, dict):
        raise Corrupt(f"the value of {entry.key} is not an object")
    return told


def _number(entry: Entry, told: dict[str, Any]) -> int:
    found = told.get("number")
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= GENERATION_MOST:
        raise Corrupt(f"{entry.key} has no generation")
    return found


def _at(entry: Entry, told: dict[str, Any]) -> int:
    found = told.get("at_ms", 0)
    if isinstance(found, bool) or not isinstance(found, int):
        raise Corrupt(f"{entry.key} has no time")
    return found


def _count(entry: Entry, told: dict[str, Any], name: str) -> int:
    found = told.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise Corrupt(f"{entry.key} has no {name}")
    return found


JOURNALS: Final = "journal/"
LEFT_KEYS: Final = frozenset({"sign", KEY, SUPERSEDED_KEY, BEHIND_KEY})
LEFT: Final = (
    "answer/",
    "answered/",
    "asked/",
    "challenge/",
    "code/",
    "notices/",
    "permit/",
    "proposal/",
    "put-back/",
    "request/",
    "session/",
    "sighting/",
    "standing/",
    "status-export/",
    "votes/",
    "withdrawn/",
    "witness/",
)
COPY_TRIES: Final = 4
FILL_BYTES: Final = 1_000_000
PAGE: Final = 64


@dataclass(frozen=True, slots=True)
class Copied:
    """`entries`: key -> value; `journals`: stream -> its segments. `still`: whether nothing changed during
    the copy.
    """

    entries: Mapping[str, bytes]
    journals: Mapping[str, tuple[bytes, ...]]
    still: bool


async def copy_of(store: Store) -> Copied:
    """Everything worth carrying over. Other keys are read before and after the journals; if they differ, all
    is read again, a few times. Raises StoreError.
    """
    copied = await _entries(store)
    for _ in range(COPY_TRIES):
        journals = await _journals(store)
        again = await _entries(store)
        if again == copied:
            return Copied(copied, journals, True)
        copied = again
    return Copied(copied, await _journals(store), False)


async def _entries(store: Store) -> dict[str, bytes]:
    found = {}
    async for entry in entries(store, "", PAGE):
        if not entry.key.startswith((JOURNALS, *LEFT)) and entry.key not in LEFT_KEYS:
            found[entry.key] = entry.value
    return found


async def _journals(store: Store) -> dict[str, tuple[bytes, ...]]:
    found: dict[str, list[bytes]] = {}
    async for entry in entries(store, JOURNALS, PAGE):
        stream, _, number = entry.key.removeprefix(JOURNALS).rpartition("/")
        segment_of(stream, int(number), entry.value)  # raises Corrupt for what is not a segment
        found.setdefault(stream, []).append(entry.value)
    return {stream: tuple(segments) for stream, segments in found.items()}


async def fill_store(store: Store, entries: Iterable[tuple[str, bytes]], last: tuple[str, bytes]) -> None:
    """Writes the copy into an empty store. `last`: written after everything else; a store without it is
    incomplete. Raises StoreError if the store is not empty.
    """
    if await store.list("", limit=1):
        raise StoreError(
            "store-not-empty",
            "the store is not empty, and evac does not overwrite what it contains",
            "use an empty one: new members, or another prefix (?prefix=NAME); if this "
            "command was interrupted after filling the store, run the same command again",
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
    """A new embedded store with these entries. `first`: where its revisions and tokens begin. Raises
    StoreError if the file exists, or for entries that no store accepts.
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
