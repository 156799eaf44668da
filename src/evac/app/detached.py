"""Controllers that a command started for a run of an embedded store: their settings, and when they end.

detached    {"pid", "estate", "policy", "since_ms"}: written by each at its start

A controller ends a while after its last run. If every run only waits for a person it also ends, but later,
instead of running unnoticed; the next request about a run restarts it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson

from evac.app import runs
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.proposals import PROPOSAL, REQUESTS
from evac.engine.runs.releases import RELEASE
from evac.model.errors import EvacError, StoreError
from evac.model.records import dataclass
from evac.store.port import Put, Store

KEY: Final = "detached"
LOOK_S: Final = 1.0
PARKED_S: Final = 600.0
"""How long runs may only wait for a person before their controller ends."""
_WAITS: Final = frozenset({"awaiting_approval", "paused"})


@dataclass(frozen=True, slots=True)
class Started:
    """Settings that a controller was started with. policy: empty for the one next to the estate."""

    pid: int
    estate: str
    policy: str
    since_ms: int


async def remember(store: Store, started: Started) -> None:
    """Store the settings. Raises StoreError."""
    await store.transact((), (Put(KEY, orjson.dumps(asdict(started))),))


async def last_started(store: Store) -> Started | None:
    """The last settings; None if no command ever started one, or if they cannot be read."""
    entry = await store.get(KEY)
    if entry is None:
        return None
    with contextlib.suppress(ValueError, TypeError):
        return Started(**orjson.loads(entry.value))
    return None


@dataclass(frozen=True, slots=True)
class Background:
    """A controller on this machine that a command started for a run."""

    pid: int
    estate: str
    store: str


def in_background(processes: Path = Path("/proc")) -> tuple[Background, ...]:
    """All on this machine whose command line is readable, oldest first; none on systems without a process
    table.
    """
    found = []
    for folder in processes.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            command = line[2:] if line[1:2] == ["-P"] else line[1:]
            if "--until-idle" in command and command[:3] == ["-m", "evac", "serve"] and "--store" in command:
                store = command[command.index("--store") + 1]
                found.append(Background(int(folder.name), command[3], store))
    return tuple(sorted(found, key=lambda one: one.pid))


async def until_idle(
    store: Store,
    idle_s: float,
    parked_s: float = PARKED_S,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return once there was no run for `idle_s`, or every run only waited for a person for `parked_s`."""
    quiet_s = parked_for_s = 0.0
    while quiet_s < idle_s and parked_for_s < parked_s:
        await pause(LOOK_S)
        with contextlib.suppress(StoreError):
            opened = await store.list(OPEN)
            asked = [
                one for prefix in (PROPOSAL, REQUESTS, RELEASE) for one in await store.list(prefix, limit=1)
            ]
            quiet_s = 0.0 if opened or asked else quiet_s + LOOK_S
            names = [entry.key.removeprefix(OPEN) for entry in opened]
            parked = bool(names) and not asked and all([await _is_parked(store, name) for name in names])
            parked_for_s = parked_for_s + LOOK_S if parked else 0.0


async def _is_parked(store: Store, run: str) -> bool:
    """Whether a run continues only if a person acts. A run that resumes by itself does not count."""
    try:
        view = await runs.view_of(store, run)
    except EvacError:
        return False
    goes_on = view.pause is not None and view.phase == "paused" and view.pause.then != "stay"
    return view.phase in _WAITS and not goes_on and not view.manual_running
