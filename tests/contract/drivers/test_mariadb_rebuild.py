"""An old primary with transactions of its own: they are kept, then it is rebuilt from the new primary."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from evac.drivers.mariadb.driver import MariadbDriver
from evac.drivers.mariadb.rebuild import SEES, _listed, range_words, series
from evac.drivers.port import Action, Evidence, Order
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac_lab.process import find_program
from evac_lab.servers.mariadb import MariadbServer
from tests.contract.adapters.mariadb import PASSWORD, DataSet, ask, data_set
from tests.contract.capabilities.story import order
from tests.contract.drivers.test_mariadb import Ledger, write_until_it_ends

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
PROGRAMS = ("mariadb", "mariadb-dump", "mariadb-binlog")


def order_of(seconds: float) -> Order:
    return replace(order(), timeout_s=seconds)


@dataclass(slots=True)
class Parted:
    """pangyo has three transactions that its successor anyang never had. bin: links to MariaDB's programs."""

    world: DataSet
    archive: Path
    bin: Path

    def rejoin(self, **parameters: str) -> Action:
        plain = self.world.rejoin("dc-pangyo", "dc-anyang")
        more = {
            "archive": str(self.archive),
            "bin": str(self.bin),
            "rebuild_user": "admin",
            "rebuild_password": "env:EVAC_TEST_MARIADB",
        }
        given = {**plain.parameters, **parameters}
        return replace(plain, settings={**plain.settings, **more}, parameters=given)

    def run(self, *, seconds: float = 60.0, **parameters: str) -> Evidence:
        return asyncio.run(MariadbDriver().execute(self.rejoin(**parameters), order_of(seconds)))

    def break_program(self, name: str, script: str) -> None:
        (self.bin / name).unlink()
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def mend_programs(self) -> None:
        for name in PROGRAMS:
            (self.bin / name).unlink(missing_ok=True)
            (self.bin / name).symlink_to(find_program(name, "mariadb-client"))


def content(world: DataSet, name: str) -> str:
    return world.members[name].sql(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name <> 'evac' ORDER BY 1",
        "SELECT id FROM app.orders ORDER BY 1",
        "SELECT user, host FROM mysql.user ORDER BY 1, 2",
        "SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'app' ORDER BY 1",
    )


def workshop(world: DataSet) -> Parted:
    made = Parted(world, world.folder / "archive", world.folder / "bin")
    made.archive.mkdir()
    made.bin.mkdir()
    made.mend_programs()
    return made


@contextmanager
def parted(folder: Path) -> Iterator[Parted]:
    with data_set(folder, synchronous=()) as world:
        pangyo, anyang = world.pangyo, world.anyang
        made = workshop(world)
        pangyo.sql(
            "CREATE PROCEDURE app.report() SELECT 1",
            "CREATE EVENT app.nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM app.orders WHERE id < 0",
            "INSERT INTO app.orders VALUES (1)",
        )
        until_equal(world)
        anyang.sql("STOP SLAVE IO_THREAD")
        pangyo.sql(
            "FLUSH BINARY LOGS",
            "INSERT INTO app.orders VALUES (2)",
            "CREATE DATABASE `only ``here`",
            "CREATE TABLE `only ``here`.parcels (id INT PRIMARY KEY)",
        )
        attested = replace(world.action("promote", "dc-anyang"), parameters={"proof": "attest"})
        pangyo.sql("SET GLOBAL read_only = ON")
        asyncio.run(MariadbDriver().execute(attested, order()))
        anyang.sql("INSERT INTO app.orders VALUES (3)", "CREATE USER clerk@'%' IDENTIFIED BY 'x'")
        pangyo.sql("SET GLOBAL read_only = OFF")
        yield made


def until_equal(world: DataSet) -> None:
    position = ask(world.pangyo, "@@gtid_binlog_pos")
    assert ask(world.anyang, f"MASTER_GTID_WAIT('{position}', 20)") == "0"


