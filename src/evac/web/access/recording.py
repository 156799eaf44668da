"""What a war room saw of people, on its way into the journal of access.

Bounded: what does not fit is counted and said. Refusals of one address and code are one record with a count,
so that a stranger who tries a million times writes a few records.
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
"""The wall clock and the clock that never goes back may differ by so much from one look to the next."""


class Recording:
    """Of one war room. `follow` writes; without it records wait, up to a bound."""

    def __init__(self, clock: Clock, site: str = "") -> None:
        self._clock, self.site = clock, site
        self._waiting: deque[AccessRecord] = deque()
        self._alike: OrderedDict[tuple[str, str, str], AccessRecord] = OrderedDict()
        self._dropped = 0
        self._apart_ms = clock.now_ms() - clock.monotonic_ms()

    def saw(self, kind: str, **more: str | int) -> None:
        """One thing that somebody did."""
        self._add(AccessRecord(self._clock.now_ms(), kind, site=self.site, **more))  # type: ignore[arg-type]

    def refused(self, kind: str, address: str, code: str, who: str, what: str) -> None:
        """Somebody was kept from something; alike within ten seconds it is one record."""
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
        """Everything that waits. Raises Unavailable; then it waits on."""
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
        """Moments in records are only as good as the clock: a jump is a record of its own."""
        apart = self._clock.now_ms() - self._clock.monotonic_ms()
        jump, self._apart_ms = apart - self._apart_ms, apart
        if abs(jump) >= JUMP_MS:
            words = f"the clock of this machine jumped by {jump / 1_000:+.1f} s"
            LOG.warning("%s; check that its time service is trusted", words)
            self.saw("clock-jump", what=words)

    async def follow(self, store: Store) -> None:
        """Writes until cancelled."""
        while True:
            with contextlib.suppress(EvacError, TimeoutError):
                await self.write(store)
            await asyncio.sleep(WRITE_S)
