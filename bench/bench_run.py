"""Figures of the engine: durable steps a second, what it adds to a plan's own schedule, and recovery.

Run by `python -m bench.bench_run`. Every figure is a median; each goes the whole way: intent, fence check,
check, execute, observe, result, through a real store. etcd is three real members on loopback.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from evac.actions.noop import NoopDriver
from evac.actions.port import Action
from evac.engine.clock import SystemClock
from evac.engine.execution import RunExecution
from evac.engine.leading import Leadership
from evac.engine.performing import Terms
from evac.engine.reading import create_run, take_over
from evac.model.run_policy import Patience
from evac.run.values import RunSpec, RunStep
from evac.store.port import Store

STEPS = 100_000
ACTION = (Action("run", "nothing", "noop"),)


def wide_spec(run: str, steps: int, width: int = 1_000) -> RunSpec:
    """Chains side by side: what a plan of an estate looks like to the engine."""
    made = tuple(
        RunStep(f"start/{n}", "start", "t", n, 1_000, (f"start/{n - width}",) if n >= width else ())
        for n in range(steps)
    )
    return RunSpec(run, f"incident-{run}", "plan-" + run, made, patience=Patience(), approvals=0)


async def lead(store: Store) -> Leadership:
    return await Leadership.acquire(store, "bench", 10_000, SystemClock())


async def execute(store: Store, spec: RunSpec) -> float:
    """Seconds of a whole run, its creation included."""
    leading = await lead(store)
    driver = NoopDriver()
    terms = Terms(spec.run, lambda step: ACTION, lambda name: driver, leading, spec.patience, "bench")
    begin = time.perf_counter()
    journal, view = await create_run(store, spec, leading, SystemClock(), {"reason": "bench"})
    execution = RunExecution(store, journal, view, leading, terms, SystemClock())
    phase = await execution.run()
    taken = time.perf_counter() - begin
    assert phase == "succeeded", phase
    await leading.release()
    return taken


async def recover(store: Store, spec: RunSpec) -> tuple[float, int]:
    """Seconds until a new leader has read the journal and knows what to do; events read."""
    leading = await lead(store)

    async def spec_of(plan: str) -> RunSpec:
        return spec

    begin = time.perf_counter()
    _, view = await take_over(store, spec.run, spec_of, leading, SystemClock(), "bench")
    taken = time.perf_counter() - begin
    await leading.release()
    return taken, view.events


async def sqlite_figures(folder: Path, steps: int, times: int) -> tuple[float, float, int]:
    from evac.store.sqlite import SqliteStore

    rates, recoveries, events = [], [], 0
    for turn in range(times):
        store = SqliteStore(folder / f"run-{steps}-{turn}.db")
        spec = wide_spec(f"run-{turn}", steps)
        rates.append(steps / await execute(store, spec))
        seconds, events = await recover(store, spec)
        recoveries.append(seconds)
        await store.close()
    return statistics.median(rates), statistics.median(recoveries), events


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    with tempfile.TemporaryDirectory() as folder:
        rate, recovery, events = asyncio.run(sqlite_figures(Path(folder), steps, 3))
        print(f"sqlite: {rate:,.0f} steps/s; recovery of {events:,} events {recovery:.2f} s")


if __name__ == "__main__":
    main()
