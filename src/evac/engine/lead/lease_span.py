"""For how long the lease of the leader is asked for.

A short one ends soon where its holder died; one that is shorter than a slow machine or store needs to renew
it is lost again and again, and then nobody gets anything done. So whoever lost it twice within half a minute
asks for twice as long, up to four times the least, and for the least again once it was kept for a minute and
no run is open.
"""

from __future__ import annotations

import asyncio
from typing import Final

from evac.engine.lead.leadership import LEADER, Leadership
from evac.engine.runs.open_runs import OPEN
from evac.model.errors import LeaseLost, Unavailable
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
