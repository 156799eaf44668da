"""Work that is done side by side, with no more tasks than are really waiting for something.

One worker takes piece after piece. When it has to wait in one of them, and more are queued, the next worker
begins. So instant work costs no task of its own, and slow work never keeps the rest back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


class Pool(Generic[Piece]):
    """failed: is told of what a piece raised; the pool stops with it."""

    def __init__(
        self, work: Callable[[Piece], Awaitable[None]], most: int, failed: Callable[[BaseException], None]
    ) -> None:
        self._work, self._most, self._failed = work, most, failed
        self._queue: deque[Piece] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spreading = False
        self._burst = 1
        self._stopped = False

    def put(self, pieces: Iterable[Piece], urgent: Sequence[Piece] = ()) -> None:
        """urgent: come to their turn before all that waits."""
        self._queue.extend(pieces)
        self._queue.extendleft(reversed(urgent))
        if self._queue and not self._spreading and not self._stopped:
            self._spreading, self._burst = True, 1
            asyncio.get_running_loop().call_soon(self._spread)

    def stop(self) -> None:
        """Drops what is queued and cancels what runs."""
        self._stopped = True
        self._queue.clear()
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Stops, and waits until nothing runs any more."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _spread(self) -> None:
        """More workers while pieces wait; they come to their turn before this is called again.

        Each time twice as many: where the first ones had to wait, the next ones will.
        """
        room = min(self._burst, len(self._queue), self._most - len(self._tasks))
        if room <= 0:
            self._spreading = False
            return
        for _ in range(room):
            task = asyncio.create_task(self._serve())
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        self._burst *= 2
        asyncio.get_running_loop().call_soon(self._spread)

    async def _serve(self) -> None:
        while self._queue:
            await self._work(self._queue.popleft())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop()
            self._failed(error)
        elif self._queue:
            self.put(())
