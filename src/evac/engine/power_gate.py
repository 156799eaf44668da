"""The last moment before power is asked for: no more inrush on a feed at one instant than it stands.

The run counts an inrush from the start of its step. Between that and the request to the controller lie a look
at the server and a network, now short and now long, so that two starts that were apart may meet. Here the
inrush is counted once more, from the moment at which the request goes out. Nothing of it is journalled: a new
leader counts whatever the old one may have sent just now as sent by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from evac.run.values import RunStep
from evac.run.view import RunView

INRUSH: Final = "inrush:"
SLACK_PERMILLE: Final = 20
SLACK_LEAST_S: Final = 0.05
"""How much later than another one a request may arrive that went out with it."""
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

    async def enter(self, step: RunStep) -> None:
        """Waits until the inrush of the step fits, and counts it from then on."""
        for sent in self._before:
            self._count(_inrush_of(sent))
        self._before.clear()
        uses = _inrush_of(step)
        if not uses:
            return
        turn = self._turns.setdefault(tuple(name for name, _, _ in uses), asyncio.Lock())
        async with turn:
            while (wait_s := max(self._wait_s(name, units) for name, units, _ in uses)) > 0:
                await asyncio.sleep(wait_s)
            self._count(uses)

    def _count(self, uses: Sequence[tuple[str, int, int]]) -> None:
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
