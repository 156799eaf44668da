"""From the store to a run: creating its journal, reading it back, and taking a run over from whoever led.

Whoever takes over says so first; by that, whatever ran without a result becomes unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evac.engine.clock import Clock, RunClock
from evac.engine.runs.codec import decode_all, encode
from evac.engine.runs.recording import Leading
from evac.model.collector import collector_at_rest
from evac.model.errors import Corrupt, RunError
from evac.run.state import RunView, apply, plans_of, replay
from evac.run.values import ENDED, Event, RunSpec
from evac.store.journal import Journal, read
from evac.store.port import Change, Compare, Store

SpecOf = Callable[[str], Awaitable[RunSpec]]
"""Plan digest -> what the run executes of it."""


def incident_key(incident: str) -> str:
    return f"incident/{incident}"


async def create_run(
    store: Store,
    spec: RunSpec,
    leading: Leading,
    clock: Clock,
    data: dict[str, Any],
    compares: Sequence[Compare] = (),
    changes: Sequence[Change] = (),
) -> tuple[Journal, RunView]:
    """A new run: its journal with its first event. Raises `Conflict` where it is there already."""
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
    """The run as its journal says, ours from now on. Raises `Corrupt`, `RunError`, `LeaseLost`."""
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
    """The events are gone when it returns."""
    events: list[Event] = []
    journal = await Journal.open(store, run, lambda segment: events.extend(decode_all(segment.records)))
    return journal, await _view_of(run, events, spec_of)


async def _view_of(run: str, events: list[Event], spec_of: SpecOf) -> RunView:
    if not events or events[0].kind != "run_created":
        raise Corrupt(f"the journal {run} does not begin with the run")
    first = await spec_of(events[0].data["plan"])
    others = [await spec_of(plan) for plan in plans_of(events)]
    if first.run != run:
        raise RunError("run-mixed", f"the plan of {run} was bound for {first.run}")
    return replay(first, events, others)


async def reload(store: Store, view: RunView) -> RunView:
    """The state that is really in the journal, when ours went ahead of it."""
    first, *_ = specs = list(view.specs.values())
    return replay(first, await events_of(store, view.spec.run), specs[1:])
