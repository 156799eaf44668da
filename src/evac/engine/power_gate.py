"""The request that draws power: no more inrush on a feed at one instant than it stands.

The run counts an inrush from the start of its step. Between that and the moment at which a server draws lie a
look at it, a network, and a controller that takes its time, so that two starts that were apart may meet. Here
the inrush is counted once more: from before the request is sent, for as long as it has no answer, and then
for as long as the inrush takes. Nothing of it is journalled: a new leader counts whatever the old one may
have sent just now as answered by itself this moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from typing import Final

from evac.run.values import RunStep
from evac.run.view import RunView

INRUSH: Final = "inrush:"
SLACK_S: Final = 0.05
"""What clocks and timers may be off."""
UNSURE_S: Final = 30.0
"""How long a request may still be on its way that was never answered."""
LOOK_S: Final = 0.1
"""While requests are on their way, how often it is seen whether one was answered."""
LATE_MS: Final = 5_000
"""How long a request may go out after its start was written, and more than its inrush takes."""


class PowerGate:
    """capacity: of a limit, now. before: boots that an earlier leader may have sent a moment ago. Whoever
    came first at a set of feeds goes first.
    """

    def __init__(self, capacity: Callable[[str], int], before: Iterable[RunStep] = ()) -> None:
        self._capacity = capacity
        self._before = list(before)
        self._held: dict[str, list[tuple[float, int]]] = {}
        self._sums: dict[str, int] = {}
        self._turns: dict[tuple[str, ...], asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, step: RunStep) -> AsyncIterator[None]:
        """Waits until the inrush of the step fits; it is counted until it is certainly over."""
        for sent in self._before:
            self._over_after(_inrush_of(sent), LATE_MS / 1_000)
        self._before.clear()
        uses = _inrush_of(step)
        if not uses:
            yield
            return
        await self._enter(uses)
        unsure_s = UNSURE_S  # a request without an answer may still arrive
        try:
            yield
            unsure_s = 0.0
        finally:
            for name, units, _ in uses:
                self._sums[name] -= units
            self._over_after(uses, unsure_s)

    async def _enter(self, uses: Sequence[tuple[str, int, int]]) -> None:
        lock = self._turns.setdefault(tuple(name for name, _, _ in uses), asyncio.Lock())
        async with lock:
            while (wait_s := max(self._wait_s(name, units) for name, units, _ in uses)) > 0:
                await asyncio.sleep(wait_s)
            for name, units, _ in uses:
                self._sums[name] = self._sums.get(name, 0) + units

    def _over_after(self, uses: Sequence[tuple[str, int, int]], more_s: float) -> None:
        """Counts until the inrush that has begun by now, or `more_s` later, is over."""
        now = asyncio.get_running_loop().time()
        for name, units, hold in uses:
            heappush(self._held.setdefault(name, []), (now + hold / 1_000 + SLACK_S + more_s, units))
            self._sums[name] = self._sums.get(name, 0) + units

    def _wait_s(self, name: str, units: int) -> float:
        """How long until there may be room for one more under a limit, as far as one can see."""
        now, held = asyncio.get_running_loop().time(), self._held.get(name)
        while held and held[0][0] <= now:
            self._sums[name] -= heappop(held)[1]
        sums = self._sums.get(name, 0)
        if not sums or sums + units <= self._capacity(name):
            return 0.0
        return min(LOOK_S, max(held[0][0] - now, 0.001)) if held else LOOK_S


def _inrush_of(step: RunStep) -> list[tuple[str, int, int]]:
    return [use for use in step.uses if use[0].startswith(INRUSH) and use[2] > 0]


def just_sent(view: RunView) -> list[RunStep]:
    """Boots in doubt that began so late that their inrush may not be over: the request may have gone out a
    good deal after the start was written.
    """
    found = []
    for i, phase in enumerate(view.phases):
        if phase == "unknown" and view.steps[i].kind == "boot":
            longest = max((hold for _, _, hold in _inrush_of(view.steps[i])), default=0)
            if view.last_ms - view.started[i] <= 2 * longest + LATE_MS:
                found.append(view.steps[i])
    return found
