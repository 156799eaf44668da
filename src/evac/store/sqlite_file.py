"""One SQLite file of evac: opened, migrated and checked, with SQLite's errors put into the store's words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from evac.model.errors import Corrupt, StoreError, Unavailable

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
        found.hint = "keep a copy as it is; restore the file, or go on without it: evac run adopt"
        return found
    found = Unavailable(f"{path} cannot be used: {error}")
    found.hint = _HINTS.get(code & 0xFF, "look at the file, its folder and the disk")
    return found


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time. A commit is on the disk before it returns."""
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
