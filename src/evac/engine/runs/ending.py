"""The end of a run: the register says so in the same transaction in which the run stops to be open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from evac.engine.runs.attestation import how_to_vouch
from evac.engine.runs.open_runs import OPEN, InHand
from evac.engine.stores import datasets
from evac.engine.stores.datasets import DataSets
from evac.engine.stores.guards import Guards, Mark, Permit
from evac.model.errors import Conflict, NotAllowed, Unavailable
from evac.store.port import Delete, Lease, Store

AGAIN_S: Final = 0.2
Say = Callable[[str, Mapping[str, Any]], None]


class Ending:
    """Of the runs of one leadership. trouble: told what a person must know of an end."""

    def __init__(self, store: Store, guards: Guards, sets: DataSets, guard: Lease, trouble: Say) -> None:
        self._store, self._guards, self._sets = store, guards, sets
        self._guard, self._trouble = guard, trouble

    async def end(self, run: InHand, name: str, succeeded: bool) -> None:
        """Asks as long as the store is away, or changes meanwhile. Raises LeaseLost."""
        while True:
            try:
                permit = await self._marks(run.ends) if succeeded and run.ends else Permit()
                permit = permit | await self._give_up_claims(name)
                changes = (*permit.changes, Delete(OPEN + name))
                await self._store.transact(permit.compares, changes, self._guard)
                return
            except NotAllowed as error:
                self._trouble(f"the end of {name}: {error.message}", {"run": name})
                run.ends = {}
            except (Conflict, Unavailable):
                await asyncio.sleep(AGAIN_S)

    async def _marks(self, ends: Mapping[str, Mark]) -> Permit:
        marks = set(ends.values())
        assert len(marks) == 1
        return await self._guards.may_mark(tuple(ends), marks.pop())

    async def _give_up_claims(self, name: str) -> Permit:
        """Epochs that the run claimed and never began are free again; one in doubt stays, and is told."""
        permit = Permit()
        for epoch in (await self._sets.read_all()).values():
            if epoch.settled or epoch.run != name:
                continue
            if epoch.begun:
                words = f"{name} ended, and what became of {epoch.store} at {epoch.candidate} is not known"
                self._trouble(f"{words}: {how_to_vouch(epoch)}", {"run": name})
            else:
                permit = permit | datasets.settle(epoch, done=False)[1]
        return permit
