"""The port of the store: small keys with compare-and-set, leases with fencing tokens, and a hint of change.

One transaction is the only way to write. A journal, a lock, a register, a vote are all made of it, so that
each driver (memory, SQLite, etcd) implements five operations and passes one contract suite.

All drivers refuse the same things before anything is sent: keys, values, transactions beyond the limits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from evac.model.errors import StoreError
from evac.model.generation import token_in

MAX_KEY_BYTES: Final = 512
MAX_VALUE_BYTES: Final = 1 << 20
SEAL_BYTES: Final = 32
"""Length of what `evac.store.sealed` puts before each value."""
MAX_CHANGES: Final = 64
"""Most compares, and most changes, of one transaction."""
MAX_TRANSACTION_BYTES: Final = 1_400_000
"""Most bytes of keys and values that one transaction writes: etcd refuses requests above 1.5 MiB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as stored. revision: number of the transaction that last wrote it; grows over the whole
    store.
    """

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds while `key` was last written at `revision`; 0 means that it must not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Leadership of `name` for `ttl_ms`, renewed by its owner. token: grows with every new holder, never
    falls.

    id: what the driver needs to renew it; opaque to everybody else. generation: of the store, as its holder
    read it; no driver looks at it.
    """

    name: str
    owner: str
    token: int
    ttl_ms: int
    id: str = ""
    generation: int = 0

    @property
    def stamp(self) -> int:
        """The token as orders and journals carry it: above all of older generations."""
        return token_in(self.generation, self.token)


@dataclass(frozen=True, slots=True)
class Put:
    """Writes `value`. With a lease the key vanishes when the lease ends (votes, presence)."""

    key: str
    value: bytes
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class SealedPut(Put):
    """A put whose value has a seal of `SEAL_BYTES` before it, which counts for no limit."""


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Change = Put | Delete


class Store(Protocol):
    """What journals and locks stand on. Every call ends within the driver's own deadline or raises
    `Unavailable`.

    quorum: whether the store survives the loss of any one site (etcd over three sites: yes; SQLite: never).
    """

    name: str
    quorum: bool

    async def get(self, key: str) -> Entry | None:
        """The entry as of now (a linearizable read), or None."""
        ...

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        """Entries with the prefix and a key greater than `after`, by key, at most `limit`."""
        ...

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        """All changes, durable before this returns, if every compare holds and `guard` is still held; else
        none. A key is changed at most once.

        Returns the revision. Raises `Conflict` (with the first compare that failed), `LeaseLost` (the guard,
        or the lease of a put, is over; it goes before a conflict), `Unavailable` (unknown whether it was
        done; a driver that can tell by reading back does so itself and never doubles), and `StoreError`
        with code `store-limit` where it is too large.
        """
        ...

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        """A new lease with a greater token than any before of that name. Raises `LockHeld`, `Unavailable`."""
        ...

    async def renew(self, lease: Lease) -> None:
        """Makes the lease last `ttl_ms` from now. Raises `LeaseLost`, `Unavailable`."""
        ...

    async def release(self, lease: Lease) -> None:
        """Ends the lease early; nothing happens if it is over already."""
        ...

    async def holder(self, name: str) -> Lease | None:
        """Who holds the lease now, without its id."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[None]:
        """Yields at once, and again soon after anything under the prefix changed. A hint: always read again.

        It may yield without a change, joins changes together, and yields at least every two seconds.
        """
        ...

    async def close(self) -> None: ...


PREFIX_END = "\U0010ffff"
"""Greater than every character that a key may hold."""


async def entries(store: Store, prefix: str, page: int = 1_000) -> AsyncIterator[Entry]:
    """Every entry under a prefix, by key; what a page of the store holds is read at once."""
    after, more = "", True
    while more:
        found = await store.list(prefix, after, page)
        for entry in found:
            yield entry
        more = len(found) == page
        after = found[-1].key if found else after


async def all_entries(store: Store, prefix: str) -> list[Entry]:
    """Every entry under a prefix, by key."""
    return [entry async for entry in entries(store, prefix)]


def check_key(key: str) -> int:
    """The size of a key in bytes. Raises `StoreError` when it is empty, too long or not printable."""
    size = len(key) if key.isascii() else len(key.encode("utf-8", "replace"))
    if 0 < size <= MAX_KEY_BYTES and key.isprintable():
        return size
    raise _beyond(f"a key has 1 to {MAX_KEY_BYTES} bytes of printable text, not {key[:80]!r}")


def check_transaction(compares: Sequence[Compare], changes: Sequence[Change]) -> None:
    """Raises `StoreError` for what no driver takes, so that a plan that fits one store fits them all."""
    if len(compares) > MAX_CHANGES or len(changes) > MAX_CHANGES:
        raise _beyond(f"a transaction has at most {MAX_CHANGES} compares and {MAX_CHANGES} changes")
    for compare in compares:
        check_key(compare.key)
    total = 0
    for change in changes:
        total += _size(change)
    if total > MAX_TRANSACTION_BYTES:
        raise _beyond(f"a transaction of {total} bytes is above {MAX_TRANSACTION_BYTES}")
    if len(changes) > 1 and len({change.key for change in changes}) != len(changes):
        raise _beyond("a transaction changes a key at most once")


def check_lease(name: str, ttl_ms: int) -> None:
    """Raises `StoreError` for a lease that no driver can keep."""
    check_key(name)
    if ttl_ms <= 0:
        raise _beyond(f"a lease of {ttl_ms} ms is over before it begins")


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
