"""Runs of incidents as far as their journals were read: of one that goes on, only what is new is read.

A run of 100,000 steps has some hundred thousand records. To read, bind and replay them takes seconds; what
came since the last time takes none. Whoever shows an incident again and again keeps a fold of its run.
"""

from __future__ import annotations

import contextlib
import gc
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

from evac.app import runs
from evac.engine.plans.library import get_plan
from evac.engine.runs.reading import decode_all
from evac.engine.stores.stalled_commits import is_protection
from evac.estate.codecs import plan as plan_codec
from evac.incident.incident import Dossier, Summary, summary
from evac.incident.services import Fate, Walk
from evac.incident.timeline import Telling
from evac.incident.values import RunRecord, Source
from evac.model.errors import Corrupt, EvacError, RunError
from evac.model.plan import Plan
from evac.run.values import Event
from evac.run.view import RunView
from evac.store.anchors import Anchor
from evac.store.journal import read
from evac.store.port import Store

KEPT: Final = 4


class RunFold:
    """One run. After `read_on`: its record, what became of its services, and what it tells."""

    def __init__(self, run: str, incident: str) -> None:
        self.run, self.incident = run, incident
        self._forget()

    def _forget(self) -> None:
        self._head: Anchor | None = None
        self._events: list[Event] = []
        self._record: RunRecord | None = None
        self._telling: Telling | None = None
        self._walk: Walk | None = None

    @property
    def record(self) -> RunRecord:
        assert self._record is not None
        return self._record

    @property
    def telling(self) -> Telling:
        assert self._telling is not None
        return self._telling

    @property
    def view(self) -> RunView:
        """As it is after the last record; never change it."""
        return self.telling.view

    def fates(self, record: RunRecord, begun_ms: int, begun: Source) -> tuple[Fate, ...]:
        """As `services.fates`, of the record as it was read last."""
        if self._walk is None or self._walk.since != (begun_ms, begun):
            self._walk = Walk(record, begun_ms, begun)
        self._walk.read_on(record.events)
        return self._walk.found()

    async def read_on(self, store: Store) -> None:
        """A journal that does not follow from where it was read to is read from its start. Raises RunError
        where there is none, Corrupt, Unavailable.
        """
        try:
            await self._read(store)
        except Corrupt:
            if self._head is None:
                raise
            self._forget()
            await self._read(store)

    async def _read(self, store: Store) -> None:
        with no_collecting():
            await self._read_new(store)

    async def _read_new(self, store: Store) -> None:
        new, head = list[Event](), self._head
        async for segment in read(store, self.run, head or 0):
            new += decode_all(segment.records)
            head = Anchor(self.run, segment.number, segment.last, segment.hash)
        if head is None:
            raise RunError("run-unknown", f"there is no run {self.run[:80]}", "evac run list")
        events = [*self._events, *new]
        if self._telling is None or any(event.kind == "plan_replaced" for event in new):
            await self._begin(store, events)
        self._head, self._events = head, events
        self.telling.read_on(events)
        known = self.record
        self._record = RunRecord(known.spec, tuple(events), known.others, known.plans)

    async def _begin(self, store: Store, events: Sequence[Event]) -> None:
        """With the steps of all its plans."""
        first, others = await runs.specs_of(store, self.run, events)
        found = {spec.plan: await _plan(store, spec.plan) for spec in (first, *others)}
        plans = {digest: plan for digest, plan in found.items() if plan is not None}
        self._telling, self._walk = Telling(self.incident, first, others), None
        self._record = RunRecord(first, (), others, plans)


@contextlib.contextmanager
def no_collecting() -> Iterator[None]:
    """To look for cycles in a million small tuples takes longer than to read them, and holds up the loop."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Folds:
    """Of the runs that were asked for last. Used by one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, RunFold] = OrderedDict()

    def of(self, run: str, incident: str) -> RunFold:
        """The fold of a run, which may not have read anything yet."""
        found = self._kept.pop(run, None) or RunFold(run, incident)
        self._kept[run] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    def summary_of(self, dossier: Dossier) -> Summary:
        """Of a dossier that was made of these folds a moment ago. Raises RunError."""
        if not dossier.runs:
            return summary(dossier)
        return summary(dossier, self.of(dossier.runs[0].run, dossier.incident).fates)


async def _plan(store: Store, digest: str) -> Plan | None:
    """None for what is no plan of services, such as one that only protects a store."""
    try:
        data = await get_plan(store, digest)
        return None if is_protection(data) else plan_codec.decode(data, digest)
    except EvacError:
        return None
