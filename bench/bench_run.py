"""Figures of the engine: durable steps a second, what it adds to a plan's own schedule, and recovery.

`python -m bench run` measures them among others; `python -m bench.bench_run` alone, with a number: that many
steps instead of 100,000, and then the names of figures: `20000 trust` is the cost of authentication. Every
step goes the whole way through a real store: intent, fence check, check, execute, observe, result. Medians of
three; the processor time of this process stands beside, because a busy machine stretches only the first.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from bench.figures import Figure, median
from evac.drivers.manual import NoopDriver
from evac.drivers.port import Action, Driver, Evidence, Order
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run, take_over
from evac.run.values import RunLimit, RunSpec, RunStep
from evac.store.etcd import EtcdStore
from evac.store.opening import SealedStore, seal_of
from evac.store.port import Store
from evac.store.sqlite import SqliteStore
from evac_lab.servers.etcd import EtcdServer, wait_for_all

STEPS = 100_000
TIMES = 3
ACTION = (Action("run", "nothing", "noop"),)
SLOTS = 4_000
WHAT = ("sqlite", "etcd", "overhead", "recovery", "trust")
TRUST_TIMES = 7
TRUST_MOST = 5
"""Percent that authentication of the store may cost."""
SEAL = "EVAC_BENCH_SEAL"


def wide_spec(run: str, steps: int, width: int = 1_000) -> RunSpec:
    """Chains side by side: what a plan of an estate looks like to the engine."""
    made = tuple(
        RunStep(f"start/{n}", "start", "t", n, 1_000, (f"start/{n - width}",) if n >= width else ())
        for n in range(steps)
    )
    return RunSpec(run, f"incident-{run}", "plan-" + run, made, approvals=0)


def scheduled_spec(run: str, steps: int, seed: int = 7) -> tuple[RunSpec, int]:
    """A plan with its own schedule, and the end of it: chains, durations of 1 to 5 s, one limit of slots."""
    rng = random.Random(seed)
    takes = [rng.randrange(1_000, 5_000) for _ in range(steps)]
    starts, ready, busy = [0] * steps, list(range(SLOTS * 2)), list[tuple[int, int]]()
    now = end = 0
    while ready or busy:
        while ready and len(busy) < SLOTS:
            n = heappop(ready)
            if n < steps:
                starts[n] = now
                heappush(busy, (now + takes[n], n))
        if not busy:
            break
        now, n = heappop(busy)
        end = max(end, now)
        heappush(ready, n + SLOTS * 2)
    made = tuple(
        RunStep(
            f"start/{n}",
            "start",
            "t",
            starts[n],
            takes[n],
            (f"start/{n - SLOTS * 2}",) if n >= SLOTS * 2 else (),
            (("api", 1, 0),),
        )
        for n in range(steps)
    )
    return RunSpec(run, "incident", "plan", made, (RunLimit("api", "slots", SLOTS),), approvals=0), end


class SleepingDriver(NoopDriver):
    """Takes exactly as long as was predicted."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__()
        self._takes = {step.id: step.duration_ms / 1_000 for step in spec.steps}

    async def execute(self, action: Action, order: Order) -> Evidence:
        await asyncio.sleep(self._takes[order.step])
        return await super().execute(action, order)


async def lead(store: Store) -> Leadership:
    return await Leadership.acquire(store, "bench", 10_000, SystemClock())


async def execute(store: Store, spec: RunSpec, driver: Driver) -> tuple[float, float]:
    """(seconds, processor seconds) of a whole run, its creation included."""
    leading = await lead(store)
    terms = Terms(spec.run, lambda step: ACTION, lambda name: driver, leading, spec.patience, "bench")
    begin, used = time.perf_counter(), time.process_time()
    journal, view = await create_run(store, spec, leading, SystemClock(), {"reason": "bench"})
    execution = RunExecution(store, journal, view, leading, terms, SystemClock())
    phase = await execution.run()
    taken = time.perf_counter() - begin, time.process_time() - used
    assert phase == "succeeded", phase
    await leading.release()
    return taken


async def recover(store: Store, spec: RunSpec) -> tuple[float, float, int]:
    """(seconds, processor seconds) until a new leader has read the journal and stands where the old one
    stood, its plan at hand; and the number of events.
    """
    leading = await lead(store)

    async def spec_of(plan: str, said: Mapping[str, Any]) -> RunSpec:
        return spec

    begin, used = time.perf_counter(), time.process_time()
    _, view = await take_over(store, spec.run, spec_of, leading, SystemClock(), "bench")
    taken = time.perf_counter() - begin, time.process_time() - used
    await leading.release()
    return *taken, view.events


