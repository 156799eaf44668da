"""The embedded store: one SQLite file on one host, for one controller and the command line beside it.

The one thread that writes the SQLite file: what waits together is committed together.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from evac.model.errors import EvacError, Unavailable
from evac.store.port import (
    PREFIX_END,
    Change,
    Compare,
    Entry,
    Lease,
    check_key,
    check_lease,
    check_transaction,
)
from evac.store.sqlite_file import (
    HostClock,
    Turn,
    connect,
    in_words,
    prepare,
    read_entries,
    read_holder,
    translated,
)

BATCH_MOST: Final = 256
WAITING_MOST: Final = 10_000


@dataclass(slots=True, eq=False)
class Job:
    """One call. abandoned: its caller gave up before it was begun, so it is left out."""

    work: Callable[[Turn], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    abandoned: bool = False


_Outcome = tuple[Job, Any, BaseException | None]


class Writer:
    """Group commit. An answer is given only after the transaction that holds it is on the disk.

    committed: called in the writer's thread with the keys that changed.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        clock: HostClock,
        committed: Callable[[Sequence[str]], None],
    ) -> None:
        self._connection = connection
        self._path = path
        self._clock = clock
        self._committed = committed
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"store {path.name}", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Turn], Any], deadline_s: float) -> Any:
        """The answer of `work`, durable. Raises `Unavailable` when the disk does not answer in time."""
        if self._queue.qsize() >= WAITING_MOST:
            raise Unavailable(f"{WAITING_MOST} transactions wait for {self._path} already")
        loop = asyncio.get_running_loop()
        job = Job(work, loop, loop.create_future())
        self._queue.put(job)
        try:
            async with asyncio.timeout(deadline_s):
                return await job.answer
        except TimeoutError as error:
            raise Unavailable(f"{self._path} did not answer in {deadline_s:g} s") from error
        finally:
            job.abandoned = True

    def stop(self, timeout_s: float) -> None:
        """Writes what waits, then ends the thread and closes its connection."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        going = True
        while going:
            jobs = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < BATCH_MOST:
                    jobs.append(self._queue.get_nowait())
            going = None not in jobs
            self._write([job for job in jobs if job is not None and not job.abandoned])
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _write(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        touched: Sequence[str] = ()
        try:
            outcomes, touched = self._commit(jobs)
        except sqlite3.Error as error:
            self._roll_back()
            outcomes = [(job, None, translated(self._path, error)) for job in jobs]
        except Exception as error:
            self._roll_back()
            outcomes = [(job, None, error) for job in jobs]
        _deliver(outcomes)
        if touched:
            self._committed(touched)

    def _commit(self, jobs: list[Job]) -> tuple[list[_Outcome], Sequence[str]]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        # The lock may have been long in coming: leases are judged by the time at which it came.
        turn = Turn(connection, self._clock.boot, self._clock.now_ms())
        turn.begin()
        outcomes: list[_Outcome] = []
        for job in jobs:
            try:
                outcomes.append((job, job.work(turn), None))
            except EvacError as error:
                outcomes.append((job, None, error))
        turn.finish()
        connection.execute("COMMIT")
        return outcomes, turn.touched

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _deliver(outcomes: list[_Outcome]) -> None:
    """Wakes each event loop once for all its answers."""
    loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        loops.setdefault(outcome[0].loop, []).append(outcome)
    for loop, answers in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_answer, answers)


def _answer(outcomes: list[_Outcome]) -> None:
    for job, result, error in outcomes:
        if job.answer.done():
            continue
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(result)


DEADLINE_S: Final = 10.0
POLL_S: Final = 0.1
WATCH_MOST_S: Final = 2.0

T = TypeVar("T")


class SqliteStore:
    """Entries and leases in one file. Several processes of one host may open it; each write takes its lock.

    Leases end by the host's clock since boot, so that no jump of the wall clock ends or prolongs one.
    Never put the file on a network file system.
    """

    name = "sqlite"
    quorum = False

    def __init__(
        self, path: Path | str, *, clock: HostClock | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self.path = Path(path)
        self._clock = clock or HostClock()
        self._deadline_s = deadline_s
        self._watchers: dict[asyncio.Event, tuple[str, asyncio.AbstractEventLoop]] = {}
        self._lock = threading.Lock()
        self._closed = False
        with in_words(self.path):
            writing = connect(self.path)
            try:
                prepare(writing, self.path)
                self._reading = connect(self.path)
            except BaseException:
                writing.close()
                raise
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"read {self.path.name}")
        self._writer = Writer(writing, self.path, self._clock, self._changed)

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        found = await self._read(lambda db, boot, now: read_entries(db, boot, now, "key = ?", (key,), 1))
        return found[0] if found else None

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        bounds = (prefix, after, prefix + PREFIX_END)
        where = "key >= ? AND key > ? AND key < ?"
        return await self._read(
            lambda db, boot, now: read_entries(db, boot, now, where, bounds, max(0, limit))
        )

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        check_transaction(compares, changes)
        return await self._write(lambda turn: turn.transact(compares, changes, guard))

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        check_lease(name, ttl_ms)
        lease_id = secrets.token_hex(8)
        return await self._write(lambda turn: turn.acquire(name, owner, ttl_ms, lease_id))

    async def renew(self, lease: Lease) -> None:
        await self._write(lambda turn: turn.renew(lease))

    async def release(self, lease: Lease) -> None:
        await self._write(lambda turn: turn.release(lease))

    async def holder(self, name: str) -> Lease | None:
        check_key(name)
        return await self._read(lambda db, boot, now: read_holder(db, boot, now, name))

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        changed = asyncio.Event()
        with self._lock:
            self._watchers[changed] = (prefix, asyncio.get_running_loop())
        try:
            while not self._closed:
                changed.clear()
                version = await self._version()
                yield None
                await self._wait(changed, version)
        finally:
            with self._lock:
                del self._watchers[changed]

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._changed(None)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        self._writer.stop(self._deadline_s)
        closed = self._reader.submit(self._reading.close)
        self._reader.shutdown(wait=False)
        with suppress(TimeoutError, sqlite3.Error):  # a disk that hangs shall not keep us
            closed.result(self._deadline_s)

    async def _wait(self, changed: asyncio.Event, version: int) -> None:
        """Until this process or another has written, or two seconds went by."""
        for _ in range(round(WATCH_MOST_S / POLL_S)):
            try:
                async with asyncio.timeout(POLL_S):
                    await changed.wait()
                return
            except TimeoutError:
                if self._closed or await self._version() != version:
                    return

    async def _version(self) -> int:
        """A number that changes when any other connection commits."""
        if self._closed:
            return 0
        return await self._read(lambda db, _boot, _now: int(db.execute("PRAGMA data_version").fetchone()[0]))

    async def _read(self, work: Callable[[sqlite3.Connection, str, int], T]) -> T:
        if self._closed:
            raise Unavailable("the store is closed")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await loop.run_in_executor(self._reader, self._in_reader, work)
        except TimeoutError as error:
            raise Unavailable(f"{self.path} did not answer in {self._deadline_s:g} s") from error

    def _in_reader(self, work: Callable[[sqlite3.Connection, str, int], T]) -> T:
        with in_words(self.path):
            return work(self._reading, self._clock.boot, self._clock.now_ms())

    async def _write(self, work: Callable[[Turn], T]) -> T:
        if self._closed:
            raise Unavailable("the store is closed")
        answer: T = await self._writer.do(work, self._deadline_s)
        return answer

    def _changed(self, keys: Sequence[str] | None) -> None:
        """Hints whoever watches one of the keys, or all. Called in the writer's thread."""
        with self._lock:
            watchers = list(self._watchers.items())
        for changed, (prefix, loop) in watchers:
            if (keys is None or any(key.startswith(prefix) for key in keys)) and not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)
