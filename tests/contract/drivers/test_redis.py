"""What is particular to the driver `redis`: tokens in the data, what a loss took, and links that are down."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.redis import driver as redis_driver
from evac.drivers.redis.driver import RedisDriver
from evac.drivers.store_driver import ANOTHER_PRIMARY
from evac.model.errors import Permanent, Retryable
from tests.contract.adapters.redis import PASSWORD, action, ask, two_servers
from tests.contract.capabilities.story import order, until_stopped
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def test_a_replica_of_a_primary_that_takes_writes_is_not_promoted(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def story() -> None:
            driver, promote = RedisDriver(), action("promote", anyang)
            checked = await driver.check(promote, order())
            assert "accepts writes" in checked.problems[0]
            assert checked.error is not None
            assert checked.error.code == ANOTHER_PRIMARY
            with pytest.raises(Retryable, match="accepts writes"):
                await driver.execute(promote, order())
            assert (await ask(anyang, "ROLE"))[0] == "slave"
            await driver.execute(action("demote", pangyo), order())
            await driver.execute(promote, order())
            with pytest.raises(Permanent, match="not certain"):
                await driver.undo(action("demote", pangyo, peers=(f"{anyang.host}:{anyang.port}",)), order())

        asyncio.run(story())


def test_a_new_token_is_kept_by_the_data_set_through_a_promotion(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def story() -> None:
            driver = RedisDriver()
            await driver.execute(
                action("protect", pangyo, synchronous=("anyang",)), replace(order(), token=9)
            )
            async with asyncio.timeout(10):
                while await ask(anyang, "GET", "evac:authority") != "9 3":
                    await asyncio.sleep(0.01)
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


def test_a_rejoin_tells_a_silent_primary_from_one_that_accepts_no_writes(server_folder: Path) -> None:
    with two_servers(server_folder) as (pangyo, anyang):

        async def story() -> None:
            driver = RedisDriver()
            await driver.execute(action("demote", pangyo), order())
            await driver.execute(action("promote", anyang), order())
            rejoin = action("rejoin", pangyo, primary_host=anyang.host, primary_port=anyang.port)
            anyang.pause()
            await until_stopped(anyang.process.pid)
            silent = await driver.check(rejoin, replace(order(), timeout_s=1.0))
            assert silent.problems == (f"{anyang.host}:{anyang.port} does not answer",)
            anyang.resume()
            await driver.execute(action("demote", anyang), order())
            demoted = await driver.check(rejoin, order())
            assert demoted.problems == (f"{anyang.host}:{anyang.port} is not a primary that accepts writes",)

        asyncio.run(story())


def test_a_rejoin_gives_its_primary_more_time_than_a_promotion_gives_a_peer(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a primary that lives answers late; four such tries paused a failback."""
    with two_servers(server_folder) as (pangyo, anyang):

        async def story() -> None:
            driver = RedisDriver()
            await driver.execute(action("demote", pangyo), order())
            await driver.execute(action("promote", anyang), order())
            monkeypatch.setattr(redis_driver, "ANSWER_MS", 0)
            rejoin = action("rejoin", pangyo, primary_host=anyang.host, primary_port=anyang.port)
            assert (await driver.execute(rejoin, order()))["role"] == "replica"

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
