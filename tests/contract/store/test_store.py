"""The contract of the store: one suite for memory, SQLite, one etcd member and three."""

from __future__ import annotations

import asyncio

import pytest

from evac.model.errors import Conflict, StoreError
from evac.store.port import (
    MAX_CHANGES,
    MAX_KEY_BYTES,
    MAX_TRANSACTION_BYTES,
    MAX_VALUE_BYTES,
    Compare,
    Delete,
    Put,
    Store,
)
from tests.contract.store.conftest import Case, create, opened, tell


def test_what_is_created_is_read_with_the_revision_that_wrote_it(case: Case) -> None:
    async def story(store: Store) -> None:
        assert await store.get("a") is None
        first = await create(store, "a", b"\x00\xff\n one")
        second = await create(store, "b/\u00e9", b"")
        entry, other = await store.get("a"), await store.get("b/\u00e9")
        assert entry is not None
        assert other is not None
        assert (entry.key, entry.value, entry.revision) == ("a", b"\x00\xff\n one", first)
        assert (other.key, other.value, other.revision) == ("b/\u00e9", b"", second)
        assert 0 < first < second

    tell(case, story)


def test_a_key_is_created_once(case: Case) -> None:
    async def story(store: Store) -> None:
        revision = await create(store, "a", b"one")
        with pytest.raises(Conflict) as caught:
            await create(store, "a", b"two")
        assert caught.value.key == "a"
        entry = await store.get("a")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"one", revision)

    tell(case, story)


def test_a_conflict_writes_nothing_and_names_the_first_key_that_failed(case: Case) -> None:
    async def story(store: Store) -> None:
        await create(store, "a", b"one")
        compares = [Compare("free", 0), Compare("a", 999_999), Compare("a", 0)]
        with pytest.raises(Conflict) as caught:
            await store.transact(compares, [Put("free", b"x"), Put("other", b"y"), Delete("a")])
        assert caught.value.key == "a"
        assert [entry.key for entry in await store.list("")] == ["a"]

    tell(case, story)


def test_all_changes_of_a_transaction_share_one_revision(case: Case) -> None:
    async def story(store: Store) -> None:
        old = await create(store, "a", b"one")
        revision = await store.transact([Compare("a", old)], [Delete("a"), Put("b", b"1"), Put("c", b"2")])
        assert revision > old
        assert [(entry.key, entry.revision) for entry in await store.list("")] == [
            ("b", revision),
            ("c", revision),
        ]

    tell(case, story)


def test_a_deleted_key_can_be_created_again_with_a_greater_revision(case: Case) -> None:
    async def story(store: Store) -> None:
        first = await create(store, "a", b"one")
        await store.transact([Compare("a", first)], [Delete("a")])
        await store.transact([], [Delete("a")])
        assert await create(store, "a", b"two") > first

    tell(case, story)


def test_a_transaction_that_changes_nothing_still_checks(case: Case) -> None:
    async def story(store: Store) -> None:
        revision = await create(store, "a", b"one")
        assert await store.transact([Compare("a", revision), Compare("b", 0)], []) >= revision
        with pytest.raises(Conflict):
            await store.transact([Compare("b", revision)], [])

    tell(case, story)


def test_lists_are_by_key_and_paged(case: Case) -> None:
    async def story(store: Store) -> None:
        keys = [f"p/{number:04d}" for number in range(600)]
        for start in range(0, 600, MAX_CHANGES):
            await store.transact([], [Put(key, key.encode()) for key in keys[start : start + MAX_CHANGES]])
        await store.transact([], [Put("p", b""), Put("p0", b""), Put("o", b"")])
        assert [entry.key for entry in await store.list("p/")] == keys
        assert [entry.key for entry in await store.list("p/", limit=3)] == keys[:3]
        assert [entry.key for entry in await store.list("p/", "p/0596", 10)] == keys[597:]
        assert await store.list("p/", "p/0599") == []
        assert await store.list("p/", limit=0) == []
        assert [entry.key for entry in await store.list("p", "p/0598")] == ["p/0599", "p0"]
        assert (await store.list("p/", "p/0007", 1))[0].value == b"p/0008"

    tell(case, story)


def test_values_up_to_the_limit_are_kept_and_larger_ones_refused(case: Case) -> None:
    async def story(store: Store) -> None:
        whole, key = b"x" * MAX_VALUE_BYTES, "k" * MAX_KEY_BYTES
        await store.transact([], [Put(key, whole)])
        entry = await store.get(key)
        assert entry is not None
        assert entry.value == whole
        half = b"y" * (MAX_TRANSACTION_BYTES // 2)
        refused = (
            [Put("a", whole + b"x")],
            [Put(key + "k", b"")],
            [Put("", b"")],
            [Put("line\nbreak", b"")],
            [Put("a", half), Put("b", half)],
            [Put(f"a{number}", b"") for number in range(MAX_CHANGES + 1)],
            [Put("a", b"1"), Delete("a")],
        )
        for changes in refused:
            with pytest.raises(StoreError) as caught:
                await store.transact([], changes)
            assert caught.value.code == "store-limit"
        assert [entry.key for entry in await store.list("")] == [key]

    tell(case, story)


def test_the_largest_transaction_is_taken(case: Case) -> None:
    async def story(store: Store) -> None:
        compares = [Compare(f"c{number:02d}", 0) for number in range(MAX_CHANGES)]
        size = MAX_TRANSACTION_BYTES // MAX_CHANGES - 4
        changes = [Put(f"c{number:02d}", b"z" * size) for number in range(MAX_CHANGES)]
        lease = await store.acquire("leader", "me", 5_000)
        await store.transact(compares, changes, lease)
        assert len(await store.list("c")) == MAX_CHANGES
        await store.release(lease)

    tell(case, story)


def test_a_hundred_tasks_increment_one_key_and_each_is_counted_once(case: Case) -> None:
    """Ten of them try at a time: a hundred would make five thousand calls, and each wait for all others."""

    async def story() -> None:
        async with opened(case) as store, opened(case) as other:
            await create(store, "n", b"0")
            turns = asyncio.Semaphore(10)

            async def increment(client: Store) -> None:
                while not await tried(client):
                    pass

            async def tried(client: Store) -> bool:
                async with turns:
                    entry = await client.get("n")
                    assert entry is not None
                    value = str(int(entry.value) + 1).encode()
                    try:
                        await client.transact([Compare("n", entry.revision)], [Put("n", value)])
                    except Conflict:
                        return False
                    return True

            await asyncio.gather(*(increment(other if n % 2 else store) for n in range(100)))
            entry = await store.get("n")
            assert entry is not None
            assert entry.value == b"100"

    asyncio.run(story())
