"""Orderly changes of real Patroni clusters: a switchover, and the promotion of a standby cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from evac.drivers.patroni.driver import PatroniDriver
from evac.drivers.port import Action, Checked
from tests.contract.adapters.patroni import cluster, standby_cluster, until_ready
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers, pytest.mark.slow]


def test_a_switchover_is_orderly_and_the_old_primary_rejoins(server_folder: Path) -> None:
    with cluster(server_folder) as world:

        async def story() -> None:
            driver = PatroniDriver()
            promote = world.action("promote", world.anyang, proof="demote", old_name="dc-pangyo")
            await until_ready(driver, promote)
            facts = await driver.cluster(promote, 3.0)
            assert facts.evidence()["alone_s"] == 21
            old = await driver.facts(world.action("verify", world.pangyo), 3.0)
            new = await driver.facts(world.action("verify", world.anyang), 3.0)
            assert (old.role, old.writable, [one.name for one in old.standbys]) == (
                "primary",
                True,
                ["dc-anyang"],
            )
            assert (new.role, new.writable, new.link_up) == ("standby", False, True)
            world.pangyo.sql("CREATE TABLE kept AS SELECT 1 AS id")
            demoted = await driver.execute(world.action("demote", world.pangyo), order())
            assert demoted["proof"] == "demote"
            evidence = await driver.execute(promote, order(timeout_s=30.0))
            assert evidence["how"] == "switchover"
            assert world.anyang.sql("SELECT id FROM kept") == "1"
            rejoin = world.action("rejoin", world.pangyo)
            await driver.execute(rejoin, order(timeout_s=30.0))
            assert world.pangyo.sql("SELECT pg_is_in_recovery()") == "t"
            assert (await driver.observe(world.action("verify", world.anyang), order())).outcome == "done"

        asyncio.run(story())


async def _until(driver: PatroniDriver, promote: Action, holds: Callable[[Checked], bool]) -> None:
    """Patroni writes what its member is once a loop; until then the member may still be starting."""
    async with asyncio.timeout(60.0):
        while not holds(await driver.check(promote, order())):
            await asyncio.sleep(0.1)


def test_a_standby_cluster_is_promoted_by_its_settings(server_folder: Path) -> None:
    with standby_cluster(server_folder) as (source, world):

        async def story() -> None:
            driver = PatroniDriver()
            promote = world.action("promote", world.pangyo, proof="network")
            await _until(driver, promote, lambda checked: "standby_cluster_of" in checked.evidence)
            unproven = world.action("promote", world.pangyo)
            assert not (await driver.check(unproven, order())).ready
            assert (await driver.observe(promote, order())).outcome == "absent"
            source.kill()
            await until_ready(driver, promote)
            evidence = await driver.execute(promote, order(timeout_s=30.0))
            assert evidence["how"] == "standby cluster"
            assert world.pangyo.sql("SELECT pg_is_in_recovery()") == "f"
            assert world.pangyo.sql("SELECT id FROM kept") == "1"

        asyncio.run(story())
