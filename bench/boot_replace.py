"""A stage of the boot benchmark: another plan for a large run that is under way, and how long all else waits.

The engine carries a wave out on an embedded store, with a driver that has half of the servers up at once and
never has the rest up. Then a plan of the same size takes the place of the first. Meanwhile the loop is asked
for a turn all the time: the longest wait is what leases, votes and people would have waited.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.figures import Figure
from evac.drivers.manual import NoopDriver
from evac.drivers.port import Action, Evidence, Order
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run
from evac.run.values import KEPT, Event, RunLimit, RunSpec, RunStep
from evac.store.sqlite import SqliteStore

LEASE_MS: Final = 60_000
PER_RACK: Final = 32
RACKS_PER_FEED: Final = 8
AT_ONCE: Final = 2_000
OTHERS_PERMILLE: Final = 875
"""Starts and checks of services beside 1,000 boots: a plan of 32,000 servers has 60,000 steps."""
TARGET_MS: Final = 300
AFTER_S: Final = 2.0


def figures(servers: int) -> Iterator[Figure]:
    """The longest stop, and the whole."""
    with tempfile.TemporaryDirectory(prefix="evac-bench-") as folder:
        steps, stop_ms, whole_ms = asyncio.run(_measured(servers, Path(folder) / "journal.sqlite"))
    what = "the loop of the leader stands at most"
    note = f"{steps:,} steps; the new plan is in force after {whole_ms:.0f} ms"
    yield Figure("replaced", what, round(stop_ms, 1), "ms", TARGET_MS, "at most", note)


class _HalfUp(NoopDriver):
    """Has the first servers up at once, and never the others."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left, self.never = most, asyncio.Event()

    async def execute(self, action: Action, order: Order) -> Evidence:
        if order.step.startswith("boot:"):
            self.left -= 1
            if self.left < 0:
                await self.never.wait()
        return await super().execute(action, order)


def _actions(step: str) -> tuple[Action, ...]:
    return (Action("boot", step, "noop"),)


async def _measured(servers: int, file: Path) -> tuple[int, float, float]:
    """Steps, the longest stop in milliseconds, and how long it all took."""
    store, clock, driver = SqliteStore(file), SystemClock(), _HalfUp(servers // 2)
    first, second = spec("first", servers), spec("second", servers)
    leading = await Leadership.acquire(store, "bench", LEASE_MS, clock)
    terms = Terms("bench", _actions, lambda name: driver, leading, first.patience)
    journal, view = await create_run(store, first, leading, clock, {})
    execution = RunExecution(store, journal, view, leading, terms, clock)
    running = asyncio.create_task(execution.run())
    most = min(AT_ONCE, servers - servers // 2)
    while driver.left > -most:
        await asyncio.sleep(0.05)
    view.specs[second.plan] = second
    stops: list[float] = []
    ticking = asyncio.create_task(_tick(stops))
    began = time.perf_counter()
    await execution.say(Event("plan_replaced", 0, data={"plan": "second", "why": "bench", "lost": []}))
    whole_s = time.perf_counter() - began
    await asyncio.sleep(AFTER_S)
    ticking.cancel()
    execution.stop()
    await running
    await leading.release()
    await store.close()
    return len(second.steps), 1_000 * max(stops), 1_000 * whole_s


async def _tick(stops: list[float]) -> None:
    """How long each turn of the loop takes."""
    last = time.perf_counter()
    while True:
        await asyncio.sleep(0)
        now = time.perf_counter()
        stops.append(now - last)
        last = now


def spec(plan: str, servers: int) -> RunSpec:
    """A wave with everything that a boot holds, and services that start on what is up."""
    racks = -(-servers // PER_RACK)
    feeds = -(-racks // RACKS_PER_FEED)
    steps = [RunStep(f"power:f{n}", "power", f"f{n}", 0, 1_000) for n in range(feeds)]
    steps += [_boot(n) for n in range(servers)]
    services = servers * OTHERS_PERMILLE // 2_000
    for n in range(services):
        after = tuple(f"boot:s{(2 * n + k) % servers:06d}" for k in range(3))
        start = RunStep(f"start:w{n}", "start", f"w{n}", n, 1_000, after, act=plan)
        steps += [start, RunStep(f"verify:w{n}", "verify", f"w{n}", n, 1_000, (start.id,))]
    limits = [RunLimit(f"{kind}:f{n}", "slots", 10**9) for kind in ("power", "inrush") for n in range(feeds)]
    limits += [RunLimit(f"power:r{n}", "slots", 10**9) for n in range(racks)]
    limits += [RunLimit("power:hall", "slots", 10**9), RunLimit("boots:b", "slots", AT_ONCE)]
    limits += [RunLimit("addresses:b", "rate", 10**9, 60_000)]
    return RunSpec("bench", "bench", plan, tuple(steps), tuple(limits), approvals=0)


def _boot(n: int) -> RunStep:
    rack = n // PER_RACK
    feed = f"f{rack // RACKS_PER_FEED}"
    uses = (
        (f"power:{feed}", 400, KEPT),
        (f"power:r{rack}", 400, KEPT),
        ("power:hall", 400, KEPT),
        (f"inrush:{feed}", 800, 2_000),
        ("boots:b", 1, 0),
        ("addresses:b", 1, 0),
    )
    return RunStep(
        f"boot:s{n:06d}",
        "boot",
        f"s{n:06d}",
        10 * n,
        240_000,
        (f"power:{feed}",),
        uses,
        rack=f"r{rack}",
        feeds=(feed,),
        boot_server="b",
    )
