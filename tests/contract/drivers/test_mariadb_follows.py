"""A MariaDB server that is to follow another one and cannot: on real servers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.mariadb.driver import MariadbDriver
from evac.drivers.mariadb.link import linked, member_of, read_facts
from evac.drivers.mariadb.rejoin import _refuse_broken
from evac.drivers.port import Action
from evac.model.errors import Permanent
from tests.contract.adapters.mariadb import data_set
from tests.contract.capabilities.story import order
from tests.contract.drivers.test_mariadb_rebuild import order_of, until_equal

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


async def looked_at_again(action: Action) -> None:
    """A rejoin's look at a server whose applier has stopped."""
    async with linked(member_of(action), 30.0) as link, asyncio.timeout(20):
        while not (facts := await read_facts(link)).apply_error:
            await link.pause()
        _refuse_broken(link, member_of(action), facts, has_ended=False)


def test_one_that_cannot_follow_is_reported_with_the_servers_own_words(server_folder: Path) -> None:
    """It would wait for as long as a rebuild may take."""
    with data_set(server_folder, synchronous=()) as world:
        pangyo, anyang, driver = world.pangyo, world.anyang, MariadbDriver()
        until_equal(world)
        anyang.sql("STOP SLAVE", "RESET SLAVE ALL")
        plain = world.rejoin("dc-anyang", "dc-pangyo")
        wrong = {**plain.settings, "replication_user": "nobody"}
        with pytest.raises(Permanent, match=r"error 1045: .*nobody") as raised:
            asyncio.run(driver.execute(replace(plain, settings=wrong), order_of(600.0)))
        assert raised.value.code == "mariadb-refused"
        assert "replication_password" in raised.value.hint
        anyang.sql("SET SESSION sql_log_bin = 0", "INSERT INTO app.orders VALUES (5)")
        pangyo.sql("INSERT INTO app.orders VALUES (5)")
        with suppress(Permanent):  # whether the row arrives before it counts as following is open
            asyncio.run(driver.execute(plain, order_of(600.0)))
        with pytest.raises(Permanent, match=r"error 1062: .*Duplicate entry '5'") as raised:
            asyncio.run(looked_at_again(plain))
        assert raised.value.code == "mariadb-not-applied"
        anyang.sql("SET SESSION sql_log_bin = 0", "DELETE FROM app.orders WHERE id = 5")
        assert asyncio.run(driver.execute(plain, order()))["role"] == "replica"
