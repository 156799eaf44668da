"""The clients of the messenger and their ledger: every try, acknowledgement and probe, with its time.

The ledger is an append-only file of JSON lines with a single writer. Times are seconds since 1970 by this
machine's clock. All figures of a fire are computed from it by pure functions.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final, Literal, Protocol

import aiohttp
import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype

from evac.model.records import dataclass
from evac_lab.orders_database import OrdersDatabase, OrdersTarget
from evac_lab.primaries import Connection, Database, Failures

Kind = Literal["try", "ack", "fail", "probe"]
_MOST_LINE: Final = 4_096
MESSAGES: Final = "messages"
"""The store that the clients write to through the messenger."""


@dataclass(frozen=True, slots=True)
class Record:
    """try, ack, fail: of message `id` by `client`, try number `number`, through `address`.

    probe: write `number` directly to the database of `store` at `site`, sent at `begin`; ok if acknowledged
    at `at`. why: the reason of a failure.
    """

    kind: Kind
    at: float
    client: int = -1
    id: str = ""
    number: int = 0
    address: str = ""
    site: str = ""
    begin: float = 0.0
    ok: bool = False
    why: str = ""
    store: str = MESSAGES


class LedgerWriter:
    """Appends records; each is in the file before `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a", encoding="utf-8", buffering=1)

    def write(self, kind: Kind, at: float, **values: object) -> None:
        self._file.write(json.dumps({"kind": kind, "at": round(at, 6), **values}) + "\n")

    def close(self) -> None:
        self._file.close()


def read_ledger(path: Path, offset: int = 0) -> Iterator[Record]:
    """Records from a file position on. An incomplete last line is left out."""
    for line in _lines(path, offset):
        if len(line) <= _MOST_LINE:
            yield Record(**json.loads(line))


def _lines(path: Path, offset: int) -> Iterator[bytes]:
    """Complete lines so far."""
    if path.exists():
        with path.open("rb") as file:
            file.seek(offset)
            yield from (line for line in file if line.endswith(b"\n"))


class LedgerReader:
    """All records from a file position on, each read once: it is polled often during a fire, on the machine
    that burns.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._path, self._offset = path, offset
        self._rows: list[Record] = []

    def read(self) -> list[Record]:
        for line in _lines(self._path, self._offset):
            self._offset += len(line)
            if len(line) <= _MOST_LINE:
                self._rows.append(Record(**json.loads(line)))
        return self._rows


def size(path: Path) -> int:
    """Where the next record will be written; a fire is measured from there."""
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What clients noticed of a fire, in seconds since the fire; None: it did not happen. longest_gap:
    between two acknowledgements over all clients.
    """

    first_write_seconds: float | None
    last_client_seconds: float | None
    clients: int
    recovered: int
    acknowledged: int
    failed: int
    longest_gap_seconds: float
    double_primary_seconds: float


def measure(records: Iterable[Record], burnt_at: float, until: float = 0.0) -> Measured:
    """Figures of a fire at `burnt_at`. Only writes tried after the fire count: an acknowledgement already on
    its way proves nothing. until: when the last process of the site was gone; writes tried before that prove
    nothing either.
    """
    counts_from = max(burnt_at, until)
    rows = list(records)
    begun: dict[tuple[str, int], float] = {}
    first: dict[int, float] = {}
    acks: list[float] = []
    failed = 0
    clients: set[int] = set()
    for row in rows:
        if row.kind == "try":
            begun[row.id, row.number] = row.at
            clients.add(row.client)
        elif row.kind == "fail":
            failed += row.at >= burnt_at
        elif row.kind == "ack":
            acks.append(row.at)
            if begun.get((row.id, row.number), 0.0) >= counts_from and row.client not in first:
                first[row.client] = row.at - burnt_at
    # A silence that still lasts counts too, up to the last record.
    moments = [burnt_at, *(at for at in sorted(acks) if at >= burnt_at)]
    moments.append(max([burnt_at, *(row.at for row in rows)]))
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    return Measured(
        round(min(first.values()), 3) if first else None,
        round(max(first.values()), 3) if first and len(first) == len(clients) else None,
        len(clients),
        len(first),
        len(acks),
        failed,
        round(max(gaps, default=0.0), 3),
        round(double_primary_seconds(rows), 3),
    )


def acknowledged(records: Iterable[Record]) -> set[str]:
    """Ids of all acknowledged messages."""
    return {row.id for row in records if row.kind == "ack"}


@dataclass(frozen=True, slots=True)
class Direct:
    """What probes of one store noticed of a fire, in seconds; None: it did not happen."""

    first_write_seconds: float | None
    double_primary_seconds: float


def measure_directly(records: Iterable[Record], store: str, burnt_at: float, lost_site: str) -> Direct:
    """The first write after a fire to a server of the store outside the lost site, past every service and
    proxy.
    """
    rows = list(records)
    outside = [row for row in rows if _is_acknowledged(row, store) and row.site != lost_site]
    found = [row.at for row in outside if row.begin >= burnt_at]
    first = round(min(found) - burnt_at, 3) if found else None
    return Direct(first, round(double_primary_seconds(rows, store), 3))


def acknowledged_probes(records: Iterable[Record], store: str) -> set[tuple[str, int]]:
    """Sites and numbers of all acknowledged probes of a store."""
    return {(row.site, row.number) for row in records if _is_acknowledged(row, store)}


def _is_acknowledged(row: Record, store: str) -> bool:
    return row.kind == "probe" and row.store == store and row.ok


def double_primary_seconds(records: Iterable[Record], store: str = MESSAGES) -> float:
    """How long two databases of a store acknowledged writes at overlapping times.

    A database counts as writable from when the first in a row of acknowledged probes was sent until the last
    was answered; a failed probe ends the row. This overcounts rather than undercounts.
    """
    writable = writable_spans(records, store).items()
    spans = [(begin, end, site) for site, rows in writable for begin, end in rows]
    overlaps = []
    for number, (begin, end, site) in enumerate(spans):
        for other_begin, other_end, other in spans[number + 1 :]:
            if other != site and min(end, other_end) > max(begin, other_begin):
                overlaps.append((max(begin, other_begin), min(end, other_end)))
    return _length(overlaps)


def writable_spans(
    records: Iterable[Record], store: str = MESSAGES
) -> Mapping[str, list[tuple[float, float]]]:
    """site -> spans in which its database acknowledged every probe."""
    spans: dict[str, list[tuple[float, float]]] = {}
    running: dict[str, bool] = {}
    for row in records:
        if row.kind != "probe" or row.store != store:
            continue
        mine = spans.setdefault(row.site, [])
        if row.ok and running.get(row.site):
            mine[-1] = (mine[-1][0], row.at)
        elif row.ok:
            mine.append((row.begin, row.at))
        running[row.site] = row.ok
    return spans


def _length(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def as_json(measured: Measured) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(measured)


TRY_SECONDS: Final = 1.0
DNS_SECONDS: Final = 0.3
BACKOFF_SECONDS: Final = 0.05
BACKOFF_MOST_SECONDS: Final = 0.8
PROBE_PERIOD_SECONDS: Final = 0.1
PROBE_SECONDS: Final = 0.4
_PROBE: Final = "insert into probes (member, number) values ($1, $2)"


@dataclass(frozen=True, slots=True)
class ClientsConfig:
    """Configuration, written by the lab as JSON. pause_s: between two messages of a client. orders: of a lab
    with MariaDB.
    """

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
    orders: OrdersDatabase | None = None


class Resolver:
    """One resolver for all clients: asks the authoritative servers in random order, caches an answer for its
    TTL, and serves a stale one while none answers (RFC 8767).
    """

    def __init__(self, config: ClientsConfig, chance: random.Random) -> None:
        self._config = config
        self._chance = chance
        self._addresses: list[str] = []
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def addresses(self) -> list[str]:
        """Addresses of the service in random order; none if no server has ever answered."""
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
    """One simulated person: writes a message, waits for the acknowledgement, writes the next."""

    def __init__(self, number: int, config: ClientsConfig, resolver: Resolver, ledger: LedgerWriter) -> None:
        self._number = number
        self._config = config
        self._resolver = resolver
        self._ledger = ledger
        self._chance = random.Random(config.seed * 1_000 + number)
        self._addresses: list[str] = []

    async def run(self) -> None:
        """Runs until cancelled."""
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
        """Keeps an address while it works and is in the answer; switches to the next when it fails."""
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


class Target(Protocol):
    """A server that a probe writes to."""

    store: str

    async def write(self, number: int, seconds: float) -> str:
        """Why a row was not acknowledged; "" if it was."""
        ...

    def end(self) -> None: ...


class MessagesTarget:
    """The PostgreSQL of one site, over a connection that stays open."""

    store = MESSAGES

    def __init__(self, site: str, database: Database) -> None:
        self._site, self._database = site, database
        self._connection: Connection | None = None

    async def write(self, number: int, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                if self._connection is None:
                    host = self._database.hosts[self._site]
                    self._connection = await self._database.connect(host, f"probe-{self._site}")
                await self._connection.execute(_PROBE, self._site, number, seconds=seconds)
        except Failures as error:
            # A server that refuses keeps its connection; one that is silent or gone loses it.
            if type(error).__name__ != "ReadOnlySQLTransactionError" and self._connection is not None:
                self._connection.abandon()
                self._connection = None
            return type(error).__name__
        return ""

    def end(self) -> None:
        if self._connection is not None:
            self._connection.end()
            self._connection = None


class Probe:
    """Writes directly to one database server, repeatedly."""

    def __init__(self, site: str, target: Target, ledger: LedgerWriter) -> None:
        self._site, self._target, self._ledger = site, target, ledger
        self._number = int(time.time() * 1_000)

    async def run(self) -> None:
        """Runs until cancelled."""
        told = {"site": self._site, "store": self._target.store}
        try:
            while True:
                begin = time.time()
                self._number += 1
                why = await self._target.write(self._number, PROBE_SECONDS)
                now = time.time()
                self._ledger.write(
                    "probe", now, **told, number=self._number, begin=begin, ok=not why, why=why
                )
                await asyncio.sleep(max(0.0, begin + PROBE_PERIOD_SECONDS - time.time()))
        finally:
            self._target.end()


async def run(config: ClientsConfig) -> None:
    """Runs all clients and probes until a stop signal."""
    ledger = LedgerWriter(Path(config.ledger))
    resolver = Resolver(config, random.Random(config.seed))
    clients = [Client(number, config, resolver, ledger) for number in range(config.count)]
    targets: list[tuple[str, Target]] = [
        (site, MessagesTarget(site, config.database)) for site in config.database.hosts
    ]
    if config.orders is not None:
        targets += [(site, OrdersTarget(site, config.orders)) for site in config.orders.hosts]
    probes = [Probe(site, target, ledger) for site, target in targets]
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
    second = {"orders": OrdersDatabase(**data["orders"])} if data["orders"] else {}
    return ClientsConfig(
        **{**data, "database": Database(**data["database"]), "dns_hosts": tuple(hosts), **second}
    )


def main(arguments: list[str]) -> None:
    """Entry point of the process: `python -m evac_lab.clients CONFIG`."""
    asyncio.run(run(read_config(Path(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
