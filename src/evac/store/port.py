"""The port of the store: small keys with compare-and-set, leases with fencing tokens, and change hints.

One transaction is the only way to write. Journals, locks, registers and votes are all built on it, so each
driver (memory, SQLite, etcd) implements five operations and passes one contract suite. All drivers refuse the
same requests before anything is sent: keys, values and transactions beyond the limits.

The memory driver is here too, for the simulator and for tests: every call is one atomic step on a given
clock, and it starts no thread.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from evac.model.errors import Conflict, LeaseLost, LockHeld, StoreError, Unavailable
from evac.model.generation import SET_UP_TOKEN, token_in
from evac.model.records import dataclass

MAX_KEY_BYTES: Final = 512
MAX_VALUE_BYTES: Final = 1 << 20
SEAL_BYTES: Final = 32
"""Length of the seal that `evac.store.opening` puts before each value."""
MAX_CHANGES: Final = 64
"""Maximum number of compares, and of changes, in one transaction."""
MAX_TRANSACTION_BYTES: Final = 1_400_000
"""Maximum bytes of keys and values in one transaction: etcd refuses requests above 1.5 MiB."""
WATCH_MOST_MS = 2_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored key. `revision`: number of the transaction that last wrote it; it grows across the whole
    store.
    """

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """True if `key` was last written at `revision`; 0 means that it must not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that may hold leases. As text it is SITE/PROCESS/NONCE."""

    site: str
    process: int
    """Its number at the site; 0 if unknown."""
    nonce: str = ""
    """Distinguishes processes with the same number."""

    def __str__(self) -> str:
        return f"{self.site}/{self.process}/{self.nonce}"


def owner_in(written: str) -> Owner:
    """Read an owner from its text. Someone else may write other names: then only the first part counts."""
    site, _, rest = written.partition("/")
    number, _, nonce = rest.partition("/")
    known = number.isascii() and number.isdigit() and len(number) <= _LONGEST_NUMBER
    return Owner(site, int(number) if known else 0, nonce)


_LONGEST_NUMBER: Final = 10


@dataclass(frozen=True, slots=True)
class Lease:
    """Leadership of `name` for `ttl_ms`, renewed by its owner. `token`: grows with every new holder and never
    falls. `id`: what the driver needs to renew it; opaque to everyone else. `generation`: of the store, as
    read by the holder; drivers ignore it.
    """

    name: str
    owner: str
    token: int
    ttl_ms: int
    id: str = ""
    generation: int = 0

    @property
    def stamp(self) -> int:
        """The token as orders and journals carry it: higher than that of any older generation."""
        return token_in(self.generation, self.token)


@dataclass(frozen=True, slots=True)
class Put:
    """Writes `value`. With a lease, the key disappears when the lease ends (votes, presence)."""

    key: str
    value: bytes
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class SealedPut(Put):
    """A put whose value starts with a seal of `SEAL_BYTES`, which does not count towards limits."""


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Change = Put | Delete


