"""Who cannot lead knows why: a store without room, without an answer, or that cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evac.engine.lead.candidacy import SHUT_S, Candidacy
from evac.engine.lead.leadership import LEADER, SIGN
from evac.model.errors import Corrupt, StoreBehind, StoreNotObeyed, Superseded, Unavailable
from evac.store.port import Lease, MemoryStore, Put
from evac.store.sqlite import SqliteStore
from tests.unit.engine.small_world import World, play, policy_of
from tests.unit.virtual_time import LOOP_MS, run_virtually

FULL = "the disk is full"


class Sick(MemoryStore):
    """full: takes no writes; silent: does not answer either."""

    full = silent = False

    async def holder(self, name: str) -> Lease | None:
        if self.silent:
            raise Unavailable("nobody answers")
        return await super().holder(name)

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        if self.full:
            raise Unavailable(FULL)
        return await super().acquire(name, owner, ttl_ms)

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        if self.silent:
            raise Unavailable("nobody answers")
        async for _ in super().watch(prefix):
            yield None


async def until(what: object, candidacy: Candidacy[Lease]) -> None:
    async with asyncio.timeout(10):
        while candidacy.why != what:
            await asyncio.sleep(0.005)


def test_what_keeps_it_from_both_is_known_until_it_is_over() -> None:
    async def story() -> None:
        store, told = Sick(), list[str]()
        wrong: list[Exception] = []

        async def take() -> Lease:
            if wrong:
                raise wrong[0]
            return await store.acquire(LEADER, "north/1/a", 600_000)

        candidacy = Candidacy(store, take, 0.01, lambda error: told.append(error.message))
        store.full = True
        waiting = asyncio.ensure_future(candidacy.wait())
        await until(FULL, candidacy)
        other = await MemoryStore.acquire(store, LEADER, "south/2/b", 600_000)
        await until("", candidacy)  # it cannot write, and reads who leads: it follows
        store.silent = True
        await until("nobody answers", candidacy)
        store.silent = store.full = False
        await until("", candidacy)
        wrong.append(Corrupt("the generation cannot be read"))
        await store.transact((), (Put(SIGN, b"x"),))
        await until("the generation cannot be read", candidacy)
        assert told == ["the generation cannot be read"]
        wrong[0] = Superseded(0, 1)
        await store.transact((), (Put(SIGN, b"y"),))
        await until(Superseded(0, 1).message, candidacy)
        wrong.clear()
        await store.release(other)
        await store.transact((), (Put(SIGN, b"z"),))
        async with asyncio.timeout(10):
            assert (await waiting).owner == "north/1/a"
        assert candidacy.why == ""

    asyncio.run(story())


@pytest.mark.parametrize("between", ["leads", "follows"])
def test_the_same_refusal_is_said_again_after_it_led_or_followed(between: str) -> None:
    async def story() -> None:
        store, told = MemoryStore(LOOP_MS), list[str]()
        wrong: list[Exception] = [StoreNotObeyed("store-new", "it is new", "")]

        async def take() -> Lease:
            if wrong:
                raise wrong[0]
            return await store.acquire(LEADER, "north/1/a", 600_000)

        candidacy = Candidacy(store, take, 0.5, lambda error: told.append(error.message))
        waiting = asyncio.ensure_future(candidacy.wait())
        await asyncio.sleep(10)
        assert told == ["it is new"]
        assert candidacy.why == "it is new"  # nothing is known about what to do next
        if between == "leads":
            wrong.clear()
            lease = await waiting
        else:
            lease = await store.acquire(LEADER, "south/2/b", 600_000)
            wrong.clear()
            await asyncio.sleep(10)
        assert candidacy.why == ""
        wrong.append(StoreNotObeyed("store-new", "it is new", "look"))
        await store.release(lease)
        waiting = asyncio.ensure_future(candidacy.wait()) if waiting.done() else waiting
        await asyncio.sleep(10)
        assert told == ["it is new", "it is new"]
        assert candidacy.why == "it is new; next: look"
        wrong[0] = StoreBehind("ansan", 9, 7, 0)
        await asyncio.sleep(10)
        assert "token 9" in candidacy.why
        assert len(told) == 2  # who finds it says it
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    run_virtually(story())


def test_a_file_that_takes_no_more_is_named(tmp_path: Path) -> None:
    """The embedded store as it stands on a disk without room: it can be read, and not written."""

    async def story() -> None:
        store = SqliteStore(tmp_path / "evac.sqlite")
        writing = store._writer._connection
        writing.execute(f"PRAGMA max_page_count = {writing.execute('PRAGMA page_count').fetchone()[0]}")
        try:

            async def fill() -> None:
                for number in range(1_000):
                    await store.transact((), (Put(f"filling/{number}", b"x" * 4_096),))

            with pytest.raises(Unavailable):
                await fill()

            async def take() -> Lease:
                await store.transact((), (Put("more", b"x" * 65_536),))
                return await store.acquire(LEADER, "north/1/a", 600_000)

            candidacy = Candidacy(store, take, 0.01, lambda error: None)
            waiting = asyncio.ensure_future(candidacy.wait())
            async with asyncio.timeout(20):
                while "full" not in candidacy.why:
                    await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        finally:
            await store.close()

    asyncio.run(story())


def test_a_store_that_takes_no_writes_for_longer_than_an_election_is_reported_once() -> None:
    async def story() -> None:
        store, told = Sick(LOOP_MS), list[str]()

        async def take() -> Lease:
            return await store.acquire(LEADER, "north/1/a", 600_000)

        candidacy = Candidacy(store, take, 0.5, lambda error: told.append(error.message))
        store.full = True
        waiting = asyncio.ensure_future(candidacy.wait())
        await asyncio.sleep(SHUT_S / 2)
        assert told == []
        await asyncio.sleep(SHUT_S * 3)
        assert told == [FULL]
        store.full = False
        other = await waiting
        await store.release(other)
        store.full = True
        waiting = asyncio.ensure_future(candidacy.wait())
        await asyncio.sleep(SHUT_S * 2)
        assert told == [FULL, FULL]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    run_virtually(story())


def test_a_controller_that_is_cut_off_says_so_and_one_that_follows_does_not() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        leader = world.leader
        others = [site for site in world.controllers if site != leader]
        assert [world.controllers[site].neither for site in others] == [""] * len(others)
        assert world.controllers[leader].neither == ""
        world.stores[others[0]].cut = True
        await world.until(lambda: world.controllers[others[0]].neither == "the network is gone")
        assert world.controllers[others[1]].neither == ""
        world.stores[others[0]].cut = False
        await world.until(lambda: world.controllers[others[0]].neither == "")

    play(story, World(policy_of("hold")))


@pytest.mark.parametrize("between", [Corrupt("an unreadable generation"), Superseded(1, 2)])
def test_a_store_that_answers_meanwhile_was_not_shut_all_the_time(between: Exception) -> None:
    """Two short failures with an answer between them are not one long failure."""

    async def story() -> None:
        store, told = Sick(LOOP_MS), list[str]()
        wrong: list[Exception] = []

        async def take() -> Lease:
            if wrong:
                raise wrong[0]
            return await store.acquire(LEADER, "north/1/a", 600_000)

        candidacy = Candidacy(store, take, 0.5, lambda error: told.append(error.message))
        store.full = True
        waiting = asyncio.ensure_future(candidacy.wait())
        await asyncio.sleep(SHUT_S * 0.7)
        wrong.append(between)
        await asyncio.sleep(2)
        wrong.clear()
        await asyncio.sleep(SHUT_S * 0.7)
        assert FULL not in told
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    run_virtually(story())
