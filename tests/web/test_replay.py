"""Large runs are read on a thread: the loop goes on, and whoever asks for the same waits for the same."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest

from evac.app import runs
from evac.model.errors import RunError
from evac.office.runs import Replayer
from evac.store.port import MemoryStore, Put


def test_the_loop_goes_on_while_a_run_is_read_and_two_who_ask_are_answered_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[int] = []
    go_on = threading.Event()

    async def view_of(store: Any, run: str) -> Any:
        reads.append(threading.get_ident())
        entry = await store.get("a")
        rows = await store.list("a", "", 10)
        assert go_on.wait(60), "the loop stands still"
        return run, entry.value, len(rows)

    monkeypatch.setattr(runs, "view_of", view_of)

    async def story() -> None:
        store = MemoryStore()
        await store.transact((), (Put("a", b"1"), Put("ab", b"2")))
        replayer = Replayer(store)
        asked = [asyncio.create_task(replayer.view_of("r")) for _ in range(3)]
        async with asyncio.timeout(60):
            while not reads:
                await asyncio.sleep(0.01)  # the thread needs this loop for its store
            asked[0].cancel()
            await asyncio.sleep(0.05)
            go_on.set()
            found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [("r", b"1", 2)] * 2
        assert len(reads) == 1
        assert reads[0] != threading.get_ident()
        await replayer.view_of("r")
        assert len(reads) == 2, "nothing is kept: a view moves on"
        replayer.close()

    asyncio.run(story())


def test_what_is_wrong_with_a_run_is_said_to_whoever_asked() -> None:
    async def story() -> None:
        replayer = Replayer(MemoryStore())
        with pytest.raises(RunError) as caught:
            await replayer.view_of("nothing")
        assert caught.value.code == "run-unknown"
        replayer.close()

    asyncio.run(story())


def test_whoever_waits_for_a_store_that_does_not_answer_is_let_go_when_the_room_closes() -> None:
    asked = asyncio.Event()

    class Silent(MemoryStore):
        async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> Any:
            asked.set()
            await asyncio.Event().wait()

    async def story() -> None:
        replayer = Replayer(Silent())
        waiting = asyncio.create_task(replayer.view_of("r"))
        async with asyncio.timeout(60):
            await asked.wait()
            replayer.close()
            (found,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(found, asyncio.CancelledError | CancelledError)

    asyncio.run(story())
