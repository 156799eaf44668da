"""How members come back that cannot simply be pointed at the new primary."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.port import Action
from evac.drivers.postgres.driver import PostgresDriver
from evac.model.errors import Permanent
from evac_lab.process import give_to
from evac_lab.servers.postgres import USER, PostgresServer
from tests.contract.adapters.postgres import DataSet, data_set, query
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
PATIENT = order(timeout_s=60.0)


def _address(server: PostgresServer) -> str:
    return f"{server.host}:{server.port}"


async def _ids(server: PostgresServer) -> set[int]:
    return {int(str(row[0])) for row in await query(server, "SELECT id FROM messages")}


async def _write(server: PostgresServer, id_: int) -> None:
    await query(server, f"INSERT INTO messages VALUES ({id_}, 0, 'written') RETURNING id")


async def _promote_after_power_off(world: DataSet) -> None:
    promote = world.action("promote", "dc-anyang", proof="power", peers=(_address(world.pangyo),))
    await PostgresDriver().execute(promote, order())


def test_a_lost_data_folder_is_copied_anew(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def story() -> None:
            world.anyang.kill()
            world.anyang.data.rename(world.anyang.folder / "lost")
            evidence = await PostgresDriver().execute(world.rejoin("dc-anyang", "dc-pangyo"), PATIENT)
            assert evidence["how"] == "copy"
            assert evidence["upstream"] == _address(world.pangyo)

        asyncio.run(story())


def test_a_password_stands_neither_in_a_setting_nor_in_a_log(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def story() -> None:
            await _write(world.pangyo, 1)
            world.pangyo.kill()
            await _promote_after_power_off(world)
            # An old primary has no connection string; what a rejoin gives it must not hold the password.
            await PostgresDriver().execute(world.rejoin("dc-pangyo", "dc-anyang"), PATIENT)
            passwords = world.pangyo.folder / "data.evac-pgpass"
            assert passwords.stat().st_mode & 0o777 == 0o600
            # A setting that changes is logged with its value.
            world.pangyo.sql("ALTER SYSTEM SET primary_conninfo = ''")
            world.pangyo.sql("SELECT pg_reload_conf()")
            await PostgresDriver().execute(world.rejoin("dc-pangyo", "dc-anyang"), PATIENT)

        asyncio.run(story())
        folder = world.pangyo.folder
        logged = (folder / "postgres.log").read_text() + (world.pangyo.data / "evac_start.log").read_text()
        assert "primary_conninfo" in logged
        assert world.pangyo.password not in logged
        assert world.pangyo.password not in (world.pangyo.data / "postgresql.auto.conf").read_text()


def test_where_a_rewind_fails_a_fresh_copy_helps_and_nothing_is_deleted(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def story() -> None:
            world.anyang.stop()
            await _write(world.pangyo, 101)
            world.pangyo.kill()
            world.anyang.start()
            await _promote_after_power_off(world)
            action = world.rejoin("dc-pangyo", "dc-anyang", archive_rows="*")
            broken = {**action.settings, "bin": str(_programs_without(world, "pg_rewind"))}
            failing = Action(action.verb, action.target, action.driver, action.at, broken, action.parameters)
            evidence = await PostgresDriver().execute(failing, PATIENT)
            assert evidence["how"] == "copy"
            assert evidence["rows_by_table"] == "messages=1"
            assert await _ids(world.pangyo) == set()
            assert (world.pangyo.folder / "data.evac-old" / "PG_VERSION").exists()
            assert not (world.pangyo.folder / "data.evac-rejoin").exists()
            assert world.pangyo.sql("SHOW cluster_name") == "dc-pangyo"

        asyncio.run(story())


@pytest.mark.parametrize("how", ["rewind", "copy"])
def test_a_member_keeps_the_files_that_its_configuration_includes(server_folder: Path, how: str) -> None:
    with data_set(server_folder, synchronous=()) as world:
        for member, name in ((world.pangyo, "pangyo"), (world.anyang, "anyang")):
            (member.data / "site.conf").write_text(f"bonjour_name = '{name}'\n")
            give_to(USER, member.data / "site.conf")
            with (member.data / "postgresql.conf").open("a") as file:
                file.write("include_if_exists = 'site.conf'\n")

        async def story() -> None:
            world.anyang.stop()
            await _write(world.pangyo, 101)
            world.pangyo.kill()
            world.anyang.start()
            await _promote_after_power_off(world)
            action = world.rejoin("dc-pangyo", "dc-anyang")
            if how == "copy":
                programs = {**action.settings, "bin": str(_programs_without(world, "pg_rewind"))}
                action = replace(action, settings=programs)
            assert (await PostgresDriver().execute(action, PATIENT))["how"] == how
            assert world.pangyo.sql("SHOW bonjour_name") == "pangyo"

        asyncio.run(story())


def test_a_member_that_does_not_start_says_what_its_server_said(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def story() -> None:
            world.pangyo.kill()
            await _promote_after_power_off(world)
            (world.pangyo.data / "postgresql.conf").write_text("port = nowhere\n")
            with pytest.raises(Permanent, match='invalid value for parameter "port"') as raised:
                await PostgresDriver().execute(world.rejoin("dc-pangyo", "dc-anyang"), PATIENT)
            assert raised.value.code == "not-started"

        asyncio.run(story())


def _programs_without(world: DataSet, *failing: str) -> Path:
    """The real programs, but some only fail."""
    folder = world.folder / "bin"
    folder.mkdir()
    for path in Path(world.pangyo.bin).iterdir():
        script = "exit 1" if path.name in failing else f'exec "{path}" "$@"'
        (folder / path.name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / path.name).chmod(0o755)
    return folder


def test_a_rejoin_that_broke_off_half_way_goes_on_with_what_was_archived(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def story() -> None:
            driver = PostgresDriver()
            world.anyang.stop()
            await _write(world.pangyo, 101)
            world.pangyo.kill()
            world.anyang.start()
            await _promote_after_power_off(world)
            action = world.rejoin("dc-pangyo", "dc-anyang", archive_rows=("messages",))
            programs = _programs_without(world, "pg_rewind", "pg_basebackup")
            broken = {**action.settings, "bin": str(programs)}
            failing = Action(action.verb, action.target, action.driver, action.at, broken, action.parameters)
            with pytest.raises(Permanent, match="pg_basebackup ended with 1"):
                await driver.execute(failing, PATIENT)
            assert (world.pangyo.folder / "data.evac-rejoin").exists()
            # A rewind that broke off leaves the primary's settings in the folder, as here.
            (world.pangyo.data / "postgresql.conf").write_text("port = 1\n")
            assert (await driver.observe(action, order(timeout_s=2.0))).outcome == "absent"
            evidence = await driver.execute(action, PATIENT)
            assert evidence["how"] == "copy"
            assert evidence["upstream"] == _address(world.anyang)
            archives = list((world.folder / "archive").iterdir())
            assert len(archives) == 1
            assert "101" in (archives[0] / "rows" / "0000.jsonl").read_text()

        asyncio.run(story())


def test_a_standby_that_holds_more_than_the_new_primary_is_rewound_by_hand(server_folder: Path) -> None:
    replicas = ("dc-anyang", "dc-ansan")
    with data_set(server_folder, synchronous=(), replicas=replicas) as world:

        async def story() -> None:
            driver, ansan = PostgresDriver(), world.members["dc-ansan"]
            world.anyang.stop()
            await _write(world.pangyo, 101)
            async with asyncio.timeout(10):
                while await _ids(ansan) != {101}:
                    await asyncio.sleep(0.05)
            world.pangyo.kill()
            world.anyang.start()
            await _promote_after_power_off(world)
            with pytest.raises(Permanent, match="on its own machine"):
                await driver.execute(world.rejoin("dc-ansan", "dc-anyang", how="follow"), order())
            assert await _ids(ansan) == {101}
            evidence = await driver.execute(world.rejoin("dc-ansan", "dc-anyang"), PATIENT)
            assert evidence["diverged_transactions"] == 1
            assert evidence["how"] == "rewind"
            assert await _ids(ansan) == set()

        asyncio.run(story())


def test_a_standby_is_only_pointed_at_the_second_new_primary_within_minutes(server_folder: Path) -> None:
    """Its control file still tells the timeline of before the first: it made no restart point since."""
    with data_set(server_folder, synchronous=(), replicas=("dc-anyang", "dc-ansan")) as world:

        async def story() -> None:
            driver, ansan = PostgresDriver(), world.members["dc-ansan"]
            world.pangyo.kill()
            await _promote_after_power_off(world)
            follow = world.rejoin("dc-ansan", "dc-anyang", how="follow")
            assert (await driver.execute(follow, order()))["rewound"] is False
            assert (await driver.execute(world.rejoin("dc-pangyo", "dc-anyang"), PATIENT))["epoch"]
            await _write(world.anyang, 7)
            async with asyncio.timeout(10):
                while await _ids(ansan) != {7} or await _ids(world.pangyo) != {7}:
                    await asyncio.sleep(0.05)
            world.anyang.kill()
            promote = world.action("promote", "dc-pangyo", proof="power", peers=(_address(world.anyang),))
            assert (await driver.execute(promote, order()))["timeline"] == 3
            checkpoint = "SELECT timeline_id FROM pg_control_checkpoint()"
            assert await query(ansan, checkpoint) == [(1,)], "or there is nothing to be tested here"
            evidence = await driver.execute(world.rejoin("dc-ansan", "dc-pangyo", how="follow"), order())
            assert evidence["rewound"] is False
            await _write(world.pangyo, 8)
            async with asyncio.timeout(10):
                while await _ids(ansan) != {7, 8}:
                    await asyncio.sleep(0.05)

        asyncio.run(story())


def test_nothing_is_rewound_without_a_place_for_what_it_had_alone(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def story() -> None:
            driver = PostgresDriver()
            await _write(world.pangyo, 1)
            await _promote_after_power_off_of(world)
            action = world.rejoin("dc-pangyo", "dc-anyang", archive="")
            assert not (await driver.check(action, PATIENT)).ready
            with pytest.raises(Permanent, match="no folder is set"):
                await driver.execute(action, PATIENT)
            assert (world.pangyo.data / "PG_VERSION").exists()
            assert not (world.pangyo.data / "standby.signal").exists()
            to_nobody = world.rejoin("dc-anyang", "dc-pangyo")
            assert not (await driver.check(to_nobody, order(timeout_s=3.0))).ready

        asyncio.run(story())


async def _promote_after_power_off_of(world: DataSet) -> None:
    world.pangyo.kill()
    await _promote_after_power_off(world)


def test_a_site_fences_itself_without_a_leader_but_not_for_an_old_epoch(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def story() -> None:
            driver, demote = PostgresDriver(), world.action("demote", "dc-pangyo")
            protect = world.action("protect", "dc-pangyo", synchronous=("dc-anyang",))
            await driver.execute(protect, order())
            with pytest.raises(Permanent, match="no longer valid"):
                await driver.execute(demote, order(token=0, epoch=2))
            assert (await driver.observe(demote, order())).outcome == "absent"
            evidence = await driver.execute(demote, order(token=0))
            assert evidence["proof"] == "demote"
            # The record of the leader's token did not fall.
            with pytest.raises(Permanent, match="older leader"):
                await driver.undo(demote, replace(order(), token=6))

        asyncio.run(story())


def test_slots_follow_the_primary_there_and_back(server_folder: Path) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        ansan = world.members["dc-ansan"]
        for member, slot in ((world.anyang, "for_anyang"), (ansan, "for_ansan")):
            world.pangyo.sql(f"SELECT pg_create_physical_replication_slot('{slot}')")
            member.sql(f"ALTER SYSTEM SET primary_slot_name = '{slot}'")
            member.stop()
            member.start()

        async def moved(old: str, new: str, others: tuple[str, ...], epoch: int) -> None:
            driver = PostgresDriver()
            await driver.execute(world.action("demote", old), order(epoch=epoch, timeout_s=30.0))
            await driver.execute(world.action("promote", new, proof="demote"), order(epoch=epoch))
            for name in others:
                patient = order(epoch=epoch, timeout_s=60.0)
                evidence = await driver.execute(world.rejoin(name, new), patient)
                assert evidence["upstream"] == _address(world.members[new])

        async def slots(member: PostgresServer) -> set[tuple[object, ...]]:
            return set(await query(member, "SELECT slot_name, active FROM pg_replication_slots"))

        async def story() -> None:
            await moved("dc-pangyo", "dc-anyang", ("dc-pangyo", "dc-ansan"), 2)
            assert await slots(world.anyang) == {("for_ansan", True)}
            assert ("for_anyang", False) not in await slots(world.pangyo), "it would hold log for no one"
            await moved("dc-anyang", "dc-pangyo", ("dc-anyang", "dc-ansan"), 3)
            assert {("for_anyang", True), ("for_ansan", True)} <= await slots(world.pangyo)

        asyncio.run(story())
