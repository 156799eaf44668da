"""A number of places, of which each is taken by one at a time; who goes on with something is let in first.

Like a semaphore, but fair only among equals: what was begun is finished before more is begun, and of what has
not begun the weightiest comes first.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count


class Places:
    """Of one event loop. places: how many there are."""

    __slots__ = ("_free", "_numbers", "_waiting")

    def __init__(self, places: int) -> None:
        self._free = places
        self._numbers = count()
        self._waiting: list[tuple[bool, int, int, asyncio.Future[None]]] = []

    @property
    def free(self) -> bool:
        """Whether `take` would return at once."""
        return self._free > 0

    async def take(self, goes_on: bool = False, weight: int = 0) -> None:
        """goes_on: before all who have only come, the last of them first. weight: of those who have only
        come, before all who have less, and after those who came before with as much.
        """
        if self._free > 0:
            self._free -= 1
            return
        turn, number = asyncio.get_running_loop().create_future(), next(self._numbers)
        order = (False, 0, -number) if goes_on else (True, -weight, number)
        heappush(self._waiting, (*order, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it was handed a place that it does not use
            raise

    def give(self) -> None:
        """To the first who waits, or back."""
        while self._waiting:
            turn = heappop(self._waiting)[-1]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