def until_purged(world: DataSet) -> None:
    """A log that a copy was just reading is kept until its connection has ended."""
    end_s = time.monotonic() + 20.0
    while len(logs := world.pangyo.sql("SHOW BINARY LOGS").splitlines()) > 1:
        assert time.monotonic() < end_s, logs
        world.pangyo.sql(f"PURGE BINARY LOGS TO '{logs[-1].split()[0]}'", "INSERT INTO app.orders VALUES (8)")
        world.pangyo.sql("DELETE FROM app.orders WHERE id = 8")


def state(made: Parted) -> tuple[str, str]:
    """What a refusal must leave as it is."""
    return content(made.world, "dc-pangyo"), ask(made.world.pangyo, "@@gtid_binlog_state")


def test_what_only_the_old_primary_had_is_kept_before_it_is_rebuilt(server_folder: Path) -> None:
    with parted(server_folder) as made:
        driver, world = MariadbDriver(), made.world
        checked = asyncio.run(driver.check(made.rejoin(), order()))
        assert checked.ready
        assert checked.evidence["how"] == "rebuild"
        assert "never had: 0-1-" in str(checked.evidence["would"])
        lost = ask(world.pangyo, "@@gtid_binlog_pos")
        evidence = made.run()
        assert evidence["diverged_transactions"] == 3
        assert str(evidence["gtids"]).endswith(f" to {lost}")
        theirs = content(world, "dc-anyang")
        assert content(world, "dc-pangyo") == theirs
        assert "only `here" not in theirs
        assert "clerk" in theirs
        assert ask(world.pangyo, "status FROM information_schema.events") == "SLAVESIDE_DISABLED"
        assert ask(world.pangyo, "COUNT(*) FROM evac.authority WHERE id = 2") == "0"
        world.anyang.sql("INSERT INTO app.orders VALUES (4)")
        position = ask(world.anyang, "@@gtid_binlog_pos")
        assert ask(world.pangyo, f"MASTER_GTID_WAIT('{position}', 20)") == "0", "it follows from there"
        assert made.run()["already"], "a repeated order changes nothing"
        _check_archive(Path(str(evidence["archive"])), lost)
        assert [one.name for one in made.archive.iterdir()] == [Path(str(evidence["archive"])).name]
        asyncio.run(_moved_home(made))


def test_a_log_is_kept_from_where_the_two_parted_however_far_the_new_primary_went(
    server_folder: Path,
) -> None:
    """GTID numbers of two servers cannot be compared: the successor's are higher than all others."""
    with parted(server_folder) as made:
        pangyo, anyang = made.world.pangyo, made.world.anyang
        pangyo.sql("FLUSH BINARY LOGS", "CREATE TABLE app.plain (id INT) ENGINE=MyISAM")
        pangyo.sql("INSERT INTO app.plain VALUES (1)")
        pangyo.process.stop(60.0)
        pangyo.start(60.0)
        anyang.sql(*(f"INSERT INTO app.orders VALUES ({number})" for number in range(100, 120)))
        lost = ask(pangyo, "@@gtid_binlog_pos")
        evidence = made.run()
        assert evidence["diverged_transactions"] == 5
        listed = (Path(str(evidence["archive"])) / "transactions.txt").read_text().split()
        assert (len(listed), listed[-1]) == (5, lost)


def test_one_without_its_log_since_the_two_parted_is_not_rebuilt(server_folder: Path) -> None:
    with parted(server_folder) as made:
        made.world.pangyo.sql("FLUSH BINARY LOGS")
        until_purged(made.world)
        before = state(made)
        with pytest.raises(Permanent, match="no longer has all of its log") as raised:
            made.run()
        assert raised.value.code == "rebuild-impossible"
        assert state(made) == before


def test_another_version_is_another_series() -> None:
    assert series("10.11.8-MariaDB-log") == series("10.11.14-MariaDB") != series("11.8.9-MariaDB")
    assert series("10.11.8-MariaDB") != series("10.6.8-MariaDB")


