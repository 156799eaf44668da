"""The embedded store: one SQLite file on one host, for one controller and the command line next to it.

One thread writes the file: calls that wait at the same time are committed together. A call first checks
everything and then writes, so that a refused one leaves nothing behind in a transaction that others share.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import field
from pathlib import Path
from typing import Any, Final, TypeVar

from evac.model.errors import Conflict, Corrupt, EvacError, LeaseLost, LockHeld, StoreError, Unavailable
from evac.model.records import dataclass
from evac.store.port import (
    PREFIX_END,
    Change,
    Compare,
    Entry,
    Lease,
    Put,
    check_key,
    check_lease,
    check_transaction,
)

BATCH_MOST: Final = 256
WAITING_MOST: Final = 10_000


@dataclass(slots=True)
class Turn:
    """A transaction that holds the write lock. `touched`: changed keys, for watchers."""

    connection: sqlite3.Connection
    boot: str
    now_ms: int
    revision: int = 0
    before: int = 0
    touched: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Reads the current revision and ends expired leases."""
        self.before = self.revision = self.connection.execute("SELECT revision FROM state").fetchone()[0]
        over = self.connection.execute(
            "SELECT name, token FROM lease WHERE boot <> ? OR ends_ms <= ? OR begins_ms > ? ORDER BY token",
            (self.boot, self.now_ms, self.now_ms),
        ).fetchall()
        for name, token in over:
            self._end(name, token)

    def finish(self) -> None:
        if self.revision != self.before:
            self.connection.execute("UPDATE state SET revision = ?", (self.revision,))

    def transact(self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None) -> int:
        leases = [change.lease for change in changes if isinstance(change, Put)]
        for lease in (guard, *leases):
            if lease is not None and not self._holds(lease):
                raise LeaseLost(lease.name)
        for compare in compares:
            found = self.connection.execute("SELECT revision FROM entry WHERE key = ?", (compare.key,))
            (revision,) = found.fetchone() or (0,)
            if revision != compare.revision:
                raise Conflict(compare.key)
        if changes:
            self.revision += 1
            for change in changes:
                self._change(change)
        return self.revision

    def acquire(self, name: str, owner: str, ttl_ms: int, lease_id: str) -> Lease:
        row = self.connection.execute(
            "SELECT owner, begins_ms, ends_ms FROM lease WHERE name = ?", (name,)
        ).fetchone()
        if row is not None:
            raise LockHeld(name, row[0], row[1], row[2] - self.now_ms)
        self.revision += 1
        lease = Lease(name, owner, self.revision, ttl_ms, lease_id)
        self.connection.execute(
            "INSERT INTO lease VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (name, owner, lease.token, lease.id, ttl_ms, self.boot, self.now_ms, self.now_ms + ttl_ms),
        )
        return lease

    def renew(self, lease: Lease) -> None:
        if not self._holds(lease):
            raise LeaseLost(lease.name)
        self.connection.execute(
            "UPDATE lease SET ends_ms = ? WHERE name = ?", (self.now_ms + lease.ttl_ms, lease.name)
        )

    def release(self, lease: Lease) -> None:
        if self._holds(lease):
            self._end(lease.name, lease.token)

    def _holds(self, lease: Lease) -> bool:
        found = self.connection.execute(
            "SELECT 1 FROM lease WHERE name = ? AND token = ? AND id = ?", (lease.name, lease.token, lease.id)
        ).fetchone()
        return found is not None

    def _change(self, change: Change) -> None:
        self.touched.append(change.key)
        if not isinstance(change, Put):
            self.connection.execute("DELETE FROM entry WHERE key = ?", (change.key,))
            return
        token = change.lease.token if change.lease else 0
        self.connection.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET revision ="
            " excluded.revision, lease = excluded.lease, crc = excluded.crc, value = excluded.value",
            (change.key, self.revision, token, zlib.crc32(change.value), change.value),
        )

    def _end(self, name: str, token: int) -> None:
        gone = self.connection.execute("SELECT key FROM entry WHERE lease = ?", (token,)).fetchall()
        if gone:
            self.revision += 1
            self.touched += [row[0] for row in gone]
            self.connection.execute("DELETE FROM entry WHERE lease = ?", (token,))
        self.connection.execute("DELETE FROM lease WHERE name = ?", (name,))


LIVE = "(lease = 0 OR lease IN (SELECT token FROM lease WHERE boot = ? AND begins_ms <= ? AND ends_ms > ?))"


def read_entries(
    connection: sqlite3.Connection, boot: str, now_ms: int, where: str, values: Sequence[str], limit: int
) -> list[Entry]:
    """Entries without a lease or with a live one, sorted by key. Raises `Corrupt` for a value that was
    altered.
    """
    rows = connection.execute(
        f"SELECT key, value, revision, crc FROM entry WHERE {where} AND {LIVE} ORDER BY key LIMIT ?",
        (*values, boot, now_ms, now_ms, limit),
    ).fetchall()
    for key, value, _, crc in rows:
        if zlib.crc32(value) != crc:
            raise Corrupt(
                f"the value of {key} is not what was written: someone changed it, or the disk is faulty"
            )
    return [Entry(key, value, revision) for key, value, revision, _ in rows]


def read_holder(connection: sqlite3.Connection, boot: str, now_ms: int, name: str) -> Lease | None:
    row = connection.execute(
        "SELECT owner, token, ttl_ms FROM lease"
        " WHERE name = ? AND boot = ? AND begins_ms <= ? AND ends_ms > ?",
        (name, boot, now_ms, now_ms),
    ).fetchone()
    return None if row is None else Lease(name, *row)


