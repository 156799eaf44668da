"""The store in memory on a clock in the hand of the test: exact moments, the same answers each time."""

from __future__ import annotations

import asyncio
import tracemalloc

import orjson
import pytest

from evac.model.errors import LeaseLost, LockHeld, Unavailable
from evac.store.port import Entry, MemoryStore, Put, entries


class Clock:
    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


def test_a_value_takes_the_memory_of_its_content() -> None:
    """What orjson returns takes at least 4 KiB, however short it is."""

    async def story() -> int:
        store = MemoryStore(Clock())
        tracemalloc.start()
        try:
            for number in range(200):
                await store.transact([], [Put(f"{number}", orjson.dumps({"at": number, "words": "x" * 200}))])
            return tracemalloc.get_traced_memory()[0] // 200
        finally:
            tracemalloc.stop()

    assert asyncio.run(story()) < 1_500


def test_a_lease_ends_at_its_millisecond() -> None:
    async def story() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        lease = await store.acquire("leader", "me", 1_000)
        await store.transact([], [Put("vote", b"", lease)])
        clock.now_ms = 999
        with pytest.raises(LockHeld) as held:
            await store.acquire("leader", "other", 1_000)
        assert (held.value.since_ms, held.value.ttl_ms) == (0, 1)
        await store.renew(lease)
        clock.now_ms = 1_998
        assert await store.get("vote") is not None
        clock.now_ms = 1_999
        assert await store.get("vote") is None
        with pytest.raises(LeaseLost):
            await store.renew(lease)

    asyncio.run(story())


def test_a_holder_seen_by_others_is_no_guard() -> None:
    async def story() -> None:
        store = MemoryStore(Clock())
        await store.acquire("leader", "me", 1_000)
        seen = await store.holder("leader")
        assert seen is not None
        with pytest.raises(LeaseLost):
            await store.transact([], [Put("a", b"")], seen)

    asyncio.run(story())


def test_a_watch_sees_the_end_of_a_lease_and_of_the_store() -> None:
    async def story() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        lease = await store.acquire("w", "me", 50)
        await store.transact([], [Put("vote", b"", lease)])
        hints = store.watch("vote")
        await anext(hints)
        clock.now_ms = 50
        await asyncio.wait_for(anext(hints), 0.5)
        assert await store.get("vote") is None
        ending = asyncio.ensure_future(anext(hints))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await ending
        with pytest.raises(Unavailable):
            await store.get("vote")

    asyncio.run(story())


def test_a_quorum_is_only_claimed_when_asked_for() -> None:
    assert not MemoryStore().quorum
    assert MemoryStore(quorum=True).quorum


def test_entries_are_read_in_as_many_pages_as_there_are_and_no_empty_one_is_asked_for() -> None:
    class Counting(MemoryStore):
        asked = 0

        async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
            self.asked += 1
            return await super().list(prefix, after, limit)

    async def play() -> None:
        for there in range(7):
            store = Counting()
            if there:
                await store.transact((), [Put(f"a/{i}", b"x") for i in range(there)])
            found = [entry.key async for entry in entries(store, "a/", 3)]
            assert found == [f"a/{i}" for i in range(there)]
            assert store.asked == there // 3 + 1

    asyncio.run(play())
