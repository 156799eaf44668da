"""The PowerDNS driver against a real server: the contract, and what its names then answer."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dns.message
import dns.query
import pytest

from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.port import Action, Evidence, Value
from evac.drivers.powerdns.driver import PowerDnsDriver
from evac.model.errors import Permanent, Retryable
from evac_lab.process import Process
from tests.contract.drivers.ports import free_port
from tests.contract.drivers.suite import Case, covers, keep_contract, order

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

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


@pytest.fixture
def zone(server_folder: Path) -> Iterator[Zone]:
    if not Path(PROGRAM).exists() or not SCHEMA.exists():
        pytest.skip("pdns-server and pdns-backend-sqlite3 are not installed")
    os.environ["EVAC_TEST_PDNS_KEY"] = KEY
    made = Zone(server_folder)
    yield made
    made.process.signal(signal.SIGCONT)
    made.process.stop()


@covers("powerdns", RoutesTraffic)
def test_the_contract_is_kept(zone: Zone) -> None:
    async def state() -> object:
        return [await asyncio.to_thread(zone.answer, f"chat{number}") for number in range(2)]

    async def is_done() -> bool:
        return await state() == [(ANYANG,), (ANYANG,)]

    async def silence() -> None:
        zone.process.signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # a process stops when it is next scheduled

    async def speak() -> None:
        zone.process.signal(signal.SIGCONT)

    case = Case(
        PowerDnsDriver(),
        zone.shift(),
        state,
        is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        undo="done",
        secrets=(KEY,),
    )
    asyncio.run(keep_contract(case))


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

    assert asyncio.run(problems()) == (
        f"chat0.{ZONE}. 192.0.2.1 is answered, which the estate does not know",
    )


def test_a_wrong_key_or_zone_is_for_people(zone: Zone) -> None:
    os.environ["EVAC_TEST_PDNS_KEY"] = "wrong"
    with pytest.raises(Permanent, match="401"):
        execute(zone.shift())
    os.environ["EVAC_TEST_PDNS_KEY"] = KEY
    with pytest.raises(Permanent, match=r"404|422"):
        execute(zone.shift(zone="other.test"))


def test_verify_looks_and_changes_nothing(zone: Zone) -> None:
    look = replace(zone.shift(), verb="verify", parameters={"expect": "anyang"})
    with pytest.raises(Retryable, match="something else"):
        execute(look)
    execute(zone.shift())
    assert execute(look)["token"] == 7
