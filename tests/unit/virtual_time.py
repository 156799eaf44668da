"""Stories of tests in virtual time: waiting takes no time, and no machine is too slow."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from evac_lab.virtual_loop import VirtualLoop, run

T = TypeVar("T")
LIMIT_S = 60.0


class LoopClock:
    """The time of the loop that runs now."""

    def now_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

    monotonic_ms = now_ms


LOOP_MS = LoopClock().now_ms
"""For stores whose leases end in virtual time."""


def run_virtually(work: Coroutine[Any, Any, T], limit_s: float = LIMIT_S) -> T:
    """The result of the work, which may take so many virtual seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await work

    return run(VirtualLoop(1), bounded())


def pass_s(seconds: float) -> None:
    """Lets time pass in the middle of a callback, as a process does that waits for its disk."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += seconds
