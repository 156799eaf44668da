"""The file of the embedded store: for its owner only, and never opened behind SQLite's back."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

from evac.store.sqlite import SqliteStore, connect

OTHER = """\
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM t").fetchone()[0])
connection.close()
"""


def test_what_a_store_writes_is_for_its_owner_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.sqlite")
    found = sorted(tmp_path.iterdir())
    assert len(found) == 3, "the log and its index too"
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    asyncio.run(store.close())


def test_one_more_connection_takes_no_lock_from_those_that_are_there(tmp_path: Path) -> None:
    """Closing any descriptor of a file ends all locks that the process has on it (POSIX). Another process
    then takes itself for the last one, and removes the log under those that go on writing to it.
    """
    path = tmp_path / "s.sqlite"
    writing = connect(path)
    writing.execute("CREATE TABLE t (a)")
    writing.execute("INSERT INTO t VALUES (1)")
    reading = connect(path)
    other = subprocess.run(
        [sys.executable, "-c", OTHER, str(path)], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == "1"
    assert path.with_name("s.sqlite-wal").exists(), "it is used"
    writing.execute("INSERT INTO t VALUES (2)")
    for one in (writing, reading):
        one.close()
    with contextlib.closing(sqlite3.connect(path)) as again:
        assert again.execute("SELECT count(*) FROM t").fetchone() == (2,)
