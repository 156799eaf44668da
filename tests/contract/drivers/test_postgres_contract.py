"""Every verb of the driver `postgres` keeps the contract, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.capabilities import (
    AnswersProbe,
    Fences,
    Follows,
    Promotes,
    Protects,
    ProvesSync,
    ReportsRole,
)
from evac.drivers.port import Action
from evac.drivers.postgres.driver import PostgresDriver
from evac.drivers.postgres.link import KeptLinks, member_of
from evac_lab.servers.postgres import PostgresServer
from tests.contract.capabilities import questions
from tests.contract.drivers.ports import free_port
from tests.contract.drivers.postgres_world import PASSWORD, SITES, DataSet, data_set, query
from tests.contract.drivers.suite import Case, covers, keep_contract, order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
_STATE = """
SELECT pg_is_in_recovery(), current_setting('primary_conninfo'), current_setting('synchronous_standby_names'),
       current_setting('default_transaction_read_only'),
       (SELECT string_agg(name || setting, ' ' ORDER BY name) FROM pg_file_settings WHERE name LIKE 'evac%')
"""


def _case(
    action: Action, server: PostgresServer, is_done: Callable[[], Awaitable[bool]], **changes: object
) -> Case:
    async def state() -> object:
        return await query(server, _STATE)

    async def silence() -> None:
        server.pause()

    async def speak() -> None:
        server.resume()

    return Case(
        driver=PostgresDriver(),
        action=action,
        state=state,
        is_done=is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        secrets=(PASSWORD,),
        **changes,
    )  # type: ignore[arg-type]


async def _yes(server: PostgresServer, text: str) -> bool:
    return (await query(server, f"SELECT {text}"))[0][0] is True


@covers("postgres", Fences)
def test_fence_by_a_synchronous_replica(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def is_done() -> bool:
            return await _yes(
                world.anyang,
                "current_setting('primary_conninfo') = '' AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver)",
            )

        asyncio.run(keep_contract(_case(world.fence(), world.anyang, is_done, undo="done")))


@covers("postgres", Promotes)
def test_promote(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def prepare() -> None:
            await PostgresDriver().execute(world.fence(), order())
            world.pangyo.kill()

        async def is_done() -> bool:
            return await _yes(world.anyang, "NOT pg_is_in_recovery()")

        action = world.action("promote", "dc-anyang", peers=(_address(world.pangyo),))
        asyncio.run(keep_contract(_case(action, world.anyang, is_done, prepare=prepare)))


def _address(server: PostgresServer) -> str:
    return f"{server.host}:{server.port}"


def test_demote(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def is_done() -> bool:
            return await _yes(world.pangyo, "current_setting('default_transaction_read_only') = 'on'")

        action = world.action(
            "demote", "dc-pangyo", peers=(_address(world.anyang),), synchronous=("dc-anyang",)
        )
        asyncio.run(keep_contract(_case(action, world.pangyo, is_done, undo="done")))


@covers("postgres", Protects)
def test_protect(server_folder: Path) -> None:
    with data_set(server_folder, synchronous=()) as world:

        async def is_done() -> bool:
            return await _yes(world.pangyo, "count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")

        action = world.action("protect", "dc-pangyo", synchronous=("dc-anyang",))
        asyncio.run(keep_contract(_case(action, world.pangyo, is_done)))


@covers("postgres", Follows)
def test_rejoin_of_a_running_standby(server_folder: Path) -> None:
    with data_set(server_folder, replicas=("dc-anyang", "dc-ansan")) as world:
        ansan = world.members["dc-ansan"]

        async def prepare() -> None:
            await _move_to_anyang(world)

        async def is_done() -> bool:
            port = world.anyang.port
            return await _yes(
                ansan,
                f"count(*) = 1 FROM pg_stat_wal_receiver WHERE sender_port = {port} AND status = 'streaming'",
            )

        action = world.rejoin("dc-ansan", "dc-anyang")
        remote = Action(
            action.verb,
            action.target,
            action.driver,
            action.at,
            world.settings("dc-ansan"),
            action.parameters,
        )
        asyncio.run(keep_contract(_case(remote, ansan, is_done, prepare=prepare)))


async def _move_to_anyang(world: DataSet) -> None:
    driver = PostgresDriver()
    await driver.execute(world.fence(), order())
    world.pangyo.kill()
    await driver.execute(world.action("promote", "dc-anyang"), order())


def test_a_call_that_was_given_up_leaves_no_connection_to_the_next_one(server_folder: Path) -> None:
    """The server may be at work on it still: the next try of a step asks over another one."""
    with data_set(server_folder, replicas=()) as world:
        member, links = member_of(world.action("promote", "dc-pangyo")), KeptLinks()

        async def asked(*queries: str) -> object:
            async with links.linked(member, 5.0) as link:
                pids.append(await link.value("SELECT pg_backend_pid()"))
                return [await link.value(query) for query in queries]

        pids: list[object] = []

        async def story() -> object:
            await asked()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asked("SELECT pg_sleep(4)")
            answer = await asked("SELECT 1")
            await links.close()
            return answer

        assert asyncio.run(story()) == [1]
        assert pids[0] == pids[1], "one that answered is kept"
        assert pids[2] != pids[1], "one that was given up is not"


async def _closed(driver: PostgresDriver, told: Awaitable[None]) -> None:
    try:
        await told
    finally:
        await driver.close()


@covers("postgres", ReportsRole)
def test_roles(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def silence() -> None:
            world.pangyo.pause()

        primary, replica = world.action("verify", "dc-pangyo"), world.action("verify", "dc-anyang")
        driver = PostgresDriver()
        told = questions.reports_roles(driver, primary, replica, silence, ("dc-anyang",))
        try:
            asyncio.run(_closed(driver, told))
        finally:
            world.pangyo.resume()


@covers("postgres", AnswersProbe, ProvesSync)
def test_probe_and_the_check_of_a_synchronous_copy(server_folder: Path) -> None:
    with data_set(server_folder) as world:

        async def silence() -> None:
            world.pangyo.pause()

        primary = world.action("verify", "dc-pangyo")
        gone = replace(primary, settings={**primary.settings, "port": free_port()})
        driver = PostgresDriver()

        async def told() -> None:
            await questions.proves_sync(driver, primary, "dc-anyang", SITES, silence)
            world.pangyo.resume()
            await questions.answers_probe(driver, primary, silence, gone)

        try:
            asyncio.run(_closed(driver, told()))
        finally:
            world.pangyo.resume()
