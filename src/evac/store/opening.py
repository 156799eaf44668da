"""Opens the store that a URL names: `memory:`, `sqlite:PATH`, `etcd:https://a:2379,https://b:2379?...`.

An etcd on another machine is reached over TLS, and everything that evac writes there is sealed with a key
that etcd does not have, unless the URL says `plain=allowed` or `unsealed=allowed`:

stored value = HMAC-SHA256(key, purpose, name of the entry, value) followed by the value

Anyone who can write to the store itself, and has no key, can remove entries or put an older value of the same
entry back, which the heads of journals that agents keep show. Such a person cannot make controllers run a
program, approve a run, or vote on a site: an entry without a good seal is skipped in lists, and refused when
it is read by its name. Source: HMAC as in RFC 2104, tags compared in constant time.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import orjson

from evac.model.errors import Corrupt, Flooded, Permanent, StoreError
from evac.model.records import dataclass
from evac.net.secrets import Secret, resolve
from evac.net.tls import is_here
from evac.store import anchors
from evac.store.port import (
    SEAL_BYTES,
    Change,
    Compare,
    Delete,
    Entry,
    Lease,
    MemoryStore,
    Put,
    SealedPut,
    Store,
)

KEY_LEAST: Final = 32
"""Minimum length of a key in bytes: that of the tag."""
KEYS_MOST: Final = 4
SKIPPED_MOST: Final = 10_000
"""Entries without a valid seal that one list skips before it gives up."""
NAMED_MOST: Final = 100
_PURPOSE: Final = b"evac store value 1\0"

_log = logging.getLogger("evac.store")
FORMS: Final = "memory:  |  sqlite:PATH  |  etcd:https://HOST:2379,https://HOST:2379?OPTIONS"
ETCD_OPTIONS: Final = frozenset(
    {"user", "password", "ca", "cert", "key", "prefix", "seal", "plain", "unsealed"}
)
SEAL_MARK: Final = "?seal="
ALLOWED: Final = "allowed"
LOCK_HINT: Final = "see the page Secure the store"


@dataclass(frozen=True, slots=True)
class Seal:
    """`keys`: the first one seals, all of them are accepted, so that a key can be replaced without a gap."""

    keys: tuple[Secret, ...]

    def close(self, name: str, value: bytes) -> bytes:
        return _tag(self.keys[0], name, value) + value

    def open(self, name: str, stored: bytes) -> bytes | None:
        """The value; None if none of the keys sealed it under this name."""
        return self.opened_by(name, stored)[1]

    def opened_by(self, name: str, stored: bytes) -> tuple[int, bytes | None]:
        """The index of the key that sealed it, and the value."""
        tag, value = stored[:SEAL_BYTES], stored[SEAL_BYTES:]
        for number, key in enumerate(self.keys):
            if hmac.compare_digest(tag, _tag(key, name, value)):
                return number, value
        return -1, None


def seal_of(references: str) -> Seal:
    """The keys in `REF` or `REF,REF`, each `file:/path` or `env:NAME`. Raises `StoreError`."""
    names = [one.strip() for one in references.split(",") if one.strip()]
    if not 0 < len(names) <= KEYS_MOST:
        raise StoreError("store-seal", f"seal must have 1 to {KEYS_MOST} keys", "write seal=file:/path")
    try:
        keys = tuple(resolve(name) for name in names)
    except Permanent as error:
        raise StoreError("store-seal", f"a key of the store's seal: {error.message}", error.hint) from error
    short = next((key for key in keys if len(key.reveal_bytes()) < KEY_LEAST), None)
    if short is not None:
        raise StoreError(
            "store-seal",
            f"{short.reference} has fewer than {KEY_LEAST} bytes",
            "create one: openssl rand -base64 48 > FILE; chmod 600 FILE",
        )
    return Seal(keys)


def _tag(key: Secret, name: str, value: bytes) -> bytes:
    mac = hmac.new(key.reveal_bytes(), b"".join((_PURPOSE, name.encode(), b"\0")), "sha256")
    mac.update(value)  # not copied, for it may be large
    return mac.digest()


class SealedStore:
    """Like `inner`, but usable only with the key."""

    def __init__(self, inner: Store, seal: Seal) -> None:
        self.inner, self.seal = inner, seal
        self.name, self.quorum = inner.name, inner.quorum
        self.unsealed: dict[str, int] = {}
        """Skipped entries, with the revision at which they were seen. At most `NAMED_MOST`."""

    async def get(self, key: str) -> Entry | None:
        entry = await self.inner.get(key)
        if entry is None:
            return None
        opened = self._opened(entry)
        if opened is None:
            raise Corrupt(f"{key} in the store was not written with a key of this installation")
        return opened

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        found: list[Entry] = []
        skipped = 0
        while len(found) < limit:
            asked = limit - len(found)
            page = await self.inner.list(prefix, after, asked)
            good = [one for entry in page if (one := self._opened(entry)) is not None]
            found += good
            skipped += len(page) - len(good)
            if len(page) < asked:
                break
            if skipped > SKIPPED_MOST:
                raise Flooded(
                    f"more than {SKIPPED_MOST:,} entries below {prefix} were not written with our key"
                )
            after = page[-1].key
        return found

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        sealed = [
            SealedPut(one.key, self.seal.close(one.key, one.value), one.lease)
            if isinstance(one, Put)
            else one
            for one in changes
        ]
        return await self.inner.transact(compares, sealed, guard)

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        return await self.inner.acquire(name, owner, ttl_ms)

    async def renew(self, lease: Lease) -> None:
        await self.inner.renew(lease)

    async def release(self, lease: Lease) -> None:
        await self.inner.release(lease)

    async def holder(self, name: str) -> Lease | None:
        return await self.inner.holder(name)

    def watch(self, prefix: str) -> AsyncIterator[None]:
        return self.inner.watch(prefix)

    async def close(self) -> None:
        await self.inner.close()

    def _opened(self, entry: Entry) -> Entry | None:
        value = self.seal.open(entry.key, entry.value)
        if value is not None:
            return Entry(entry.key, value, entry.revision)
        if self.unsealed.get(entry.key) != entry.revision and len(self.unsealed) < NAMED_MOST:
            self.unsealed[entry.key] = entry.revision
            _log.warning("skipped %s: not written with a key of this installation", entry.key)
        return None


@dataclass(frozen=True, slots=True)
class Sealing:
    """Result of `seal_all`: entries already sealed, newly sealed, and left without a seal."""

    good: int
    sealed: int
    left: tuple[str, ...]


async def seal_all(inner: Store, seal: Seal | None, trust_unsealed: bool) -> Sealing:
    """Seals every entry with the first key: those sealed with an older key of `seal`, and with
    `trust_unsealed` those without a seal. inner: the unsealed store. An entry is replaced only if unchanged
    since it was read, so this can be repeated. Raises `StoreError`, `Conflict` if someone writes meanwhile.
    """
    if seal is None:
        hint = "add seal=file:/path to its options"
        raise StoreError("store-seal", "the URL of the store has no seal", hint)
    good = sealed = 0
    left: list[str] = []
    after = ""
    while page := await inner.list("", after, 256):
        for entry in page:
            number, value = seal.opened_by(entry.key, entry.value)
            if number == 0:
                good += 1
                continue
            if value is None and not trust_unsealed:
                left.append(entry.key)
                continue
            plain = entry.value if value is None else value
            put = SealedPut(entry.key, seal.close(entry.key, plain))
            await inner.transact((Compare(entry.key, entry.revision),), (put,))
            sealed += 1
        after = page[-1].key
    return Sealing(good, sealed, tuple(left))


@dataclass(frozen=True, slots=True)
class Repair:
    """What is wrong with one journal."""

    segments: tuple[int, ...]
    """Numbers of segments that are missing or unreadable."""
    linked: int
    """Segments to link to the previous one again."""
    foreign: tuple[str, ...]
    """Keys under it that are not segments."""
    records: int
    """Records still present."""
    lost: int
    """Records that are gone, as far as the numbering shows."""

    @property
    def sound(self) -> bool:
        return not (self.segments or self.linked or self.foreign)


def row_of(entry: Entry) -> bytes:
    """An entry as it was, in the copy that a repair saves."""
    row = [entry.key, entry.revision, base64.b64encode(entry.value).decode()]
    return orjson.dumps(row) + b"\n"


async def repair_journal(
    inner: Store, seal: Seal | None, stream: str, lost: bytes, keep: Callable[[bytes], None] | None = None
) -> Repair:
    """Rebuilds one chain from the readable part of a journal that no run depends on. `inner`: the unsealed
    store. `keep` receives every entry as it was, one JSON line [key, revision, base64] each, before anything
    changes; None: change nothing. Segments keep their numbers, and so do records: `lost` replaces each record
    that is gone (b"": later ones move up). An empty segment is added at the end, so that a controller that is
    writing reopens the journal.

    An entry is replaced only if it has not changed since it was read, so this can be repeated. Raises
    `Conflict` if someone else writes at the same time, and `Unavailable`.
    """
    there, after = dict[str, Entry](), ""
    while page := await inner.list(anchors.prefix_of(stream), after, anchors.PAGE_SEGMENTS):
        there |= {entry.key: entry for entry in page}
        after = page[-1].key
    good = dict[int, anchors.Segment]()
    for key, entry in there.items():
        tail = key.removeprefix(anchors.prefix_of(stream))
        value = entry.value if seal is None else seal.open(key, entry.value)
        if value is not None and tail.isdecimal() and key == anchors.key_of(stream, int(tail)):
            with contextlib.suppress(Corrupt):
                good[int(tail)] = anchors.decode(stream, int(tail), value)
    last = end = max(good, default=0)
    while anchors.key_of(stream, end + 1) in there and end < last + SKIPPED_MOST:
        end += 1
    values, broken, gone = _one_chain(stream, good, end, lost)
    foreign = tuple(sorted(there.keys() - {anchors.key_of(stream, number) for number in range(1, end + 1)}))
    linked = max(0, len(values) - len(broken) - 1)
    found = Repair(tuple(broken), linked, foreign, sum(len(one.records) for one in good.values()), gone)
    if keep is None or found.sound:
        return found
    keep(b"".join(map(row_of, there.values())))
    for key in foreign:
        await inner.transact((Compare(key, there[key].revision),), (Delete(key),))
    for number, value in sorted(values.items()):
        key = anchors.key_of(stream, number)
        put = Put(key, value) if seal is None else SealedPut(key, seal.close(key, value))
        revision = there[key].revision if key in there and key not in foreign else 0
        await inner.transact((Compare(key, revision),), (put,))
    return found


def _one_chain(
    stream: str, good: Mapping[int, anchors.Segment], end: int, lost: bytes
) -> tuple[dict[int, bytes], list[int], int]:
    """What to write by segment number, with an empty segment at the end; the unreadable segment numbers; the
    number of lost records.
    """
    values, broken, gone = dict[int, bytes](), list[int](), 0
    following, previous, records, token = deque(sorted(good)), "", 0, 0
    for number in range(1, end + 1):
        segment = good.get(number)
        rows: Sequence[bytes]
        if segment is not None:
            following.popleft()
            token = max(token, segment.token)
            if (segment.previous, segment.first, segment.token) == (previous, records + 1, token):
                previous, records = segment.hash, segment.last
                continue
            rows = segment.records
        else:
            broken.append(number)
            missing = good[following[0]].first - 1 - records if following else 0
            places = following[0] - number if following else 1
            count = min(anchors.MAX_RECORDS, missing) if 0 < missing <= places * anchors.MAX_RECORDS else 0
            gone += count
            rows = [lost] * count if lost else ()
        values[number] = anchors.encode(stream, number, records + 1, token, previous, rows)
        previous, records = anchors.hash_of(values[number]), records + len(rows)
    if values:
        values[end + 1] = anchors.encode(stream, end + 1, records + 1, token, previous, ())
    return values, broken, gone


def open_store(url: str) -> Store:
    """The store, ready for use; close it when done. Raises `StoreError`, for a file also `Corrupt` and
    `Unavailable`; etcd is asked only at the first call.

    etcd takes options after `?`: user, password (`env:NAME` or `file:PATH`), ca, cert and key (files),
    prefix. Name the member of one's own site first: it is preferred. seal: the key, or keys, that
    authenticate what is written (`sqlite:PATH?seal=REF` too); plain, unsealed: `allowed` to do without TLS or
    seal.
    """
    kind, _, rest = url.partition(":")
    if kind == "memory" and not rest:
        return MemoryStore()
    if kind == "sqlite" and rest:
        path, seal = _read_sqlite(rest)
        return _sealed(_open_sqlite(path), seal)
    if kind == "etcd" and rest:
        _, options = _read_etcd(rest)
        return _sealed(_open_etcd(rest), options.get("seal", ""))
    raise _no_store(url)


def open_unsealed(url: str) -> tuple[Store, Seal | None]:
    """The store below its seal, and the seal named in its URL. Raises as `open_store`."""
    found = open_store(url)
    return (found.inner, found.seal) if isinstance(found, SealedStore) else (found, None)


def _sealed(store: Store, references: str) -> Store:
    return SealedStore(store, seal_of(references)) if references else store


def _read_sqlite(rest: str) -> tuple[Path, str]:
    path, _, seal = rest.partition(SEAL_MARK)
    return Path(path), seal


def check_store(url: str) -> None:
    """Raises `StoreError` for an invalid store URL; opens nothing and creates no file."""
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        _check_folder(_read_sqlite(rest)[0])
    elif kind == "etcd" and rest:
        _read_etcd(rest)
    elif url != "memory:":
        raise _no_store(url)


def store_kind(url: str) -> str:
    """`memory`, `sqlite` or `etcd`. Raises `StoreError` for an invalid store URL."""
    check_store(url)
    return url.partition(":")[0]


def etcd_members(url: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Addresses and options of `etcd:...`, local member first. Raises `StoreError`."""
    return _read_etcd(url.partition(":")[2])


