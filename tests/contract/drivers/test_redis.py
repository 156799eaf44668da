"""Every verb of the driver `redis` keeps the contract, against real servers; and what it says of a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as client

from evac.drivers.capabilities import AnswersProbe, Follows, Promotes, Protects, ReportsRole
from evac.drivers.port import Action, Value, Verb
from evac.drivers.redis.driver import RedisDriver
from evac.drivers.store_driver import ANOTHER_PRIMARY
from evac.model.errors import Permanent, Retryable
from evac.model.generation import token_in
from evac_lab.process import MissingProgram
from evac_lab.servers.redis import RedisServer
from evac_lab.servers.redis import redis as redis_server
from tests.contract.capabilities import questions
from tests.contract.drivers.ports import free_port
from tests.contract.drivers.suite import Case, covers, keep_contract, order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
PASSWORD = "quiet-harbour-418"


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAC_TEST_REDIS", PASSWORD)


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica, connected."""
    servers: list[RedisServer] = []
    try:
        try:
            servers.append(redis_server(folder / "a", "127.0.0.1", free_port(), "pangyo", password=PASSWORD))
        except MissingProgram as error:
            pytest.skip(str(error))
        servers[0].start()
        servers.append(
            redis_server(folder / "b", "127.0.0.1", free_port(), "anyang", of=servers[0], password=PASSWORD)
        )
        servers[1].start()
        asyncio.run(_until_connected(servers[1]))
        yield servers[0], servers[1]
    finally:
        for server in servers:
            server.resume()
            server.kill()


async def _until_connected(server: RedisServer) -> None:
    async with asyncio.timeout(10):
        while (await ask(server, "ROLE"))[3] != "connected":
            await asyncio.sleep(0.02)


async def ask(server: RedisServer, *command: str) -> Any:
    """One command, past every driver."""
    link = client.Redis(host=server.host, port=server.port, password=PASSWORD, decode_responses=True)
    try:
        return await link.execute_command(*command)
    finally:
        await link.aclose()


def action(verb: Verb, server: RedisServer, **parameters: Value) -> Action:
    settings: dict[str, Value] = {
        "host": server.host,
        "port": server.port,
        "password": "env:EVAC_TEST_REDIS",
    }
    return Action(verb, "store-presence", "redis", "anyang", settings, parameters)


def case(what: Action, server: RedisServer, is_done: Callable[[], Awaitable[bool]], **changes: Any) -> Case:
    async def state() -> object:
        # A replica's offset grows by pings alone; what it is and what it was told do not.
        return [
            (await ask(server, "ROLE"))[0],
            await ask(server, "GET", "evac:authority"),
            await ask(server, "CONFIG", "GET", "min-replicas-to-write"),
        ]

    async def silence() -> None:
        server.pause()

    async def speak() -> None:
        server.resume()

    return Case(
        RedisDriver(),
        what,
        state,
        is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        secrets=(PASSWORD,),
        **changes,
    )


def _address(server: RedisServer) -> str:
    return f"{server.host}:{server.port}"