def test_without_gzip_or_space_nothing_begins(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with parted(server_folder) as made:
        before = state(made)
        sized = "SUM(data_length + index_length) FROM information_schema.tables"
        theirs = int(ask(made.world.anyang, sized))
        usage = shutil.disk_usage(made.archive)
        with monkeypatch.context() as small:
            small.setattr(shutil, "disk_usage", lambda _: usage._replace(free=theirs))
            with pytest.raises(Permanent) as raised:
                made.run()
        assert raised.value.code == "archive-full", "what it has itself needs space too"
        assert state(made) == before
        with monkeypatch.context() as bare:
            bare.setenv("PATH", str(made.bin))
            with pytest.raises(Permanent, match="gzip is not installed"):
                made.run()
        with pytest.raises(Permanent, match="let the agent of its site do this step"):
            made.run(how="follow")
        assert state(made) == before


def test_a_copy_is_not_dumped_into_a_full_archive(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_late_copy(server_folder) as (made, action):
        before = content(made.world, "dc-anyang")
        usage = shutil.disk_usage(made.archive)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
        with pytest.raises(Permanent) as raised:
            asyncio.run(MariadbDriver().execute(action, order_of(60.0)))
        assert raised.value.code == "archive-full"
        assert content(made.world, "dc-anyang") == before
        assert not list(made.archive.iterdir())


def test_a_log_without_the_last_transaction_of_a_server_is_not_enough(tmp_path: Path) -> None:
    log, into = tmp_path / "log.sql", tmp_path / "transactions.txt"
    log.write_bytes(b"#1 \tGTID 0-1-57 trans\n#2 \tGTID 0-1-58\n#3 \tGTID 0-2-99 trans\n")
    assert _listed(log, into, {(0, 1): (57, 58)}) == 2
    assert into.read_text() == "0-1-57\n0-1-58\n"
    for missing in ({(0, 1): (57, 59)}, {(0, 1): (57, 58), (0, 3): (1, 4)}):
        with pytest.raises(Permanent, match="is not in the binary log"):
            _listed(log, into, missing)


async def _moved_home(made: Parted) -> None:
    """A switchover to the rebuilt server. The other one has nothing of its own then, and only follows."""
    world, driver = made.world, MariadbDriver()
    await driver.execute(world.action("protect", "dc-anyang", synchronous=("dc-pangyo",)), order())
    world.anyang.sql("INSERT INTO app.orders VALUES (5)")
    given = await driver.execute(world.action("demote", "dc-anyang"), order())
    least = {"proof": "demote", "least_lsn": given["last_lsn"]}
    await driver.execute(world.action("promote", "dc-pangyo", **least), order())
    world.pangyo.sql("INSERT INTO app.orders VALUES (6)")
    back = world.rejoin("dc-anyang", "dc-pangyo")
    back = replace(back, settings={**made.rejoin().settings, **back.settings})
    evidence = await driver.execute(back, order_of(60.0))
    assert "how" not in evidence, evidence
    assert evidence["role"] == "replica"


def _check_archive(archive: Path, lost: str) -> None:
    listed = (archive / "transactions.txt").read_text().split()
    assert len(listed) == 3
    assert listed[-1] == lost
    with gzip.open(archive / "databases.sql.gz", "rt") as file:
        assert "only ``here" in file.read()
    decoded = (archive / "log.sql").read_text(errors="replace")
    assert "only ``here" in decoded
    assert "INSERT INTO app.orders VALUES (2)" in decoded
    manifest = json.loads((archive / "manifest.json").read_text())
    assert manifest["transactions"] == 3
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((archive / name).read_bytes()).hexdigest() == digest
    assert {"log.sql", "transactions.txt", "databases.sql.gz"} < manifest["sha256"].keys()
    assert stat.S_IMODE(archive.stat().st_mode) == 0o700


def test_writes_to_the_new_primary_during_a_rebuild_are_neither_lost_nor_applied_twice(
    server_folder: Path,
) -> None:
    """The dump and the position from which the server follows are of the same moment."""
    with parted(server_folder) as made:
        anyang, ledger = made.world.anyang, Ledger(sent=100)

        async def story() -> None:
            writers = asyncio.create_task(write_until_it_ends(anyang, ledger))
            rebuilt = asyncio.create_task(MariadbDriver().execute(made.rejoin(), order_of(60.0)))
            evidence = await rebuilt
            assert evidence.get("how") == "rebuild", evidence
            acknowledged = len(ledger.acknowledged)
            async with asyncio.timeout(10):
                while len(ledger.acknowledged) < acknowledged + 20:
                    await asyncio.sleep(0.01)
            await MariadbDriver().execute(made.world.action("demote", "dc-anyang"), order())
            await writers

        asyncio.run(story())
        position = ask(anyang, "@@gtid_binlog_pos")
        assert ask(made.world.pangyo, f"MASTER_GTID_WAIT('{position}', 20)") == "0"
        assert len(ledger.acknowledged) > 50
        kept = set(map(int, made.world.pangyo.sql("SELECT id FROM app.orders").split()))
        assert set(ledger.acknowledged) <= kept
        assert content(made.world, "dc-pangyo") == content(made.world, "dc-anyang")


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("mariadb-binlog", "echo no log >&2; exit 1"),
        ("mariadb-dump", "echo no dump >&2; exit 3"),
        ("mariadb-dump", "echo nothing useful"),
        ("mariadb-dump", "exec sleep 60"),
    ],
)
def test_a_program_that_fails_before_the_data_is_replaced_leaves_it_as_it_is(
    server_folder: Path, name: str, script: str
) -> None:
    with parted(server_folder) as made:
        before = state(made)
        made.break_program(name, script)
        expected = OutcomeUnknown if "sleep" in script else Permanent
        with pytest.raises(expected) as raised:
            made.run(seconds=5.0 if "sleep" in script else 60.0)
        assert raised.value.code in ("rebuild-failed", "rebuild-impossible", "rebuild-slow")
        assert state(made) == before
        assert ask(made.world.pangyo, "@@read_only") == "1", "it takes no more writes"
        made.mend_programs()
        assert made.run()["diverged_transactions"] == 3
        assert not [one for one in made.archive.iterdir() if one.name.startswith(".")]


