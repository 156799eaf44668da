"""What a war room observed about people, on its way into the access journal.

It is bounded: what does not fit is counted and reported. Refusals with the same address and code become
one record with a count, so that a million attempts write only a few records.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from dataclasses import replace
from typing import Final

from evac.engine.clock import Clock
from evac.engine.lead.access_journal import RECORDS_MOST, batch_of
from evac.model.access import AccessRecord
from evac.model.errors import EvacError
from evac.store.port import Store

LOG: Final = logging.getLogger("evac.access")
WRITE_S: Final = 1.0
WAITING_MOST: Final = 10_000
TOGETHER_MS: Final = 10_000
ALIKE_MOST: Final = 1_000
JUMP_MS: Final = 2_000
"""How far the wall clock and the monotonic clock may drift apart between two checks."""


class Recording:
    """The records of one war room. `follow` writes them; without it they wait, up to a limit."""

    def __init__(self, clock: Clock, site: str = "") -> None:
        self._clock, self.site = clock, site
        self._waiting: deque[AccessRecord] = deque()
        self._alike: OrderedDict[tuple[str, str, str], AccessRecord] = OrderedDict()
        self._dropped = 0
        self._apart_ms = clock.now_ms() - clock.monotonic_ms()

    def saw(self, kind: str, **more: str | int) -> None:
        """Record one thing that a person did."""
        self._add(AccessRecord(self._clock.now_ms(), kind, site=self.site, **more))  # type: ignore[arg-type]

    def refused(self, kind: str, address: str, code: str, who: str, what: str) -> None:
        """Record a refusal; identical ones within ten seconds become one record."""
        key, now_ms = (kind, address, code), self._clock.now_ms()
        before = self._alike.get(key)
        if before is not None and now_ms - before.at_ms < TOGETHER_MS:
            self._alike[key] = replace(before, count=before.count + 1)
            return
        if before is not None and before.count > 1:
            self._add(before)
        made = AccessRecord(
            now_ms, kind, who=who, address=address, code=code, what=what, site=self.site, count=0
        )
        self._alike[key] = made
        self._alike.move_to_end(key)
        self._add(replace(made, count=1))
        while len(self._alike) > ALIKE_MOST:
            self._count(self._alike.popitem(last=False)[1])

    def _count(self, one: AccessRecord) -> None:
        if one.count:
            self._add(one)

    def _add(self, one: AccessRecord) -> None:
        if len(self._waiting) >= WAITING_MOST:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(one)

    async def write(self, store: Store) -> None:
        """Write everything that is waiting. Raises Unavailable; then it keeps waiting."""
        self._look_at_clock()
        now_ms = self._clock.now_ms()
        for key, one in list(self._alike.items()):
            if now_ms - one.at_ms >= TOGETHER_MS:
                del self._alike[key]
                self._count(one)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.saw("refused", code="log-full", what=f"{dropped} records did not fit", count=dropped)
        while self._waiting:
            some = [self._waiting[i] for i in range(min(RECORDS_MOST, len(self._waiting)))]
            await store.transact((), (batch_of(some, now_ms),))
            for _ in some:
                self._waiting.popleft()

    def _look_at_clock(self) -> None:
        """Record a jump of the clock, because times in records are only as reliable as the clock."""
        apart = self._clock.now_ms() - self._clock.monotonic_ms()
        jump, self._apart_ms = apart - self._apart_ms, apart
        if abs(jump) >= JUMP_MS:
            words = f"the clock of this machine jumped by {jump / 1_000:+.1f} s"
            LOG.warning("%s; check that its time service is trusted", words)
            self.saw("clock-jump", what=words)

    async def follow(self, store: Store) -> None:
        """Write until cancelled."""
        while True:
            with contextlib.suppress(EvacError, TimeoutError):
                await self.write(store)
            await asyncio.sleep(WRITE_S)
