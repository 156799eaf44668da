"""What the driver `postgres` promises of a fire, against real servers under load."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from evac.drivers.postgres.driver import PostgresDriver
from evac.drivers.postgres.facts import FETCH_NAME
from evac.drivers.postgres.link import format_conninfo, literal
from evac.drivers.postgres_log import lsn_number
from evac.drivers.store_driver import ANOTHER_PRIMARY
from evac.model.errors import Permanent, Retryable
from evac_lab.servers.postgres import PostgresServer
from tests.contract.adapters.postgres import (
    PASSWORD,
    SITES,
    DataSet,
    Ledger,
    connect,
    data_set,
    query,
    write_all_the_time,
)
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
GOES_ON_S = 8.0


def _address(server: PostgresServer) -> str:
    return f"{server.host}:{server.port}"


async def _ids(server: PostgresServer) -> set[int]:
    return {int(str(row[0])) for row in await query(server, "SELECT id FROM messages")}


def test_a_synchronous_failover_loses_nothing_under_eight_writers(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def story() -> None:
            driver, ledger = PostgresDriver(), Ledger()
            ready = await driver.precheck_sync(
                world.action("verify", "dc-pangyo"), 5.0, "dc-anyang", SITES, "pangyo"
            )
            assert ready.ready, ready.problems
            writing = asyncio.create_task(write_all_the_time(world.pangyo, ledger))
            async with asyncio.timeout(60):
                while len(ledger.acknowledged) <= 100:
                    await asyncio.sleep(0.05)
            fenced = await driver.execute(world.fence(), order())
            count = len(ledger.acknowledged)
            await asyncio.sleep(0.3)
            assert len(ledger.acknowledged) == count, "the old primary acknowledged a write after the fence"
            world.pangyo.kill()
            await writing
            evidence = await driver.execute(
                world.action("promote", "dc-anyang", peers=(_address(world.pangyo),)), order()
            )
            present = await _ids(world.anyang)
            assert not set(ledger.acknowledged) - present
            assert evidence["timeline"] == 2
            assert lsn_number(str(evidence["held"])) >= lsn_number(str(fenced["lsn"]))
            assert evidence["synchronous"] == ""
            # The trap: a primary that inherits a synchronous set hangs at its first commit.
            await query(world.anyang, "INSERT INTO messages VALUES (-1, 0, 'first') RETURNING id", 2.0)

        asyncio.run(story())


def test_an_asynchronous_failover_names_what_the_old_primary_had_alone(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def story() -> None:
            driver = PostgresDriver()
            await query(world.pangyo, "INSERT INTO messages VALUES (1, 0, 'both') RETURNING id")
            async with asyncio.timeout(60):
                while await _ids(world.anyang) != {1}:
                    await asyncio.sleep(0.05)
            # A paused standby would still find the log in its socket: this one is away for a while.
            world.anyang.stop()
            for id_ in (101, 102, 103):
                await query(world.pangyo, f"INSERT INTO messages VALUES ({id_}, 7, 'alone') RETURNING id")
            await query(world.pangyo, "DELETE FROM messages WHERE id = 103 RETURNING id")
            world.pangyo.kill()
            world.anyang.start()
            promoted = await driver.execute(
                world.action("promote", "dc-anyang", proof="power", peers=(_address(world.pangyo),)), order()
            )
            assert promoted["proof"] == "power"
            assert await _ids(world.anyang) == {1}
            await query(world.anyang, "INSERT INTO messages VALUES (200, 0, 'after') RETURNING id")
            action = world.rejoin("dc-pangyo", "dc-anyang", archive_rows=("messages",))
            slow = replace(order(), timeout_s=60.0)
            checked = await driver.check(action, slow)
            assert checked.ready, checked.problems
            evidence = await driver.execute(action, slow)
            assert evidence["diverged_transactions"] == 4
            assert evidence["rows_by_table"] == "messages=2"
            assert evidence["how"] == "rewind"
            assert (await driver.observe(action, slow)).outcome == "done"
            assert await _ids(world.pangyo) == {1, 200}
            _archive_holds(Path(str(evidence["archive"])), {101, 102})
            again = await driver.execute(action, replace(slow, attempt=2))
            assert again["rewound"] is False
            stale = await driver.observe(action, slow)
            assert stale.evidence["upstream"] == _address(world.anyang)

        asyncio.run(story())


def _archive_holds(folder: Path, ids: set[int]) -> None:
    lines = (folder / "rows" / "0000.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"table": "messages"}
    assert {json.loads(line)["id"] for line in lines[1:]} == ids
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == {"messages": len(ids)}
    assert any(name.startswith("wal/") for name in manifest["sha256"])


def test_promotion_without_a_fence_proof_is_refused(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def story() -> None:
            driver = PostgresDriver()
            promote = world.action("promote", "dc-anyang")
            checked = await driver.check(promote, order())
            assert any("no fence proof" in problem for problem in checked.problems)
            with pytest.raises(Permanent, match="no fence proof"):
                await driver.execute(promote, order())
            for wrong in (
                world.fence(standing=""),
                world.fence(standing="dc-ansan"),
                world.fence(standing_age_ms=3_600_000),
                world.fence(proof="power"),
            ):
                assert not (await driver.check(wrong, order())).ready
                with pytest.raises(Permanent):
                    await driver.execute(wrong, order())
            await driver.execute(world.fence(), order())
            peered = world.action("promote", "dc-anyang", peers=(_address(world.pangyo),))
            checked = await driver.check(peered, order())
            assert checked.error is not None
            assert checked.error.code == ANOTHER_PRIMARY
            assert not checked.ready
            with pytest.raises(Retryable, match="accepts writes"):
                await driver.execute(peered, order())
            far = world.action("promote", "dc-anyang", least_lsn="FF/0")
            with pytest.raises(Permanent, match="least"):
                await driver.execute(far, order())
            assert (await query(world.anyang, "SELECT pg_is_in_recovery()")) == [(True,)]

        asyncio.run(story())


def test_the_precheck_names_every_reason_why_a_replica_is_no_fence(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def problems(candidate: str = "dc-anyang", lost: str = "pangyo") -> str:
            action = world.action("verify", "dc-pangyo")
            return " ".join(
                (await PostgresDriver().precheck_sync(action, 5.0, candidate, SITES, lost)).problems
            )

        async def story() -> None:
            assert await problems() == ""
            assert "in anyang, the site that may be lost" in await problems(lost="anyang")
            assert "not in synchronous_standby_names" in await problems("dc-ansan")
            world.pangyo.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (\"dc-anyang\", x)'")
            world.pangyo.sql("SELECT pg_reload_conf(), pg_sleep(0.2)")
            assert "confirmed without dc-anyang" in await problems()
            world.pangyo.sql("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (\"dc-anyang\")'")
            world.pangyo.sql("SELECT pg_reload_conf(), pg_sleep(0.2)")
            world.pangyo.sql("CREATE ROLE batch; ALTER ROLE batch SET synchronous_commit = 'off'")
            assert "role or database sets synchronous_commit=off" in await problems()
            world.pangyo.sql("DROP ROLE batch")
            world.pangyo.sql("ALTER SYSTEM SET synchronous_commit = 'remote_write'")
            world.pangyo.sql("SELECT pg_reload_conf(), pg_sleep(0.2)")
            assert "settings file sets synchronous_commit=remote_write" in await problems()
            world.pangyo.sql("ALTER SYSTEM RESET synchronous_commit")
            world.pangyo.sql("SELECT pg_reload_conf()")
            world.anyang.kill()
            async with asyncio.timeout(60):
                while "is not streaming" not in await problems():
                    await asyncio.sleep(0.05)

        asyncio.run(story())


def test_commits_that_hang_for_a_lost_replica_go_on_when_the_next_protects(server_folder: Path) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:

        async def story() -> None:
            driver = PostgresDriver()
            # A standby that holds all there is says nothing by itself; commits that wait go on all the same.
            for server in (world.pangyo, world.members["dc-ansan"]):
                for name in ("wal_sender_timeout", "wal_receiver_timeout", "wal_receiver_status_interval"):
                    server.sql(f"ALTER SYSTEM SET {name} = 0")
                server.sql("SELECT pg_reload_conf()")
            world.anyang.kill()
            writer = await connect(world.pangyo)
            hanging = asyncio.create_task(
                writer.execute("INSERT INTO messages VALUES (1, 0, 'waits')", timeout=60)
            )
            await asyncio.sleep(0.5)
            assert not hanging.done()
            lost = world.action("protect", "dc-pangyo", synchronous=("dc-anyang",))
            assert (await driver.observe(lost, order())).outcome == "absent"
            gone = world.action("protect", "dc-pangyo", synchronous=("dc-nowhere",))
            with pytest.raises(Retryable, match="is not streaming"):
                await driver.execute(gone, order())
            evidence = await driver.execute(
                world.action("protect", "dc-pangyo", synchronous=("dc-ansan",)), order()
            )
            assert evidence["strict"] is True
            await asyncio.wait_for(hanging, GOES_ON_S)
            world.members["dc-ansan"].kill()
            hanging = asyncio.create_task(
                writer.execute("INSERT INTO messages VALUES (2, 0, 'waits')", timeout=60)
            )
            await asyncio.sleep(0.3)
            assert not hanging.done()
            evidence = await driver.execute(world.action("protect", "dc-pangyo", synchronous=()), order())
            assert evidence["asynchronous"] is True
            await asyncio.wait_for(hanging, GOES_ON_S)
            writer.terminate()

        asyncio.run(story())


def test_a_planned_switchover_loses_nothing_and_the_old_primary_acknowledges_nothing(
    server_folder: Path,
) -> None:
    with data_set(server_folder) as world:

        async def story() -> None:
            driver, ledger = PostgresDriver(), Ledger()
            writing = asyncio.create_task(write_all_the_time(world.pangyo, ledger))
            await asyncio.sleep(0.7)
            demoted = await driver.execute(world.action("demote", "dc-pangyo"), order())
            await writing
            assert demoted["writable"] is False
            assert demoted["proof"] == "demote"
            with pytest.raises(Exception, match="read-only"):
                await query(world.pangyo, "INSERT INTO messages VALUES (-5, 0, 'no') RETURNING id")
            promote = world.action(
                "promote",
                "dc-anyang",
                proof="network",
                least_lsn=str(demoted["last_lsn"]),
                peers=(_address(world.pangyo),),
            )
            await driver.execute(promote, order())
            assert not set(ledger.acknowledged) - await _ids(world.anyang)
            with pytest.raises(Permanent, match="not certain"):
                await driver.undo(
                    world.action("demote", "dc-pangyo", peers=(_address(world.anyang),)), order()
                )
            await driver.execute(world.rejoin("dc-pangyo", "dc-anyang"), replace(order(), timeout_s=60.0))
            back = world.action("protect", "dc-anyang", synchronous=("dc-pangyo",))
            assert (await driver.execute(back, order()))["strict"] is True
            await query(world.anyang, "INSERT INTO messages VALUES (-6, 0, 'yes') RETURNING id", 2.0)

        asyncio.run(story())


def test_a_candidate_fetches_what_another_copy_has_before_it_is_promoted(server_folder: Path) -> None:
    """Else that copy would have to be rewound, and commits that wait for it would wait for seconds."""
    replicas = ("dc-anyang", "dc-ansan")
    with data_set(server_folder, synchronous=(), replicas=replicas) as world:

        async def story() -> None:
            driver, ansan = PostgresDriver(), world.members["dc-ansan"]
            await _alone(world, ansan, 101)
            await driver.execute(world.fence(), order())
            copies = (f"{ansan.host}:{ansan.port}",)
            action = world.action("promote", "dc-anyang", copies=copies)
            evidence = await driver.execute(action, order())
            assert evidence["fetched_from"] == copies[0]
            assert cast(int, evidence["fetched_bytes"]) > 0
            assert "short_of" not in evidence
            assert await _ids(world.anyang) == {101}
            assert await query(world.anyang, "SELECT current_setting('primary_conninfo')") == [("",)]
            follow = world.rejoin("dc-ansan", "dc-anyang", how="follow")
            assert (await driver.execute(follow, order()))["rewound"] is False

        asyncio.run(story())


def test_a_fetch_that_broke_off_is_no_hole_in_the_fence(server_folder: Path) -> None:
    """A controller died while its candidate followed another copy: the next cuts it off, and goes on."""
    replicas = ("dc-anyang", "dc-ansan")
    with data_set(server_folder, synchronous=(), replicas=replicas) as world:

        async def story() -> None:
            driver, ansan = PostgresDriver(), world.members["dc-ansan"]
            await _alone(world, ansan, 101)
            fence = world.fence()
            await driver.execute(fence, order())
            before = await query(world.anyang, "SELECT pg_read_file('evac_upstream')")
            upstream = format_conninfo(
                {
                    "host": ansan.host,
                    "port": str(ansan.port),
                    "user": "postgres",
                    "password": PASSWORD,
                    "application_name": FETCH_NAME,
                }
            )
            world.anyang.sql(f"ALTER SYSTEM SET primary_conninfo = {literal(upstream)}")
            world.anyang.sql("SELECT pg_reload_conf()")
            async with asyncio.timeout(10):
                while await _ids(world.anyang) != {101}:
                    await asyncio.sleep(0.05)
            action = world.action("promote", "dc-anyang", copies=(f"{ansan.host}:{ansan.port}",))
            assert (await driver.check(action, order())).ready
            assert (await driver.observe(fence, order())).outcome == "done"
            unfence = world.action("unfence", "dc-anyang")
            assert (await driver.observe(unfence, order())).outcome == "absent", "it follows no primary"
            assert (await driver.execute(fence, order()))["receiver"] == "none"
            assert await query(world.anyang, "SELECT pg_read_file('evac_upstream')") == before
            assert "fetched_from" not in await driver.execute(action, order())
            assert await _ids(world.anyang) == {101}

        asyncio.run(story())


def test_nothing_is_fetched_of_a_copy_that_gives_nothing(server_folder: Path) -> None:
    """It is promoted as it is, in bounded time; whom it followed before the fence is not forgotten."""
    replicas = ("dc-anyang", "dc-ansan")
    with data_set(server_folder, synchronous=(), replicas=replicas) as world:

        async def story() -> None:
            driver, ansan = PostgresDriver(), world.members["dc-ansan"]
            await _alone(world, ansan, 101)
            with (ansan.data / "pg_hba.conf").open("r+") as access:
                rules = access.read()
                access.seek(0)
                access.write("host replication all 0.0.0.0/0 reject\n" + rules)
            ansan.sql("SELECT pg_reload_conf()")
            await driver.execute(world.fence(), order())
            before = await query(world.anyang, "SELECT pg_read_file('evac_upstream')")
            action = world.action("promote", "dc-anyang", copies=(f"{ansan.host}:{ansan.port}",))
            evidence = await driver.execute(action, order())
            assert await query(world.anyang, "SELECT pg_read_file('evac_upstream')") == before
            assert evidence["fetched_bytes"] == 0
            assert evidence["short_of"]
            assert evidence["role"] == "primary"
            assert await _ids(world.anyang) == set()

        asyncio.run(story())


async def _alone(world: DataSet, copy: PostgresServer, id_: int) -> None:
    """A write that the old primary sent to `copy` before it burnt, and not to anyang."""
    world.anyang.stop()
    await query(world.pangyo, f"INSERT INTO messages VALUES ({id_}, 0, 'hello')")
    async with asyncio.timeout(10):
        while await _ids(copy) != {id_}:
            await asyncio.sleep(0.05)
    world.pangyo.kill()
    world.anyang.start()
