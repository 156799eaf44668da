"""The end of a journal is found with few requests, whatever its length."""

from __future__ import annotations

import asyncio
from builtins import list as listed

import pytest

from evac.store.journal import FEW, Journal, head_of
from evac.store.port import Entry, MemoryStore


class Counting(MemoryStore):
    asked = 0

    async def get(self, key: str) -> Entry | None:
        self.asked += 1
        return await super().get(key)

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> listed[Entry]:
        self.asked += 1
        return await super().list(prefix, after, limit)


def test_the_head_is_found_whatever_the_length() -> None:
    async def story() -> None:
        store = Counting()
        lease = await store.acquire("leader", "me", 30_000)
        assert await head_of(store, "run-1") is None
        journal = await Journal.create(store, "run-1", lease, records=[b"0"])
        await Journal.create(store, "run-10", lease, records=[b"another"])
        for number in range(1, 8 * FEW + 2):
            assert await head_of(store, "run-1") == journal.head
            assert journal.head.segment == number
            await journal.append([b"%d" % number], lease)

    asyncio.run(story())


@pytest.mark.parametrize(("segments", "most"), [(0, 1), (1, 1), (FEW - 1, 1), (FEW, 4), (1_000, 16)])
def test_a_short_journal_is_one_request(segments: int, most: int) -> None:
    async def story() -> None:
        store = Counting()
        lease = await store.acquire("leader", "me", 30_000)
        if segments:
            journal = await Journal.create(store, "run-1", lease, records=[b"0"])
            for _ in range(segments - 1):
                await journal.append([b"1"], lease)
        store.asked = 0
        head = await head_of(store, "run-1")
        assert (0 if head is None else head.segment) == segments
        assert store.asked <= most

    asyncio.run(story())
