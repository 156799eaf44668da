"""The last moment before power is asked for: no more inrush on a feed at one instant than it stands.

The run counts an inrush from the start of its step. Between that and the request to the controller lie a look
at the server and a network, now short and now long, so that two starts that were apart may meet. Here the
inrush is counted once more, from the moment at which the request goes out. Nothing of it is journalled: a new
leader begins the holds of the run anew, which covers what the old one sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from evac.run.values import RunStep

INRUSH: Final = "inrush:"
SLACK_PERMILLE: Final = 20
SLACK_LEAST_S: Final = 0.05
"""How much later than another one a request may arrive that went out with it."""


class PowerGate:
    """capacity: of a limit, now. Whoever came first at a set of feeds goes first."""

    def __init__(self, capacity: Callable[[str], int]) -> None:
        self._capacity = capacity
        self._held: dict[str, list[tuple[float, int]]] = {}
        self._sums: dict[str, int] = {}
        self._turns: dict[tuple[str, ...], asyncio.Lock] = {}

    async def enter(self, step: RunStep) -> None:
        """Waits until the inrush of the step fits, and counts it from then on."""
        uses = [
            (name, units, hold) for name, units, hold in step.uses if name.startswith(INRUSH) and hold > 0
        ]
        if not uses:
            return
        turn = self._turns.setdefault(tuple(name for name, _, _ in uses), asyncio.Lock())
        async with turn:
            while (wait_s := max(self._wait_s(name, units) for name, units, _ in uses)) > 0:
                await asyncio.sleep(wait_s)
            now = asyncio.get_running_loop().time()
            for name, units, hold in uses:
                slack_s = max(SLACK_LEAST_S, hold * SLACK_PERMILLE / 1e6)
                heappush(self._held.setdefault(name, []), (now + hold / 1_000 + slack_s, units))
                self._sums[name] = self._sums.get(name, 0) + units

    def _wait_s(self, name: str, units: int) -> float:
        """How long until there is room for one more under a limit, as far as one can see."""
        now, held = asyncio.get_running_loop().time(), self._held.get(name)
        while held and held[0][0] <= now:
            self._sums[name] -= heappop(held)[1]
        if not held or self._sums[name] + units <= self._capacity(name):
            return 0.0
        return max(held[0][0] - now, 0.001)
