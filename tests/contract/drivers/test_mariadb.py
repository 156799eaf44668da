"""What is particular to the driver `mariadb`: a loss under load, an old primary, and several copies."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncmy
import pytest
from asyncmy.errors import MySQLError

from evac.drivers import store_driver
from evac.drivers.mariadb import rejoin as rejoining
from evac.drivers.mariadb.driver import MariadbDriver
from evac.drivers.mariadb.link import MariadbFacts, covers, linked, member_of, stop_receiving
from evac.drivers.port import Action, Order
from evac.model.errors import ActionError, Permanent, Retryable
from evac_lab.servers.mariadb import MariadbServer
from tests.contract.adapters.mariadb import PASSWORD, SERVICE, SITES, ask, data_set
from tests.contract.capabilities.story import order, until_stopped

_CONFIRM = (
    "VARIABLE_VALUE FROM information_schema.global_status "
    "WHERE VARIABLE_NAME = 'Rpl_semi_sync_master_clients'"
)
_HANGING = "Rpl_semi_sync_master_wait_sessions"
_WAITING = f"COUNT(*) FROM information_schema.processlist WHERE user = '{SERVICE}' AND command = 'Query'"
pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@dataclass(slots=True)
class Ledger:
    """Ids whose insert was acknowledged."""

    acknowledged: list[int] = field(default_factory=list)
    sent: int = 0


async def write_until_it_ends(server: MariadbServer, ledger: Ledger, writers: int = 4) -> None:
    """Until the server is gone."""

    async def writer() -> None:
        with suppress(Exception):
            line = await asyncmy.connect(
                host=server.host, port=server.port, user="admin", password=PASSWORD, autocommit=True
            )
            async with line.cursor() as cursor:
                while True:
                    ledger.sent += 1
                    number = ledger.sent
                    await cursor.execute(f"INSERT INTO app.orders VALUES ({number})")
                    ledger.acknowledged.append(number)

    await asyncio.gather(*(writer() for _ in range(writers)))


def test_a_primary_killed_under_load_loses_nothing_and_follows_again(server_folder: Path) -> None:
    with data_set(server_folder) as world:
        ledger = Ledger()
        pangyo, anyang = world.pangyo, world.anyang

        async def story() -> None:
            driver = MariadbDriver()
            writers = asyncio.create_task(write_until_it_ends(pangyo, ledger))
            async with asyncio.timeout(10):
                while len(ledger.acknowledged) < 50:
                    await asyncio.sleep(0.01)
            pangyo.kill()
            await writers
            await driver.execute(world.fence(), order())
            evidence = await driver.execute(world.action("promote", "dc-anyang"), order())
            assert evidence["proof"] == "sync"
            await asyncio.to_thread(anyang.sql, "INSERT INTO app.orders VALUES (1000000)")
            kept = set(map(int, (await asyncio.to_thread(anyang.sql, "SELECT id FROM app.orders")).split()))
            assert set(ledger.acknowledged) <= kept, "an acknowledged commit is lost"
            await asyncio.to_thread(pangyo.start)
            assert await asyncio.to_thread(ask, pangyo, "@@read_only") == "1", "it comes back harmless"
            await driver.execute(world.rejoin("dc-pangyo", "dc-anyang"), order())
            protect = world.action("protect", "dc-anyang", synchronous=("dc-pangyo",))
            await driver.execute(protect, order())
            await asyncio.to_thread(anyang.sql, "INSERT INTO app.orders VALUES (1000001)")
            report = await driver.report_role(world.action("verify", "dc-anyang"), 5.0)
            assert (report.role, report.confirms) == ("primary", ("dc-pangyo",))
            with pytest.raises(Permanent, match="older leader"):
                await driver.execute(protect, order(token=6))

        asyncio.run(story())
        both = {name: world.members[name].sql("CHECKSUM TABLE app.orders") for name in world.members}
        assert len(set(both.values())) == 1, both


def test_a_silent_primary_does_not_hold_up_its_fence(server_folder: Path) -> None:
    """Without the driver's own limit, the copy would wait for an hour."""
    variable = "rpl_semi_sync_slave_kill_conn_timeout"
    with data_set(server_folder) as world:
        world.anyang.sql(f"SET GLOBAL {variable} = 3600")

        async def story() -> None:
            world.pangyo.pause()
            await until_stopped(world.pangyo.process.pid)
            await MariadbDriver().execute(world.fence(), order())
            evidence = await MariadbDriver().execute(world.action("promote", "dc-anyang"), order())
            assert evidence["proof"] == "sync"

        asyncio.run(story())
        assert ask(world.anyang, f"@@GLOBAL.{variable}") == "3600", "the setting is as before"
        world.anyang.sql("INSERT INTO app.orders VALUES (1)")


