"""A simulated fleet that speaks Redfish, for the suites, and the actions that are asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from evac.drivers.capabilities import BootsServers, Fences, SwitchesPower
from evac.drivers.port import Action, Evidence, Value, Verb
from evac.drivers.redfish import DRIVER
from evac.drivers.redfish.driver import RedfishDriver
from evac.model.errors import ActionError
from evac_lab.fleet.ground import address_of
from tests.contract.capabilities.hostile import TcpWire
from tests.contract.capabilities.story import Case, nothing, order
from tests.contract.capabilities.suites import Adapter, Asked, AskedPower
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
    given: dict[str, Value] = {
        "server": name_of(fleet, server),
        "address": address_of(server),
        "serial": serial_of(server),
        "network": "hall",
        "boot_ms": BOOT_MS,
        **more,
    }
    return Action(verb, name_of(fleet, server), "redfish", "pangyo", settings or settings_of(fleet), given)


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
    given = {"address": fleet.about["circuits"], "circuit": path}
    return Action(verb, "pangyo/hall-1/feed-01a", "redfish", "pangyo", settings, given)


FEED = "pangyo/hall-1/feed-01a"


def _wire(fleet: Running, host: str) -> TcpWire:
    def through(action: Action, host: str, port: int) -> Action:
        return replace(action, parameters={**action.parameters, "address": f"{host}:{port}"})

    return TcpWire(host, int(fleet.about["port"]), "http", through)


@contextmanager
def _strikes(fleet: Running, server: int) -> Iterator[dict[str, Any]]:
    """How the controller of one server falls silent, and answers again."""

    async def strike(fault: str) -> None:
        given = {"fault": fault, "servers": [name_of(fleet, server)]}
        await asyncio.to_thread(fleet.admin, "faults", given)

    yield {"silence": lambda: strike("hanging"), "speak": lambda: strike("none")}


@contextmanager
def _server(folder: Path, verb: Verb) -> Iterator[Case]:
    with fleet_of(folder) as fleet, _strikes(fleet, 0) as strikes:

        async def state() -> object:
            found = await asyncio.to_thread(shown, fleet, 0)
            return found["power"], found["up"], found["resets"], found["power_ons"]

        async def is_done() -> bool:
            found = await asyncio.to_thread(shown, fleet, 0)
            return bool(found["up"] if verb == "boot" else found["power"] == "off")

        async def is_on() -> None:
            driver = RedfishDriver()
            await driver.execute(action(fleet, 0), order())
            await driver.close()

        given: dict[str, Value] = {} if verb == "boot" else {"proof": "power"}
        yield Case(
            RedfishDriver(),
            action(fleet, 0, verb, **given),
            state,
            is_done,
            nothing if verb == "boot" else is_on,
            undo="done" if verb == "boot" else "refused",
            secrets=(fleet.password,),
            silent_codes=("bmc-hanging",),
            wires=(_wire(fleet, address_of(0)),),
            **strikes,
        )


@contextmanager
def _circuit(folder: Path, verb: Verb) -> Iterator[Case]:
    with fleet_of(folder, "--at-start", "open" if verb == "start" else "off") as fleet:

        async def state() -> object:
            found = await asyncio.to_thread(fleet.admin, "power")
            return [(one["id"], one["closed"]) for one in found["domains"] if one["kind"] == "feed"]

        async def is_done() -> bool:
            return dict(await state())[FEED] is (verb == "start")  # type: ignore[call-overload, no-any-return]

        yield Case(
            RedfishDriver(),
            circuit_of(fleet, verb),
            state,
            is_done,
            secrets=(fleet.password,),
            wires=(_wire(fleet, str(fleet.about["circuits"])),),
        )


@contextmanager
def _looks(folder: Path) -> Iterator[Asked]:
    with fleet_of(folder) as fleet, _strikes(fleet, 0) as strikes:
        done(action(fleet, 1))
        yield AskedPower(
            RedfishDriver(),
            action(fleet, 0),
            secrets=(fleet.password,),
            wires=(_wire(fleet, address_of(0)),),
            on=action(fleet, 1),
            another=action(fleet, 0, serial="SN9999999"),
            **strikes,
        )


ADAPTER = Adapter(
    DRIVER,
    acts={BootsServers: _server, Fences: _server, SwitchesPower: _circuit},
    asks={BootsServers: _looks},
)