APPLICATION_ID: Final = 0x65766163
MIGRATIONS: Final = Path(__file__).parent / "migrations"
DEADLINE_S: Final = 10.0
LOCKED: Final = 0.9
"""The share of its deadline for which a call waits for the lock: it gives up before, so that its caller knows
that nothing was written.
"""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_CUT_OFF: Final = frozenset({sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})
_HINTS: Final = {
    sqlite3.SQLITE_FULL: "free some space on the disk; nothing was written",
    sqlite3.SQLITE_IOERR: "check the disk and its free space; the kernel log may say more",
    sqlite3.SQLITE_BUSY: "another process has locked the file, nothing was written; who: fuser -v FILE",
    sqlite3.SQLITE_READONLY: "give this user write permission for the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and is writable",
}


class HostClock:
    """Milliseconds since the host booted, including sleep: the same in all its processes, and independent of
    the wall clock. `boot`: which boot it was; a lease from another boot has ended, because its holder is
    gone.
    """

    def __init__(self) -> None:
        self.boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
        self._clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_ms(self) -> int:
        return time.clock_gettime_ns(self._clock) // 1_000_000


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into `Corrupt` or `Unavailable`, with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(path, error) from error


def translated(path: Path, error: sqlite3.Error) -> StoreError:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in _BROKEN or code in _CUT_OFF:
        found: StoreError = Corrupt(f"{path} is damaged: {error}")
        found.hint = "keep a copy of it as it is; restore the file, or continue without it: evac run adopt"
        return found
    found = Unavailable(f"{path} cannot be used: {error}")
    found.hint = _HINTS.get(code & 0xFF, "check the file, its folder and the disk")
    return found


def connect(path: Path, deadline_s: float = DEADLINE_S) -> sqlite3.Connection:
    """A connection for one thread at a time. A commit is on disk before it returns. deadline_s: of a call."""
    # SQLite would make it readable by all; its other files are like it. Only a new one is opened: closing a
    # descriptor of a database ends every lock that this process has on it.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path,
        timeout=deadline_s * LOCKED,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -16384")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Checks that the file is an evac store and updates its tables, in one transaction."""
    steps = sorted(MIGRATIONS.glob("*.sql"))
    if _number(connection, "user_version") == len(steps) and _is_ours(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _number(connection, "user_version")
        _refuse_others(connection, path, version, len(steps))
        for step in steps[version:]:
            for statement in _statements(step.read_text(encoding="utf-8")):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _refuse_others(connection: sqlite3.Connection, path: Path, version: int, known: int) -> None:
    if version > known:
        raise StoreError(
            "store-newer",
            f"{path} was written by a newer evac (tables {version}, known {known})",
            "use that version, or another file",
        )
    used = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if used and not _is_ours(connection):
        raise StoreError("store-foreign", f"{path} is another program's database", "name another file")


def _is_ours(connection: sqlite3.Connection) -> bool:
    return _number(connection, "application_id") == APPLICATION_ID


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """Splits a script, because `executescript` would commit on its own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@dataclass(slots=True, eq=False)
class Job:
    """One call. `abandoned`: its caller gave up before it began, so it is skipped."""

    work: Callable[[Turn], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    abandoned: bool = False


_Outcome = tuple[Job, Any, BaseException | None]


class Writer:
    """Group commit. A call is answered only after its transaction is on disk. `committed`: called in the
    writer's thread with the changed keys.
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
        """The durable result of `work`. Raises `Unavailable` if the disk does not respond in time."""
        if self._queue.qsize() >= WAITING_MOST:
            raise Unavailable(f"{WAITING_MOST} transactions are already waiting for {self._path}")
        loop = asyncio.get_running_loop()
        job = Job(work, loop, loop.create_future())
        self._queue.put(job)
        try:
            async with asyncio.timeout(deadline_s):
                return await job.answer
        except TimeoutError as error:
            raise Unavailable(f"{self._path} did not answer within {deadline_s:g} s") from error
        finally:
            job.abandoned = True

    def stop(self, timeout_s: float) -> None:
        """Writes pending calls, then ends the thread and closes its connection."""
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
            if job.abandoned:  # while the lock was long in coming
                continue
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


POLL_S: Final = 0.1
WATCH_MOST_S: Final = 2.0

T = TypeVar("T")


class SqliteStore:
    """Entries and leases in one file.

    Several processes of one host may open it; each write takes its lock. Leases expire by the host's clock
    since boot, so a jump of the wall clock neither ends nor prolongs one. Never put the file on a network
    file system.
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
            writing = connect(self.path, deadline_s)
            try:
                prepare(writing, self.path)
                self._reading = connect(self.path, deadline_s)
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
        """Waits until this process or another has written, or two seconds pass."""
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
            raise Unavailable(f"{self.path} did not answer within {self._deadline_s:g} s") from error

    def _in_reader(self, work: Callable[[sqlite3.Connection, str, int], T]) -> T:
        with in_words(self.path):
            return work(self._reading, self._clock.boot, self._clock.now_ms())

    async def _write(self, work: Callable[[Turn], T]) -> T:
        if self._closed:
            raise Unavailable("the store is closed")
        answer: T = await self._writer.do(work, self._deadline_s)
        return answer

    def _changed(self, keys: Sequence[str] | None) -> None:
        """Notifies watchers of one of the keys, or all. Called in the writer's thread."""
        with self._lock:
            watchers = list(self._watchers.items())
        for changed, (prefix, loop) in watchers:
            if (keys is None or any(key.startswith(prefix) for key in keys)) and not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)