def _no_store(url: str) -> StoreError:
    return StoreError(
        "store-url", f"{_without_secrets(url)!r} is not the address of a store", f"use one of: {FORMS}"
    )


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError("store-folder", f"no such folder: {path.parent}", f"mkdir -p {path.parent}")


def _open_sqlite(path: Path) -> Store:
    from evac.store.sqlite import SqliteStore

    _check_folder(path)
    return SqliteStore(path)


def _read_etcd(rest: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Members and options from the part after `etcd:`. Raises StoreError."""
    addresses, _, query = rest.partition("?")
    endpoints = tuple(address.strip().rstrip("/") for address in addresses.split(",") if address.strip())
    for endpoint in endpoints:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.username:
            raise StoreError(
                "store-url",
                f"{_without_secrets(endpoint)!r} is not the address of an etcd member",
                f"use one of: {FORMS}",
            )
    if not endpoints:
        raise StoreError("store-url", "etcd needs the address of a member", f"use one of: {FORMS}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(options) - ETCD_OPTIONS):
        raise StoreError(
            "store-url",
            f"etcd has no option {', '.join(unknown)}",
            f"the options are: {', '.join(sorted(ETCD_OPTIONS))}",
        )
    _check_locked(endpoints, options)
    return endpoints, options


def _check_locked(endpoints: Sequence[str], options: Mapping[str, str]) -> None:
    """Raises StoreError for remote members without TLS or seal, unless that is allowed."""
    for name in ("plain", "unsealed"):
        if options.get(name, ALLOWED) != ALLOWED:
            raise StoreError("store-url", f"{name} is allowed or left out", f"write {name}={ALLOWED}")
    others = [one for one in endpoints if not is_here(urlsplit(one).hostname or "")]
    if not others:
        return
    plain = [one for one in others if one.startswith("http:")]
    if plain and "plain" not in options:
        raise StoreError(
            "store-plain",
            f"{plain[0]} would be contacted without TLS: anyone in between could "
            "read and change what evac does",
            f"write https:// and ca=FILE, or plain={ALLOWED}; {LOCK_HINT}",
        )
    if not options.get("seal") and "unsealed" not in options:
        raise StoreError(
            "store-unsealed",
            "anyone who can write to this etcd could make controllers run programs",
            f"add seal=file:/path/to/key, or unsealed={ALLOWED}; {LOCK_HINT}",
        )


def _open_etcd(rest: str) -> Store:
    from evac.store.etcd import EtcdStore

    endpoints, options = _read_etcd(rest)
    return EtcdStore(
        endpoints,
        user=options.get("user", ""),
        password=options.get("password", ""),
        ca=options.get("ca", ""),
        cert=options.get("cert", ""),
        key=options.get("key", ""),
        prefix=options.get("prefix", "evac"),
    )


def _without_secrets(url: str) -> str:
    """For messages: the part before an @ may contain a password."""
    return url if "@" not in url else f"...@{url.rpartition('@')[2]}"
