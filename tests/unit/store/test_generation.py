"""What a store records about its generation: whether another store's leader was obeyed."""

from __future__ import annotations

import asyncio

import pytest

from evac.model.errors import Corrupt
from evac.store.generation import (
    BEHIND_KEY,
    Behind,
    Generation,
    copy_of,
    read_behind,
    write_behind,
)
from evac.store.port import MemoryStore, Put

FOUND = Behind(1, "ansan", 1_841, 7, 5)


def test_that_a_store_is_left_behind_counts_in_its_generation_alone() -> None:
    async def story() -> None:
        store = MemoryStore()
        assert await read_behind(store, Generation()) is None
        await write_behind(store, FOUND)
        assert await read_behind(store, Generation(1)) == FOUND
        assert await read_behind(store, Generation()) is None
        assert await read_behind(store, Generation(2)) is None
        for later in (Behind(1, "pangyo", 9_000, 8, 6), Behind(0, "pangyo", 9_000, 8, 6)):
            await write_behind(store, later)
            assert await read_behind(store, Generation(1)) == FOUND
        again = Behind(2, "pangyo", 9_000, 8, 6)
        await write_behind(store, again)
        assert await read_behind(store, Generation(2)) == again
        assert BEHIND_KEY not in (await copy_of(store)).entries  # a copy replaces this store

    asyncio.run(story())


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b"[]",
        b'{"site": "ansan", "token": 3, "ours": 1}',
        b'{"number": 1, "site": "ansan", "token": true, "ours": 1}',
        b'{"number": 1, "site": "ansan", "token": 3, "ours": -1}',
        b'{"number": 1, "site": "ansan", "token": 3, "ours": 1, "at_ms": "now"}',
    ],
)
def test_a_record_that_cannot_be_read_is_not_taken_for_none(value: bytes) -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.transact((), (Put(BEHIND_KEY, value),))
        with pytest.raises(Corrupt, match=BEHIND_KEY):
            await read_behind(store, Generation(1))

    asyncio.run(story())
