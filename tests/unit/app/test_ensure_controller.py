"""An embedded store that takes no writes: the person reads why, and no controller is started to wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from evac.app.applying import ensure_controller
from evac.model.errors import LockHeld, StoreBehind, Unavailable
from evac.store.generation import Behind, raise_generation, write_behind
from evac.store.port import Lease, MemoryStore, Put
from evac.store.sqlite import SqliteStore


async def _until_full(write: Callable[[int], Awaitable[object]]) -> None:
    with contextlib.suppress(Unavailable):
        for number in range(1_000):
            await write(number)
        pytest.fail("it never was full")


def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path) -> None:
    log = tmp_path / "controller.log"

    async def story() -> Unavailable:
        store = SqliteStore(tmp_path / "evac.sqlite")
        writing = store._writer._connection
        writing.execute(f"PRAGMA max_page_count = {writing.execute('PRAGMA page_count').fetchone()[0]}")
        try:
            await _until_full(lambda n: store.transact((), (Put(f"filling/{n}", b"x" * 4_096),)))
            # the rest of the last page would still take a lease
            await _until_full(lambda n: store.acquire(f"filling/{n}", "someone", 600_000))
            with pytest.raises(Unavailable) as refused:
                await ensure_controller(store, f"sqlite:{tmp_path / 'evac.sqlite'}", tmp_path, None, log)
            return refused.value
        finally:
            await store.close()

    error = asyncio.run(story())
    assert "full" in error.message
    assert "free some space" in error.hint
    assert not log.exists(), "no controller was started"


def test_no_controller_is_started_in_a_store_that_is_left_behind(tmp_path: Path) -> None:
    """It would lead nothing, and each command would start one more. A newer generation ends that."""
    log = tmp_path / "controller.log"

    class Checked(MemoryStore):
        async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
            raise Unavailable("it would be started")

    async def story() -> None:
        store = Checked()
        await write_behind(store, Behind(0, "ansan", 1_841, 7, 1))
        with pytest.raises(StoreBehind, match="ansan has obeyed token 1841") as refused:
            await ensure_controller(store, "", tmp_path, None, log)
        assert "--generation 1" in refused.value.hint
        with pytest.raises(Unavailable, match="would be started"):
            await ensure_controller(store, "", tmp_path, None, log, 1)
        await raise_generation(store, 1, "a person", 1)
        with pytest.raises(Unavailable, match="would be started"):
            await ensure_controller(store, "", tmp_path, None, log)

    asyncio.run(story())
    assert not log.exists()


def test_another_that_starts_one_proves_nothing_of_the_disk(tmp_path: Path) -> None:
    """Its lease may have been written when there was still room."""

    class Full(MemoryStore):
        async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
            if held := await self.holder(name):
                raise LockHeld(name, held.owner)
            raise Unavailable("the disk is full")

    async def story() -> None:
        store = Full()
        await MemoryStore.acquire(store, "starting", "pid 1", 90_000)
        with pytest.raises(Unavailable, match="the disk is full"):
            await ensure_controller(store, "", tmp_path, None, tmp_path / "controller.log")

    asyncio.run(story())