def test_one_whose_data_is_partly_replaced_is_never_promoted_and_is_loaded_again(server_folder: Path) -> None:
    with parted(server_folder) as made:
        world, driver = made.world, MariadbDriver()
        real = find_program("mariadb", "mariadb-client")
        made.break_program("mariadb", f'case "$*" in *--execute*) exec {real} "$@";; esac; exit 1')
        with pytest.raises(Permanent, match="mariadb ended with 1") as raised:
            made.run()
        kept = Path(raised.value.message.rpartition(" is kept: ")[2])
        dump = kept.read_bytes()
        assert b"CREATE TABLE `orders`" in gzip.decompress(dump)
        made.break_program("mariadb-dump", "exit 3")
        with pytest.raises(Permanent, match="mariadb-dump ended with 3"):
            made.run()
        assert kept.read_bytes() == dump, "if the primary is lost now, it is the only one"
        assert "app" not in ask(world.pangyo, "GROUP_CONCAT(schema_name) FROM information_schema.schemata")
        attested = replace(world.action("promote", "dc-pangyo"), parameters={"proof": "attest"})
        world.anyang.sql("SET GLOBAL read_only = ON")
        with pytest.raises(Permanent, match="its data is incomplete"):
            asyncio.run(driver.execute(attested, order()))
        world.pangyo.kill()
        world.pangyo.start(60.0)
        _nothing_takes_it_for_a_primary(world)
        world.anyang.sql("SET GLOBAL read_only = OFF")
        with pytest.raises(Permanent, match="only partly replaced"):
            made.run(how="follow")
        made.mend_programs()
        evidence = made.run()
        assert (Path(str(evidence["archive"])) / "manifest.json").exists(), "the first archive is the one"
        assert len(list(made.archive.iterdir())) == 1
        assert content(world, "dc-pangyo") == content(world, "dc-anyang")