async def throughput(
    name: str, words: str, open_store: Callable[[int], Store], steps: int, target: int
) -> Figure:
    rates, cpu = [], []
    for turn in range(TIMES):
        store = open_store(turn)
        seconds, used = await execute(store, wide_spec(f"run-{turn}", steps), NoopDriver())
        rates.append(steps / seconds)
        cpu.append(used / steps * 1e6)
        await store.close()
    note = f"{statistics.median(cpu):.1f} us of processor a step"
    return median(name, f"durable steps a second, {words}", rates, "steps/s", target, note=note)


async def recovery(store: Store, steps: int) -> Figure:
    """A run of `steps`, so twice as many events and a few."""
    spec = wide_spec("long", steps)
    await execute(store, spec, NoopDriver())
    found = [await recover(store, spec) for _ in range(TIMES)]
    await store.close()
    note = f"{statistics.median(one[1] for one in found):.2f} s of processor"
    words = f"recovery of a controller, journal of {found[0][2]:,} events"
    return median("recovery", words, [one[0] for one in found], "s", 5, "at most", note)


async def overhead(store: Store, steps: int) -> Figure:
    spec, planned_ms = scheduled_spec("sched", steps)
    seconds, used = await execute(store, spec, SleepingDriver(spec))
    await store.close()
    added = (seconds * 1_000 / planned_ms - 1) * 100
    note = f"{seconds:.1f} s instead of {planned_ms / 1_000:.1f} s; {used:.1f} s of processor"
    return Figure("overhead", f"added to a plan of {steps:,} steps", round(added, 3), "%", 2, "at most", note)


async def trust(folder: Path, steps: int) -> Figure:
    """How many fewer steps a second there are where every entry of the store is authenticated. Both kinds
    take turns, each first every second time, so that a machine that gets slower is no cost of one of them.
    """
    os.environ[SEAL] = os.urandom(32).hex()
    seal, rates, number = seal_of(f"env:{SEAL}"), {False: list[float](), True: list[float]()}, 0
    for turn in range(TRUST_TIMES):
        for sealed in (turn % 2 == 0, turn % 2 == 1):
            number += 1
            plain = SqliteStore(folder / f"trust-{number}.db")
            store: Store = SealedStore(plain, seal) if sealed else plain
            _, used = await execute(store, wide_spec(f"trust-{number}", steps), NoopDriver())
            rates[sealed].append(steps / used)
            await store.close()
    without, with_seal = (statistics.median(rates[one]) for one in (False, True))
    note = f"{with_seal:,.0f} instead of {without:,.0f} steps a second of processor, medians of {TRUST_TIMES}"
    words = "fewer steps a second in a sealed store"
    return Figure("trust", words, round((1 - with_seal / without) * 100, 2), "%", TRUST_MOST, "at most", note)


def three_members(folder: Path) -> list[EtcdServer]:
    names, ports = ("pangyo", "anyang", "ansan"), []
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    for one in held:
        ports.append(one.getsockname()[1])
        one.close()
    peers = {name: f"http://127.0.0.1:{ports[n * 2 + 1]}" for n, name in enumerate(names)}
    return [
        EtcdServer(name, "127.0.0.1", ports[n * 2], ports[n * 2 + 1], folder / name, peers)
        for n, name in enumerate(names)
    ]


def etcd_figure(folder: Path, steps: int) -> Figure:
    members = three_members(folder)
    try:
        for member in members:
            member.start()
        wait_for_all(members)
        urls = tuple(member.url for member in members)
        opened = lambda turn: EtcdStore(urls, prefix=f"t{turn}")  # noqa: E731
        return asyncio.run(throughput("steps_etcd", "three etcd members", opened, steps, 8_000))
    finally:
        for member in members:
            member.kill()


def sqlite_figure(folder: Path, steps: int) -> Figure:
    opened = lambda turn: SqliteStore(folder / f"run-{turn}.db")  # noqa: E731
    return asyncio.run(throughput("steps_sqlite", "SQLite", opened, steps, 15_000))


def figures(steps: int = STEPS, what: Collection[str] = WHAT) -> Iterator[Figure]:
    """Each as soon as it is measured."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EVAC_BENCH_FOLDER")) as name:
        folder = Path(name)
        if "sqlite" in what:
            yield sqlite_figure(folder, steps)
        if "etcd" in what:
            yield etcd_figure(folder, steps)
        if "overhead" in what:
            yield asyncio.run(overhead(SqliteStore(folder / "overhead.db"), steps))
        if "trust" in what:
            yield asyncio.run(trust(folder, min(steps, 20_000)))
        if "recovery" in what:
            yield asyncio.run(recovery(SqliteStore(folder / "long.db"), steps * 5))


def main(arguments: list[str] | None = None) -> None:
    """Prints every figure."""
    given = sys.argv[1:] if arguments is None else arguments
    for figure in figures(int(given[0]) if given else STEPS, given[1:] or WHAT):
        print(figure.line(), flush=True)


if __name__ == "__main__":
    main()
