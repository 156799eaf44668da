"""Writing events of a run so that nothing is lost, doubled or written under a lease that is over.

When the store does not answer, nothing goes on: the end of the journal is settled first, and only what is not
there is written again. Whoever is told `Conflict` or `LeaseLost` must stop at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from evac.engine.runs.codec import encode_all
from evac.engine.runs.performing import Authority, Boundary
from evac.engine.stores.guards import Permit
from evac.model.errors import Unavailable
from evac.run.values import Event
from evac.store.journal import Journal
from evac.store.port import Lease

SETTLE_AGAIN_S: Final = 0.1
NOTHING: Final = Permit()


class Leading(Authority, Protocol):
    """Who writes: the lease that every transaction is guarded by."""

    @property
    def lease(self) -> Lease: ...


class Recorder:
    """The one writer of a run's journal."""

    def __init__(self, journal: Journal, leading: Leading, boundary: Boundary) -> None:
        self.journal = journal
        self._leading, self._boundary = leading, boundary

    async def append(self, events: Sequence[Event], permit: Permit = NOTHING) -> None:
        """All events, durable, in order. Raises `Conflict` (nothing was written, unless more events than fit
        one transaction came before), `LeaseLost`.
        """
        records = encode_all(events)
        journal, lease = self.journal, self._leading.lease
        base = journal.head.records
        self._boundary()
        written = 0
        while written < len(records):
            compares, changes = (permit.compares, permit.changes) if not written else ((), ())
            try:
                self._leading.check()
                await journal.append(records[written:], lease, compares, changes)
                break
            except Unavailable:
                await self._settle()
                written = journal.head.records - base
        self._boundary()

    async def _settle(self) -> None:
        """Finds out what was written, as long as we may still act. Raises `LeaseLost`, `Conflict`."""
        while True:
            self._leading.check()
            try:
                await self.journal.settle(self._leading.lease)
                return
            except Unavailable:
                await asyncio.sleep(SETTLE_AGAIN_S)
