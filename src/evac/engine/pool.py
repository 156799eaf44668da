"""Concurrent work with no more tasks and timers than are really waiting.

One worker takes piece after piece. When it has to wait and more are queued, another worker starts. So instant
work costs no task of its own, and slow work never holds up the rest. `Within` limits work in time, and sets a
timer only once it waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from typing import Any, Generic, TypeVar

Piece = TypeVar("Piece")
T = TypeVar("T")


class Pool(Generic[Piece]):
    """failed: receives what a piece raised; the pool then stops."""

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
        """urgent: ahead of everything queued."""
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
        """Starts more workers while pieces wait; they run before this is called again.

        Doubles each time: where the first ones had to wait, the next ones will too.
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


class Within(Generic[T]):
    """Awaits work for at most limit_s; raises TimeoutError then, as `asyncio.timeout` does.

    The work runs in the task that awaits it. Nothing could interrupt it before it first waits, so the limit
    counts from there.
    """

    __slots__ = ("_limit", "_limit_s", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], limit_s: float) -> None:
        self._work, self._limit_s = work, limit_s
        self._limit: asyncio.Timeout | None = None

    def expired(self) -> bool:
        """Whether the limit ended the work: the work itself may raise TimeoutError too."""
        return self._limit is not None and self._limit.expired()

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            waits_for = self._work.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        return (yield from self._go_on(waits_for).__await__())

    async def _go_on(self, waits_for: Any) -> T:
        async with asyncio.timeout(self._limit_s) as self._limit:
            return await _Rest(self._work, waits_for)


class _Rest(Generic[T]):
    """The rest of a coroutine from its first wait."""

    __slots__ = ("_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._work, self._waits_for = work, waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        while True:
            try:
                answer = yield waits_for
            except BaseException as error:
                step = self._throw(error)
            else:
                step = self._send(answer)
            if step[0]:
                return step[1]  # type: ignore[no-any-return]
            waits_for = step[1]

    def _send(self, answer: Any) -> tuple[bool, Any]:
        try:
            return False, self._work.send(answer)
        except StopIteration as end:
            return True, end.value

    def _throw(self, error: BaseException) -> tuple[bool, Any]:
        try:
            return False, self._work.throw(error)
        except StopIteration as end:
            return True, end.value
