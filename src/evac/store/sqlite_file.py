"""One SQLite file of evac: opened, migrated and checked, with SQLite's errors put into the store's words.

A transaction of the writer evaluates one call after another. A call first checks everything and then writes,
so that a refused one leaves nothing behind in a transaction that others share.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evac.model.errors import Conflict, Corrupt, LeaseLost, LockHeld, StoreError, Unavailable
from evac.store.port import Change, Compare, Entry, Lease, Put


@dataclass(slots=True)
class Turn:
    """A transaction that holds the write lock. touched: keys that changed, for whoever watches."""

    connection: sqlite3.Connection
    boot: str
    now_ms: int
    revision: int = 0
    before: int = 0
    touched: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Reads where the store stands and ends the leases whose time is over."""
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
            if self._revision_of(compare.key) != compare.revision:
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

    def _revision_of(self, key: str) -> int:
        row = self.connection.execute("SELECT revision FROM entry WHERE key = ?", (key,)).fetchone()
        return 0 if row is None else row[0]

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
    """Entries of living leases or of none, by key. Raises `Corrupt` for a value that is not what was
    written.
    """
    rows = connection.execute(
        f"SELECT key, value, revision, crc FROM entry WHERE {where} AND {LIVE} ORDER BY key LIMIT ?",
        (*values, boot, now_ms, now_ms, limit),
    ).fetchall()
    for key, value, _, crc in rows:
        if zlib.crc32(value) != crc:
            raise Corrupt(f"the value of {key} is not what was written: the disk or someone changed it")
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
BUSY_MS: Final = 4_000
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_CUT_OFF: Final = frozenset({sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})
_HINTS: Final = {
    sqlite3.SQLITE_FULL: "make room on the disk; nothing of this was written",
    sqlite3.SQLITE_IOERR: "look at the disk and its free space; the kernel's log may say more",
    sqlite3.SQLITE_BUSY: "another process keeps the file locked: find it with: fuser -v FILE",
    sqlite3.SQLITE_READONLY: "give this user the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and may be written",
}


class HostClock:
    """Milliseconds since the host booted, sleep included: alike in all its processes, deaf to the wall clock.

    boot: which boot that was; a lease of another boot is over, for its holder is gone.
    """

    def __init__(self) -> None:
        self.boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
        self._clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_ms(self) -> int:
        return time.clock_gettime_ns(self._clock) // 1_000_000


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """SQLite's errors become `Corrupt` or `Unavailable`, with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(path, error) from error


def translated(path: Path, error: sqlite3.Error) -> StoreError:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in _BROKEN or code in _CUT_OFF:
        found: StoreError = Corrupt(f"{path} is damaged: {error}")
        found.hint = "keep a copy as it is; restore the file, or continue without it: evac run adopt"
        return found
    found = Unavailable(f"{path} cannot be used: {error}")
    found.hint = _HINTS.get(code & 0xFF, "look at the file, its folder and the disk")
    return found


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time. A commit is on the disk before it returns."""
    # SQLite would make it readable by all; its other files are like it. Only a new one is opened: closing a
    # descriptor of a database ends every lock that this process has on it.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path, timeout=BUSY_MS / 1_000, isolation_level=None, check_same_thread=False, cached_statements=64
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
    """Checks that the file is ours and brings its tables up to date, in one transaction."""
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
        raise StoreError("store-foreign", f"{path} is a database of another program", "name another file")


def _is_ours(connection: sqlite3.Connection) -> bool:
    return _number(connection, "application_id") == APPLICATION_ID


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """Splits a script, for `executescript` would commit on its own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
