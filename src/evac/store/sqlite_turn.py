"""What one transaction of the writer does to the file: entries and leases, evaluated one call after another.

A call first checks everything and then writes, so that a refused one leaves nothing behind in a transaction
that others share.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from evac.model.errors import Conflict, Corrupt, LeaseLost, LockHeld
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
            raise Corrupt(f"the value of {key} is not what was written: the disk or somebody changed it")
    return [Entry(key, value, revision) for key, value, revision, _ in rows]


def read_holder(connection: sqlite3.Connection, boot: str, now_ms: int, name: str) -> Lease | None:
    row = connection.execute(
        "SELECT owner, token, ttl_ms FROM lease"
        " WHERE name = ? AND boot = ? AND begins_ms <= ? AND ends_ms > ?",
        (name, boot, now_ms, now_ms),
    ).fetchone()
    return None if row is None else Lease(name, *row)
