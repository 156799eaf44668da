"""What is particular to the driver `powerdns`: what its names then answer, and what is for people."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.port import Action, Evidence
from evac.drivers.powerdns.driver import PowerDnsDriver
from evac.model.errors import Permanent, Retryable
from tests.contract.adapters.powerdns import ANYANG, KEY, PANGYO, ZONE, Zone, server
from tests.contract.capabilities.story import order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture
def zone(server_folder: Path) -> Iterator[Zone]:
    with server(server_folder) as made:
        yield made


def execute(action: Action) -> Evidence:
    async def play() -> Evidence:
        driver = PowerDnsDriver()
        try:
            return await driver.execute(action, order())
        finally:
            await driver.close()

    return asyncio.run(play())


def test_half_of_the_traffic_is_both_addresses_and_other_names_stay(zone: Zone) -> None:
    execute(zone.shift(share=500))
    assert zone.answer("chat0") == (PANGYO, ANYANG)
    assert zone.answer("_evac-token", "TXT") == ('"7"',)


def test_an_address_that_the_estate_does_not_know_is_a_problem(zone: Zone) -> None:
    known = zone.shift(records=("chat0=pangyo:192.0.2.9,anyang:192.0.2.2",))

    async def problems() -> tuple[str, ...]:
        driver = PowerDnsDriver()
        try:
            return (await driver.check(known, order())).problems
        finally:
            await driver.close()

    assert asyncio.run(problems()) == (f"chat0.{ZONE}. 192.0.2.1 is in the answer, but not in the estate",)


def test_a_wrong_key_or_zone_is_for_people(zone: Zone) -> None:
    os.environ["EVAC_TEST_PDNS_KEY"] = "wrong"
    with pytest.raises(Permanent, match="401"):
        execute(zone.shift())
    os.environ["EVAC_TEST_PDNS_KEY"] = KEY
    with pytest.raises(Permanent, match=r"404|422"):
        execute(zone.shift(zone="other.test"))


def test_verify_looks_and_changes_nothing(zone: Zone) -> None:
    look = replace(zone.shift(), verb="verify", parameters={"expect": "anyang"})
    with pytest.raises(Retryable, match="gives a different answer"):
        execute(look)
    execute(zone.shift())
    assert execute(look)["token"] == 7
