"""A real MariaDB whose physical copies are kept, for the suites."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest

from evac.drivers.mariabackup import DRIVER
from evac.drivers.mariabackup.driver import MariabackupDriver
from evac.drivers.port import Value
from evac_lab.process import MissingProgram
from evac_lab.servers.mariadb import MariadbServer, mariadb
from tests.contract.adapters.copy_folder import Source, adapter
from tests.contract.adapters.mariadb import template
from tests.contract.ports import free_port

PASSWORD = "quiet-harbour-421"
VARIABLE = "EVAC_TEST_MARIABACKUP"
ROWS = 500
RESTORED = """[mariadbd]
ssl = OFF
innodb_data_file_path = ibdata1:4M:autoextend
innodb_undo_tablespaces = 0
"""


class MariadbSource(Source):
    """A table of 500 rows."""

    spec = DRIVER
    driver = MariabackupDriver
    program = "mariadb-backup"
    secrets: ClassVar = (PASSWORD,)
    server: MariadbServer

    def begin(self) -> None:
        os.environ[VARIABLE] = PASSWORD
        try:
            empty = template()
        except MissingProgram as error:
            pytest.skip(str(error))
        self.server = mariadb(
            self.folder / "server", "127.0.0.1", free_port(), "pangyo", 1, template=empty, password=PASSWORD
        )
        (self.folder / "restored.cnf").write_text(RESTORED)
        self.server.start()
        self.server.sql(
            "SET GLOBAL read_only = OFF",
            "CREATE DATABASE app",
            "CREATE TABLE app.orders (id INT PRIMARY KEY, words VARCHAR(99)) ENGINE=InnoDB",
            f"INSERT INTO app.orders SELECT seq, MD5(seq) FROM app.seq_1_to_{ROWS}",
        )

    def kill(self) -> None:
        self.server.kill()

    def change(self) -> None:
        self.server.sql("INSERT INTO app.orders SELECT MAX(id) + 1, 'another' FROM app.orders")

    def settings(self, served: int) -> dict[str, Value]:
        return {
            "defaults": str(self.server.folder / "my.cnf"),
            "port": self.server.port,
            "user": "admin",
            "password": f"env:{VARIABLE}",
            "facts": ("rows=SELECT COUNT(*) FROM app.orders", "last=SELECT MAX(words) FROM app.orders"),
            "served_port": served,
            "configuration": str(self.folder / "restored.cnf"),
        }

    def holds(self, place: Path, served: int) -> bool:
        """Asked of its server; without one, its table is there once the driver has moved it here."""
        if not (place / "evac.pid").exists():
            return (place / "app" / "orders.ibd").is_file()
        argv = (
            "mariadb",
            "--no-defaults",
            "--host=127.0.0.1",
            f"--port={served}",
            "--user=admin",
            "--skip-ssl",
        )
        ask = ("--skip-column-names", "--execute=SELECT COUNT(*) FROM app.orders")
        env = {"MYSQL_PWD": PASSWORD, "PATH": os.environ["PATH"]}
        done = subprocess.run(
            (*argv, *ask), env=env, capture_output=True, text=True, check=False, timeout=20.0
        )
        return done.stdout.strip() == str(ROWS)


ADAPTER = adapter(MariadbSource)