class Store(Protocol):
    """The foundation of journals and locks. Every call ends within the driver's own deadline or raises
    `Unavailable`. `quorum`: whether the store survives the loss of any one site (etcd across three sites:
    yes; SQLite: never).
    """

    name: str
    quorum: bool

    async def get(self, key: str) -> Entry | None:
        """The current entry (a linearizable read), or None."""
        ...

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        """Entries with the prefix and a key greater than `after`, sorted by key, at most `limit`."""
        ...

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        """Applies all changes, durably before this returns, if every compare holds and `guard` is still held;
        otherwise none. Each key is changed at most once. Returns the revision.

        Raises `Conflict` (with the first compare that failed), `LeaseLost` (the guard, or the lease of a put,
        has ended; takes precedence over a conflict), `Unavailable` (outcome unknown; a driver that can find
        out by reading back does so itself and never applies it twice), and `StoreError` with code
        `store-limit` if it is too large.
        """
        ...

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        """A new lease with a greater token than any earlier one of that name. Raises `LockHeld`,
        `Unavailable`.
        """
        ...

    async def renew(self, lease: Lease) -> None:
        """Extends the lease to `ttl_ms` from now. Raises `LeaseLost`, `Unavailable`."""
        ...

    async def release(self, lease: Lease) -> None:
        """Ends the lease early; does nothing if it has already ended."""
        ...

    async def holder(self, name: str) -> Lease | None:
        """The current holder of the lease, without its id."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[None]:
        """Yields immediately, and again soon after anything under the prefix changes. Only a hint: always
        read again. It may yield without a change, merges changes, and yields at least every two seconds.
        """
        ...

    async def close(self) -> None: ...


PREFIX_END = "\U0010ffff"
"""Greater than any character allowed in a key."""


async def entries(store: Store, prefix: str, page: int = 1_000) -> AsyncIterator[Entry]:
    """Every entry under a prefix, sorted by key, read one page at a time."""
    after, more = "", True
    while more:
        found = await store.list(prefix, after, page)
        for entry in found:
            yield entry
        more = len(found) == page
        after = found[-1].key if found else after


async def all_entries(store: Store, prefix: str) -> list[Entry]:
    """Every entry under a prefix, sorted by key."""
    return [entry async for entry in entries(store, prefix)]


def check_key(key: str) -> int:
    """The size of a key in bytes. Raises `StoreError` if it is empty, too long or not printable."""
    size = len(key) if key.isascii() else len(key.encode("utf-8", "replace"))
    if 0 < size <= MAX_KEY_BYTES and key.isprintable():
        return size
    raise _beyond(f"a key must have 1 to {MAX_KEY_BYTES} bytes of printable text, not {key[:80]!r}")


def check_transaction(compares: Sequence[Compare], changes: Sequence[Change]) -> None:
    """Raises `StoreError` for what any driver would refuse, so that a plan that fits one store
    fits them all.
    """
    if len(compares) > MAX_CHANGES or len(changes) > MAX_CHANGES:
        raise _beyond(f"a transaction can have at most {MAX_CHANGES} compares and {MAX_CHANGES} changes")
    for compare in compares:
        check_key(compare.key)
    total = 0
    for change in changes:
        total += _size(change)
    if total > MAX_TRANSACTION_BYTES:
        raise _beyond(f"a transaction of {total} bytes is larger than {MAX_TRANSACTION_BYTES}")
    if len(changes) > 1 and len({change.key for change in changes}) != len(changes):
        raise _beyond("a transaction can change a key only once")


def check_lease(name: str, ttl_ms: int) -> None:
    """Raises `StoreError` for a lease that no driver can keep."""
    check_key(name)
    if ttl_ms <= 0:
        raise _beyond(f"a lease of {ttl_ms} ms would expire immediately")


def _size(change: Change) -> int:
    size = check_key(change.key)
    if not isinstance(change, Put):
        return size
    value = len(change.value) - (SEAL_BYTES if isinstance(change, SealedPut) else 0)
    if value > MAX_VALUE_BYTES:
        raise _beyond(f"the value of {change.key} has {value} bytes, above {MAX_VALUE_BYTES}")
    return size + value


def _beyond(message: str) -> StoreError:
    return StoreError("store-limit", message, "split it into smaller parts")


def host_monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@dataclass(slots=True)
class _Held:
    lease: Lease
    since_ms: int
    ends_ms: int


class MemoryStore:
    """Keys, leases and watchers in dictionaries. `clock`: monotonic milliseconds, which leases expire by.
    `quorum`: what the simulator wants it to claim; a store in one process cannot survive a loss.
    """

    name = "memory"

    def __init__(self, clock: Callable[[], int] = host_monotonic_ms, *, quorum: bool = False) -> None:
        self.quorum = quorum
        self._clock = clock
        self._revision = SET_UP_TOKEN
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []
        self._leases: dict[str, _Held] = {}
        self._earliest_ms = 0  # no lease ends before
        self._attached: dict[str, int] = {}
        self._watchers: dict[asyncio.Event, str] = {}
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        self._settle()
        return self._entries.get(key)

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        self._settle()
        keys = self._keys
        start = bisect_right(keys, after) if after >= prefix else bisect_left(keys, prefix)
        end = bisect_left(keys, prefix + PREFIX_END, start)
        entries = self._entries
        return [entries[key] for key in keys[start : min(end, start + max(0, limit))]]

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        check_transaction(compares, changes)
        self._settle()
        self._check_leases(changes, guard)
        for compare in compares:
            entry = self._entries.get(compare.key)
            if (entry.revision if entry else 0) != compare.revision:
                raise Conflict(compare.key)
        if changes:
            self._revision += 1
            for change in changes:
                if isinstance(change, Put):
                    self._put(change)
                else:
                    self._remove(change.key)
            self._notify([change.key for change in changes])
        return self._revision

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        check_lease(name, ttl_ms)
        now = self._settle()
        held = self._leases.get(name)
        if held is not None:
            raise LockHeld(name, held.lease.owner, held.since_ms, held.ends_ms - now)
        self._revision += 1
        lease = Lease(name, owner, self._revision, ttl_ms, f"memory-{self._revision}")
        self._leases[name] = _Held(lease, now, now + ttl_ms)
        self._earliest_ms = min(self._earliest_ms, now + ttl_ms)
        return lease

    async def renew(self, lease: Lease) -> None:
        now = self._settle()
        if not self._holds(lease):
            raise LeaseLost(lease.name)
        self._leases[lease.name].ends_ms = now + lease.ttl_ms
        self._earliest_ms = min(self._earliest_ms, now + lease.ttl_ms)

    async def release(self, lease: Lease) -> None:
        self._settle()
        if self._holds(lease):
            self._end(lease.name)

    async def holder(self, name: str) -> Lease | None:
        check_key(name)
        self._settle()
        held = self._leases.get(name)
        return None if held is None else replace(held.lease, id="")

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        changed = asyncio.Event()
        self._watchers[changed] = prefix
        try:
            while not self._closed:
                changed.clear()
                yield None
                await self._wait(changed)
        finally:
            del self._watchers[changed]

    async def close(self) -> None:
        self._closed = True
        self._notify(None)

    async def _wait(self, changed: asyncio.Event) -> None:
        """Waits until something changes, a lease ends, or two seconds pass."""
        now = self._clock()
        ends = min((held.ends_ms for held in self._leases.values()), default=now + WATCH_MOST_MS)
        wait_ms = max(1, min(WATCH_MOST_MS, ends - now))
        try:
            async with asyncio.timeout(wait_ms / 1_000):
                await changed.wait()
        except TimeoutError:
            self._expire()

    def _settle(self) -> int:
        if self._closed:
            raise Unavailable("the store is closed")
        return self._expire()

    def _expire(self) -> int:
        """Ends expired leases, oldest first. Returns the current time."""
        now = self._clock()
        if now < self._earliest_ms:
            return now
        over = sorted((held.ends_ms, name) for name, held in self._leases.items() if held.ends_ms <= now)
        for _, name in over:
            self._end(name)
        self._earliest_ms = min((held.ends_ms for held in self._leases.values()), default=now + 1)
        return now

    def _end(self, name: str) -> None:
        token = self._leases.pop(name).lease.token
        gone = sorted(key for key, owner in self._attached.items() if owner == token)
        if gone:
            self._revision += 1
            for key in gone:
                self._remove(key)
            self._notify(gone)

    def _holds(self, lease: Lease) -> bool:
        held = self._leases.get(lease.name)
        return held is not None and held.lease.token == lease.token and held.lease.id == lease.id

    def _check_leases(self, changes: Sequence[Change], guard: Lease | None) -> None:
        if guard is not None and not self._holds(guard):
            raise LeaseLost(guard.name)
        for change in changes:
            if isinstance(change, Put):
                lease = change.lease
                if lease is not None and not self._holds(lease):
                    raise LeaseLost(lease.name)

    def _put(self, change: Put) -> None:
        key, lease = change.key, change.lease
        if key not in self._entries:
            insort(self._keys, key)
        # A copy is as large as its content; the bytes that orjson returns take at least 4 KiB.
        self._entries[key] = Entry(key, bytes(memoryview(change.value)), self._revision)
        if lease is not None:
            self._attached[key] = lease.token
        elif self._attached:
            self._attached.pop(key, None)

    def _remove(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
            self._attached.pop(key, None)

    def _notify(self, keys: Sequence[str] | None) -> None:
        for changed, prefix in self._watchers.items():
            if keys is None or any(key.startswith(prefix) for key in keys):
                changed.set()
