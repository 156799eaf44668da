"""A large run in the store of a room, as its leader would have written it: made, and begun a moment ago."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import orjson

from bench.bench_run import lead, wide_spec
from evac.app.runs import INCIDENT
from evac.engine.clock import SystemClock
from evac.engine.runs.binding import Bound, put_bound
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import create_run, encode_all
from evac.run.values import Event
from evac.store.opening import open_store
from evac.store.port import Put

NAME: Final = "large-run"


async def put_large(address: str, steps: int, begun: int) -> str:
    """A run of so many boots, of which some have begun; its name."""
    made = wide_spec(NAME, steps)
    spec = replace(made, steps=tuple(replace(step, kind="boot") for step in made.steps))
    store = open_store(address)
    try:
        await put_bound(store, Bound(spec, {}), None)
        leading = await lead(store)
        told = orjson.dumps({"run": spec.run, "plan": spec.plan})
        changes = (
            Put(INCIDENT + spec.incident, told),
            Put(OPEN + spec.run, orjson.dumps({"approvals": 0})),
        )
        journal, _ = await create_run(
            store, spec, leading, SystemClock(), {"reason": "bench"}, changes=changes
        )
        now_ms = int(time.time() * 1e3)
        events = [Event("run_started", now_ms, data={"token": leading.token})]
        events += [
            Event("step_started", now_ms, step.id, 1, {"token": leading.token}) for step in spec.steps[:begun]
        ]
        await journal.append(encode_all(events), leading.lease)
        await leading.release()
    finally:
        await store.close()
    return spec.run