@covers("redis", Promotes)
def test_promote(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def prepare() -> None:
            pangyo.kill()

        async def is_done() -> bool:
            return bool((await ask(anyang, "ROLE"))[0] == "master")

        asyncio.run(keep_contract(case(action("promote", anyang), anyang, is_done, prepare=prepare)))


def test_demote(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def is_done() -> bool:
            try:
                await ask(pangyo, "SET", "presence:1", "here")
            except client.ResponseError as error:
                return "NOREPLICAS" in str(error)
            return False

        demote = action("demote", pangyo, peers=(_address(anyang),))
        asyncio.run(keep_contract(case(demote, pangyo, is_done, undo="done")))


@covers("redis", Protects)
def test_protect(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, _):

        async def is_done() -> bool:
            found = await ask(pangyo, "CONFIG", "GET", "min-replicas-to-write")
            return "1" in (found.values() if isinstance(found, dict) else found)

        protect = action("protect", pangyo, synchronous=("anyang",))
        asyncio.run(keep_contract(case(protect, pangyo, is_done)))


@covers("redis", Follows)
def test_rejoin(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def prepare() -> None:
            driver, given = RedisDriver(), order(token=token_in(1, 7))
            await driver.execute(action("demote", pangyo), given)
            await driver.execute(action("promote", anyang), given)

        async def is_done() -> bool:
            role = await ask(pangyo, "ROLE")
            return bool(role[0] == "slave" and role[2] == anyang.port and role[3] == "connected")

        rejoin = action("rejoin", pangyo, primary_host=anyang.host, primary_port=anyang.port)
        asyncio.run(keep_contract(case(rejoin, pangyo, is_done, prepare=prepare)))


def test_a_replica_of_a_primary_that_takes_writes_is_not_promoted(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def story() -> None:
            driver, promote = RedisDriver(), action("promote", anyang)
            checked = await driver.check(promote, order())
            assert "takes writes" in checked.problems[0]
            assert checked.error is not None
            assert checked.error.code == ANOTHER_PRIMARY
            with pytest.raises(Retryable, match="takes writes"):
                await driver.execute(promote, order())
            assert (await ask(anyang, "ROLE"))[0] == "slave"
            await driver.execute(action("demote", pangyo), order())
            await driver.execute(promote, order())
            with pytest.raises(Permanent, match="not certain"):
                await driver.undo(action("demote", pangyo, peers=(_address(anyang),)), order())

        asyncio.run(story())


def test_a_new_token_is_kept_by_the_data_set_through_a_promotion(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def story() -> None:
            driver = RedisDriver()
            await driver.execute(
                action("protect", pangyo, synchronous=("anyang",)), replace(order(), token=9)
            )
            await asyncio.sleep(0.2)
            pangyo.kill()
            with pytest.raises(Permanent, match="older leader"):
                await driver.execute(action("promote", anyang), order())
            await driver.execute(action("promote", anyang), replace(order(), token=9))
            assert await ask(anyang, "GET", "evac:authority") == "9 3"

        asyncio.run(story())


def test_what_the_old_primary_had_alone_is_counted(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def story() -> None:
            driver = RedisDriver()
            # Cut off, not promoted yet: the primary writes alone.
            await ask(anyang, "REPLICAOF", "127.0.0.1", str(free_port()))
            await ask(pangyo, "SET", "presence:1", "x" * 5_000)
            await driver.execute(action("promote", anyang), order())
            await driver.execute(action("demote", pangyo), order())
            rejoin = action("rejoin", pangyo, primary_host=anyang.host, primary_port=anyang.port)
            evidence = await driver.execute(rejoin, order())
            assert evidence["role"] == "replica"
            assert await ask(pangyo, "GET", "presence:1") is None
            assert 5_000 <= int(evidence["lost_bytes"]) < 6_000

        asyncio.run(story())


def test_an_orderly_promotion_waits_for_a_link_that_is_down(server_folder: Path) -> None:
    """What the old primary wrote last, and the copy has not got yet, is waited for and never left behind."""
    with two_servers(server_folder) as (pangyo, anyang):

        async def cut(password: str) -> None:
            await ask(anyang, "CONFIG", "SET", "masterauth", password)
            await ask(pangyo, "CLIENT", "KILL", "TYPE", "replica")

        async def story() -> None:
            driver, promote = RedisDriver(), action("promote", anyang, proof="demote")
            await cut("not-the-password")
            await ask(pangyo, "SET", "presence:1", "here")
            await driver.execute(action("demote", pangyo), order())
            with pytest.raises(Retryable):
                await driver.execute(promote, replace(order(), timeout_s=1.0))
            assert (await ask(anyang, "ROLE"))[0] == "slave"
            await cut(PASSWORD)
            await driver.execute(promote, order())
            assert await ask(anyang, "GET", "presence:1") == "here"

        asyncio.run(story())


@covers("redis", ReportsRole, AnswersProbe)
def test_roles_and_probe(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def silence() -> None:
            pangyo.pause()

        primary, replica = action("verify", pangyo), action("verify", anyang)
        gone = replace(primary, settings={**primary.settings, "port": free_port()})

        async def told() -> None:
            driver = RedisDriver()
            await questions.reports_roles(driver, primary, replica, silence)
            pangyo.resume()
            await questions.answers_probe(driver, primary, silence, gone)

        asyncio.run(told())
