"""How the Redfish driver reaches controllers: TLS, accounts, sessions, one request at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.port import Checked, Observed, Value
from evac.drivers.process.driver import RemoteDriver
from evac.drivers.redfish.driver import RedfishDriver
from evac.model.errors import ActionError, Permanent, Retryable
from evac_lab.fleet.ground import address_of
from tests.contract.adapters.redfish import (
    SERVERS,
    SERVERS_LEFT,
    action,
    done,
    fleet_of,
    settings_of,
    shown,
)
from tests.contract.capabilities.story import order
from tests.lab.fleets import Running
from tests.promptness import Stopwatch
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleet_of(tmp_path_factory.mktemp("plain")) as found:
        yield found


@pytest.fixture(scope="module")
def tls_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleet_of(tmp_path_factory.mktemp("tls"), "--tls") as found:
        yield found


def test_only_the_pinned_certificate_or_its_authority_is_believed(tls_fleet: Running, tmp_path: Path) -> None:
    fleet = tls_fleet
    about, pin = fleet.about, str(fleet.about["pin"])
    base = settings_of(fleet)
    del base["pin"]
    file = tmp_path / "pins"
    file.write_text(f"{address_of(0)}={pin}\n10.0.0.1={'0' * 64}\n", encoding="ascii")
    ways: dict[str, dict[str, Value]] = {
        "pinned": {"pin": pin},
        "listed": {"pin": f"file:{file}"},
        "listed for others": {"pin": f"10.0.0.1={pin}"},
        "other pin": {"pin": "0" * 64},
        "authority": {"ca": f"file:{about['ca']}", "tls_name": "localhost"},
        "public authorities": {},
        "not verified": {"insecure": "the lab has no authority"},
    }
    found = {
        name: done(action(fleet, 0, settings={**base, **way}), step="check")[0] for name, way in ways.items()
    }
    ready = {name for name, one in found.items() if isinstance(one, Checked) and one.ready}
    assert {"pinned", "listed", "not verified"} <= ready
    assert not ready & {"listed for others", "other pin", "public authorities"}
    for name in ("listed for others", "other pin", "public authorities"):
        error = found[name].error  # type: ignore[union-attr]
        assert isinstance(error, Permanent)
        assert error.code == "bmc-tls"
    told = found["not verified"].evidence["tls"]  # type: ignore[union-attr]
    assert told == "not verified: the lab has no authority"


def test_a_server_is_booted_through_tls_with_a_session_that_is_closed_again(tls_fleet: Running) -> None:
    before = tls_fleet.admin("stats")["sessions"]
    server = SERVERS_LEFT.take(tls_fleet)
    (evidence,) = done(action(tls_fleet, server, settings=settings_of(tls_fleet, login="session")))
    assert not isinstance(evidence, ActionError), evidence
    assert evidence["tls"] == "pinned"
    after = tls_fleet.admin("stats")["sessions"]
    assert after["open"] == 0
    assert after["opened"] - before["opened"] == after["closed"] - before["closed"] > 0
    assert after["most_of_one"] == 1


def test_one_request_at_once_and_no_more_than_the_network_bears(fleet: Running) -> None:
    servers = [SERVERS_LEFT.take(fleet) for _ in range(12)]
    settings = settings_of(fleet, requests_at_once=3)
    twice = [action(fleet, server, settings=settings) for server in servers] * 2
    found = done(*twice, timeout_s=20.0)
    assert not [one for one in found if isinstance(one, ActionError)]
    stats = fleet.admin("stats")
    assert stats["requests"]["most_at_once_to_one"] == 1
    assert all(shown(fleet, server)["power_ons"] == 1 for server in servers)


@pytest.mark.parametrize("login", ["basic", "session"])
def test_a_wrong_password_stops_after_a_handful_and_locks_nobody_out(tmp_path: Path, login: str) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-password", encoding="utf-8")
    wrong.chmod(0o600)
    with fleet_of(tmp_path) as fleet:
        settings = settings_of(fleet, password=f"file:{wrong}", login=login, requests_at_once=64)
        every = [action(fleet, server, settings=settings) for server in range(SERVERS)]
        watch = Stopwatch()
        errors = done(*every, timeout_s=10.0)
        assert watch.counted_s < 5
        assert {error.code for error in errors if isinstance(error, ActionError)} == {"credentials-refused"}
        assert len(errors) == SERVERS
        stats = fleet.admin("stats")
        assert 1 <= stats["requests"]["unauthorized"] <= 5
        assert stats["lockouts"] == 0


def test_a_controller_with_another_password_is_asked_twice_at_the_most(fleet: Running) -> None:
    good, bad = SERVERS_LEFT.take(fleet), SERVERS_LEFT.take(fleet, "changed-password")
    before = shown(fleet, bad)["requests"]

    async def story() -> None:
        driver = RedfishDriver()
        assert (await driver.check(action(fleet, good), order())).ready
        for _ in range(6):
            checked = await driver.check(action(fleet, bad), order())
            assert isinstance(checked.error, Permanent)
            assert checked.error.code == "bmc-password"
        assert (await driver.check(action(fleet, good), order())).ready, "one refusal stops nobody else"
        await driver.close()

    asyncio.run(story())
    assert shown(fleet, bad)["requests"] - before == 2


def test_who_asks_first_does_not_take_one_other_password_for_a_wrong_one(fleet: Running) -> None:
    """Nobody has accepted the password before, and the refusal is the first answer."""
    bad = SERVERS_LEFT.take(fleet, "changed-password")
    good = [SERVERS_LEFT.take(fleet) for _ in range(3)]

    async def story() -> None:
        driver = RedfishDriver()
        found = await asyncio.gather(
            *(driver.check(action(fleet, server), order()) for server in (bad, *good))
        )
        assert [one.ready for one in found] == [False, True, True, True]
        assert isinstance(found[0].error, Permanent)
        assert found[0].error.code == "bmc-password"
        await driver.close()
        driver = RedfishDriver()
        alone = await driver.check(action(fleet, bad), order())
        assert isinstance(alone.error, Permanent)
        assert alone.error.code == "credentials-refused", "nobody knows whether others would accept it"
        await driver.close()

    asyncio.run(story())


def allowing(fleet: Running) -> str:
    """The lines of an agent's file that let it ask this fleet."""
    secrets = json.dumps([settings_of(fleet)["password"]])
    return f'drivers = ["redfish"]\nallow = {{hosts = ["127.0.0.0/8"], secrets = {secrets}}}\n'


