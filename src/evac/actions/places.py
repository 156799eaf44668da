"""A number of places, of which each is taken by one at a time; who goes on with something is let in first.

Like a semaphore, but fair only among equals: what was begun is finished before more is begun.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Places:
    """Of one event loop. count: how many there are."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> bool:
        """Whether `take` would return at once."""
        return self._free > 0

    async def take(self, goes_on: bool = False) -> None:
        """goes_on: before all who have only come."""
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        if goes_on:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it was handed a place that it does not use
            raise

    def give(self) -> None:
        """To the first who waits, or back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
