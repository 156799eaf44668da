"""A simulated fleet for the tests of the Redfish driver, and the actions that they ask of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from evac.drivers.port import Action, Evidence, Value, Verb
from evac.drivers.redfish.driver import RedfishDriver
from evac.model.errors import ActionError
from evac_lab.fleet.ground import address_of
from tests.contract.drivers.suite import order
from tests.lab.fleets import Running, running

SPEED = 400
BOOT_MS = 1_300
SERVERS = 80


def fleet_of(folder: Path, *options: str) -> Any:
    fixed = (
        "--servers",
        str(SERVERS),
        "--faults",
        "none",
        "--latency",
        "0",
        "--no-limits",
        "-o",
        str(folder / "e"),
    )
    return running(folder, *fixed, "--speed", str(SPEED), "--bmc-boot", "200", *options)


class Servers:
    """Hands out servers that no other test uses."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}

    def take(self, fleet: Running, fault: str = "") -> int:
        number = self._next.get(id(fleet), 0)
        self._next[id(fleet)] = number + 1
        if fault:
            fleet.admin("faults", {"fault": fault, "servers": [name_of(fleet, number)]})
        return number


SERVERS_LEFT = Servers()


def name_of(fleet: Running, server: int) -> str:
    lines = (Path(fleet.about["estate"]) / "servers.csv").read_text(encoding="utf-8").splitlines()
    return lines[server + 1].partition(",")[0]


def serial_of(server: int) -> str:
    return f"SN{server:07d}"


def settings_of(fleet: Running, **more: Value) -> dict[str, Value]:
    about = fleet.about
    trust: dict[str, Value] = {"pin": about["pin"]} if about["pin"] else {}
    return {
        "user": about["user"],
        "password": about["password"],
        "scheme": about["scheme"],
        "port": about["port"],
        **trust,
        **more,
    }


def action(
    fleet: Running, server: int, verb: Verb = "boot", settings: dict[str, Value] | None = None, **more: Value
) -> Action:
    told: dict[str, Value] = {
        "server": name_of(fleet, server),
        "address": address_of(server),
        "serial": serial_of(server),
        "network": "hall",
        "boot_ms": BOOT_MS,
        **more,
    }
    return Action(verb, name_of(fleet, server), "redfish", "pangyo", settings or settings_of(fleet), told)


def shown(fleet: Running, server: int) -> dict[str, Any]:
    found: dict[str, Any] = fleet.admin(f"servers?from={server}")["servers"][0]
    assert found["number"] == server
    return found


def done(*actions: Action, timeout_s: float = 15.0, step: str = "execute") -> list[Evidence | ActionError]:
    """Evidence or error of each action, all carried out at once by one driver."""

    async def all_of_them() -> list[Any]:
        driver = RedfishDriver()

        async def one(number: int, what: Action) -> Any:
            try:
                words = order(timeout_s=timeout_s, key=f"run-1/{number}")
                return await getattr(driver, step)(what, words)
            except ActionError as error:
                return error

        try:
            return await asyncio.gather(*(one(number, what) for number, what in enumerate(actions)))
        finally:
            await driver.close()

    return asyncio.run(all_of_them())


def circuit_of(fleet: Running, verb: Verb, **more: Value) -> Action:
    settings = settings_of(fleet, **{"label": "pangyo/hall-1/feed-01a", **more})
    path = "/redfish/v1/PowerEquipment/Switchgear/1/Feeders/1"
    told = {"address": fleet.about["circuits"], "circuit": path}
    return Action(verb, "pangyo/hall-1/feed-01a", "redfish", "pangyo", settings, told)