def test_a_stop_that_fails_leaves_the_setting_as_it_was(server_folder: Path) -> None:
    """Also if the connection is lost with it."""
    variable = "rpl_semi_sync_slave_kill_conn_timeout"
    with data_set(server_folder) as world:
        member = member_of(world.fence())

        async def stop(statement: str) -> None:
            async with linked(member, 30.0) as link:
                await stop_receiving(link, statement)

        for seconds in ("3600", "1"):
            world.anyang.sql(f"SET GLOBAL {variable} = {seconds}")
            for statement in ("STOP SLAVE 'of nobody'", "KILL CONNECTION_ID()"):
                with pytest.raises(ActionError):
                    asyncio.run(stop(statement))
                assert ask(world.anyang, f"@@GLOBAL.{variable}") == seconds, statement


def test_an_old_primary_with_transactions_of_its_own_takes_no_more_and_is_else_left_as_it_is(
    server_folder: Path,
) -> None:
    with data_set(server_folder, synchronous=()) as world:
        pangyo, anyang = world.pangyo, world.anyang

        async def story() -> None:
            driver, given = MariadbDriver(), order()
            anyang.sql("STOP SLAVE IO_THREAD")
            pangyo.sql("INSERT INTO app.orders VALUES (1)")
            pangyo.kill()
            unproven = world.action("promote", "dc-anyang")
            with pytest.raises(Permanent, match="no fence proof"):
                await driver.execute(unproven, given)
            await driver.execute(replace(unproven, parameters={"proof": "attest"}), given)
            pangyo.start()
            rejoin = world.rejoin("dc-pangyo", "dc-anyang")
            before = ask(pangyo, "@@gtid_current_pos")
            for read_only in ("OFF", "ON"):
                pangyo.sql(f"SET GLOBAL read_only = {read_only}")
                dry = await driver.check(rejoin, replace(given, dry_run=True))
                checked = await driver.check(rejoin, given)
                assert checked.ready == (read_only == "OFF"), "one that takes writes is to be stopped first"
                for refused in (dry, checked) if read_only == "ON" else (dry,):
                    assert "holds transactions that" in refused.problems[0]
                    assert "rebuild it with mariadb-backup" in refused.problems[0], (
                        "a retry alone does not help"
                    )
                    assert isinstance(refused.error, Permanent)
                with pytest.raises(Permanent, match="with mariadb-backup, then retry") as raised:
                    await driver.execute(rejoin, given)
                assert raised.value.code == "mariadb-diverged"
                assert ask(pangyo, "@@gtid_current_pos, @@read_only").split() == [before, "1"]
            anyang.kill()
            pangyo.sql("SET GLOBAL read_only = OFF")
            with pytest.raises(Retryable, match="does not answer"):
                await driver.execute(rejoin, given)
            assert ask(pangyo, "@@read_only") == "0", "without another primary it stays what it is"

        asyncio.run(story())


