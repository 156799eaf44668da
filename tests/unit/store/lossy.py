"""A store before another one that loses what it is told to lose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from evac.model.errors import EvacError, Unavailable
from evac.store.port import Change, Compare, Entry, Lease, Store


class LossyStore:
    """Does to each next transaction what `faults` says, then works. read_faults: reads that fail.

    question: the call is lost before it is done. answer: after. late: it is done while the next call is
    made. never: it is done and the answer never comes.
    """

    quorum = False

    def __init__(self, inner: Store) -> None:
        self.name = inner.name
        self.inner = inner
        self.faults: list[str] = []
        self.read_faults = 0
        self._late: list[tuple[Sequence[Compare], Sequence[Change], Lease | None]] = []

    async def get(self, key: str) -> Entry | None:
        if self.read_faults:
            self.read_faults -= 1
            raise Unavailable("a read was lost")
        return await self.inner.get(key)

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        return await self.inner.list(prefix, after, limit)

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        await self.deliver()
        fault = self.faults.pop(0) if self.faults else ""
        await asyncio.sleep(0)
        if fault == "late":
            self._late.append((compares, changes, guard))
        if fault in ("late", "question"):
            raise Unavailable("a question was lost")
        revision = await self.inner.transact(compares, changes, guard)
        if fault == "never":
            await asyncio.sleep(3_600)
        if fault == "answer":
            raise Unavailable("an answer was lost")
        return revision

    async def deliver(self) -> None:
        """What was late arrives now."""
        while self._late:
            with suppress(EvacError):
                await self.inner.transact(*self._late.pop())

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
