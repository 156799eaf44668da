"""The heavy half of following runs, on a thread of its own.

A run of 100,000 steps takes seconds to read, bind and replay, and a forecast of it takes one. Pages and
streams go on meanwhile: only questions to the store come back to the loop, and what a thread looks at nobody
changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from evac.app import runs
from evac.report.run_forecast import FORECASTS
from evac.run.view import RunView
from evac.store.port import Entry, Store

Answer = TypeVar("Answer")


class Borrowed:
    """What a thread reads of a store that lives on the loop of another one."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop

    async def get(self, key: str) -> Entry | None:
        return await self._ask(self._store.get(key))

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        return await self._ask(self._store.list(prefix, after, limit))

    async def _ask(self, question: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:  # the loop is over, and so is whoever wanted to know
            question.close()
            raise
        return await asyncio.wrap_future(asked)


class Replayer:
    """One thing at a time; who asks for what is under way waits for that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "replaying")
        self._under_way: dict[str, asyncio.Future[RunView]] = {}

    async def view_of(self, run: str) -> RunView:
        """The run as its journal says, replayed. Raises as `runs.view_of`."""
        asked = self._under_way.get(run)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._under_way[run] = loop.run_in_executor(
                self._thread, _view_of, self._store, loop, run
            )
            asked.add_done_callback(lambda done: self._over(run, done))
        return await asyncio.shield(asked)

    def _over(self, run: str, done: asyncio.Future[RunView]) -> None:
        self._under_way.pop(run, None)
        if not done.cancelled():
            done.exception()  # whoever asked may be gone

    async def foretell(self, view: RunView, now_ms: int) -> None:
        """Sees to it that the forecast of a run as of now is there, worked out on a copy of it."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, FORECASTS.of, view.fork(), now_ms)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _view_of(store: Store, loop: asyncio.AbstractEventLoop, run: str) -> RunView:
    return asyncio.run(runs.view_of(cast(Store, Borrowed(store, loop)), run))
