"""A real Knot server with a zone, for the suites."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dns.message
import dns.query
import dns.tsig
import dns.update
import pytest

from evac.drivers.capabilities import ReportsTraffic, RoutesTraffic
from evac.drivers.dns import DRIVER
from evac.drivers.dns.driver import DnsDriver
from evac.drivers.port import Action, Value, Verb
from evac_lab.process import MissingProgram, Process
from evac_lab.servers import dns as servers
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import Case, nothing, order, until_stopped
from tests.contract.capabilities.suites import Adapter, AskedTraffic
from tests.contract.ports import free_port

ZONE = "evac.test"
PANGYO, ANYANG = "192.0.2.1", "192.0.2.2"
TTL_S = 7


class Zone:
    """One running server, and what it answers when asked without the driver."""

    def __init__(self, folder: Path, name: str = "dns", names: int = 2) -> None:
        secret = servers.make_secret(os.urandom(32))
        self.names = tuple(f"chat{number}" for number in range(names))
        self.server = servers.DnsServer(
            name, "127.0.0.1", free_port(), folder / name, ZONE, "evac-key", secret
        )
        servers.prepare(self.server, [(name, "A", PANGYO) for name in self.names], TTL_S)
        self.process: Process = servers.start(self.server)
        os.environ["EVAC_TEST_DNS_KEY"] = secret

    def answer(self, name: str, kind: str = "A") -> tuple[tuple[str, ...], int]:
        query = dns.message.make_query(f"{name}.{ZONE}", kind)
        answer = dns.query.tcp(query, self.server.host, 5, self.server.port).answer
        if not answer:
            return (), 0
        return tuple(sorted(str(item) for item in answer[0])), answer[0].ttl

    def answer_with(self, name: str, sites: tuple[str, ...]) -> None:
        """Changes one name without the driver."""
        key = dns.tsig.Key("evac-key", self.server.key_secret, "hmac-sha256")
        change = dns.update.UpdateMessage(ZONE, keyring=key)
        change.delete(name, "A")
        for site in sites:
            change.add(name, TTL_S, "A", {"pangyo": PANGYO, "anyang": ANYANG}[site])
        assert dns.query.tcp(change, self.server.host, 5, self.server.port).rcode() == 0

    def serial(self) -> int:
        answer = dns.query.tcp(dns.message.make_query(ZONE, "SOA"), self.server.host, 5, self.server.port)
        serial: int = answer.answer[0][0].serial
        return serial

    def settings(self, **more: Value) -> dict[str, Value]:
        return {
            "server": self.server.host,
            "port": self.server.port,
            "zone": ZONE,
            "key_name": "evac-key",
            "key_secret": "env:EVAC_TEST_DNS_KEY",
            "key_algorithm": "hmac-sha256",
            "records": tuple(f"{name}=pangyo:{PANGYO},anyang:{ANYANG}" for name in self.names),
            **more,
        }

    def shift(self, share: int = 1_000, **more: Value) -> Action:
        parameters: dict[str, Value] = {"to": "anyang", "away": "pangyo", "share": share}
        return Action("shift", ZONE, "dns", "anyang", self.settings(**more), parameters)

    def site_action(self, verb: Verb, site: str) -> Action:
        return Action(verb, ZONE, "dns", site, self.settings(), {"site": site})


@contextmanager
def server(folder: Path, name: str = "dns", names: int = 2) -> Iterator[Zone]:
    try:
        made = Zone(folder, name, names)
    except MissingProgram as error:
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.process.signal(signal.SIGCONT)
        made.process.stop()


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with server(folder) as zone:
        yield case_of(zone, verb)


def case_of(zone: Zone, verb: Verb = "shift") -> Case:
    after = {"shift": (ANYANG,), "drain": (ANYANG,), "ready": (PANGYO, ANYANG)}[verb]
    site = {"drain": "pangyo", "ready": "anyang"}.get(verb, "")

    async def prepare() -> None:
        if verb == "drain":  # another site is there to take the work
            await DnsDriver().execute(zone.site_action("ready", "anyang"), order())

    async def state() -> object:
        return zone.serial(), [zone.answer(name) for name in zone.names]

    async def is_done() -> bool:
        return all(zone.answer(name)[0] == after for name in zone.names)

    async def silence() -> None:
        zone.process.signal(signal.SIGSTOP)
        await until_stopped(zone.process.pid)

    async def speak() -> None:
        zone.process.signal(signal.SIGCONT)

    way = with_settings(server="{host}", port="{port}")
    return Case(
        DnsDriver(),
        zone.site_action(verb, site) if site else zone.shift(),
        state,
        is_done,
        prepare if verb == "drain" else nothing,
        silence,
        speak,
        tokens=True,
        undo="done",
        secrets=(zone.server.key_secret,),
        silent_codes=("dns-unreachable",),
        wires=(TcpWire(zone.server.host, zone.server.port, "dns", way),),
    )


@contextmanager
def _traffic(folder: Path) -> Iterator[AskedTraffic]:
    with server(folder) as zone:
        asks = zone.site_action("verify", "pangyo")

        async def send_to(sites: tuple[str, ...]) -> None:
            for name in zone.names:
                await asyncio.to_thread(zone.answer_with, name, sites)

        common = case_of(zone)
        yield AskedTraffic(
            common.driver,
            asks,
            common.silence,
            common.speak,
            (zone.server.key_secret,),
            common.wires,
            send_to=send_to,
            unclear=unclear_records(asks, zone.names),
        )


def unclear_records(asks: Action, names: tuple[str, ...]) -> dict[str, Action]:
    """While every name is sent to pangyo."""

    def asked(*records: str) -> Action:
        return replace(asks, settings={**asks.settings, "records": records})

    first, second = names
    return {
        "an address of no site": asked(f"{first}=anyang:{ANYANG}"),
        "of two sites": asked(f"{first}=anyang:{PANGYO},pangyo:{PANGYO}"),
        "two names at two sites": asked(f"{first}=pangyo:{PANGYO}", f"{second}=anyang:{PANGYO}"),
        "a name without an answer": asked(f"{first}=pangyo:{PANGYO}", f"no-name=pangyo:{PANGYO}"),
    }


ADAPTER = Adapter(DRIVER, acts={RoutesTraffic: _acts}, asks={ReportsTraffic: _traffic})
