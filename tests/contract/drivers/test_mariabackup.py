"""A copy of MariaDB counts once mariadb-backup says that it is complete, and a witness reads its rows."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.backups import Stopwatch
from evac.drivers.mariabackup.driver import MariabackupDriver
from evac.model.errors import ActionError
from evac_lab.servers.mariadb import MariadbServer
from tests.contract.adapters.command import script
from tests.contract.adapters.copy_folder import World, world
from tests.contract.adapters.mariabackup import PASSWORD, ROWS, MariadbSource
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
VERSION = 'case "$*" in --version) echo mariadb-backup 11.8.3; exit;; esac'


def ask(question: str, *given: Any) -> Any:
    """An answer of the driver, or the error that it ended with."""

    async def story() -> Any:
        try:
            return await getattr(MariabackupDriver(), question)(given[0], 60.0, *given[1:])
        except ActionError as error:
            return error

    return asyncio.run(story())


def test_rows_are_compared_and_what_is_not_complete_is_no_copy(server_folder: Path) -> None:
    with world(server_folder, MariadbSource) as made:
        seen = ask("witness", made.action())
        restored = ask("restore", made.action(), "", str(made.place), None)
        assert restored.facts["rows"] == ROWS
        assert restored.facts.keys() == seen.keys()

        helps = script(made.folder, "helps", VERSION, "echo usage >${2#--target-dir=}/usage")
        assert ask("take", made.action(program=helps, defaults="")).code == "backup-incomplete"
        place = made.folder / "places" / "there"
        unprepared = script(made.folder, "unprepared", VERSION, "exit 0")
        error = ask("restore", made.action(program=unprepared), "", str(place), None)
        assert error.code == "restore-incomplete", "a server may start from what was not prepared"
        assert not place.exists()
        assert len(made.copies) == 1

        (made.folder / "wrong").write_text("another password")
        (made.folder / "wrong").chmod(0o600)
        for question in ("take", "witness"):
            error = ask(question, made.action(password=f"file:{made.folder}/wrong"))
            assert error.code == "backup-password", question
            assert PASSWORD not in f"{error!r}"

        with _configured(made.source.server, "ssl", "OFF"):
            error = ask("take", made.action())
        assert error.code == "setting-wrong", "MariaDB may be set up without TLS"
        assert "skip-ssl" in error.hint


def test_a_restored_server_starts_with_the_configuration_in_its_backup(server_folder: Path) -> None:
    """Without the setting `configuration`, nothing but the backup says how its files were written."""

    async def story(made: World) -> None:
        driver, given = MariabackupDriver(), made.action(place=str(made.place))
        action = replace(
            given, settings={name: value for name, value in given.settings.items() if name != "configuration"}
        )
        asked = order(timeout_s=60.0)
        assert (await driver.execute(action, asked))["place"] == str(made.place)
        assert (await driver.observe(action, asked)).outcome == "done"
        assert await made.holds(made.place)
        await driver._stop(action, made.place, Stopwatch(60.0))
        assert (await driver.observe(action, asked)).outcome == "absent"
        await driver.execute(action, asked)  # the step again: the complete data is started, not restored
        assert (await driver.observe(action, asked)).outcome == "done"
        assert await made.holds(made.place)

    with world(server_folder, MariadbSource) as made:
        asyncio.run(story(made))


def test_a_restored_server_leaves_the_temporary_tables_of_a_live_one(server_folder: Path) -> None:
    """MariaDB removes all temporary tables in its folder for them when it starts, whoever made them."""

    async def story(made: World) -> None:
        driver, action = MariabackupDriver(), made.action(place=str(made.place))
        await driver.restore(action, 60.0, "", str(made.folder / "places" / "tested"), None)
        await driver.execute(action, order(timeout_s=60.0))
        assert await made.holds(made.place)

    with world(server_folder, MariadbSource) as made:
        with _configured(made.source.server, "tmpdir", "/tmp"), _temporary_table(made.source.server) as files:
            asyncio.run(story(made))
            assert [path for path in files if not path.exists()] == []
        restored = made.place.with_name(f".{made.place.name}.evac-tmp")
        assert restored.is_dir()


@contextmanager
def _temporary_table(server: MariadbServer) -> Iterator[list[Path]]:
    """The files of a temporary table that an open session holds, in the usual folder of the system."""
    before = set(Path("/tmp").glob("#sql*"))
    argv = ("mariadb", "--no-defaults", "--host=127.0.0.1", f"--port={server.port}", "--user=admin")
    with subprocess.Popen(
        (*argv, "--skip-ssl", "--unbuffered", "--skip-column-names"),
        env={"MYSQL_PWD": PASSWORD, "PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        make = "CREATE TEMPORARY TABLE app.kept ENGINE=Aria AS SELECT seq FROM app.seq_1_to_1000"
        session.stdin.write(f"{make};\nSELECT COUNT(*) FROM app.kept;\n")
        session.stdin.flush()
        assert session.stdout.readline().strip() == "1000"
        made = sorted(set(Path("/tmp").glob("#sql*")) - before)
        assert made, "the server keeps its temporary tables elsewhere"
        yield made


@contextmanager
def _configured(server: MariadbServer, name: str, value: str) -> Iterator[None]:
    """The server is shared by the tests of this process: it has its own configuration again afterwards."""
    path = server.folder / "my.cnf"
    before = path.read_text()
    lines = [line for line in before.splitlines() if not line.startswith(name)]
    server.stop()
    path.write_text("\n".join([*lines, f"{name} = {value}", ""]))
    server.start()
    try:
        yield
    finally:
        server.stop()
        path.write_text(before)
        server.start()
