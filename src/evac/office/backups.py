"""What is known of backups, for audits of the war room: the facts that the store has, and as of when."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from evac.backup.evidence import Evidence
from evac.engine.clock import Clock
from evac.model.backup import NOTHING_SEEN, BackupFacts
from evac.model.errors import Corrupt, Unavailable
from evac.store.port import Store

HOUR_MS: Final = 3_600_000
READ_MS: Final = 10_000
"""So long the store is not asked again: a thousand data sets have a thousand entries."""


@dataclass(frozen=True, slots=True)
class BackupsSeen:
    """facts: of all data sets. at_ms: to which their ages are counted, a whole hour; None where nothing is
    known, so that nothing is worked out again as time passes.
    """

    facts: BackupFacts = NOTHING_SEEN
    at_ms: int | None = None


NO_BACKUPS: Final = BackupsSeen()


class BackupsReader:
    """Reads them, once in a while; what cannot be read leaves what was read before."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._evidence, self._clock = Evidence(store), clock
        self._last, self._read_ms = NO_BACKUPS, -READ_MS

    async def read(self) -> BackupsSeen:
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._read_ms < READ_MS:
            return self._last
        self._read_ms = now_ms
        with contextlib.suppress(Corrupt, Unavailable):
            facts = await self._evidence.facts()
            at_ms = self._clock.now_ms() // HOUR_MS * HOUR_MS
            self._last = BackupsSeen(facts, None if facts == NOTHING_SEEN else at_ms)
        return self._last
