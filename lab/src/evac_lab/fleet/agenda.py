"""What is due when, and how many servers were up when: plain numbers, because there are many of them."""

from __future__ import annotations

import heapq
from array import array
from typing import Final

_AT: Final = 112
_ORDER: Final = 64
_WHAT: Final = 60
_SERVER: Final = 32
_TURN: Final = 2**32 - 1
_NUMBER: Final = 2**28 - 1
POINTS_MOST: Final = 100_000


class Agenda:
    """Events in the order in which they are due; of one moment, in the order in which they were noted.

    An event is one number of 160 bits: a tuple would take four times the memory.
    """

    def __init__(self) -> None:
        self._due: list[int] = []
        self._sequence = 0

    def note(self, at: int, what: int, server: int, turn: int) -> None:
        """at: ms, 0 or more; what: below 16; server: below 2^28; turn: below 2^32."""
        self._sequence += 1
        order = at << _AT | self._sequence << _ORDER
        heapq.heappush(self._due, order | what << _WHAT | server << _SERVER | turn)

    def next_at(self) -> int | None:
        return self._due[0] >> _AT if self._due else None

    def pop(self) -> tuple[int, int, int, int]:
        """(at, what, server, turn) of the first event."""
        due = heapq.heappop(self._due)
        return due >> _AT, due >> _WHAT & 0xF, due >> _SERVER & _NUMBER, due & _TURN


class Timeline:
    """A count over time. When it is full, every second point is forgotten, never the last one."""

    def __init__(self) -> None:
        self._at = array("q", [0])
        self._count = array("i", [0])

    def note(self, at: int, count: int) -> None:
        if self._at[-1] == at:
            self._count[-1] = count
            return
        if len(self._at) >= POINTS_MOST:
            self._at, self._count = self._at[::2], self._count[::2]
        self._at.append(at)
        self._count.append(count)

    def points(self, most: int = POINTS_MOST) -> list[tuple[int, int]]:
        """(at, count), evenly thinned to about `most` points; the last one is always there."""
        step = -(-len(self._at) // most)
        found = list(zip(self._at[::step], self._count[::step], strict=True))
        last = (self._at[-1], self._count[-1])
        return found if found[-1] == last else [*found, last]
