"""What is particular to the driver `redfish`: every fault told apart, many breakers at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.port import Checked
from evac.drivers.redfish.driver import RedfishDriver
from evac.engine.runs.performing import Outcome, Performer, Terms, Try
from evac.model.boot_codes import BOOT_CODES
from evac.model.errors import ActionError, OutcomeUnknown, Permanent
from evac.model.run_policy import Patience
from evac.run.values import RunStep
from tests.contract.adapters.redfish import (
    BOOT_MS,
    SERVERS_LEFT,
    action,
    circuit_of,
    done,
    fleet_of,
    name_of,
    shown,
)
from tests.contract.capabilities.story import order
from tests.lab.fleets import Running

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleet_of(tmp_path_factory.mktemp("plain")) as found:
        yield found


BEFORE_POWER = {
    "dead": "bmc-silent",
    "refusing": "bmc-silent",
    "hanging": "bmc-hanging",
    "half-dead": "bmc-half-dead",
    "sessions-full": "bmc-busy",
    "wrong-serial": "bmc-wrong-serial",
    "changed-password": "bmc-password",
}
AFTER_POWER = {
    "lying": "bmc-lying",
    "boot-loop": "server-boot-loop",
    "no-boot": "server-no-boot",
    "wrong-image": "server-wrong-image",
    "read-only": "bmc-not-allowed",
}


def test_what_is_wrong_is_told_apart_before_any_power(fleet: Running) -> None:
    servers = {fault: SERVERS_LEFT.take(fleet, fault) for fault in BEFORE_POWER}
    wanted = [action(fleet, server) for server in servers.values()]
    errors = done(*wanted, timeout_s=4.0)
    assert {
        f: e.code for f, e in zip(servers, errors, strict=True) if isinstance(e, ActionError)
    } == BEFORE_POWER
    assert not any(isinstance(error, OutcomeUnknown) for error in errors)
    assert not any(shown(fleet, server)["power_ons"] for server in servers.values())
    assert all(error.code in BOOT_CODES for error in errors if isinstance(error, ActionError))


def test_check_says_the_same_with_the_error_that_execute_would_raise(fleet: Running) -> None:
    servers = {fault: SERVERS_LEFT.take(fleet, fault) for fault in BEFORE_POWER}
    checked: list[Any] = done(*(action(fleet, s) for s in servers.values()), timeout_s=4.0, step="check")
    assert all(isinstance(one, Checked) and not one.ready for one in checked)
    assert {f: one.error.code for f, one in zip(servers, checked, strict=True)} == BEFORE_POWER


def test_what_comes_up_wrong_is_told_apart_and_switched_off(fleet: Running) -> None:
    servers = {fault: SERVERS_LEFT.take(fleet, fault) for fault in AFTER_POWER}
    errors = done(*(action(fleet, server) for server in servers.values()), timeout_s=8.0)
    assert all(isinstance(error, Permanent) for error in errors), errors
    assert {
        f: e.code for f, e in zip(servers, errors, strict=True) if isinstance(e, ActionError)
    } == AFTER_POWER
    for server in servers.values():
        assert shown(fleet, server)["power"] == "off"


def test_slow_and_degraded_servers_come_up_and_say_so(fleet: Running) -> None:
    degraded, slow, starting = (SERVERS_LEFT.take(fleet, f) for f in ("degraded", "slow", "slow-boot"))
    first, second, third = done(*(action(fleet, one) for one in (degraded, slow, starting)), timeout_s=30.0)
    assert not isinstance(first, ActionError)
    assert (first["state"], first["why"]) == ("degraded", "health warning")
    assert not isinstance(second, ActionError)
    assert not isinstance(third, ActionError)
    assert second["state"] == third["state"] == "up"
    assert int(third["boot_ms"]) > 4 * BOOT_MS // 2


def test_a_controller_that_dies_of_the_reset_is_waited_for_and_not_asked_twice(fleet: Running) -> None:
    server = SERVERS_LEFT.take(fleet, "crashing")
    (evidence,) = done(action(fleet, server), timeout_s=20.0)
    assert not isinstance(evidence, ActionError), evidence
    assert shown(fleet, server)["power_ons"] == 1


def test_a_controller_that_falls_silent_after_power_is_unknown_and_never_failed(fleet: Running) -> None:
    server = SERVERS_LEFT.take(fleet)

    async def story() -> None:
        driver = RedfishDriver()
        boot = asyncio.create_task(driver.execute(action(fleet, server), order(timeout_s=25.0)))
        while not (await asyncio.to_thread(shown, fleet, server))["power_ons"]:
            await asyncio.sleep(0.02)
        strike = {"fault": "dead", "servers": [name_of(fleet, server)]}
        await asyncio.to_thread(fleet.admin, "faults", strike)
        with pytest.raises(OutcomeUnknown) as raised:
            await boot
        assert raised.value.code == "bmc-silent"
        await driver.close()

    asyncio.run(story())


def test_that_the_controller_took_the_request_is_told_before_the_server_is_up(fleet: Running) -> None:
    sound, not_allowed = SERVERS_LEFT.take(fleet), SERVERS_LEFT.take(fleet, "read-only")

    def told(server: int) -> list[bool]:
        """Each time it is told: whether the server is up."""
        found: list[bool] = []

        async def boot() -> None:
            driver = RedfishDriver()
            how = replace(order(), switched_on=lambda: found.append(bool(shown(fleet, server)["up"])))
            with contextlib.suppress(ActionError):
                await driver.execute(action(fleet, server), how)
            await driver.close()

        asyncio.run(boot())
        return found

    assert told(sound) == [False]
    assert told(sound) == [], "it is on"
    assert told(not_allowed) == []


def test_a_stop_is_graceful_and_a_forced_one_is_not(fleet: Running) -> None:
    gentle, forced, lying = (SERVERS_LEFT.take(fleet) for _ in range(3))
    done(*(action(fleet, one) for one in (gentle, forced, lying)))
    fleet.admin("faults", {"fault": "lying", "servers": [name_of(fleet, lying)]})
    stops = (
        action(fleet, gentle, "stop"),
        action(fleet, forced, "stop", force=True),
        action(fleet, lying, "stop"),
    )
    first, second, third = done(*stops, timeout_s=3.0)
    assert not isinstance(first, ActionError)
    assert not isinstance(second, ActionError)
    assert first["power"] == second["power"] == "off"
    assert isinstance(third, OutcomeUnknown)
    assert third.code == "bmc-lying"


def test_a_breaker_with_another_label_is_left_alone(tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet:
        (wrong,) = done(circuit_of(fleet, "stop", label="pangyo/hall-1/feed-01b"))
        assert isinstance(wrong, Permanent)
        assert wrong.code == "circuit-wrong"
        assert all(one["closed"] for one in fleet.admin("power")["domains"] if one["kind"] == "feed")


def test_of_many_breakers_at_one_controller_each_is_closed_before_all_are_looked_at(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "--at-start", "open", "--servers", "1600") as fleet:
        feeds = [one["id"] for one in fleet.admin("power")["domains"] if one["kind"] == "feed"]
        told: list[tuple[str, str]] = []

        async def all_of_them() -> int:
            driver = RedfishDriver()

            async def one(number: int, feed: str) -> None:
                what = circuit_of(fleet, "start", label=feed)
                path = f"/redfish/v1/PowerEquipment/Switchgear/1/Feeders/{number}"
                what = replace(what, target=feed, parameters=dict(what.parameters) | {"circuit": path})
                words = order(timeout_s=15.0, key=f"run-1/{feed}")
                assert (await driver.check(what, words)).ready
                told.append(("seen", feed))
                assert (await driver.execute(what, words))["power"] == "on"
                told.append(("closed", feed))
                assert (await driver.observe(what, words)).outcome == "done"

            await asyncio.gather(*(one(number, feed) for number, feed in enumerate(feeds, 1)))
            await driver.close()
            return driver.requests_sent

        asked = asyncio.run(all_of_them())
        assert all(one["closed"] for one in fleet.admin("power")["domains"] if one["kind"] == "feed")
    assert len(feeds) >= 4
    assert asked == 3 * len(feeds), "a look, the request, and a look"
    order_of = [told.index(("closed", feed)) < told.index(("seen", feeds[-1])) for feed in feeds[:-2]]
    assert all(order_of), told


class Leads:
    """A leader whose lease holds."""

    token = 7

    def check(self) -> None:
        return


def tries_of(
    fleet: Running, server: int, *tries: tuple[bool, int, str], until: str = "power_ons"
) -> list[Outcome]:
    """Outcomes of tries after the first, whose leader dies once power is on, and one look. A try: whether a
    server that hangs is switched off, its attempt, and the fault of the server from then on.
    """

    async def all_of_them() -> list[Outcome]:
        driver, what = RedfishDriver(), action(fleet, server)
        step = RunStep(f"boot:{what.target}", "boot", what.target, 0, BOOT_MS, deadline_ms=8_000)
        performer = Performer(
            Terms("run-1", lambda name: (what,), lambda name: driver, Leads(), Patience()), lambda: None
        )
        first = asyncio.ensure_future(performer.start(Try(step, step.id, 1)))
        while not (await asyncio.to_thread(shown, fleet, server))["power_ons"]:
            await asyncio.sleep(0.02)
        first.cancel()
        while not (await asyncio.to_thread(shown, fleet, server))[until]:
            await asyncio.sleep(0.02)
        found = [await performer.observe(Try(step, step.id, 1))]
        for cycle, attempt, fault in tries:
            struck = {"fault": fault, "servers": [name_of(fleet, server)]}
            await asyncio.to_thread(fleet.admin, "faults", struck)
            found.append(await performer.start(Try(step, step.id, attempt, cycle=cycle)))
        await driver.close()
        return found

    return asyncio.run(all_of_them())


def test_a_server_that_hangs_is_switched_off_only_where_that_is_agreed_and_looked_at_before_power(
    fleet: Running,
) -> None:
    server = SERVERS_LEFT.take(fleet, "no-boot")
    seen, left, off, up = tries_of(
        fleet, server, (False, 2, "no-boot"), (True, 3, "no-boot"), (False, 4, "none")
    )
    assert (seen[1]["outcome"], seen[1]["evidence"]["state"]) == ("unclear", "booting")
    assert left[0] == "step_unknown"
    assert left[1]["message"].startswith("cannot tell what the previous attempt did")
    assert (off[0], off[1]["code"], off[1]["off"]) == ("step_failed", "not-done", True)
    assert off[1]["again_ms"] >= 0
    assert up[0] == "step_succeeded"
    assert shown(fleet, server)["power_ons"] == 2


@pytest.mark.parametrize("fault", ["wrong-serial", "wrong-image"])
def test_another_machine_and_a_system_that_runs_are_never_switched_off(fleet: Running, fault: str) -> None:
    server = SERVERS_LEFT.take(fleet)
    _, outcome = tries_of(fleet, server, (True, 2, fault), until="up")
    assert outcome[0] == "step_unknown"
    assert (shown(fleet, server)["power"], shown(fleet, server)["power_ons"]) == ("on", 1)
