"""Clients that write all the time and behave as real ones do, in a process of their own.

They find the service by DNS at the authoritative servers of all sites, keep an answer for its TTL, and go to
the next address when one fails, with a back-off that grows and is scattered. A message keeps its id through
all its tries. Beside them every PostgreSQL is probed directly, to see whether two ever take writes at once.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import aiohttp
import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype

from evac_lab.ledger import LedgerWriter
from evac_lab.primaries import Connection, Database, Failures

TRY_SECONDS: Final = 1.0
DNS_SECONDS: Final = 0.3
BACKOFF_SECONDS: Final = 0.05
BACKOFF_MOST_SECONDS: Final = 0.8
PROBE_PERIOD_SECONDS: Final = 0.1
PROBE_SECONDS: Final = 0.4
_PROBE: Final = "insert into probes (member, number) values ($1, $2)"


@dataclass(frozen=True, slots=True)
class ClientsConfig:
    """What it needs to know; written by the lab as JSON. pause_s: between two messages of a client."""

    name: str
    port: int
    dns_hosts: tuple[str, ...]
    dns_port: int
    ledger: str
    database: Database
    source: str = ""
    count: int = 20
    pause_s: float = 0.2
    seed: int = 0


class Resolver:
    """One resolver for all clients: asks the authoritative servers in random order, keeps an answer for its
    TTL, and serves an old one while none answers (RFC 8767).
    """

    def __init__(self, config: ClientsConfig, chance: random.Random) -> None:
        self._config = config
        self._chance = chance
        self._addresses: list[str] = []
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def addresses(self) -> list[str]:
        """Addresses of the service in random order; none while no server ever answered."""
        async with self._lock:
            if time.monotonic() >= self._until:
                await self._refresh()
        found = list(self._addresses)
        self._chance.shuffle(found)
        return found

    async def _refresh(self) -> None:
        hosts = list(self._config.dns_hosts)
        self._chance.shuffle(hosts)
        for host in hosts:
            answer = await self._ask(host)
            if answer is not None:
                self._addresses, ttl = answer
                self._until = time.monotonic() + ttl
                return
        self._until = time.monotonic() + DNS_SECONDS

    async def _ask(self, host: str) -> tuple[list[str], float] | None:
        query = dns.message.make_query(self._config.name, dns.rdatatype.A)
        try:
            answer = await dns.asyncquery.udp(query, host, DNS_SECONDS, self._config.dns_port)
        except (OSError, EOFError, dns.exception.DNSException):
            return None
        sets = [rrset for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A]
        if not sets:
            return None
        return [record.to_text() for record in sets[0]], float(max(1, sets[0].ttl))


class Client:
    """One person's programme: writes a message, waits until it is acknowledged, writes the next."""

    def __init__(self, number: int, config: ClientsConfig, resolver: Resolver, ledger: LedgerWriter) -> None:
        self._number = number
        self._config = config
        self._resolver = resolver
        self._ledger = ledger
        self._chance = random.Random(config.seed * 1_000 + number)
        self._addresses: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TRY_SECONDS)
        source = (self._config.source, 0) if self._config.source else None
        connector = aiohttp.TCPConnector(limit=4, local_addr=source, keepalive_timeout=5)
        stamp = f"{int(time.time() * 1000):x}-{self._number}"
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            message = 0
            await asyncio.sleep(self._chance.random() * self._config.pause_s)
            while True:
                message += 1
                await self._deliver(session, f"{stamp}-{message}")
                await asyncio.sleep(self._config.pause_s * (0.5 + self._chance.random()))

    async def _deliver(self, session: aiohttp.ClientSession, id: str) -> None:
        number = 0
        while True:
            number += 1
            address = await self._address(failed=number > 1)
            if address and await self._try(session, id, number, address):
                return
            longest = min(BACKOFF_MOST_SECONDS, BACKOFF_SECONDS * 2 ** min(number, 10))
            await asyncio.sleep(longest * (0.5 + self._chance.random() / 2))

    async def _address(self, failed: bool) -> str:
        """Stays with an address while it works and is in the answer; goes to the next one when it failed."""
        known = await self._resolver.addresses()
        if failed and self._addresses:
            self._addresses.pop(0)
        self._addresses = [one for one in self._addresses if one in known] or known
        return self._addresses[0] if self._addresses else ""

    async def _try(self, session: aiohttp.ClientSession, id: str, number: int, address: str) -> bool:
        told: dict[str, object] = {"client": self._number, "id": id, "number": number, "address": address}
        self._ledger.write("try", time.time(), **told)
        body = {"id": id, "room": f"room-{self._number % 5}", "sender": str(self._number), "text": "hello"}
        try:
            async with session.post(f"http://{address}:{self._config.port}/messages", json=body) as answer:
                found = await answer.json() if answer.content_type == "application/json" else {}
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._ledger.write("fail", time.time(), **told, why=type(error).__name__)
            return False
        if status != 201:
            self._ledger.write("fail", time.time(), **told, why=str(status))
            return False
        self._ledger.write("ack", time.time(), **told, site=str(found.get("site", "")))
        return True


class Probe:
    """Writes straight to one PostgreSQL, again and again, over a connection that stays open."""

    def __init__(self, site: str, database: Database, ledger: LedgerWriter) -> None:
        self._site = site
        self._database = database
        self._ledger = ledger
        self._connection: Connection | None = None
        self._number = int(time.time() * 1_000)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                begin = time.time()
                why = await self._write()
                self._ledger.write("probe", time.time(), site=self._site, begin=begin, ok=not why, why=why)
                await asyncio.sleep(max(0.0, begin + PROBE_PERIOD_SECONDS - time.time()))
        finally:
            self._drop()

    async def _write(self) -> str:
        """Why it was not acknowledged; "" when it was."""
        self._number += 1
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                if self._connection is None:
                    host = self._database.hosts[self._site]
                    self._connection = await self._database.connect(host, f"probe-{self._site}")
                await self._connection.execute(_PROBE, self._site, self._number, seconds=PROBE_SECONDS)
        except Failures as error:
            # A server that says no keeps its connection; one that says nothing, or is gone, loses it.
            if type(error).__name__ != "ReadOnlySQLTransactionError" and self._connection is not None:
                self._connection.abandon()
                self._connection = None
            return type(error).__name__
        return ""

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.end()
            self._connection = None


async def run(config: ClientsConfig) -> None:
    """Runs all clients and probes until a signal says stop."""
    ledger = LedgerWriter(Path(config.ledger))
    resolver = Resolver(config, random.Random(config.seed))
    clients = [Client(number, config, resolver, ledger) for number in range(config.count)]
    probes = [Probe(site, config.database, ledger) for site in config.database.hosts]
    tasks = [asyncio.create_task(one.run()) for one in clients]
    tasks += [asyncio.create_task(one.run()) for one in probes]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *tasks):
        task.cancel()
    await asyncio.gather(waiting, *tasks, return_exceptions=True)
    ledger.close()
    for task in done - {waiting}:
        task.result()


def write_config(path: Path, config: ClientsConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(config)), encoding="utf-8")


def read_config(path: Path) -> ClientsConfig:
    data = json.loads(path.read_text(encoding="utf-8"))
    hosts: Sequence[str] = data["dns_hosts"]
    return ClientsConfig(**{**data, "database": Database(**data["database"]), "dns_hosts": tuple(hosts)})


def main(arguments: list[str]) -> None:
    """Entry of the process: `python -m evac_lab.clients CONFIG`."""
    asyncio.run(run(read_config(Path(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
