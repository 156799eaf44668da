"""The watch journal: in order, nothing doubled, nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from evac.engine.lead.watch_journal import STREAM, WAITING_MOST, Chronicle, Notice, decode, encode, of_event
from evac.model.errors import Corrupt, LeaseLost, Unavailable
from evac.run.values import Event
from evac.store.anchors import verify_chain
from evac.store.journal import read
from evac.store.port import Change, Compare, Entry, Lease, MemoryStore
from tests.unit.virtual_time import LOOP_MS, run_virtually


class _Lossy(MemoryStore):
    """Loses every other answer after it wrote, and is sometimes away."""

    calls = 0
    lossy = False
    deaf = 0
    away = False

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        self.calls += 1
        if self.away:
            raise Unavailable("away")
        revision = await super().transact(compares, changes, guard)
        if self.lossy and self.calls % 2:
            self.deaf = 4
            raise Unavailable("the answer was lost")
        return revision

    async def get(self, key: str) -> Entry | None:
        if self.deaf:
            self.deaf -= 1
            raise Unavailable("and nobody can be asked")
        return await super().get(key)


def _notice(number: int) -> Notice:
    return Notice("run", number, "pangyo", f"notice {number}", {"n": number})


async def _written(store: MemoryStore) -> list[str]:
    return [decode(record).words async for segment in read(store, STREAM) for record in segment.records]


@contextlib.asynccontextmanager
async def _writing(chronicle: Chronicle):  # type: ignore[no-untyped-def]
    task = asyncio.ensure_future(chronicle.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_notice_reads_as_it_was_written() -> None:
    assert decode(encode(_notice(7))) == _notice(7)
    for record in (b"", b"[]", b"{}", b'["run", "x", "", "", {}]'):
        with pytest.raises(Corrupt):
            decode(record)


@pytest.mark.parametrize("lossy", [False, True])
def test_all_are_written_once_and_in_order_over_two_leaders(lossy: bool) -> None:
    async def play() -> None:
        store = _Lossy(LOOP_MS)
        for first in (0, 150):
            guard = await store.acquire("leader", f"c{first}", 60_000)
            store.lossy = lossy
            chronicle = Chronicle(store, guard)
            async with _writing(chronicle):
                for number in range(first, first + 150):
                    chronicle.add(_notice(number))
                    if number % 10 == 0:
                        await asyncio.sleep(0.002)
                await asyncio.sleep(0.3)
                store.lossy = False
                async with asyncio.timeout(10):
                    while not chronicle.idle:
                        await asyncio.sleep(0.05)
            await store.release(guard)
        assert await _written(store) == [f"notice {number}" for number in range(300)]
        assert await verify_chain(store, STREAM) == []

    run_virtually(play())


def test_while_the_store_is_away_the_oldest_are_dropped_and_counted() -> None:
    async def play() -> None:
        store = _Lossy(LOOP_MS)
        chronicle = Chronicle(store, await store.acquire("leader", "c1", 60_000))
        store.away = True
        async with _writing(chronicle):
            for number in range(WAITING_MOST + 5):
                chronicle.add(_notice(number))
            await asyncio.sleep(0.05)
            store.away = False
            await asyncio.sleep(0.6)
        words = await _written(store)
        assert words[0] == "5 notices were lost while the store was unreachable"
        assert words[1:] == [f"notice {number}" for number in range(5, WAITING_MOST + 5)]

    run_virtually(play())


def test_it_ends_with_the_lease() -> None:
    async def play() -> None:
        store = MemoryStore(LOOP_MS)
        guard = await store.acquire("leader", "c1", 60_000)
        chronicle = Chronicle(store, guard)
        await store.release(guard)
        chronicle.add(_notice(1))
        with pytest.raises(LeaseLost):
            await chronicle.run()

    run_virtually(play())


def test_a_feed_that_tripped_and_a_boot_server_that_is_given_up_are_told() -> None:
    tripped = Event(
        "feed_tripped", 1, data={"feed": "pangyo/feed-3", "why": "6 of 8 fell silent", "open": False}
    )
    told = of_event("dark", tripped)
    assert told is not None
    words, data = told
    assert words == "dark: a feed tripped (pangyo/feed-3)"
    assert (data["feed"], data["why"]) == ("pangyo/feed-3", "6 of 8 fell silent")
    lost = of_event(
        "dark", Event("boot_server_lost", 1, data={"server": "b1", "other": "b2", "why": "5 in a row"})
    )
    assert lost is not None
    assert lost[0] == "dark: a boot server was given up on (b1)"
    assert lost[1]["other"] == "b2"
