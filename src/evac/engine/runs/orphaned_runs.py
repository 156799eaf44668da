"""Runs of which nobody knows whether they were made: the store took the transaction, or it did not, and no
answer came; or the answer is that a run is there, which may be this one, of a request that arrived twice.
Such a run is looked for, and carried out as soon as it is there; else it would stay open in nobody's hands
until somebody else leads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from evac.engine.lead.leadership import begin
from evac.model.errors import Conflict, Unavailable
from evac.store.port import Entry, Store

T = TypeVar("T")
LOOKS_MOST: Final = 60
PAUSE_S: Final = 0.2
PAUSE_MOST_S: Final = 5.0


class DoubtedRuns:
    """key_of: under which key a run is open. in_hand: whether somebody carries it out here. adopt: does.

    taken_over: keys of runs that an earlier leader left, while they are being taken over here: who asks for
    one of these again is told that it is there, and nobody may take it over a second time.
    """

    def __init__(
        self,
        store: Store,
        key_of: Callable[[str], str],
        in_hand: Callable[[str], bool],
        adopt: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self._store, self._key_of, self._in_hand, self._adopt = store, key_of, in_hand, adopt
        self._making: Counter[str] = Counter()
        self._looking: set[str] = set()
        self.taken_over: set[str] = set()

    async def making(self, name: str, work: Awaitable[T], tasks: asyncio.TaskGroup) -> T:
        """Makes a run. Where the store gives no answer, or says that a run is there, which is raised, it is
        looked for from then on, as long as we lead.
        """
        self._making[name] += 1  # a lost site and hanging commits may ask for the same run at once
        try:
            return await work
        except (Unavailable, Conflict) as error:
            if name not in self._looking:
                self._looking.add(name)
                begin(tasks, self._look_for(name, isinstance(error, Conflict)), f"in doubt {name}")
            raise
        finally:
            self._making[name] -= 1

    async def _look_for(self, name: str, now: bool) -> None:
        """Until it is in hand, or a message cannot be on its way any more. now: it is there now or never."""
        pause_s = PAUSE_S
        try:
            for _ in range(LOOKS_MOST):
                if self._in_hand(name):
                    return
                if (found := await self._adopted(name)) or (now and found is not None):
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_MOST_S, pause_s * 1.5)
        finally:
            self._looking.discard(name)

    async def _adopted(self, name: str) -> bool | None:
        """None where the store does not say whether it is there."""
        key = self._key_of(name)
        try:
            entry = await self._store.get(key)
        except Unavailable:
            return None
        if entry is None or self._making[name] or key in self.taken_over or self._in_hand(name):
            return False
        await self._adopt(entry)
        return True