def _nothing_takes_it_for_a_primary(world: DataSet) -> None:
    """Its configuration lets it accept writes, or a person did."""
    driver = MariadbDriver()
    world.pangyo.sql("SET GLOBAL read_only = OFF")
    assert asyncio.run(driver.report_role(world.action("verify", "dc-pangyo"), 5.0)).role == "none"
    attested = replace(world.action("promote", "dc-pangyo"), parameters={"proof": "attest"})
    assert asyncio.run(driver.observe(attested, order())).outcome == "absent"
    for action in (attested, world.action("protect", "dc-pangyo", synchronous=())):
        assert any("incomplete" in one for one in asyncio.run(driver.check(action, order())).problems)
        with pytest.raises(ActionError, match="its data is incomplete"):
            asyncio.run(driver.execute(action, order()))
    with pytest.raises(ActionError, match="not as expected"):
        asyncio.run(driver.execute(world.action("verify", "dc-pangyo"), order()))
    back = world.rejoin("dc-anyang", "dc-pangyo")
    with pytest.raises(ActionError, match="has incomplete data itself"):
        asyncio.run(driver.execute(back, order()))


@pytest.mark.parametrize("fails", [False, True])
def test_no_event_runs_while_the_data_is_replaced(server_folder: Path, fails: bool) -> None:
    """An event of the primary would write to this server as soon as it is loaded."""
    with parted(server_folder) as made:
        pangyo, real = made.world.pangyo, find_program("mariadb", "mariadb-client")
        pangyo.sql("SET GLOBAL event_scheduler = ON")
        seen = made.world.folder / "seen"
        asks = f'{real} "$@" --skip-column-names --execute="SELECT @@event_scheduler" </dev/null >{seen}'
        load = f'{real} "$@"; {asks}; exit 1' if fails else f'{asks}; exec {real} "$@"'
        made.break_program("mariadb", f'case "$*" in *--execute*) exec {real} "$@";; esac; {load}')
        if fails:
            with pytest.raises(Permanent, match="mariadb ended with 1"):
                made.run()
        else:
            made.run()
        assert seen.read_text().strip() == "OFF"
        assert ask(pangyo, "status FROM information_schema.events") == "SLAVESIDE_DISABLED"
        assert ask(pangyo, "@@event_scheduler") == "ON", "it is as before"


def test_a_program_that_its_agent_left_running_is_waited_for(server_folder: Path) -> None:
    """A killed agent leaves its loader running: a second one would load the same data at the same time."""
    with parted(server_folder) as made:
        left = made.world.folder / "left"
        child = f"setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $! >{left}; exit 1"
        real = find_program("mariadb", "mariadb-client")
        made.break_program("mariadb", f'case "$*" in *--execute*) exec {real} "$@";; esac; {child}')
        with pytest.raises(Permanent, match="mariadb ended with 1"):
            made.run()
        made.mend_programs()
        try:
            with pytest.raises(Retryable) as raised:
                made.run()
            assert raised.value.code == "rebuild-under-way"
            assert ask(made.world.pangyo, "COUNT(*) FROM evac.authority WHERE id = 2") == "1"
        finally:
            os.kill(int(left.read_text()), signal.SIGKILL)
        deadline = time.monotonic() + 20.0
        while (again := _tried(made)) is None:
            assert time.monotonic() < deadline
        assert again["how"] == "rebuild"
        assert len(list(made.archive.iterdir())) == 1


def _tried(made: Parted) -> Evidence | None:
    try:
        return made.run()
    except Retryable:
        return None