def test_a_rejoin_gives_its_primary_more_time_than_a_promotion_gives_a_peer(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a primary that lives answers late."""
    with data_set(server_folder) as world:

        async def story() -> None:
            world.anyang.sql("STOP SLAVE IO_THREAD")
            monkeypatch.setattr(store_driver, "ANSWER_MS", 0)
            evidence = await MariadbDriver().execute(world.rejoin("dc-anyang", "dc-pangyo"), order())
            assert evidence["role"] == "replica"

        asyncio.run(story())


def test_a_commit_that_begins_to_wait_during_a_rejoin_is_seen_before_the_server_follows(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending its session leaves it in this log only: the server would follow with a row of its own."""
    with data_set(server_folder) as world:
        pangyo, anyang, ledger = world.pangyo, world.anyang, Ledger(sent=100)
        writers: list[asyncio.Task[None]] = []
        asked = rejoining._rejoin_refused

        async def asked_and_written(action: Action, given: Order, facts: MariadbFacts) -> ActionError | None:
            refused = await asked(action, given, facts)
            if not writers:
                assert refused is None
                writers.append(asyncio.create_task(write_until_it_ends(pangyo, ledger, writers=1)))
                hanging = "VARIABLE_VALUE FROM information_schema.global_status WHERE VARIABLE_NAME = "
                async with asyncio.timeout(10):
                    while await asyncio.to_thread(ask, pangyo, f"{hanging}'{_HANGING}'") != "1":
                        await asyncio.sleep(0.02)
            return refused

        async def story() -> None:
            driver, given = MariadbDriver(), order()
            anyang.sql("STOP SLAVE IO_THREAD")
            pangyo.sql("SET GLOBAL read_only = ON")
            attested = replace(world.action("promote", "dc-anyang"), parameters={"proof": "attest"})
            await driver.execute(attested, given)
            pangyo.sql("SET GLOBAL read_only = OFF")
            monkeypatch.setattr(rejoining, "_rejoin_refused", asked_and_written)
            with pytest.raises(Permanent, match="holds transactions that"):
                await driver.execute(world.rejoin("dc-pangyo", "dc-anyang"), given)
            await writers[0]
            assert ledger.acknowledged == []
            assert ask(pangyo, "@@read_only") == "1"
            assert pangyo.sql("SHOW ALL SLAVES STATUS") == "", "it follows no one"

        asyncio.run(story())


def test_of_two_copies_none_is_sure_and_a_demotion_confirms_nothing(server_folder: Path) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        pangyo = world.pangyo

        async def story() -> None:
            driver, given, ask_it = MariadbDriver(), order(), world.action("verify", "dc-pangyo")
            checked = await driver.precheck_sync(ask_it, 5.0, "dc-anyang", SITES, "pangyo")
            assert "2 copies are connected, and a commit needs any one of them" in checked.problems[0]
            assert (await driver.report_role(ask_it, 5.0)).confirms == ()
            world.members["dc-ansan"].sql(
                "SET GLOBAL rpl_semi_sync_slave_enabled = ON", "STOP SLAVE IO_THREAD", "START SLAVE IO_THREAD"
            )
            async with asyncio.timeout(10):
                while ask(pangyo, _CONFIRM) != "2":
                    await asyncio.sleep(0.02)
            one = world.action("protect", "dc-pangyo", synchronous=("dc-anyang",))
            with pytest.raises(
                Retryable, match="set rpl_semi_sync_slave_enabled to OFF on all but dc-anyang"
            ):
                await driver.execute(one, given)
            both = world.action("protect", "dc-pangyo", synchronous=("dc-anyang", "dc-ansan"))
            with pytest.raises(Retryable, match="let at most one"):
                await driver.execute(both, given)
            for name in ("dc-anyang", "dc-ansan"):
                world.members[name].sql("STOP SLAVE IO_THREAD")
            async with asyncio.timeout(10):
                while not (report := await driver.report_role(ask_it, 5.0)).waits_for:
                    await asyncio.sleep(0.02)
            assert report.waits_for == ("dc-anyang",), "the next commit will wait, although nobody writes now"
            ledger = Ledger()
            writers = asyncio.create_task(write_until_it_ends(pangyo, ledger, writers=1))
            hanging = "VARIABLE_VALUE > 0 FROM information_schema.global_status WHERE VARIABLE_NAME = "
            async with asyncio.timeout(10):
                while ask(pangyo, f"{hanging}'Rpl_semi_sync_master_wait_sessions'") != "1":
                    await asyncio.sleep(0.02)
            assert (await driver.report_role(ask_it, 5.0)).waits_for == ("dc-anyang",)
            acknowledged = len(ledger.acknowledged)
            evidence = await driver.execute(world.action("demote", "dc-pangyo"), given)
            await writers
            assert len(ledger.acknowledged) == acknowledged, "a commit that no copy has was confirmed"
            assert evidence["proof"] == "demote"

        asyncio.run(story())


def test_a_demotion_confirms_no_commit_however_many_wait_and_begin_meanwhile(server_folder: Path) -> None:
    """MariaDB commits in groups: a session that ends while it waits releases the others of its group."""
    with data_set(server_folder) as world:
        pangyo, acknowledged, stopped = world.pangyo, list[int](), asyncio.Event()
        world.anyang.sql("STOP SLAVE IO_THREAD")

        async def write(number: int, connected: asyncio.Event) -> None:
            try:
                with suppress(MySQLError, OSError):
                    line = await asyncmy.connect(
                        host=pangyo.host, port=pangyo.port, user=SERVICE, password=PASSWORD, autocommit=True
                    )
                    try:
                        connected.set()
                        async with line.cursor() as cursor:
                            await cursor.execute(f"INSERT INTO app.orders VALUES ({number})")
                        acknowledged.append(number)
                    finally:
                        line.close()
            finally:
                connected.set()

        async def write_on(began: list[asyncio.Task[None]]) -> None:
            """One connects at a time: a busy machine gets fewer of them, and not more than it can answer."""
            while not stopped.is_set():
                connected = asyncio.Event()
                began.append(asyncio.create_task(write(len(began), connected)))
                await connected.wait()
                await asyncio.sleep(0.004)

        async def story() -> None:
            for _ in range(5):
                began: list[asyncio.Task[None]] = []
                stream = asyncio.create_task(write_on(began))
                async with asyncio.timeout(10):
                    while int(await asyncio.to_thread(ask, pangyo, _WAITING)) < 20:
                        await asyncio.sleep(0.01)
                evidence = await MariadbDriver().execute(world.action("demote", "dc-pangyo"), order())
                stopped.set()
                async with asyncio.timeout(20):
                    await asyncio.gather(stream, *began)  # all were ended, or refused
                stopped.clear()
                assert evidence["proof"] == "demote"
                assert acknowledged == [], f"{len(acknowledged)} commits that no copy has were confirmed"
                pangyo.sql(
                    "SET GLOBAL rpl_semi_sync_master_enabled = OFF",
                    "SET GLOBAL read_only = OFF",
                    "DELETE FROM app.orders",
                    "SET GLOBAL rpl_semi_sync_master_enabled = ON",
                )

        asyncio.run(story())


def test_a_commit_that_hangs_until_a_time_limit_is_reported_while_it_does(server_folder: Path) -> None:
    """With a limit of a minute nobody waits until someone commits, and after it nobody does either."""
    with data_set(server_folder) as world:
        pangyo = world.pangyo

        async def story() -> None:
            driver, ask_it = MariadbDriver(), world.action("verify", "dc-pangyo")
            pangyo.sql("SET GLOBAL rpl_semi_sync_master_timeout = 60000")
            world.anyang.kill()
            async with asyncio.timeout(10):
                while ask(pangyo, _CONFIRM) != "0":
                    await asyncio.sleep(0.02)
            assert (await driver.report_role(ask_it, 5.0)).waits_for == ()
            ledger = Ledger()
            writer = asyncio.create_task(write_until_it_ends(pangyo, ledger, writers=1))
            async with asyncio.timeout(10):
                while not (report := await driver.report_role(ask_it, 5.0)).waits_for:
                    await asyncio.sleep(0.02)
            assert (report.waits_for, ledger.acknowledged) == (("dc-anyang",), [])
            pangyo.sql("SET GLOBAL rpl_semi_sync_master_enabled = OFF")
            async with asyncio.timeout(10):
                while not ledger.acknowledged or (await driver.report_role(ask_it, 5.0)).waits_for:
                    await asyncio.sleep(0.02)
            pangyo.kill()
            await writer

        asyncio.run(story())


@pytest.mark.parametrize(
    ("held", "least", "enough"),
    [("0-1-9", "0-1-9", True), ("0-2-9,1-1-3", "0-1-8", True), ("0-1-7", "0-1-8", False), ("", "", True)],
)
def test_positions_are_compared_by_domain(held: str, least: str, enough: bool) -> None:
    assert covers(held, least) is enough
