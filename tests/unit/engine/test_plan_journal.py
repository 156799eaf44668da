"""Every plan that is put into the drawer is in the journal, once, whoever leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest

from evac.engine.plans.journal import STREAM, PlanJournal, plan_records
from evac.engine.plans.library import key_of
from evac.model.errors import LeaseLost
from evac.store.journal import read
from evac.store.port import Lease, MemoryStore, Put


async def lies(
    store: MemoryStore, lost: tuple[str, ...], plan: str, problem: str = "", at_ms: int = 1
) -> None:
    told = {"plan": plan, "estate": "e1", "at_ms": at_ms, "took_ms": 1, "problem": problem}
    await store.transact((), (Put(key_of(lost), orjson.dumps(told)),))


async def written(store: MemoryStore) -> list[tuple[str, str, str]]:
    return [(row.scenario, row.plan, row.problem) for row in await plan_records(store, 0, 100)]


def play(story: Callable[[MemoryStore, Lease], Awaitable[None]]) -> None:
    async def run() -> None:
        store = MemoryStore()
        await story(store, await store.acquire("leader", "north", 60_000))

    asyncio.run(run())


def test_what_lies_ready_is_written_once_and_again_when_it_differs() -> None:
    async def story(store: MemoryStore, lease: Lease) -> None:
        journal = PlanJournal(store, 0)
        await lies(store, ("north",), "p1")
        await lies(store, ("north", "south"), "", "no room")
        await journal.chore(lease)
        await lies(store, ("north",), "p1", at_ms=9)
        await journal.chore(lease)
        assert await written(store) == [("north", "p1", ""), ("north+south", "", "no room")]
        await lies(store, ("north",), "p2")
        await journal.chore(lease)
        assert (await written(store))[2:] == [("north", "p2", "")]

    play(story)


def test_the_next_leader_goes_on_where_the_last_one_was() -> None:
    async def story(store: MemoryStore, lease: Lease) -> None:
        await lies(store, ("north",), "p1")
        await PlanJournal(store, 0).chore(lease)
        await lies(store, ("south",), "p2")
        await store.release(lease)
        with pytest.raises(LeaseLost):
            await PlanJournal(store, 0).chore(lease)
        again = await store.acquire("leader", "south", 60_000)
        await PlanJournal(store, 0).chore(again)
        assert await written(store) == [("north", "p1", ""), ("south", "p2", "")]
        assert [segment.token async for segment in read(store, STREAM)] == [
            lease.token,
            lease.token,
            again.token,
        ]

    play(story)
