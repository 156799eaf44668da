"""A real controller process with one run: at the boundary it is told it kills, or stops, itself or another.

    python real_controller.py FOLDER STORE BOUNDARY SIGNAL [PID]      boundary 0: it goes on to the end

What a step does is one line in a file, synced; to look is to read the file. Exit 0 at the end of the run, 3
where the lease was lost or the store stayed away.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.execution import Hooks, RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run, take_over
from evac.model.errors import Conflict, LeaseLost, LockHeld, Unavailable
from evac.model.run_policy import Patience
from evac.run.values import RunSpec, RunStep
from evac.store.opening import open_store
from evac.store.port import Store

STEPS = 6
TTL_MS = 700
ETCD_TTL_MS = 2_000
"""etcd counts leases in seconds."""
PATIENCE = Patience(attempts=4, backoff_ms=10, deadline_least_ms=4_000)
SPEC = RunSpec(
    "run",
    "fire",
    "plan",
    tuple(RunStep(f"s{n}", "start", f"s{n}", n, 10, (f"s{n - 2}",) if n > 1 else ()) for n in range(STEPS)),
    patience=PATIENCE,
    approvals=0,
)


class FileDriver:
    """Effects in a file that outlives every process."""

    name = "file"
    verbs: frozenset[Any] = frozenset({"run"})

    def __init__(self, path: Path) -> None:
        self._path = path

    async def check(self, action: Action, order: Order) -> Checked:
        return Checked()

    async def execute(self, action: Action, order: Order) -> Evidence:
        with self._path.open("a") as file:
            file.write(f"{order.key}\n")
            file.flush()
            os.fsync(file.fileno())
        return {"token": order.token}

    async def observe(self, action: Action, order: Order) -> Observed:
        done = self._path.exists() and order.key in self._path.read_text().split()
        return Observed("done" if done else "absent")

    async def undo(self, action: Action, order: Order) -> Evidence:
        return {}

    async def close(self) -> None:
        """Nothing is open."""


async def lead(store: Store) -> Leadership:
    ttl_ms = ETCD_TTL_MS if store.quorum else TTL_MS
    while True:
        try:
            return await Leadership.acquire(store, f"c{os.getpid()}", ttl_ms, SystemClock())
        except (LockHeld, Unavailable):
            await asyncio.sleep(0.05)


async def as_long_as_it_leads(execution: RunExecution, leading: Leadership) -> str:
    """As a controller does it: whatever the run waits for ends with the lease."""
    work, over = asyncio.create_task(execution.run()), asyncio.create_task(leading.over())
    try:
        await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise LeaseLost(leading.lease.name)
        return work.result()
    finally:
        over.cancel()
        work.cancel()
        await asyncio.wait((work, over))


async def carry_out(folder: Path, url: str, at: int, number: signal.Signals, whom: int) -> int:
    def boundary(reached: int) -> None:
        if reached == at:
            os.kill(whom, number)

    async def spec_of(plan: str, said: Mapping[str, Any]) -> RunSpec:
        return SPEC

    store, driver, clock = open_store(url), FileDriver(folder / "effects"), SystemClock()
    try:
        leading = await lead(store)
        try:
            journal, view = await create_run(store, SPEC, leading, clock, {})
        except Conflict:
            journal, view = await take_over(store, "run", spec_of, leading, clock, "c")
        action = (Action("run", "x", "file"),)
        terms = Terms("run", lambda step: action, lambda name: driver, leading, PATIENCE)
        execution = RunExecution(store, journal, view, leading, terms, clock, hooks=Hooks(boundary=boundary))
        try:
            return 0 if await as_long_as_it_leads(execution, leading) == "succeeded" else 2
        finally:
            await leading.release()
    except (LeaseLost, Unavailable):
        return 3
    finally:
        await store.close()


if __name__ == "__main__":
    where, url, at, number, *whom = sys.argv[1:]
    target = int(whom[0]) if whom else os.getpid()
    sys.exit(asyncio.run(carry_out(Path(where), url, int(at), signal.Signals(int(number)), target)))
