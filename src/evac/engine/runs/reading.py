"""Creates a run's journal, reads it back, and takes a run over from an earlier leader.

A new leader records the takeover first, which turns every running step without a result into unknown.

Events are written so that nothing is lost, duplicated, or written under an ended lease.

When the store does not answer, nothing continues: the end of the journal is settled first, and only what is
missing is written again. Callers that get `Conflict` or `LeaseLost` must stop at once.

Each line of the journal is one event: a JSON array `[kind, at_ms, step, attempt, data]`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from evac.engine.clock import Clock, RunClock
from evac.engine.runs.performing import Authority, Boundary
from evac.engine.stores.guards import Permit
from evac.model.collector import collector_at_rest
from evac.model.errors import Corrupt, RunError, StoreError, Unavailable
from evac.run.state import RunView, apply, replay
from evac.run.values import ENDED, EVENT_DATA, Event, RunSpec
from evac.store.anchors import prefix_of
from evac.store.journal import Journal, read
from evac.store.port import Change, Compare, Lease, Store

_FIELDS = 5


def encode(event: Event) -> bytes:
    """One line. Raises Corrupt for data that is not JSON: it must never enter a journal."""
    kind, at_ms, step, attempt, data = event
    try:
        return orjson.dumps((kind, at_ms, step, attempt, data if type(data) is dict else dict(data)))
    except TypeError as error:
        raise Corrupt(f"cannot write the data of {kind}: {error}") from error


def encode_all(events: Iterable[Event]) -> list[bytes]:
    return [encode(event) for event in events]


def decode_all(records: Sequence[bytes]) -> list[Event]:
    """The events of a segment. Raises Corrupt for a line that is not an event."""
    try:
        rows = orjson.loads(b"[" + b",".join(records) + b"]")
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"cannot read a journal record: {error}") from error
    if len(rows) != len(records):
        raise Corrupt("a journal record holds more than one event")
    events, make = [], tuple.__new__
    for row in rows:
        if type(row) is list and len(row) == _FIELDS:
            kind, at_ms, step, attempt, data = row
            if (
                type(at_ms) is int
                and type(attempt) is int
                and type(step) is str
                and type(data) is dict
                and type(kind) is str
                and kind in EVENT_DATA
            ):
                events.append(make(Event, row))  # as Event._make, which would only count the fields again
                continue
        raise Corrupt(f"a journal record is not an event: {str(row)[:80]}")
    return events


def decode(record: bytes) -> Event:
    return decode_all((record,))[0]


SETTLE_AGAIN_S: Final = 0.1
NOTHING: Final = Permit()


class Leading(Authority, Protocol):
    """The writer: the lease that guards every transaction."""

    @property
    def lease(self) -> Lease: ...


class Recorder:
    """The only writer of a run's journal."""

    def __init__(self, journal: Journal, leading: Leading, boundary: Boundary) -> None:
        self.journal = journal
        self._leading, self._boundary = leading, boundary

    async def append(self, events: Sequence[Event], permit: Permit = NOTHING) -> None:
        """Writes all events durably, in order. Raises `Conflict` (nothing was written, unless more events
        than fit one transaction came before), `LeaseLost`.
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
        """Finds out what was written, while we may still act. Raises `LeaseLost`, `Conflict`."""
        while True:
            self._leading.check()
            try:
                await self.journal.settle(self._leading.lease)
                return
            except Unavailable:
                await asyncio.sleep(SETTLE_AGAIN_S)


SpecOf = Callable[[str, Mapping[str, Any]], Awaitable[RunSpec]]
"""Plan digest and the journal's fields (`bound`, `approvals`) -> what the run executes."""


def incident_key(incident: str) -> str:
    return f"incident/{incident}"


def run_of_incident(value: bytes) -> str:
    """The run named by an incident's entry; empty if it names no valid one."""
    with contextlib.suppress(ValueError, KeyError, TypeError, StoreError):
        run = orjson.loads(value)["run"]
        if isinstance(run, str) and prefix_of(run):
            return run
    return ""


async def create_run(
    store: Store,
    spec: RunSpec,
    leading: Leading,
    clock: Clock,
    data: dict[str, Any],
    compares: Sequence[Compare] = (),
    changes: Sequence[Change] = (),
) -> tuple[Journal, RunView]:
    """Creates a run: its journal with the first event. Raises `Conflict` if it already exists."""
    data = {
        "run": spec.run,
        "incident": spec.incident,
        "plan": spec.plan,
        "owner": leading.lease.owner,
        "token": leading.token,
        **data,
    }
    created = Event("run_created", clock.now_ms(), data=data)
    leading.check()
    journal = await Journal.create(store, spec.run, leading.lease, compares, changes, (encode(created),))
    return journal, apply(RunView(spec), created)


async def events_of(store: Store, run: str) -> list[Event]:
    """Every event of a run, its chain checked."""
    events: list[Event] = []
    async for segment in read(store, run):
        events += decode_all(segment.records)
    return events


async def take_over(
    store: Store, run: str, spec_of: SpecOf, leading: Leading, clock: Clock, owner: str
) -> tuple[Journal, RunView]:
    """Takes over the run in the state of its journal. Raises `Corrupt`, `RunError`, `LeaseLost`."""
    with collector_at_rest():  # to look for cycles in a million small tuples takes longer than to read them
        journal, view = await _read_back(store, run, spec_of)
    if view.phase not in ENDED:
        changed = Event(
            "leader_changed",
            RunClock(clock, view.last_ms).now_ms(),
            data={
                "owner": owner,
                "token": leading.token,
            },
        )
        leading.check()
        await journal.append((encode(changed),), leading.lease)
        apply(view, changed)
    return journal, view


async def _read_back(store: Store, run: str, spec_of: SpecOf) -> tuple[Journal, RunView]:
    """Drops the events before it returns."""
    events: list[Event] = []
    journal = await Journal.open(store, run, lambda segment: events.extend(decode_all(segment.records)))
    return journal, await _view_of(run, events, spec_of)


async def _view_of(run: str, events: list[Event], spec_of: SpecOf) -> RunView:
    if not events or events[0].kind != "run_created":
        raise Corrupt(f"journal {run} does not begin with the creation of the run")
    first = await spec_of(events[0].data["plan"], events[0].data)
    others = [await spec_of(one.data["plan"], one.data) for one in events if one.kind == "plan_replaced"]
    if first.run != run:
        raise RunError("run-mixed", f"the plan of {run} was bound to {first.run}")
    return replay(first, events, others)


async def reload(store: Store, view: RunView) -> RunView:
    """The state that is really in the journal, when ours is ahead of it."""
    first, *_ = specs = list(view.specs.values())
    return replay(first, await events_of(store, view.spec.run), specs[1:])
