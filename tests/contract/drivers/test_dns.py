"""What is particular to the driver `dns`: tokens kept in the zone, batches, other servers, clocks."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from evac.drivers.dns import driver as dns_driver
from evac.drivers.dns import wire
from evac.drivers.dns.driver import DnsDriver
from evac.drivers.port import Action
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac_lab.servers import dns as servers
from tests.contract.adapters.dns import ANYANG, PANGYO, TTL_S, ZONE, Zone, case_of, server
from tests.contract.capabilities.story import assert_keeps_contract, order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture
def zone(server_folder: Path) -> Iterator[Zone]:
    with server(server_folder) as made:
        yield made


def test_what_was_there_before_a_restart_of_the_server_is_there_after_it(zone: Zone) -> None:
    asyncio.run(DnsDriver().execute(zone.shift(), order()))
    zone.process.kill()
    zone.process = servers.start(zone.server)
    assert zone.answer("chat0") == ((ANYANG,), TTL_S)


def test_a_new_leader_is_obeyed_and_the_old_one_no_more(zone: Zone) -> None:
    driver, action = DnsDriver(), zone.shift()
    asyncio.run(driver.execute(action, order(token=7)))
    asyncio.run(driver.execute(action, order(token=9)))
    assert zone.answer("_evac-token", "TXT")[0] == ('"9"',)
    checked = asyncio.run(driver.check(action, order(token=8)))
    assert "older leader" in checked.problems[0]
    with pytest.raises(Permanent, match="older leader"):
        asyncio.run(driver.undo(action, order(token=8)))


def test_two_leaders_at_the_same_instant_leave_the_zone_to_the_newer(zone: Zone) -> None:
    there, back = zone.shift(), replace(zone.shift(), parameters={"to": "pangyo", "away": "anyang"})

    async def both() -> list[object]:
        new = DnsDriver().execute(there, order(token=9))
        old = DnsDriver().execute(back, order(token=8))
        return list(await asyncio.gather(new, old, return_exceptions=True))

    asyncio.run(both())
    asyncio.run(DnsDriver().execute(there, order(token=9)))
    assert zone.answer("chat0")[0] == (ANYANG,)
    with pytest.raises(Permanent):
        asyncio.run(DnsDriver().execute(back, order(token=8)))


def test_half_a_share_answers_both_sites_and_less_moves_nothing(zone: Zone) -> None:
    driver = DnsDriver()
    asyncio.run(driver.execute(zone.shift(share=250), order()))
    assert zone.answer("chat0")[0] == (PANGYO,)
    asyncio.run(driver.execute(zone.shift(share=500), order()))
    assert zone.answer("chat0")[0] == (PANGYO, ANYANG)
    assert asyncio.run(driver.observe(zone.shift(), order())).outcome == "absent"


def test_a_drain_takes_one_site_out_but_never_the_last_one(zone: Zone) -> None:
    driver = DnsDriver()
    drain = Action("drain", ZONE, "dns", "pangyo", zone.settings(), {"site": "pangyo"})
    assert "there would be no answer" in asyncio.run(driver.check(drain, order())).problems[0]
    with pytest.raises(Permanent, match="there would be no answer"):
        asyncio.run(driver.execute(drain, order()))
    asyncio.run(driver.execute(zone.shift(share=500), order()))
    asyncio.run(driver.execute(drain, order()))
    assert zone.answer("chat1")[0] == (ANYANG,)
    asyncio.run(driver.undo(drain, order()))
    assert zone.answer("chat1")[0] == (PANGYO, ANYANG)


def test_an_address_nobody_knows_is_a_problem_before_anything_is_done(zone: Zone) -> None:
    other = zone.settings(records=("chat0=pangyo:192.0.2.77,anyang:192.0.2.2",))
    checked = asyncio.run(DnsDriver().check(replace(zone.shift(), settings=other), order()))
    assert f"chat0.{ZONE}. {PANGYO} is in the answer, but not in the estate" in checked.problems


def test_a_wrong_key_is_refused_and_not_tried_again(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAC_TEST_DNS_KEY", servers.make_secret(b"x" * 32))
    with pytest.raises(Permanent, match="rejects the key"):
        asyncio.run(DnsDriver().execute(zone.shift(), order()))
    assert zone.answer("chat0")[0] == (PANGYO,)


@pytest.mark.parametrize("ahead_s", [3_600, -7_200])
def test_a_clock_that_jumped_keeps_no_traffic_from_moving(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    monkeypatch.setattr(wire, "time", SimpleNamespace(time=lambda: time.time() + ahead_s))
    assert_keeps_contract(case_of(zone))


def test_a_server_that_is_gone_is_asked_again_later(zone: Zone) -> None:
    zone.process.kill()
    with pytest.raises(Retryable):
        asyncio.run(DnsDriver().execute(zone.shift(), order(timeout_s=1.0)))


@pytest.fixture
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is left for another look after the first one, on any machine."""
    monkeypatch.setattr(dns_driver, "_PAUSE_S", 1_000.0)


def test_it_is_not_done_until_the_others_named_answer_too(
    zone: Zone, server_folder: Path, one_look: None
) -> None:
    key = os.environ["EVAC_TEST_DNS_KEY"]
    with server(server_folder, "second") as second:
        os.environ["EVAC_TEST_DNS_KEY"] = key
        action = zone.shift(verify=(f"127.0.0.1:{second.server.port}",))
        with pytest.raises(OutcomeUnknown, match=f"{second.server.port} still gives a different answer"):
            asyncio.run(DnsDriver().execute(action, order()))
        assert asyncio.run(DnsDriver().observe(action, order())).outcome == "unclear"


def test_a_look_that_had_no_time_left_does_not_hide_what_was_seen(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Action("verify", ZONE, "dns", "anyang", zone.settings(), {"expect": "anyang"})

    async def killed(_: float) -> None:
        zone.process.kill()

    monkeypatch.setattr(dns_driver.asyncio, "sleep", killed)
    with pytest.raises(Retryable, match="still gives a different answer"):
        asyncio.run(DnsDriver().execute(look, order()))


def test_a_thousand_names_move_in_a_few_updates(server_folder: Path) -> None:
    with server(server_folder, "big", names=1_000) as zone:
        serial = zone.serial()
        evidence = asyncio.run(DnsDriver().execute(zone.shift(), order()))
        assert evidence["names"] == 1_000
        assert zone.answer("chat999")[0] == (ANYANG,)
        assert zone.serial() - serial == 4


def test_looking_changes_nothing_and_says_when_it_is_not_as_expected(zone: Zone, one_look: None) -> None:
    look = Action("verify", ZONE, "dns", "anyang", zone.settings(), {"expect": "anyang"})
    with pytest.raises(Retryable, match="gives a different answer"):
        asyncio.run(DnsDriver().execute(look, order()))
    assert zone.answer("_evac-token", "TXT") == ((), 0)
    asyncio.run(DnsDriver().execute(zone.shift(), order()))
    assert asyncio.run(DnsDriver().execute(look, order()))["names"] == len(zone.names)