def test_through_an_agent_a_refusal_says_as_much_as_here(fleet: Running, tmp_path: Path) -> None:
    bad, good = SERVERS_LEFT.take(fleet, "changed-password"), SERVERS_LEFT.take(fleet)
    config = agents.config(tmp_path)
    process = agents.own_process(config, agents.header(config) + allowing(fleet))

    async def story() -> None:
        driver = RemoteDriver("redfish", frozenset({"boot"}), agents.at(config))
        try:
            assert (await driver.check(action(fleet, good), order())).ready
            checked = await driver.check(action(fleet, bad), order())
            assert isinstance(checked.error, Permanent)
            assert checked.error.code == "bmc-password"
            process.kill()
            checked = await driver.check(action(fleet, good), order())
            assert not checked.ready
            assert isinstance(checked.error, Retryable)
            assert checked.error.code == "agent-unreachable"
            seen = await driver.observe(action(fleet, good), order())
            assert (seen.outcome, seen.evidence["code"]) == ("unclear", "agent-unreachable")
        finally:
            await driver.close()

    try:
        asyncio.run(story())
    finally:
        process.kill()


def test_what_asks_to_be_left_alone_is_left_alone(fleet: Running) -> None:
    server = SERVERS_LEFT.take(fleet, "sessions-full")
    before = shown(fleet, server)["requests"]

    async def story() -> None:
        driver = RedfishDriver()
        for _ in range(5):
            checked = await driver.check(action(fleet, server), order())
            assert isinstance(checked.error, Retryable)
            assert checked.error.code == "bmc-busy"
            assert 5_000 < checked.error.after_ms <= 10_000
        await driver.close()

    asyncio.run(story())
    assert shown(fleet, server)["requests"] - before == 1


def test_observe_says_done_absent_or_unclear(fleet: Running) -> None:
    up, off, booting, swapped = (SERVERS_LEFT.take(fleet, f) for f in ("", "", "no-boot", "wrong-serial"))
    done(action(fleet, up))
    done(action(fleet, booting), timeout_s=0.5)
    found: list[Any] = done(*(action(fleet, one) for one in (up, off, booting, swapped)), step="observe")
    assert all(isinstance(one, Observed) for one in found)
    assert [one.outcome for one in found[:2]] == ["done", "absent"]
    assert found[3].outcome == "unclear"
    assert "another machine" in found[3].evidence["why"]
