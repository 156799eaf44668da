"""Patroni alone over the same three sites: the primary's site is killed whole, and a client writes again.

Three etcd members, three Patroni members, each pinned to the etcd of its own site. The client names all
databases in its connection and asks for the one that takes writes, with short timeouts: its shift is
included.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from bench.figures import Figure, Table, median, worst
from evac.model.errors import EvacError
from evac_lab import process as processes
from evac_lab.primaries import Failures
from evac_lab.process import MissingProgram, ServerFailed, find_program
from evac_lab.servers.etcd import EtcdServer, wait_for_all
from evac_lab.servers.patroni import PACKAGE, PatroniMember, Timers, patroni
from evac_lab.servers.postgres import USER
from evac_lab.state import Site, topology

SETS = (Timers(30, 10, 10), Timers(20, 4, 4))
"""Its default, and the smallest ttl that it accepts."""
SCOPE = "bench"
PASSWORD = "evac-lab"
CONNECT_SECONDS = 0.5
WRITE_SECONDS = 1.0
_WRITE = "insert into written values ($1) returning host(inet_server_addr())"
LONGEST_SECONDS = 90.0
READY_SECONDS = 120.0
PORTS = {"client": 2379, "peer": 2380, "api": 8008, "postgres": 5432}


@dataclass(slots=True)
class Cluster:
    """The sites, each with one member of both."""

    sites: tuple[Site, ...]
    etcd: dict[str, EtcdServer]
    members: dict[str, PatroniMember]

    def primary(self) -> str:
        """Site of the member that runs as primary; "" while none does."""
        for name, member in self.members.items():
            if member.process.alive and member.status().get("role") in ("primary", "master"):
                return name
        return ""

    def ready(self) -> bool:
        """One primary, both others stream, one of them synchronously, and Patroni has written so: before that
        it fails over to nobody.
        """
        name = self.primary()
        if not name or not self._names_a_standby(name):
            return False
        query = "select count(*), count(*) filter (where sync_state = 'sync') from pg_stat_replication"
        with contextlib.suppress(Exception):
            return self.members[name].sql(query, 3.0) == "2|1"
        return False

    def _names_a_standby(self, primary: str) -> bool:
        key = base64.b64encode(f"/service/{SCOPE}/sync".encode()).decode()
        url = f"{self.etcd[primary].url}/v3/kv/range"
        request = urllib.request.Request(url, json.dumps({"key": key}).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=2.0) as answer:
                found = json.loads(answer.read(65_536)).get("kvs", [])
            value = json.loads(base64.b64decode(found[0]["value"])) if found else {}
        except (OSError, ValueError):
            return False
        return value.get("leader") == self.members[primary].name and bool(value.get("sync_standby"))

    def burn(self, name: str) -> None:
        """Everything in the site, at once; then waits until it is gone."""
        roots = {self.etcd[name].process.pid, self.members[name].process.pid, self.members[name].postmaster()}
        processes.send(processes.descendants(roots, processes.table()), signal.SIGKILL)
        self.members[name].kill()
        self.etcd[name].kill()

    def restore(self, name: str) -> None:
        self.etcd[name].start()
        wait_for_all([self.etcd[name]])
        self.members[name].start()


@dataclass(slots=True)
class Client:
    """Writes all the time, in a thread of its own. acks: id, begun, acknowledged (of one clock), by whom."""

    hosts: list[str]
    acks: list[tuple[int, float, float, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        connection, number = None, 0
        while not self.stop.is_set():
            number += 1
            begun = time.monotonic()
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    if connection is None or connection.is_closed():
                        connection = await self._connect()
                    host = await connection.fetchval(_WRITE, number)
                self.acks.append((number, begun, time.monotonic(), str(host)))
            except Failures:
                if connection is not None:
                    connection.terminate()
                connection = None
            await asyncio.sleep(0.05)
        if connection is not None:
            connection.terminate()

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=self.hosts,
            port=[PORTS["postgres"]] * len(self.hosts),
            user=USER,
            password=PASSWORD,
            database="postgres",
            target_session_attrs="read-write",
            timeout=CONNECT_SECONDS,
            ssl=False,
        )

    def first_after(self, moment: float, burnt: str) -> float | None:
        """When the first write that began after a moment was acknowledged, by any host but the burnt one."""
        rows = list(self.acks)
        return next((ack for _, begun, ack, host in rows if begun >= moment and host != burnt), None)


def compare(table: Table, offset: int, fires: int) -> None:
    """With each set of timers."""
    table.section(f"Patroni alone over the same three sites, its client's shift included; {fires} fires each")
    try:
        find_program("patroni", PACKAGE)
    except MissingProgram as error:
        table.trouble(f"Patroni could not be measured here: {error}")
        return
    for timers in SETS:
        name = f"ttl {timers.ttl}, loop {timers.loop_wait}, retry {timers.retry_timeout}"
        seconds: list[float] = []
        lost = 0
        try:
            with _cluster(offset, timers) as cluster:
                seconds, lost = _burn(table, cluster, fires, timers)
        except (EvacError, OSError) as error:
            table.trouble(f"Patroni, {name}: {error}")
        key = f"patroni_ttl_{timers.ttl}"
        table.add(
            median(key, f"Patroni, {name}: fire to first write", seconds, "s"),
            worst(f"{key}_worst", "the same, worst", seconds, "s"),
            Figure(f"{key}_lost", "acknowledged rows lost", lost, ""),
        )


@contextmanager
def _cluster(offset: int, timers: Timers) -> Iterator[Cluster]:
    path = Path(tempfile.mkdtemp(prefix="evac-patroni-", dir=os.environ.get("EVAC_BENCH_FOLDER")))
    path.chmod(0o755)
    sites = topology("loopback", offset).sites
    peers = {site.name: f"http://{site.host('etcd')}:{PORTS['peer']}" for site in sites}
    etcd = {
        site.name: EtcdServer(
            site.name, site.host("etcd"), PORTS["client"], PORTS["peer"], path / site.name / "etcd", peers
        )
        for site in sites
    }
    members = {
        site.name: patroni(
            path / site.name / "patroni",
            site.host("postgres"),
            PORTS["api"],
            PORTS["postgres"],
            site.member,
            scope=SCOPE,
            etcd=f"{site.host('etcd')}:{PORTS['client']}",
            timers=timers,
            password=PASSWORD,
        )
        for site in sites
    }
    cluster = Cluster(sites, etcd, members)
    try:
        for server in etcd.values():
            server.start()
        wait_for_all(list(etcd.values()))
        first, *others = sites
        members[first.name].start()
        members[first.name].wait_for("primary", READY_SECONDS)
        for site in others:
            members[site.name].start()
        _wait(cluster)
        members[cluster.primary()].sql("create table written (id bigint)")
        yield cluster
    finally:
        for member in members.values():
            member.kill()
        for server in etcd.values():
            server.kill()
        shutil.rmtree(path, ignore_errors=True)


def _wait(cluster: Cluster) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not cluster.ready():
        if time.monotonic() > deadline:
            raise ServerFailed("server-failed", f"Patroni was not ready in {READY_SECONDS:g} s")
        time.sleep(0.5)


def _burn(table: Table, cluster: Cluster, fires: int, timers: Timers) -> tuple[list[float], int]:
    """(seconds from each fire to the first acknowledged write, rows lost)."""
    found: list[float] = []
    chance = random.Random(timers.ttl)
    client = Client([site.host("postgres") for site in cluster.sites])
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        for _ in range(fires):
            _wait(cluster)
            # How long it takes depends on where in its loop a member stands.
            time.sleep(chance.random() * timers.loop_wait)
            site = cluster.primary()
            begun = time.monotonic()
            cluster.burn(site)
            first = _first(client, begun, cluster.members[site].host)
            if first is None:
                table.trouble(f"Patroni: nobody could write {LONGEST_SECONDS:g} s after {site} burnt")
                break
            found.append(first - begun)
            print(f"    {site}: first write {first - begun:.2f} s", flush=True)
            cluster.restore(site)
    finally:
        client.stop.set()
        thread.join()
    return found, _lost(cluster, client)


def _first(client: Client, begun: float, burnt: str) -> float | None:
    deadline = begun + LONGEST_SECONDS
    while time.monotonic() < deadline:
        if (first := client.first_after(begun, burnt)) is not None:
            return first
        time.sleep(0.05)
    return None


def _lost(cluster: Cluster, client: Client) -> int:
    """Acknowledged rows that the present primary does not have."""
    name = cluster.primary()
    if not name:
        return 0
    have = {int(line) for line in cluster.members[name].sql("select id from written").splitlines()}
    return len({number for number, *_ in client.acks} - have)
