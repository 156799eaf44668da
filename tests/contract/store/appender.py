"""A process that appends to a journal until it is killed: `python -m ... FILE`. Prints what is acknowledged.

Each line of its output is the number of a record that was durable before the line was written.
"""

from __future__ import annotations

import asyncio
import sys

from evac.model.errors import Corrupt, LockHeld
from evac.store.journal import Journal
from evac.store.port import Lease, Store
from evac.store.sqlite import SqliteStore

WORKERS = 16


async def leading(store: Store) -> Lease:
    """The lease, as soon as the one of the process before is over."""
    while True:
        try:
            return await store.acquire("leader", "appender", 300)
        except LockHeld:
            await asyncio.sleep(0.01)


async def main(path: str) -> None:
    store = SqliteStore(path)
    lease = await leading(store)
    try:
        journal = await Journal.open(store, "run-1")
    except Corrupt:
        journal = await Journal.create(store, "run-1", lease)
    print("token", lease.token, flush=True)

    async def append() -> None:
        while True:
            record = b"%d %d" % (lease.token, next(numbers))
            await journal.append([record], lease)
            sys.stdout.write(record.decode() + "\n")
            sys.stdout.flush()

    async def renew() -> None:
        while True:
            await asyncio.sleep(0.08)
            await store.renew(lease)

    numbers = iter(range(1 << 60))
    await asyncio.gather(renew(), *(append() for _ in range(WORKERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
