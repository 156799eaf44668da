"""A day of a controller in compressed time: does its memory stay where it was?

The controller that `evac serve` puts together, on the estate at full size, with the office of a war room in
the same process, on a store in memory. Its clocks and its loop jump to whatever is waited for next, so a day
passes in minutes, and nothing in it is left out: witnesses probe and vote, verdicts are judged and told, the
leader keeps its lease. Each hour the probes of one site fail for ten minutes.
"""

from __future__ import annotations

import asyncio
import errno
import json
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure

HOURS: Final = 24
HOUR_S: Final = 3_600.0
SILENT_S: Final = 600.0
LONGEST_S: Final = 570.0
SETTLED: Final = 4
"""Hours until everything that is kept is there."""


def day(servers: int) -> Iterator[Figure]:
    """In a process of its own, whose memory is looked at each hour."""
    with tempfile.TemporaryDirectory(prefix="evac-bench-") as name:
        words = ["example", "pangyo-mended", "-o", f"{name}/estate", "--servers", str(servers), "-q"]
        subprocess.run([sys.executable, "-m", "evac", *words], check=True)
        command = [sys.executable, "-m", "bench.serve_day", f"{name}/estate"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S + 30, check=False)
    hours: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line]
    if len(hours) <= SETTLED:
        yield Figure(
            "day_memory",
            "memory of the controller over a simulated day",
            None,
            "MiB",
            1_024,
            "at most",
            f"{len(hours)} hours passed; {done.stderr[-200:]}",
        )
        return
    most = max(hour["mib"] for hour in hours)
    growth = hours[-1]["mib"] - hours[SETTLED]["mib"]
    last = hours[-1]
    note = f"{last['versions']} situations shown"
    what = f"memory of the controller over {len(hours)} simulated hours, most"
    yield Figure("day_memory", what, most, "MiB", 1_024, "at most", note)
    words = f"hour {SETTLED} to {len(hours)}"
    yield Figure("day_growth", "growth of it once all is there", growth, "MiB", 50, "at most", words)


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing but other processes: where only timers are left, the time of the loop jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s, self.working = 0.0, 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0 if not self.working else min(0.05, 0.05 if timeout is None else timeout))
        if not found and timeout and not self.working:
            self.ahead_s += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return time.monotonic() + self.jumping.ahead_s

    def run_in_executor(self, executor: Any, work: Any, *arguments: Any) -> asyncio.Future[Any]:
        self.jumping.working += 1
        found = super().run_in_executor(executor, work, *arguments)
        found.add_done_callback(lambda _: setattr(self.jumping, "working", self.jumping.working - 1))
        return found


class _Clock:
    def __init__(self, loop: _Loop) -> None:
        self._loop, self._began = loop, time.time() - loop.time()

    def now_ms(self) -> int:
        return int((self._began + self._loop.time()) * 1e3)

    def monotonic_ms(self) -> int:
        return int(self._loop.time() * 1e3)


def _memory_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not say how much memory a process has")


def main(arguments: Sequence[str]) -> int:
    """Lives a day and says each hour what it takes."""
    loop = _Loop()
    loop.run_until_complete(_live(loop, Path(arguments[0])))
    return 0


async def _live(loop: _Loop, folder: Path) -> None:
    from evac.app.controlling import Setting, compose
    from evac.office.office import Office
    from evac.office.reckoning import Worker
    from evac.watch.verdict import Seen
    from evac.watch.witness import Probe

    clock, told = _Clock(loop), []
    began = loop.time()
    silent: set[str] = set()

    def probe(site: str) -> Probe:
        async def ask() -> Seen:
            await asyncio.sleep(0.01)
            if site in silent:
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"{site} is silent")
            return Seen("user", "up", 10)

        return Probe("user", "front", ask)

    sites = ("anyang", "bundang", "gasan", "pangyo")
    targets: Mapping[str, Sequence[Probe]] = {site: [probe(site)] for site in sites}
    setting = Setting(folder, "sejong", "memory:", drawer=False)
    made = await compose(setting, told.append, clock, targets=targets)  # type: ignore[arg-type]
    office = Office(made.store, Worker(folder), clock, "sejong")  # type: ignore[arg-type]
    tasks = [asyncio.create_task(work) for work in (made.controller.run(), made.seen.follow(), office.run())]
    real = time.monotonic()
    for hour in range(1, HOURS + 1):
        silent.add(sites[hour % len(sites)])
        await asyncio.sleep(SILENT_S)
        silent.clear()
        await asyncio.sleep(max(0.0, began + hour * HOUR_S - loop.time()))
        row = {"mib": _memory_mib(), "verdicts": len(told), "versions": office.situation.version}
        print(json.dumps(row), flush=True)
        told_most = 10_000
        del told[:-told_most]
        if time.monotonic() - real > LONGEST_S - 30:
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await made.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
