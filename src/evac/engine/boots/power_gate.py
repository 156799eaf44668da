"""The request that draws power: no more inrush on a feed at one instant than it stands.

The run counts an inrush from the start of its step. Between that and the moment at which a server draws lie a
look at it, a turn, a network, and a controller that takes its time, so that two starts that were apart may
meet. Here the inrush is counted once more: from before the request is sent, for as long as it has no answer,
and then for as long as the inrush takes.

A request may go out long after its start was written; that it was taken is written once it was. So a new
leader counts every boot that was begun and has neither a result nor that word: what the old one sent left
before its lease ended, and may arrive a while after. It is counted for that while and the inrush; less long
where the server is seen on before. Nor is a server that is off in that while taken for one that was never
asked: what it draws stays counted. One that was switched on a moment ago counts for the rest of its inrush.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple

from evac.model.errors import Retryable
from evac.model.step_id import LimitId
from evac.run.boots.events import ARRIVES_MS, MAYBE_SENT
from evac.run.patience import LATE
from evac.run.values import RunStep
from evac.run.view import RunView

SLACK_S: Final = 0.01
"""What clocks and timers may be off."""
UNSURE_S: Final = 30.0
"""How long a request may still be on its way that was never answered."""
TURN_S: Final = 10.0
"""How much longer than its inrush a boot waits for its turn: then it is begun anew, with all of its time."""
LOOK_S: Final = 0.1
"""While requests are on their way, how often it is seen whether one was answered."""


class Before(NamedTuple):
    """A boot of an earlier leader. on_for_ms: how long ago its controller took the request at the latest;
    negative where the request may arrive for so long yet, if it was ever sent.
    """

    step: RunStep
    on_for_ms: int = -ARRIVES_MS


_Held = list[float]
"""When it is over, a number that tells two of them apart, and units: 0 once they are counted no more."""
_Uses = Sequence[tuple[str, int, int]]


class NoTurn(Retryable):
    """Its turn did not come in time: nothing was sent."""


class PowerGate:
    """capacity: of a limit, now. before: boots that an earlier leader sent, or may have sent, a moment ago.
    check: raises unless we may still act: a turn may come long after it was asked for. Whoever came first at
    a set of feeds goes first.
    """

    def __init__(
        self,
        capacity: Callable[[str], int],
        before: Iterable[Before] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._capacity, self._check = capacity, check
        self._before = list(before)
        self._arrives: dict[str, float] = {}
        self._held: dict[str, list[_Held]] = {}
        self._sums: dict[str, int] = {}
        self._unsure: dict[str, list[tuple[str, _Held]]] = {}
        self._turns: dict[tuple[str, ...], asyncio.Lock] = {}
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, step: RunStep) -> AsyncIterator[None]:
        """Waits until the inrush of the step fits; it is counted until it is certainly over."""
        self._take_over()
        uses = _inrush_of(step)
        if not uses:
            yield
            return
        await self._enter(step.id, uses)
        unsure_s = UNSURE_S  # a request without an answer may still arrive
        try:
            self._check()
            yield
            unsure_s = 0.0
        finally:
            for name, units, _ in uses:
                self._sums[name] -= units
            held = self._over_after(uses, unsure_s)
            if unsure_s:
                self._unsure[step.id] = held

    def seen_on(self, step: RunStep) -> None:
        """Its server is on: an inrush that nobody was sure of has begun by now. It is counted no longer than
        before: where its request can have arrived only until a moment ago, it has begun by then.
        """
        self._take_over()
        unsure = self._unsure.get(step.id)
        if unsure is None:
            return
        ends, now = {name: held[0] for name, held in unsure}, asyncio.get_running_loop().time()
        if all(now + hold / 1_000 + SLACK_S < ends.get(name, 0.0) for name, _, hold in _inrush_of(step)):
            self._forget(step.id)
            self._over_after(_inrush_of(step), 0.0)
        else:
            del self._unsure[step.id]

    def may_arrive(self, step: RunStep) -> bool:
        """Whether a request of an earlier leader may still switch its server on: that it is off says nothing
        yet, and its watts stay counted.
        """
        self._take_over()
        return asyncio.get_running_loop().time() < self._arrives.get(step.id, 0.0)

    def _take_over(self) -> None:
        for step, on_for_ms in self._before:
            left = [use for use in _inrush_of(step) if use[2] > on_for_ms]
            held = self._over_after(left, -on_for_ms / 1_000)
            if on_for_ms < 0:
                self._unsure[step.id] = held
                self._arrives[step.id] = asyncio.get_running_loop().time() - on_for_ms / 1_000
        self._before.clear()

    async def _enter(self, id: str, uses: _Uses) -> None:
        """A server rushes once, whichever of two requests reaches it: what was unsure of it is counted no
        more once it is asked for again, and it needs no room but its own. Raises `NoTurn`.
        """
        if id not in self._unsure or self._lacks_s(id, uses) > 0:
            await self._queue(id, uses)
        self._forget(id)
        for name, units, _ in uses:
            self._sums[name] = self._sums.get(name, 0) + units

    async def _queue(self, id: str, uses: _Uses) -> None:
        lock = self._turns.setdefault(tuple(name for name, _, _ in uses), asyncio.Lock())
        most_s = TURN_S + max(hold for _, _, hold in uses) / 1_000
        try:
            async with asyncio.timeout(most_s), lock:
                while (wait_s := self._lacks_s(id, uses)) > 0:
                    await asyncio.sleep(wait_s)
        except TimeoutError as error:
            raise NoTurn(LATE, f"its feeds had no room for its inrush for {most_s:.0f} s") from error

    def _lacks_s(self, id: str, uses: _Uses) -> float:
        return max(self._wait_s(id, name, units) for name, units, _ in uses)

    def _own(self, id: str, name: str) -> int:
        return int(sum(held[2] for limit, held in self._unsure.get(id, ()) if limit == name))

    def _forget(self, id: str) -> None:
        for name, held in self._unsure.pop(id, ()):
            self._sums[name] -= int(held[2])
            held[2] = 0

    def _over_after(self, uses: _Uses, more_s: float) -> list[tuple[str, _Held]]:
        """Counts until the inrush that has begun by now, or `more_s` later, is over."""
        now, found = asyncio.get_running_loop().time(), []
        for name, units, hold in uses:
            held: _Held = [now + hold / 1_000 + SLACK_S + more_s, next(self._numbers), units]
            heappush(self._held.setdefault(name, []), held)
            self._sums[name] = self._sums.get(name, 0) + units
            found.append((name, held))
        return found

    def _wait_s(self, id: str, name: str, units: int) -> float:
        """How long until there may be room for one more under a limit, as far as one can see."""
        now, held = asyncio.get_running_loop().time(), self._held.get(name)
        while held and held[0][0] <= now:
            over = heappop(held)
            self._sums[name] -= int(over[2])
            over[2] = 0
        others = self._sums.get(name, 0) - self._own(id, name)
        if others <= 0 or others + units <= self._capacity(name):
            return 0.0
        return min(LOOK_S, max(held[0][0] - now, 0.001)) if held else LOOK_S


def _inrush_of(step: RunStep) -> list[tuple[str, int, int]]:
    return [use for use in step.uses if use[2] > 0 and LimitId.parse(use[0]).is_inrush]


def sent_before(view: RunView) -> list[Before]:
    """Boots whose request an earlier leader sent, or may have, by the state as a new one takes it over."""
    return [
        Before(view.steps[i], view.last_ms - at_ms)
        for i, at_ms in sorted(view.boots.inrush_ms.items())
        if view.phases[i] in MAYBE_SENT
    ]
