"""The store: journal appends a second on SQLite and on three etcd members, and opening a long journal.

`python -m bench.bench_store`; FULL=1 also fills etcd with 2,000,000 records. Medians of five rounds; beside
each figure the share of one core that this process used, and the load of the machine, for others may be
working on it. The members share the machine with the client. A record has 90 bytes, as a step's start has.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from evac.lab.servers.etcd import EtcdServer, etcd, wait_for_all
from evac.store.etcd import EtcdStore
from evac.store.journal import Journal
from evac.store.port import Lease, Store
from evac.store.sqlite import SqliteStore

RECORD = b'["step_started",1764000000000,"boot/pangyo-hall-2-r014-s07/1",1,{"token":12,"epoch":3}]  '[:90]
WIDTH = 256
ROUNDS = 5
LONG = 2_000_000


def main() -> None:
    print(f"records of {len(RECORD)} bytes, {os.cpu_count()} cores, uvloop; own CPU, load of the machine")
    with tempfile.TemporaryDirectory(dir=os.environ.get("EVAC_BENCH_FOLDER")) as folder:
        uvloop.run(_sqlite(Path(folder)))
        members = _members(Path(folder))
        try:
            uvloop.run(_etcd([member.url for member in members]))
        finally:
            for member in members:
                member.kill()


async def _sqlite(folder: Path) -> None:
    store = SqliteStore(folder / "evac.db")
    await _appends("SQLite", store, 1_000)
    await _long(store, "SQLite", LONG)
    await store.close()


async def _etcd(endpoints: list[str]) -> None:
    store = EtcdStore(endpoints)
    await _appends("etcd x3", store, 100)
    await _long(store, "etcd x3", LONG if os.environ.get("FULL") else LONG // 10)
    await store.close()


async def _appends(name: str, store: Store, segments: int) -> None:
    lease = await store.acquire("leader", "bench", 600_000)
    lists = await Journal.create(store, "lists", lease)
    singles = await Journal.create(store, "singles", lease)

    async def whole() -> int:
        for _ in range(segments):
            await lists.append([RECORD] * WIDTH, lease)
        return segments * WIDTH

    async def single() -> int:
        await asyncio.gather(*(_one_by_one(singles, lease, segments // 4) for _ in range(WIDTH)))
        return segments // 4 * WIDTH

    await _measure(f"{name}: {WIDTH} records an append, one after another", whole)
    await _measure(f"{name}: one record an append, {WIDTH} at once", single)
    await store.release(lease)


async def _one_by_one(journal: Journal, lease: Lease, count: int) -> None:
    for _ in range(count):
        await journal.append([RECORD], lease)


async def _measure(words: str, work: Callable[[], Awaitable[int]]) -> None:
    rates, shares = [], []
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), time.process_time()
        count = await work()
        wall = time.perf_counter() - began
        rates.append(count / wall)
        shares.append((time.process_time() - used) / wall)
    print(
        f"{words}: {statistics.median(rates):,.0f} records/s "
        f"(CPU {statistics.median(shares):.0%}, load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


async def _long(store: Store, name: str, records: int) -> None:
    lease = await store.acquire("leader", "bench", 600_000)
    journal = await Journal.create(store, "long", lease)
    for _ in range(records // 65_536 + 1):
        await journal.append([RECORD] * min(65_536, records - journal.head.records), lease)
        if journal.head.records >= records:
            break
    times = []
    for _ in range(3):
        began = time.perf_counter()
        opened = await Journal.open(store, "long")
        times.append(time.perf_counter() - began)
        assert opened.head == journal.head
    print(
        f"{name}: a journal of {records:,} records read, checked and opened in "
        f"{statistics.median(times):.2f} s (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )
    await store.release(lease)


def _members(folder: Path) -> list[EtcdServer]:
    ports = _free_ports(6)
    peers = {f"m{i}": f"http://127.0.0.1:{ports[2 * i + 1]}" for i in range(3)}
    members = [
        etcd(folder / name, "127.0.0.1", ports[2 * i], ports[2 * i + 1], name, peers)
        for i, name in enumerate(peers)
    ]
    for member in members:
        member.start()
    wait_for_all(members)
    return members


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    main()
