"""Stages of the boot benchmark without any limit but politeness: power-on of all, a sweep, a wrong password.

The fleet is one process, evac another, which measures itself; both share the machine. The engine goes the
whole way for each server: intent in the journal, check, execute, observe, result.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.boot_fleet import FleetProcess, Server, fleet, servers_of
from bench.figures import Figure, peak_mib
from evac.drivers.port import Action
from evac.drivers.redfish.driver import RedfishDriver
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run
from evac.run.values import RunSpec, RunStep
from evac.store.sqlite import SqliteStore

SPEED = 4.0
BOOT_MS = 540_000
"""Of the class that a fleet is made of; divided by the speed. A boot takes longer than the power-on of all
may take, as it does in truth: nobody looks at servers that are up while others still wait for power.
"""
AT_ONCE = 512
SWEEP_SECONDS = 300.0
"""A sweep that takes longer than its target is measured too."""
OPTIONS = ("--faults", "none", "--no-limits", "--latency", "1", "--speed", str(SPEED))
CHILD_SECONDS = 900.0
TARGETS = {"plain": 40.0, "tls": 90.0}


def figures(servers: int) -> Iterator[Figure]:
    """Each stage on a fleet of its own."""
    scale = servers / 32_000
    for name, options in (("plain", ()), ("tls", ("--tls",))):
        yield from _power_on(servers, name, scale, *options)
    yield from _sweep(servers, scale)
    yield from _wrong_password(servers)


def _power_on(servers: int, name: str, scale: float, *options: str) -> Iterator[Figure]:
    with _stage(servers, *options) as (process, folder):
        found = _child("power-on", process, folder)
        stats = process.stats()
        note = (
            f"processor until then: evac {found['on_cpu_s']:.1f} s, fleet {found['on_fleet_s']:.1f} s; "
            f"all up after {found['up_s']:.1f} s: evac {found['cpu_s']:.1f} s, "
            f"fleet {process.cpu_seconds():.1f} s; {found['sent'] / servers:.2f} requests a server"
        )
        words = "power-on of all, plain HTTP" if name == "plain" else "power-on of all, TLS with a pin"
        yield Figure(f"power-on-{name}", words, found["on_s"], "s", TARGETS[name] * scale, "at most", note)
        yield Figure(f"evac-memory-{name}", "  memory of evac", found["memory_mib"], "MiB", 1_024, "at most")
        yield Figure(
            f"fleet-memory-{name}", "  memory of the fleet", process.memory_mib(), "MiB", 100, "at most"
        )
        polite = stats["requests"]["most_at_once_to_one"]
        yield Figure(f"at-once-{name}", "  requests at once to one controller", polite, "", 1, "at most")
        twice = stats["resets"]["power_ons_max"]
        yield Figure(f"twice-{name}", "  power-ons of one server", twice, "", 1, "at most")
        missing = servers - stats["servers"]["up"]
        yield Figure(f"missing-{name}", "  servers that are not up at the end", missing, "", 0, "at most")


def _sweep(servers: int, scale: float) -> Iterator[Figure]:
    for name, options in (("plain", ()), ("tls", ("--tls",))):
        with _stage(servers, *options) as (process, folder):
            found = _child("sweep", process, folder)
            polite = process.stats()["requests"]["most_at_once_to_one"]
            note = f"processor: evac {found['cpu_s']:.1f} s, fleet {process.cpu_seconds():.1f} s"
            words = f"state of all swept, {'TLS' if options else 'plain HTTP'}"
            yield Figure(f"sweep-{name}", words, found["seconds"], "s", 60 * scale, "at most", note)
            yield Figure(f"sweep-told-{name}", "  servers whose state is known", found["known"], "", servers)
            yield Figure(
                f"sweep-at-once-{name}", "  requests at once to one controller", polite, "", 1, "at most"
            )


def _wrong_password(servers: int) -> Iterator[Figure]:
    with _stage(servers) as (process, folder):
        found = _child("wrong-password", process, folder)
        stats = process.stats()
        refused = stats["requests"]["unauthorized"]
        yield Figure(
            "refusals",
            "wrong password: refusals until the run stands",
            refused,
            "",
            5,
            "at most",
            f"after {found['seconds']:.1f} s: {found['phase']}",
        )
        yield Figure("stands", "  run stands (1: yes)", float(found["phase"] == "paused"), "", 1)
        yield Figure("lockouts", "  accounts locked", stats["lockouts"], "", 0, "at most")


class _stage:
    """A fleet in a folder that is gone afterwards."""

    def __init__(self, servers: int, *options: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="evac-bench-")
        self.folder = Path(self._temporary.name)
        self._fleet = fleet(self.folder, servers, *OPTIONS, *options)

    def __enter__(self) -> tuple[FleetProcess, Path]:
        return self._fleet.__enter__(), self.folder

    def __exit__(self, *error: Any) -> None:
        try:
            self._fleet.__exit__(*error)
        finally:
            self._temporary.cleanup()


def _child(what: str, process: FleetProcess, folder: Path) -> dict[str, Any]:
    """evac in a process of its own, so that its memory and processor time are its own."""
    about = folder / "about.json"
    about.write_text(json.dumps(process.about), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "bench.boot_power_on", what, str(about), str(folder)],
        stdout=subprocess.PIPE,
        timeout=CHILD_SECONDS,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def settings_of(about: dict[str, Any], password: str = "") -> dict[str, str | int]:
    trust = {"pin": about["pin"]} if about["pin"] else {}
    return {
        "user": about["user"],
        "password": password or about["password"],
        "scheme": about["scheme"],
        "port": about["port"],
        "requests_at_once": AT_ONCE,
        **trust,
    }


def actions_of(
    about: dict[str, Any], servers: list[Server], password: str = ""
) -> dict[str, tuple[Action, ...]]:
    settings, boot_ms = settings_of(about, password), int(BOOT_MS / about["speed"])
    return {
        f"boot:{one.name}": (
            Action(
                "boot",
                one.name,
                "redfish",
                about["site"],
                settings,
                {
                    "server": one.name,
                    "address": one.address,
                    "serial": one.serial,
                    "network": "all",
                    "boot_ms": boot_ms,
                },
            ),
        )
        for one in servers
    }


async def _run_all(about: dict[str, Any], folder: Path, password: str = "") -> dict[str, Any]:
    """One run that boots every server. Ends when it has ended, or stands."""
    actions = actions_of(about, servers_of(about), password)
    boot_ms = int(BOOT_MS / about["speed"])
    steps = tuple(
        RunStep(step, "boot", step.partition(":")[2], 0, boot_ms, site=about["site"]) for step in actions
    )
    spec = RunSpec("bench", "bench", "plan", steps, approvals=0)
    driver, clock = RedfishDriver(), SystemClock()
    store = SqliteStore(str(folder / "journal.sqlite"))
    leading = await Leadership.acquire(store, "bench", 600_000, clock)
    terms = Terms(spec.run, actions.__getitem__, lambda name: driver, leading, spec.patience, "bench")
    begin, used = time.perf_counter(), time.process_time()
    journal, view = await create_run(store, spec, leading, clock, {"reason": "bench"})
    execution = RunExecution(store, journal, view, leading, terms, clock)
    running = asyncio.create_task(execution.run())
    watching = asyncio.create_task(_last_power_on(about, len(steps)))
    while not running.done() and execution.view.phase != "paused":
        await asyncio.wait({running}, timeout=0.1)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    phase = execution.view.phase
    for task in (running, watching):
        task.cancel()
    _, last = await asyncio.gather(running, watching, return_exceptions=True)
    await driver.close()
    await store.close()
    on_at, on_used, on_fleet_s = last if isinstance(last, tuple) else (begin + seconds, used + cpu, 0.0)
    return {
        "phase": phase,
        "seconds": seconds,
        "up_s": seconds,
        "on_s": on_at - begin,
        "cpu_s": cpu,
        "on_cpu_s": on_used - used,
        "on_fleet_s": on_fleet_s,
        "sent": driver.requests_sent,
    }


async def _last_power_on(about: dict[str, Any], servers: int) -> tuple[float, float, float]:
    """When the fleet has counted the power-on of the last server; processor of evac and fleet by then."""
    process = FleetProcess(about)
    while (await asyncio.to_thread(process.stats))["resets"]["power_ons"] < servers:
        await asyncio.sleep(0.5)
    return time.perf_counter(), time.process_time(), process.cpu_seconds()


async def _sweep_all(about: dict[str, Any], folder: Path) -> dict[str, Any]:
    from evac.drivers.credentials import sweep

    driver = RedfishDriver()
    asked = [(driver, found[0]) for found in actions_of(about, servers_of(about)).values()]
    begin, used = time.perf_counter(), time.process_time()
    seen = await sweep(asked, SWEEP_SECONDS)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    await driver.close()
    return {"seconds": seconds, "cpu_s": cpu, "known": sum(one.power in ("on", "off") for one in seen)}


async def _wrong(about: dict[str, Any], folder: Path) -> dict[str, Any]:
    file = folder / "wrong"
    file.touch(mode=0o600)
    file.write_text("not-the-password", encoding="utf-8")
    return await _run_all(about, folder, f"file:{file}")


WHAT: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "power-on": _run_all,
    "sweep": _sweep_all,
    "wrong-password": _wrong,
}


def main(arguments: list[str]) -> int:
    """The child: prints what it measured as one line of JSON."""
    import uvloop

    what, about, folder = arguments
    told = json.loads(Path(about).read_text(encoding="utf-8"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(WHAT[what](told, Path(folder)))
    print(json.dumps({**found, "memory_mib": peak_mib()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
