"""A real PowerDNS server with a zone, for the suites."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest

from evac.drivers.capabilities import ReportsTraffic, RoutesTraffic
from evac.drivers.port import Action, Value, Verb
from evac.drivers.powerdns import DRIVER
from evac.drivers.powerdns.driver import PowerDnsDriver
from evac_lab.process import Process
from tests.contract.adapters.dns import unclear_records
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import Case, order, until_stopped
from tests.contract.capabilities.suites import Adapter, AskedTraffic
from tests.contract.ports import free_port

PROGRAM = shutil.which("pdns_server") or "/usr/sbin/pdns_server"
SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")
ZONE, KEY = "evac.test", "a-key-that-nobody-says"
PANGYO, ANYANG = "192.0.2.1", "192.0.2.2"


class Zone:
    """One running server, and what it answers when asked without the driver."""

    def __init__(self, folder: Path) -> None:
        self.host, self.port, self.api = "127.0.0.1", free_port(), free_port()
        database = folder / "zones.sqlite"
        with sqlite3.connect(database) as made:
            made.executescript(SCHEMA.read_text(encoding="utf-8"))
            made.execute("INSERT INTO domains (id, name, type) VALUES (1, ?, 'NATIVE')", (ZONE,))
            rows = [(ZONE, "SOA", f"ns.{ZONE} hostmaster.{ZONE} 1 60 30 3600 7")]
            rows += [(f"chat{number}.{ZONE}", "A", PANGYO) for number in range(2)]
            made.executemany(
                "INSERT INTO records (domain_id, name, type, content, ttl) VALUES (1, ?, ?, ?, 7)", rows
            )
        made.close()
        (folder / "pdns.conf").write_text(
            f"launch=gsqlite3\ngsqlite3-database={database}\nsocket-dir={folder}\n"
            f"local-address={self.host}\nlocal-port={self.port}\ncache-ttl=0\nquery-cache-ttl=0\n"
            f"negquery-cache-ttl=0\nzone-cache-refresh-interval=0\nguardian=no\ndaemon=no\nsetuid=\nsetgid=\n"
            f"webserver=yes\nwebserver-address={self.host}\nwebserver-port={self.api}\napi=yes\napi-key={KEY}\n"
        )
        argv = (PROGRAM, f"--config-dir={folder}")
        self.process = Process("pdns", argv, folder / "pdns.log")
        self.process.start()
        self.process.wait_until(self._answers, 15)

    def _answers(self) -> bool:
        asked = urllib.request.Request(
            f"http://{self.host}:{self.api}/api/v1/servers", headers={"X-API-Key": KEY}
        )
        try:
            with urllib.request.urlopen(asked, timeout=1):
                return self.answer("chat0") == (PANGYO,)
        except OSError:
            return False

    def answer(self, name: str, kind: str = "A") -> tuple[str, ...]:
        found = dns.query.udp(dns.message.make_query(f"{name}.{ZONE}", kind), self.host, 2, self.port).answer
        return tuple(sorted(str(item) for item in found[0])) if found else ()

    def answer_with(self, name: str, sites: tuple[str, ...]) -> None:
        """Changes one name without the driver."""
        rows = [{"content": {"pangyo": PANGYO, "anyang": ANYANG}[site], "disabled": False} for site in sites]
        one = {"name": f"{name}.{ZONE}.", "type": "A", "ttl": 7, "changetype": "REPLACE", "records": rows}
        asked = urllib.request.Request(
            f"http://{self.host}:{self.api}/api/v1/servers/localhost/zones/{ZONE}.",
            json.dumps({"rrsets": [one]}).encode(),
            {"X-API-Key": KEY, "Content-Type": "application/json"},
            method="PATCH",
        )
        with urllib.request.urlopen(asked, timeout=5):
            pass

    def shift(self, share: int = 1_000, **more: Value) -> Action:
        settings: dict[str, Value] = {
            "url": f"http://{self.host}:{self.api}",
            "key": "env:EVAC_TEST_PDNS_KEY",
            "zone": ZONE,
            "records": tuple(f"chat{n}=pangyo:{PANGYO},anyang:{ANYANG}" for n in range(2)),
            **more,
        }
        parameters: dict[str, Value] = {"to": "anyang", "away": "pangyo", "share": share}
        return Action("shift", ZONE, "powerdns", "anyang", settings, parameters)

    def site_action(self, verb: Verb, site: str) -> Action:
        return Action(verb, ZONE, "powerdns", site, self.shift().settings, {"site": site})


@contextmanager
def server(folder: Path) -> Iterator[Zone]:
    if not Path(PROGRAM).exists() or not SCHEMA.exists():
        pytest.skip("pdns-server and pdns-backend-sqlite3 are not installed")
    os.environ["EVAC_TEST_PDNS_KEY"] = KEY
    made = Zone(folder)
    try:
        yield made
    finally:
        made.process.signal(signal.SIGCONT)
        made.process.stop()


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    after = {"shift": (ANYANG,), "drain": (ANYANG,), "ready": (PANGYO, ANYANG)}[verb]
    site = {"drain": "pangyo", "ready": "anyang"}.get(verb, "")
    with server(folder) as zone:
        yield _case(zone, after, zone.site_action(verb, site) if site else zone.shift(), verb)


def _case(zone: Zone, after: tuple[str, ...], action: Action, verb: Verb) -> Case:
    async def prepare() -> None:
        if verb == "drain":  # another site is there to take the work
            driver = PowerDnsDriver()
            await driver.execute(zone.site_action("ready", "anyang"), order())
            await driver.close()

    async def state() -> object:
        return [await asyncio.to_thread(zone.answer, f"chat{number}") for number in range(2)]

    async def is_done() -> bool:
        return await state() == [after, after]

    async def silence() -> None:
        zone.process.signal(signal.SIGSTOP)
        await until_stopped(zone.process.pid)

    async def speak() -> None:
        zone.process.signal(signal.SIGCONT)

    return Case(
        PowerDnsDriver(),
        action,
        state,
        is_done,
        prepare,
        silence,
        speak,
        tokens=True,
        undo="done",
        secrets=(KEY,),
        silent_codes=("powerdns-unreachable",),
        wires=(TcpWire(zone.host, zone.api, "http", with_settings(url="http://{host}:{port}")),),
    )


@contextmanager
def _traffic(folder: Path) -> Iterator[AskedTraffic]:
    names = ("chat0", "chat1")
    with server(folder) as zone:
        asks = zone.site_action("verify", "pangyo")

        async def send_to(sites: tuple[str, ...]) -> None:
            for name in names:
                await asyncio.to_thread(zone.answer_with, name, sites)

        common = _case(zone, (), asks, "shift")
        yield AskedTraffic(
            common.driver,
            asks,
            common.silence,
            common.speak,
            (KEY,),
            common.wires,
            send_to=send_to,
            unclear=unclear_records(asks, names),
        )


ADAPTER = Adapter(DRIVER, acts={RoutesTraffic: _acts}, asks={ReportsTraffic: _traffic})
