"""The store: journal appends a second on SQLite and on three etcd members, and opening a long journal.

`python -m bench run` measures it among others, `python -m bench.bench_store` alone; FULL=1 also fills etcd
with 2,000,000 records. Medians of five rounds; beside each figure the share of one core that this process
used, and the load of the machine, for others may be working on it. The members share the machine with the
client. A record has 90 bytes, as a step's start has, and a step writes two.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from bench.figures import Figure, median
from evac.store.etcd import EtcdStore
from evac.store.journal import Journal
from evac.store.port import Lease, Store
from evac.store.sqlite import SqliteStore
from evac_lab.servers.etcd import EtcdServer, etcd, wait_for_all

RECORDS_A_STEP = 2
RECORD = b'["step_started",1764000000000,"boot/pangyo-hall-2-r014-s07/1",1,{"token":12,"epoch":3}]  '[:90]
WIDTH = 256
ROUNDS = 5
LONG = 2_000_000


def main() -> None:
    for figure in figures():
        print(figure.line(), flush=True)


def figures(long: int = LONG) -> Iterator[Figure]:
    """long: records of the long journal."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EVAC_BENCH_FOLDER")) as folder:
        yield from uvloop.run(_sqlite(Path(folder), long))
        members = _members(Path(folder))
        try:
            yield from uvloop.run(_etcd([member.url for member in members], long))
        finally:
            for member in members:
                member.kill()


async def _sqlite(folder: Path, long: int) -> list[Figure]:
    store = SqliteStore(folder / "evac.db")
    found = await _appends("sqlite", "SQLite", store, 1_000, 80_000)
    found.append(await _long(store, "sqlite", "SQLite", long))
    await store.close()
    return found


async def _etcd(endpoints: list[str], long: int) -> list[Figure]:
    store = EtcdStore(endpoints)
    found = await _appends("etcd", "three etcd members", store, 100, 25_000)
    records = long if os.environ.get("FULL") else long // 10
    found.append(await _long(store, "etcd", "three etcd members", records))
    await store.close()
    return found


async def _appends(key: str, name: str, store: Store, segments: int, target: int) -> list[Figure]:
    """Steps a second of the journal alone. target: for steps that are handed over one by one."""
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

    found = [
        await _measure(f"journal_{key}", f"journal alone, {name}, {WIDTH} at once", single, target),
        await _measure(f"journal_lists_{key}", f"journal alone, {name}, lists of {WIDTH}", whole, target),
    ]
    await store.release(lease)
    return found


async def _one_by_one(journal: Journal, lease: Lease, count: int) -> None:
    for _ in range(count):
        await journal.append([RECORD], lease)


async def _measure(key: str, words: str, work: Callable[[], Awaitable[int]], target: int) -> Figure:
    rates, shares = [], []
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), time.process_time()
        count = await work()
        wall = time.perf_counter() - began
        rates.append(count / RECORDS_A_STEP / wall)
        shares.append((time.process_time() - used) / wall)
    note = f"CPU {statistics.median(shares):.0%}, load {os.getloadavg()[0]:.1f}"
    return median(key, words, rates, "steps/s", target, note=note)


async def _long(store: Store, key: str, name: str, records: int) -> Figure:
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
    await store.release(lease)
    return median(f"open_{key}", f"journal of {records:,} records opened, {name}", times, "s")


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
