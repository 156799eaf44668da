"""How late a loop is: a sleep that takes longer than asked for tells of a starved or blocked process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Final

PERIOD_S: Final = 0.1
KEPT: Final = 50
"""Five seconds of measurements."""


class LoopLag:
    """Measures the loop it is started in."""

    def __init__(self) -> None:
        self._late_ms: deque[int] = deque(maxlen=KEPT)
        self._due: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._measure())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def worst_ms(self) -> int:
        """The worst of the last seconds, the measurement that is under way included."""
        late = 0 if self._due is None else int((time.monotonic() - self._due) * 1_000)
        return max([0, late, *self._late_ms])

    async def _measure(self) -> None:
        while True:
            self._due = time.monotonic() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self._late_ms.append(int((time.monotonic() - self._due) * 1_000))
