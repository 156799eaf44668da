"""The contract of the store's leases and hints: one suite for memory, SQLite, one etcd member and three."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from evac.model.errors import LeaseLost, LockHeld
from evac.model.generation import SET_UP_TOKEN
from evac.store.port import Lease, Put, Store
from tests.contract.store.conftest import DRIVERS, Case, create, opened, tell


def test_a_lease_is_held_by_one_and_guards_what_it_writes(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await store.acquire("leader", "pangyo", 5_000)
        with pytest.raises(LockHeld) as held:
            await store.acquire("leader", "anyang", 5_000)
        assert held.value.owner == "pangyo"
        holder = await store.holder("leader")
        assert holder is not None
        assert (holder.owner, holder.token, holder.ttl_ms, holder.id) == ("pangyo", lease.token, 5_000, "")
        await create(store, "a", b"one", lease)
        await store.renew(lease)
        await store.release(lease)
        await store.release(lease)
        assert await store.holder("leader") is None
        with pytest.raises(LeaseLost):
            await create(store, "b", b"two", lease)
        with pytest.raises(LeaseLost):
            await store.renew(lease)
        with pytest.raises(LeaseLost):
            await create(store, "a", b"a lost lease goes before a conflict", lease)
        assert [entry.key for entry in await store.list("")] == ["a"]

    tell(case, story)


def test_a_successor_has_a_greater_token_and_ends_the_guard_of_the_first(case: Case) -> None:
    async def story(store: Store) -> None:
        tokens = []
        for owner in ("pangyo", "anyang", "pangyo"):
            lease = await store.acquire("store/chat", owner, 5_000)
            tokens.append(lease.token)
            other = await store.acquire("store/other", owner, 5_000)
            await create(store, f"by-{lease.token}", b"", lease)
            await store.release(lease)
            await store.release(other)
        assert tokens == sorted(set(tokens))
        assert tokens[0] > SET_UP_TOKEN, "an order before the first leader is no leader's"
        current = await store.acquire("store/chat", "ansan", 5_000)
        with pytest.raises(LeaseLost):
            await create(store, "late", b"", lease)
        await store.release(lease)
        holder = await store.holder("store/chat")
        assert holder is not None
        assert holder.token == current.token
        await store.release(current)

    tell(case, story)


@pytest.mark.parametrize("case", DRIVERS[1:], indirect=True)
def test_tokens_and_revisions_go_on_after_a_restart(case: Case) -> None:
    async def story() -> None:
        async with opened(case) as store:
            lease = await store.acquire("leader", "me", 5_000)
            revision = await create(store, "a", b"one", lease)
            await store.release(lease)
        async with opened(case) as store:
            again = await store.acquire("leader", "me", 5_000)
            assert again.token > lease.token
            assert await create(store, "b", b"two", again) > revision
            assert [entry.value for entry in await store.list("")] == [b"one", b"two"]
            await store.release(again)

    asyncio.run(story())


TERM_MS = 3_000


def test_a_lease_that_is_not_renewed_ends_with_its_keys(case: Case) -> None:
    async def story(store: Store) -> None:
        began = time.monotonic()
        lease = await store.acquire("witness/pangyo", "pangyo", TERM_MS)
        await store.transact([], [Put("votes/anyang/pangyo", b"up", lease), Put("stays", b"")])
        await case.let_pass(TERM_MS - 1_000)
        if await store.get("votes/anyang/pangyo") is None:
            assert time.monotonic() - began >= TERM_MS / 1_000 - 0.05, "ended before its term"
        await case.let_pass(1_000)
        while await store.get("votes/anyang/pangyo") is not None:
            assert time.monotonic() < began + 20
            await asyncio.sleep(0.02)
        assert await store.holder("witness/pangyo") is None
        assert await store.list("votes/") == []
        assert await store.get("stays") is not None
        with pytest.raises(LeaseLost):
            await store.renew(lease)
        with pytest.raises(LeaseLost):
            await store.transact([], [Put("votes/anyang/pangyo", b"late", lease)])
        assert (await store.acquire("witness/pangyo", "pangyo", 2_000)).token > lease.token

    tell(case, story)


def test_a_lease_that_is_renewed_outlives_its_first_term(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await store.acquire("leader", "me", TERM_MS)
        await store.transact([], [Put("presence", b"", lease)])
        for _ in range(9):
            await case.let_pass(TERM_MS // 5)
            await store.renew(lease)
        await create(store, "a", b"one", lease)
        assert await store.get("presence") is not None
        await store.release(lease)
        assert await store.get("presence") is None

    tell(case, story)


def test_a_key_written_again_without_a_lease_stays(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await store.acquire("w", "me", 5_000)
        await store.transact([], [Put("a", b"1", lease), Put("b", b"1", lease)])
        await store.transact([], [Put("a", b"2")])
        await store.release(lease)
        assert [entry.key for entry in await store.list("")] == ["a"]

    tell(case, story)


def test_a_watch_yields_at_once_and_soon_after_a_change(case: Case) -> None:
    async def story(store: Store) -> None:
        seen: list[float] = []

        async def look() -> None:
            async for _ in store.watch("w/"):
                seen.append(time.monotonic())

        looking = asyncio.create_task(look())
        async with asyncio.timeout(20):
            while not seen:
                await asyncio.sleep(0.01)
        waited = []
        for number in range(3):
            before = time.monotonic()
            await create(store, f"w/{number}", b"x")
            while seen[-1] < before:
                assert time.monotonic() < before + 20
                await asyncio.sleep(0.005)
            waited.append(seen[-1] - before)
        assert min(waited) < 1, "not only every two seconds"
        quiet = len(seen)
        async with asyncio.timeout(20):  # it yields every two seconds, also where nothing changes
            while len(seen) == quiet:
                await asyncio.sleep(0.05)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking

    tell(case, story)


def test_a_watch_sees_what_another_client_writes(case: Case) -> None:
    async def story() -> None:
        async with opened(case) as store, opened(case) as other:
            hints = store.watch("requests/")
            await anext(hints)
            waited = []
            for number in range(3):
                found = asyncio.create_task(_until(store, hints, number + 1))
                await asyncio.sleep(0.3)
                before = time.monotonic()
                await create(other, f"requests/{number}", b"pause")
                await asyncio.wait_for(found, 20)
                waited.append(time.monotonic() - before)
            assert min(waited) < 1, "not only every two seconds"
            await hints.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


async def _until(store: Store, hints: AsyncIterator[None], count: int) -> None:
    while len(await store.list("requests/")) < count:
        await anext(hints)


def test_one_of_many_candidates_leads(case: Case) -> None:
    async def story() -> None:
        async with opened(case) as store, opened(case) as other:
            tries = [
                (other if n % 2 else store).acquire("leader", f"candidate-{n}", 5_000) for n in range(20)
            ]
            answers = await asyncio.gather(*tries, return_exceptions=True)
            leases = [answer for answer in answers if isinstance(answer, Lease)]
            assert len(leases) == 1
            assert all(isinstance(answer, LockHeld) for answer in answers if answer is not leases[0])
            await store.release(leases[0])

    asyncio.run(story())
