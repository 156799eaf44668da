"""The leader is killed: how long until another leads, and whether any request that was acknowledged is lost.

Three members of etcd and three controllers, each a process. While people ask for runs, the process that
leads is killed, as a fire kills it. A request is acknowledged when the store has it; it is lost if no leader
ever answers it. A killed controller is started again before the next kill.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from bench.figures import Figure, worst
from evac.app.planner.plans import make_plan
from evac.app.runs import Proposal, new_id, proposal_entry
from evac.engine.lead.leadership import LEADER
from evac.engine.plans.library import put_plan
from evac.engine.runs.proposals import ANSWER
from evac.model.errors import EvacError
from evac.model.scenario import lose
from evac.store.opening import open_store
from evac.store.port import Compare, Put, Store
from evac_lab.servers.etcd import EtcdServer, etcd, wait_for_all

KILLS: Final = 5
SERVERS: Final = 1_000
ASK_EVERY_S: Final = 0.5
LEADS_S: Final = 60.0
ANSWERED_S: Final = 120.0
HOSTS: Final = {"anyang": "127.0.43.1", "bundang": "127.0.43.2", "pangyo": "127.0.43.3"}


def leader(servers: int) -> Iterator[Figure]:
    """How large the estate is does not matter here: it is small."""
    took, asked, lost, plain = asyncio.run(_measured())
    note = f"{len(took)} kills, {len(HOSTS)} controllers on {len(HOSTS)} members of etcd"
    yield worst("leader_killed", "leader killed: another leads, the slowest", took, "s", 5, note)
    words = f"{asked} acknowledged, one every {ASK_EVERY_S * 1e3:g} ms; {plain} refused with words"
    yield Figure("leader_lost", "requests lost that were acknowledged", lost, "", 0, "at most", words)


async def _measured() -> tuple[list[float], int, int, int]:
    """(seconds of each change, requests, lost ones, those that were refused)."""
    with tempfile.TemporaryDirectory(prefix="evac-bench-") as name:
        folder = Path(name)
        words = ["example", "pangyo-mended", "-o", str(folder / "estate"), "--servers", str(SERVERS), "-q"]
        subprocess.run([sys.executable, "-m", "evac", *words], check=True)
        members = _members(folder)
        try:
            for member in members.values():
                member.start()
            wait_for_all(list(members.values()))
            address = "etcd:" + ",".join(member.url for member in members.values())
            async with _controllers(folder / "estate", address) as controllers:
                return await _killed(folder / "estate", address, controllers)
        finally:
            for member in members.values():
                member.kill()


def _members(folder: Path) -> dict[str, EtcdServer]:
    ports = {name: _free(host) for name, host in HOSTS.items()}
    peers = {name: f"http://{HOSTS[name]}:{port}" for name, port in ports.items()}
    return {
        name: etcd(folder / name, host, _free(host), ports[name], name, peers) for name, host in HOSTS.items()
    }


def _free(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class _Controllers:
    """One process a site."""

    def __init__(self, estate: Path, address: str) -> None:
        self._estate, self._address = estate, address
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, site: str) -> None:
        command = [sys.executable, "-m", "evac", "serve", str(self._estate), "--site", site]
        self._running[site] = subprocess.Popen(
            [*command, "--store", self._address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, site: str) -> None:
        """With everything that it started."""
        process = self._running.pop(site)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def end(self) -> None:
        for site in list(self._running):
            self.kill(site)


@asynccontextmanager
async def _controllers(estate: Path, address: str) -> AsyncIterator[_Controllers]:
    made = _Controllers(estate, address)
    try:
        for site in HOSTS:
            made.start(site)
        yield made
    finally:
        made.end()


async def _killed(estate: Path, address: str, controllers: _Controllers) -> tuple[list[float], int, int, int]:
    from evac import estate as estates

    store, took = open_store(address), []
    plan = make_plan(estates.load(estate), lose("anyang"), budget_ms=0).data
    digest = await put_plan(store, plan)
    asked: list[str] = []
    asking = asyncio.create_task(_ask(store, digest, asked))
    try:
        owner, token = await _leads(store, 0)
        for _ in range(KILLS):
            await asyncio.sleep(2.0)
            site, began = owner.partition("/")[0], time.perf_counter()
            controllers.kill(site)
            owner, token = await _leads(store, token)
            took.append(time.perf_counter() - began)
            controllers.start(site)
        await asyncio.sleep(2.0)
        asking.cancel()
        answers = await _answers(store, asked)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await store.close()
    refused = sum(b'"refused"' in value for value in answers.values())
    return took, len(asked), len(set(asked) - set(answers)), refused


async def _ask(store: Store, digest: str, asked: list[str]) -> None:
    """Asks for runs, as a person does through the API; what the store did not acknowledge is not counted."""
    while True:
        number = new_id(int(time.time() * 1e3))
        key, value = proposal_entry(number, digest, Proposal(f"bench-{number}", b"", "bench", ("anyang",)))
        with suppress(EvacError):
            await store.transact((Compare(key, 0),), (Put(key, value),))
            asked.append(number)
        await asyncio.sleep(ASK_EVERY_S)


async def _leads(store: Store, token: int) -> tuple[str, int]:
    """Who leads with a greater token than that."""
    async with asyncio.timeout(LEADS_S):
        while True:
            with suppress(EvacError):
                lease = await store.holder(LEADER)
                if lease is not None and lease.token > token:
                    return lease.owner, lease.token
            await asyncio.sleep(0.02)


async def _answers(store: Store, asked: Sequence[str]) -> Mapping[str, bytes]:
    """Number -> answer, once all are there or the time is up."""
    found: dict[str, bytes] = {}
    deadline = time.perf_counter() + ANSWERED_S
    while len(found) < len(asked) and time.perf_counter() < deadline:
        after = ""
        while page := await store.list(ANSWER, after):
            found |= {entry.key.removeprefix(ANSWER): entry.value for entry in page}
            after = page[-1].key
        await asyncio.sleep(0.2)
    return found