def test_sessions_that_a_program_left_open_are_ended_before_a_copy_is_rebuilt(server_folder: Path) -> None:
    with a_late_copy(server_folder) as (made, action):
        anyang = made.world.anyang
        where = (f"--host={anyang.host}", f"--port={anyang.port}", "--protocol=tcp", "--skip-ssl")
        client = (find_program("mariadb", "mariadb-client"), "--no-defaults", *where)
        held = subprocess.Popen(
            (*client, "--user=admin", "--execute=SELECT SLEEP(600)"),
            env={"MYSQL_PWD": PASSWORD},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            sleeping = "COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
            deadline = time.monotonic() + 20.0
            while ask(anyang, sleeping) == "0":
                assert time.monotonic() < deadline
            evidence = asyncio.run(MariadbDriver().execute(action, order_of(60.0)))
            assert evidence["how"] == "rebuild"
            assert held.wait(20) != 0
        finally:
            held.kill()
            held.wait()


def test_connections_that_wait_for_a_program_are_kept(server_folder: Path) -> None:
    """The server would end them after its wait_timeout: a dump of large data takes longer."""
    with parted(server_folder) as made:
        real = find_program("mariadb-dump", "mariadb-client")
        made.break_program("mariadb-dump", f'sleep 5; exec {real} "$@"')
        for server in made.world.members.values():
            server.sql("SET GLOBAL wait_timeout = 4")
        assert made.run()["diverged_transactions"] == 3


def test_tables_that_a_dump_cannot_freeze_are_left_to_a_person(server_folder: Path) -> None:
    with parted(server_folder) as made:
        before = state(made)
        made.world.anyang.sql("CREATE TABLE app.old (id INT) ENGINE=MyISAM")
        with pytest.raises(Permanent, match=r"not InnoDB, such as app\.old"):
            made.run()
        assert state(made) == before


def as_root(server: MariadbServer, *statements: str) -> None:
    """With an account that may grant."""
    client = (find_program("mariadb", "mariadb-client"), "--no-defaults", "--user=root")
    argv = (*client, f"--socket={server.folder / 'socket'}", f"--execute={'; '.join(statements)}")
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize(
    ("narrow", "missing"), [("dc-pangyo", "BINLOG ADMIN, CREATE"), ("dc-anyang", "EVENT, TRIGGER")]
)
def test_an_account_that_does_not_see_everything_rebuilds_nothing(
    server_folder: Path, narrow: str, missing: str
) -> None:
    """A dump leaves out what its account does not see, and ends well."""
    with parted(server_folder) as made:
        for name, server in made.world.members.items():
            rights = ", ".join(SEES if name == narrow else ("ALL",))
            sees_less = "REVOKE EVENT, TRIGGER ON *.* FROM"
            without = sees_less if missing.startswith("EVENT") else "GRANT ALL ON app.* TO"
            as_root(
                server,
                "SET sql_log_bin = 0",
                f"CREATE USER narrow@'%' IDENTIFIED BY '{PASSWORD}'",
                f"GRANT {rights} ON *.* TO narrow@'%'",
                *((f"{without} narrow@'%'",) if name == narrow else ()),
            )
        before, plain = state(made), made.rejoin()
        action = replace(plain, settings={**plain.settings, "rebuild_user": "narrow"})
        with pytest.raises(Permanent, match=f"narrow@% lacks on .*: .*{missing}") as raised:
            asyncio.run(MariadbDriver().execute(action, order_of(60.0)))
        assert raised.value.code == "rebuild-impossible"
        assert state(made) == before
        assert not list(made.archive.iterdir())


def test_without_a_program_or_a_folder_nothing_begins(server_folder: Path) -> None:
    with parted(server_folder) as made:
        before = state(made)
        (made.bin / "mariadb-dump").unlink()
        made.break_program("mariadb-binlog", "exit 0")
        (made.bin / "mariadb-binlog").chmod(0o644)
        shutil.rmtree(made.archive)
        checked = asyncio.run(MariadbDriver().check(made.rejoin(), order()))
        assert [problem.partition(" is not ")[0] for problem in checked.problems] == [
            "mariadb-dump",
            f"evac has no permission to run {made.bin}/mariadb-binlog",
            str(made.archive),
        ]
        with pytest.raises(ActionError) as raised:
            made.run()
        assert raised.value.code == "rebuild-impossible"
        assert state(made) == before


@contextmanager
def a_late_copy(folder: Path) -> Iterator[tuple[Parted, Action]]:
    """anyang needs log that pangyo no longer has. The action rejoins it, and may rebuild it."""
    with data_set(folder, replicas=("dc-anyang",)) as world:
        made = workshop(world)
        protect = world.action("protect", "dc-pangyo", synchronous=())
        asyncio.run(MariadbDriver().execute(protect, order()))
        world.anyang.sql("STOP SLAVE IO_THREAD")
        world.pangyo.sql("INSERT INTO app.orders VALUES (1)", "FLUSH BINARY LOGS", "FLUSH BINARY LOGS")
        until_purged(world)
        plain = world.rejoin("dc-anyang", "dc-pangyo")
        yield made, replace(plain, settings={**made.rejoin().settings, **plain.settings})


def test_a_copy_whose_log_is_gone_from_its_primary_is_rebuilt(server_folder: Path) -> None:
    with a_late_copy(server_folder) as (made, action):
        world = made.world
        with pytest.raises(Permanent, match="no longer has the log"):
            asyncio.run(MariadbDriver().execute(world.rejoin("dc-anyang", "dc-pangyo"), order()))
        evidence = asyncio.run(MariadbDriver().execute(action, order_of(60.0)))
        assert evidence.get("how") == "rebuild", (evidence, world.anyang.sql("SHOW ALL SLAVES STATUS"))
        assert "archive" not in evidence, "it had nothing of its own"
        assert content(world, "dc-anyang") == content(world, "dc-pangyo")


def test_data_without_a_position_is_kept_and_replaced_or_left_to_a_person(server_folder: Path) -> None:
    """It would get the primary's whole log a second time."""
    with data_set(server_folder, replicas=("dc-anyang",)) as world:
        made = workshop(world)
        protect = world.action("protect", "dc-pangyo", synchronous=())
        asyncio.run(MariadbDriver().execute(protect, order()))
        world.pangyo.sql("INSERT INTO app.orders VALUES (1)")
        until_equal(world)
        world.anyang.sql("STOP SLAVE", "RESET SLAVE ALL", "RESET MASTER", "SET GLOBAL gtid_slave_pos = ''")
        world.anyang.sql("SET sql_log_bin = 0", "INSERT INTO app.orders VALUES (2)")
        plain = world.rejoin("dc-anyang", "dc-pangyo")
        checked = asyncio.run(MariadbDriver().check(plain, order()))
        assert "has data, but no GTID that says which" in checked.problems[0]
        with pytest.raises(Permanent, match="it would get everything again") as raised:
            asyncio.run(MariadbDriver().execute(plain, order()))
        assert raised.value.code == "mariadb-without-position"
        assert world.anyang.sql("SHOW ALL SLAVES STATUS") == "", "it follows no one"
        action = replace(plain, settings={**made.rejoin().settings, **plain.settings})
        evidence = asyncio.run(MariadbDriver().execute(action, order_of(60.0)))
        assert evidence.get("how") == "rebuild", evidence
        with gzip.open(Path(str(evidence["archive"])) / "databases.sql.gz", "rt") as file:
            assert "(2)" in file.read(), "what it had is kept"
        assert content(world, "dc-anyang") == content(world, "dc-pangyo")


def test_ranges_name_only_what_is_known() -> None:
    known = {(0, 1): (57, 59), (0, 2): (7, 7), (1, 3): (1, 9)}
    assert range_words(known) == "0-1-57 to 0-1-59, 0-2-7, up to 1-3-9"
