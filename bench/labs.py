"""A lab to measure: up, at rest before each fire, and gone afterwards whatever happens.

A fire is only comparable where everything was at rest before it: all sites up, the replica synchronous, a
plan for each loss in the drawer, the standing fact of the fence fresh, every client writing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from bench.figures import Table
from evac import estate as estates
from evac.app.controlling import hands_of
from evac.app.observed_stores import merged
from evac.app.observing import observe
from evac.derive.stores import observed
from evac.drivers.registry import Drivers
from evac.model.digest import estate_digest
from evac.model.errors import EvacError
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.store.port import Store
from evac_lab import clients, doctor, restoring, site_servers, status, world
from evac_lab.site_servers import Ground
from evac_lab.state import LabError, LabFolder, Starter, store_url, topology

SETTLE_SECONDS = 60.0
_PAUSE_SECONDS = 0.5
DATA = "messages"


class NotAtRest(Exception):
    """The lab did not come to rest. The message says what was missing."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Sites of the copies of the data that loses nothing."""

    primary: str
    synchronous: str


def free_offset(first: int, last: int = 59) -> int:
    """The first lab number from `first` on whose addresses nobody uses. Raises `LabError`."""
    for offset in range(first, last + 1):
        if not doctor.taken_ports(topology("loopback", offset)):
            return offset
    raise LabError("lab-offset", f"somebody listens in all labs from {first} to {last}", "evac lab down")


@contextmanager
def lab(options: world.Options, change: Callable[[LabFolder], None] | None = None) -> Iterator[LabFolder]:
    """change: made to the files of the estate, and to the servers, before any controller starts."""
    path = Path(tempfile.mkdtemp(prefix="evac-bench-lab-", dir=os.environ.get("EVAC_BENCH_FOLDER")))
    path.chmod(0o755)
    folder = LabFolder(path)
    try:
        world.up(replace(options, controllers=options.controllers and change is None), folder)
        if change is not None:
            change(folder)
            if options.controllers:
                start_controllers(folder)
        yield folder
    finally:
        world.down(folder)
        shutil.rmtree(path, ignore_errors=True)


def start_controllers(folder: LabFolder) -> None:
    """One in each site; returns when one leads."""
    with folder.locked():
        state = folder.need()
        starter = Starter(folder, state, lambda share, words: None)
        ground = Ground(folder, state.topology)
        for site in state.topology.sites:
            starter.launch(site.name, "controller", site_servers.controller(ground, site, {}))
        world.wait_for(
            lambda: bool(status.leader_site(state.topology)), world.READY_SECONDS, "electing a leader"
        )
        starter.check()
        starter.let_go()


def settle(folder: LabFolder, timeout_s: float = SETTLE_SECONDS, synchronous: bool = True) -> Roles:
    """Waits until the lab is at rest. Raises `NotAtRest`."""
    since_ms = int(time.time() * 1_000)
    deadline = time.monotonic() + timeout_s
    while True:
        roles, why = _look(folder, since_ms, synchronous)
        if not why:
            return roles
        if time.monotonic() > deadline:
            raise NotAtRest(f"not at rest in {timeout_s:g} s: {why}")
        time.sleep(_PAUSE_SECONDS)


def _look(folder: LabFolder, since_ms: int, synchronous: bool) -> tuple[Roles, str]:
    state = folder.need()
    shown = status.look(folder, state)
    rows = {site.name: site.postgres for site in shown.sites}
    primaries = [name for name, words in rows.items() if words.startswith("primary")]
    if len(primaries) != 1:
        return Roles("", ""), f"{len(primaries)} primaries"
    roles = Roles(primaries[0], _synchronous(rows[primaries[0]]))
    if any(site.state != "up" for site in shown.sites):
        return roles, "a site is not up"
    if rows[primaries[0]].count("dc-") != 2 or (synchronous and not roles.synchronous):
        return roles, f"replicas: {rows[primaries[0]]}"
    last = shown.last_write_seconds
    if not shown.writes_per_second or last is None or last > 1:
        return roles, "the clients do not write"
    return roles, _controllers(folder, since_ms, synchronous)


def _synchronous(words: str) -> str:
    """The site behind `dc-anyang sync` in what the primary says of its replicas."""
    found = [part.split()[0] for part in words.partition(" -> ")[2].split(", ") if part.endswith(" sync")]
    return found[0].removeprefix("dc-") if len(found) == 1 else ""


def _controllers(folder: LabFolder, since_ms: int, synchronous: bool) -> str:
    """What evac's controllers lack to meet the next fire; "" where they are ready."""
    topology = folder.need().topology
    if not status.leader_site(topology):
        return "nobody leads"

    async def question(store: Store) -> str:
        digest = estate_digest(await _estate(folder))
        for site in topology.sites:
            plan = await _value(store, f"drawer/{site.name}")
            if plan.get("estate") != digest or not plan.get("plan"):
                return f"no plan for {site.name}: {plan.get('problem') or 'it is being made'}"
        if synchronous and (await _value(store, f"standing/{DATA}")).get("at_ms", 0) < since_ms:
            return "the fence is not checked yet"
        register = await _value(store, "sites")
        gone = [name for name, mark in register.items() if mark != "active"]
        return f"not active: {', '.join(gone)}" if gone else ""

    try:
        return status.ask(topology, question)
    except EvacError as error:
        return error.message


async def _estate(folder: LabFolder) -> Estate:
    """The estate with the roles that its stores have now: what a plan in the drawer must be made of."""
    files, drivers = estates.load(folder.estate), Drivers()
    try:
        drivers.know(hands_of(files))
        now = await observe(files, drivers, time.time_ns() // 1_000_000)
        return observed(files, merged(Observation(0), now))
    finally:
        await drivers.close()


async def _value(store: Store, key: str) -> dict[str, Any]:
    entry = await store.get(key)
    return {} if entry is None else dict(orjson.loads(entry.value))


def bring_back(table: Table, folder: LabFolder, site: str) -> None:
    """Restores a burnt site, with a second try. Raises `NotAtRest` where it does not come back whole."""
    for last in (False, True):
        try:
            done = restoring.restore(folder, site, reason="bench")
            words = " / ".join(done.words)
        except EvacError as error:
            done, words = None, error.message
        if done is not None and done.whole:
            return
        if last:
            raise NotAtRest(f"{site} did not come back: {words}")
        table.trouble(f"{site} did not come back at the first try: {words}")


def rejoin(table: Table, folder: LabFolder, site: str) -> restoring.Returned:
    """Brings back the data of a site whose servers run again, with a second try; says what went wrong."""
    topology = folder.need().topology
    url = store_url(topology, topology.others(site)[0].name)
    for last in (False, True):
        back = asyncio.run(restoring.bring_back(folder, url, site, "restore", "bench", lambda words: None))
        if back.whole:
            break
        which = "" if last else " at the first try"
        table.trouble(f"{site} did not come back{which}: {' / '.join(restoring.as_words(back))}")
    return back


def runs_made(folder: LabFolder) -> tuple[str, ...]:
    """Incidents for which evac made a run; those that `evac lab restore` asked for are left out."""

    async def question(store: Store) -> tuple[str, ...]:
        names = [entry.key.removeprefix("incident/") for entry in await store.list("incident/")]
        return tuple(name for name in names if "-restore-" not in name and "-failback-" not in name)

    return status.ask(folder.need().topology, question)


def double_primary_seconds(folder: LabFolder) -> float:
    """Over the whole life of the lab."""
    return clients.double_primary_seconds(clients.read_ledger(folder.ledger))
