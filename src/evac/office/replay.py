"""The heavy half of following runs, on a thread of its own.

A run of 100,000 steps takes seconds to read, bind and replay, and a forecast of it takes one. Pages and
streams go on meanwhile: only questions to the store come back to the loop, and what a thread looks at nobody
changes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

from evac.app import runs
from evac.model.errors import Unavailable
from evac.run.view import RunView
from evac.store.port import Entry, Store
from evac.views.wait_words import FORECASTS

ANSWER_S: Final = 60.0
Answer = TypeVar("Answer")


class Borrowed:
    """What a thread reads of a store that lives on the loop of another one.

    Nothing here waits for a loop that is over: `end` gives up what is asked, and each answer has its time.
    """

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        self._asked: set[Future[Any]] = set()
        self._over = threading.Event()

    def end(self) -> None:
        self._over.set()
        for one in tuple(self._asked):
            one.cancel()

    async def get(self, key: str) -> Entry | None:
        return await self._ask(self._store.get(key))

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        return await self._ask(self._store.list(prefix, after, limit))

    async def _ask(self, question: Coroutine[Any, Any, Answer]) -> Answer:
        if self._over.is_set() or self._loop.is_closed():
            question.close()
            raise Unavailable("the room closes")
        asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        self._asked.add(asked)
        if self._over.is_set():  # `end` may have looked before this was there to be found
            asked.cancel()
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.wrap_future(asked)
        except TimeoutError as error:
            raise Unavailable(f"no answer of the store in {ANSWER_S:.0f} s") from error
        finally:
            self._asked.discard(asked)


class Replayer:
    """One thing at a time; who asks for what is under way waits for that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "replaying")
        self._under_way: dict[str, asyncio.Future[RunView]] = {}
        self._borrowed: Borrowed | None = None

    async def view_of(self, run: str) -> RunView:
        """The run as its journal says, replayed. Raises as `runs.view_of`."""
        asked = self._under_way.get(run)
        if asked is None:
            loop = asyncio.get_running_loop()
            self._borrowed = self._borrowed or Borrowed(self._store, loop)
            asked = loop.run_in_executor(self._thread, _view_of, self._borrowed, run)
            self._under_way[run] = asked
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
        if self._borrowed is not None:
            self._borrowed.end()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _view_of(store: Borrowed, run: str) -> RunView:
    return asyncio.run(runs.view_of(cast(Store, store), run))
