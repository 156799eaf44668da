"""A store in memory, for the simulator and for tests: every call is one indivisible step on a given clock.

It starts no thread and reads no clock of its own, so that the same calls give the same answers.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from evac.model.errors import Conflict, LeaseLost, LockHeld, Unavailable
from evac.store.port import (
    PREFIX_END,
    Change,
    Compare,
    Entry,
    Lease,
    Put,
    check_key,
    check_lease,
    check_transaction,
)

WATCH_MOST_MS = 2_000


def host_monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@dataclass(slots=True)
class _Held:
    lease: Lease
    since_ms: int
    ends_ms: int


class MemoryStore:
    """Keys, leases and watchers in dictionaries. clock: monotonic milliseconds; leases end by it.

    quorum: what the simulator wants it to claim; a store in one process survives no loss by itself.
    """

    name = "memory"

    def __init__(self, clock: Callable[[], int] = host_monotonic_ms, *, quorum: bool = False) -> None:
        self.quorum = quorum
        self._clock = clock
        self._revision = 0
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
        """Until something changed, a lease ends, or two seconds went by."""
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
        """Ends the leases whose time is over, oldest end first. Returns the present moment."""
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
        self._entries[key] = Entry(key, change.value, self._revision)
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
