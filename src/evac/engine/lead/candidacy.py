"""Who does not lead waits here until nobody does, and knows meanwhile why it could neither lead nor follow.

Invariant: `why` is empty while this controller leads, or can read who leads; else it says what keeps it from
both: a store that does not answer, that takes no writes while nobody leads, that cannot be read, or is over.

For how long the lease of the leader is asked for.

A short one ends soon where its holder died; one that is shorter than a slow machine or store needs to renew
it is lost again and again, and then nobody gets anything done. So whoever lost it twice within half a minute
asks for twice as long, up to four times the least, and for the least again once it was kept for a minute and
no run is open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from evac.engine.lead.leadership import LEADER, SIGN, Leadership
from evac.engine.runs.open_runs import OPEN
from evac.model.errors import Corrupt, LeaseLost, LockHeld, Superseded, Unavailable
from evac.store.port import Store

AGAIN_MS: Final = 30_000
MOST_TIMES: Final = 4
QUIET_S: Final = 60.0


class LeaseSpan:
    """Of one controller, over all its terms. least_ms: as short as it ever is. ms: what to ask for now."""

    def __init__(self, least_ms: int) -> None:
        self.ms = self._least_ms = least_ms
        self._lost_ms: int | None = None

    def lost(self, now_ms: int) -> None:
        """It could not be kept, at a moment of the monotonic clock."""
        if self._lost_ms is not None and now_ms - self._lost_ms < AGAIN_MS:
            self.ms = min(2 * self.ms, MOST_TIMES * self._least_ms)
        self._lost_ms = now_ms

    async def mind(self, leadership: Leadership, store: Store, quiet_s: float = QUIET_S) -> None:
        """Beside a term whose lease is longer than the least: ends it, by LeaseLost, when that is no longer
        needed and nothing is under way. Returns at once where it is not longer.
        """
        if leadership.lease.ttl_ms <= self._least_ms:
            return
        while True:
            await asyncio.sleep(quiet_s)
            try:
                if await store.list(OPEN, limit=1):
                    continue
            except Unavailable:
                continue
            self.ms = self._least_ms
            leadership.trouble = ("it was kept for long enough, and is taken anew for a shorter time",)
            raise LeaseLost(LEADER)


Term = TypeVar("Term")


class Candidacy(Generic[Term]):
    """take: takes the office; raises LockHeld while somebody else leads, Superseded, Corrupt, Unavailable.
    tell: is told once each time that the store cannot be read.
    """

    def __init__(
        self,
        store: Store,
        take: Callable[[], Awaitable[Term]],
        pause_s: float,
        tell: Callable[[Corrupt], None],
    ) -> None:
        self._store, self._take, self._pause_s, self._tell = store, take, pause_s, tell
        self._unread = ""
        self.why = ""

    async def wait(self) -> Term:
        """Tries when the sign of whoever leads is gone, and every two seconds, by one small transaction."""
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(SIGN)) as hints:  # type: ignore[type-var]
                    async for _ in hints:
                        if (term := await self._try()) is not None:
                            return term
            except Unavailable as error:
                self.why = "" if await self._somebody_leads() else error.message
            await asyncio.sleep(self._pause_s)

    async def _try(self) -> Term | None:
        """None while somebody else leads, a newer generation acts, or nobody can read which one this is. A
        store that knows when leases end may give no hint of it, and is asked again and again.
        """
        while True:
            try:
                term = await self._take()
            except Superseded as error:
                self.why = error.message
                return None
            except Corrupt as error:
                self.why = error.message
                self._cannot_read(error)
                return None
            except LockHeld as held:
                self.why = ""
                if not held.ttl_ms:
                    return None
            else:
                self.why = ""
                return term
            await asyncio.sleep(self._pause_s)

    async def _somebody_leads(self) -> bool:
        """Whoever cannot write and reads that somebody leads still follows."""
        try:
            return await self._store.holder(LEADER) is not None
        except (Unavailable, Corrupt):
            return False

    def _cannot_read(self, error: Corrupt) -> None:
        """Said once: whoever cannot know the generation of the store does not act, and goes on to watch."""
        if self._unread != error.message:
            self._unread = error.message
            self._tell(error)
