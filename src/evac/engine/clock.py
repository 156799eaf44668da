"""The engine's time: a wall clock for people and a monotonic clock for everything else.

Sleeping uses `asyncio.sleep`, so a loop with virtual time controls it.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """now_ms: wall clock, milliseconds since 1970 (UTC); it may jump. monotonic_ms: never goes back, and
    keeps counting while the process or the machine is stopped.
    """

    def now_ms(self) -> int: ...

    def monotonic_ms(self) -> int: ...


_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.clock_gettime_ns(_BOOT) // 1_000_000


class RunClock:
    """The time of one run: starts at the wall clock, or at the last event if that is later, and continues
    with the monotonic clock. A wall clock that jumps ends no pause and shortens no window. A clock made from
    another one jumps as little: a leader that takes over makes one and derives all others from it.
    """

    def __init__(self, clock: Clock, last_ms: int = 0) -> None:
        self._clock = clock
        self._offset_ms = max(clock.now_ms(), last_ms) - clock.monotonic_ms()

    def now_ms(self) -> int:
        return self._clock.monotonic_ms() + self._offset_ms

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms()
