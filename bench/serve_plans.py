"""Standing plans: from a change of one service until each scenario has a plan of the changed estate.

The drawer, its workers and the SQLite store are those of a leading controller, and as there the workers live
on: they are told of the changed estate and read it anew. A change is made in the files, as a person makes it.
First plans count; better ones are not looked for. How far it is, it says on standard error.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from evac import estate as estates
from evac.app.planner.worker import PlanningWorker
from evac.engine.clock import SystemClock
from evac.engine.plans.library import Drawer, Made, decode
from evac.engine.plans.queue import WantedPlan, Work
from evac.model.digest import estate_digest
from evac.model.run_policy import RunPolicy
from evac.store.opening import open_store
from evac.store.port import Lease, Store

SECONDS: Final = 540.0
FIRST_SECONDS: Final = 2_400.0
"""How long all plans from nothing may take: a slow machine has to come to the changes."""
TELL_SECONDS: Final = 15.0
CHANGES: Final[Mapping[str, tuple[str, str]]] = {
    "start": ("start: 30 s", "start: 40 s"),
    "rto": ("rto: 2 h", "rto: 3 h"),
}
"""What is changed of the first service of the example, which stands in every hall: (before, after)."""
SIZES: Final = (3_000, 9_000)


@dataclass(slots=True)
class Filled:
    """seconds: None where the time was up. made, confirmed: plans; worst: seconds of the slowest; processor,
    own: seconds of it that the planning processes, and the leader itself, took.
    """

    seconds: float | None
    scenarios: int = 0
    made: int = 0
    confirmed: int = 0
    worst: tuple[float, str] = (0.0, "")
    processor: float = 0.0
    own: float = 0.0
    problems: list[str] = field(default_factory=list)


def plans(servers: int, sizes: Sequence[int] = SIZES) -> Iterator[Figure]:
    """At some smaller sizes, then at the size asked for; there each kind of change."""
    for size in (*(one for one in sizes if one < servers), servers):
        changes = CHANGES if size == servers else {"start": CHANGES["start"]}
        found = asyncio.run(_measured(size, changes))
        first = found["all"]
        yield Figure(
            f"plans_{size}_all",
            f"{size:,} servers: {first.scenarios} scenarios, all from nothing",
            first.seconds,
            "s",
            note=_note(first),
        )
        for name in changes:
            told, last = found[name], size == servers
            what = f"{size:,} servers: all fresh after another {name} of one service"
            target = (60.0, "at most") if last else (None, None)
            yield Figure(f"plans_{size}_{name}", what, told.seconds, "s", *target, _note(told))
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    yield Figure("plans_worker", "largest planning process", used, "MiB")


def _note(told: Filled) -> str:
    words = f"{told.made} made, {told.confirmed} confirmed; slowest {told.worst[0]:.1f} s: {told.worst[1]}; "
    words += f"{told.processor:.0f} + {told.own:.0f} s of processor"
    return words + (f"; {len(told.problems)} without a plan: {told.problems[0]}" if told.problems else "")


async def _measured(servers: int, changes: Mapping[str, tuple[str, str]]) -> dict[str, Filled]:
    found: dict[str, Filled] = {}
    with tempfile.TemporaryDirectory(prefix="evac-bench-") as name:
        folder = Path(name) / "estate"
        words = ["example", "pangyo-mended", "-o", str(folder), "--servers", str(servers), "-q"]
        subprocess.run([sys.executable, "-m", "evac", *words], check=True)
        store = open_store(f"sqlite:{name}/plans.sqlite")
        guard = await store.acquire("leader", "bench", 3_600_000)
        worker = PlanningWorker(folder, None, RunPolicy(), servers=servers)
        try:
            found["all"] = await _filled(
                folder, store, guard, worker, f"{servers:,} servers, all", FIRST_SECONDS
            )
            for change, (old, new) in changes.items():
                folder = Path(shutil.copytree(folder, Path(name) / change))
                text = (folder / "services.yaml").read_text("utf-8")
                (folder / "services.yaml").write_text(text.replace(old, new, 1), "utf-8")
                found[change] = await _filled(folder, store, guard, worker, f"{servers:,} servers, {change}")
        finally:
            worker.close()
            await store.close()
    return found


async def _filled(
    folder: Path, store: Store, guard: Lease, worker: PlanningWorker, what: str, most: float = SECONDS
) -> Filled:
    """Until every scenario has a plan of the estate in that folder. Reading the files counts."""
    began, own, before = time.perf_counter(), time.process_time(), _processor_s(worker)
    estate = await asyncio.to_thread(estates.load, folder)
    digest, told = estate_digest(estate), Filled(None)
    worker.take(folder, len(estate.fleet))
    told.scenarios = len(await worker.scenarios())
    counted = _Counting(worker, told)
    drawer = Drawer(
        store, SystemClock(), tuple(s.id for s in estate.sites), counted, lambda: digest, look_ms=200
    )
    task, tell = asyncio.create_task(drawer.run(guard)), began + TELL_SECONDS
    try:
        while (now := time.perf_counter()) - began < most and not task.done():
            entries = await store.list("drawer/")
            ready = [one for entry in entries if (one := decode(entry)) and one.estate == digest]
            if len(ready) >= told.scenarios:
                told.seconds = time.perf_counter() - began
                told.problems = [one.problem for one in ready if one.problem]
                break
            if now > tell:
                tell = now + TELL_SECONDS
                far = f"{len(ready)} of {told.scenarios} plans, {now - began:.0f} s"
                print(f"  {what}: {far}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.2)
    finally:
        told.processor, told.own = _processor_s(worker) - before, time.process_time() - own
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return told


def _processor_s(worker: PlanningWorker) -> float:
    """Of all planning processes since they began."""
    ticks = 0
    for pid in worker.pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class _Counting:
    """The worker, and what it did until all was fresh."""

    def __init__(self, worker: PlanningWorker, told: Filled) -> None:
        self._worker, self._told = worker, told
        self.lanes = worker.lanes

    async def scenarios(self) -> Sequence[WantedPlan]:
        return await self._worker.scenarios()

    async def stand(self, lane: int, lost: tuple[str, ...], work: Work, known: Any, load: Any) -> Made:
        if work != "make":
            await asyncio.Event().wait()  # all is fresh: what comes after that is not measured
        began = time.perf_counter()
        made = await self._worker.stand(lane, lost, work, known, load)
        self._told.made += not made.confirmed
        self._told.confirmed += made.confirmed
        self._told.worst = max(self._told.worst, (time.perf_counter() - began, "+".join(lost)))
        return made
