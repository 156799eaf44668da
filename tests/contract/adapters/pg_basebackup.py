"""A real PostgreSQL whose base backups and archived log are kept, for the suites."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from evac.drivers.pg_basebackup import DRIVER
from evac.drivers.pg_basebackup.driver import PgBasebackupDriver
from evac.drivers.port import Value
from evac_lab.process import MissingProgram
from evac_lab.servers.postgres import program_folder
from tests.contract.adapters.copy_folder import Source, adapter
from tests.contract.adapters.pgbackrest import as_owner, blank, give, next_seconds, running, sql
from tests.contract.ports import free_port

SETTINGS = """
listen_addresses = ''
shared_buffers = '16MB'
dynamic_shared_memory_type = 'mmap'
fsync = off
archive_mode = on
archive_command = 'cp %p ../archive/.%f && mv ../archive/.%f ../archive/%f'
"""
"""The archive is named relative to its data folder: what is restored from it has the same settings, and must
not archive into the log of the server that all tests of a process share.
"""


class PostgresSource(Source):
    """1,000 rows."""

    spec = DRIVER
    driver = PgBasebackupDriver
    program = "pg_basebackup"
    pid_file = "postmaster.pid"
    port: int

    def begin(self) -> None:
        try:
            empty = blank("-A", "trust")
        except MissingProgram as error:
            pytest.skip(str(error))
        self.port, self.runs = free_port(), ExitStack()
        (self.folder / "archive").mkdir()
        data = self.folder / "data"
        shutil.copytree(empty, data)
        give(self.folder)
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(SETTINGS)
        self.runs.enter_context(running(data, self.port))
        self.sql("CREATE TABLE messages (id int, at timestamptz DEFAULT clock_timestamp())")
        self.sql("INSERT INTO messages SELECT generate_series(1, 1000)")
        next_seconds()

    def sql(self, statement: str) -> str:
        return sql(self.folder, self.port, statement)

    def kill(self) -> None:
        self.runs.close()

    def change(self) -> None:
        self.sql("INSERT INTO messages VALUES (0)")

    def settings(self, served: int) -> dict[str, Value]:
        return {
            "source": f"host={self.folder} port={self.port} user=postgres",
            "bin": program_folder(),
            "host": "127.0.0.1",
            "port": served,
            "facts": ("rows=SELECT count(*) FROM messages",),
        }

    def holds(self, place: Path, served: int) -> bool:
        """Asked of its server; without one, its recovery has ended in order."""
        if (place / self.pid_file).exists():
            return int(sql(Path("127.0.0.1"), served, "SELECT count(*) FROM messages")) >= 1_000
        control = as_owner(f"{program_folder()}/pg_controldata", "-D", str(place), allowed=(0, 1))
        return "shut down" in control

    def spoiled(self, content: Path) -> Path:
        files = [path for path in (content / "base").rglob("*") if path.is_file()]
        return max(files, key=lambda path: path.stat().st_size)


ADAPTER = adapter(PostgresSource)
