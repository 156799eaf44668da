"""A server that answers, but has no connection for evac, is alive: never taken for a lost one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import pytest

from evac import estate as estates
from evac.app.observing import look_at, observe, probes_of
from evac.drivers.mariadb.driver import MariadbDriver
from evac.drivers.port import Value
from evac.drivers.postgres.driver import PostgresDriver
from evac.drivers.redis.driver import RedisDriver
from evac.drivers.registry import Drivers
from evac.model.observation import MemberSeen
from evac_lab.servers.postgres import configure
from tests.contract.adapters import mariadb, postgres
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
WITHIN_S = 2.0


@contextmanager
def postgres_that_is_busy(folder: Path) -> Iterator[dict[str, Value]]:
    with postgres.data_set(folder, replicas=(), synchronous=()) as world, ExitStack() as held:
        server = world.pangyo
        configure(server, {"max_connections": "5", "superuser_reserved_connections": "1"})
        server.stop()
        server.start()
        for _ in range(20):
            held.enter_context(_psql(server.host, server.port))
        _until(lambda: _refuses(server))
        one = world.action("promote", "dc-pangyo")
        yield dict(one.settings)


@contextmanager
def _psql(host: str, port: int) -> Iterator[None]:
    """A session that stays open."""
    words = ["psql", "-XAtq", "-h", host, "-p", str(port), "-U", "postgres", "-c", "SELECT pg_sleep(60)"]
    env = {"PGPASSWORD": postgres.PASSWORD, "PATH": "/usr/bin:/bin"}
    program = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        program.kill()
        program.wait(5)


def _refuses(server: postgres.PostgresServer) -> bool:
    try:
        asyncio.run(postgres.query(server, "SELECT 1"))
    except asyncpg.TooManyConnectionsError:
        return True
    return False


def _until(happened: object) -> None:
    assert callable(happened)
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def mariadb_that_is_busy(folder: Path) -> Iterator[dict[str, Value]]:
    with mariadb.data_set(folder, replicas=(), synchronous=()) as world, ExitStack() as held:
        server = world.pangyo
        server.sql("SET GLOBAL max_connections = 10")
        for _ in range(16):  # connections that are never used: each waits for its login
            held.enter_context(socket.create_connection((server.host, server.port), 2))
        yield world.settings("dc-pangyo")


@contextmanager
def redis_that_is_busy(folder: Path) -> Iterator[dict[str, Value]]:
    port = free_port()
    words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--maxclients", "1"]
    server = subprocess.Popen([*words, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        with ExitStack() as held:

            def takes() -> bool:
                try:
                    held.enter_context(socket.create_connection(("127.0.0.1", port), 1))
                except OSError:
                    return False
                return True

            _until(takes)
            yield {"host": "127.0.0.1", "port": port}
    finally:
        server.kill()
        server.wait(5)


@pytest.mark.parametrize(
    ("engine", "world", "driver", "code"),
    [
        ("postgresql", postgres_that_is_busy, PostgresDriver, "postgres-busy"),
        ("mariadb", mariadb_that_is_busy, MariadbDriver, "mariadb-busy"),
        ("redis", redis_that_is_busy, RedisDriver, "redis-busy"),
    ],
)
def test_a_server_without_a_free_connection_is_alive(
    engine: str, world: object, driver: type, code: str, server_folder: Path
) -> None:
    program = {"postgresql": "psql", "mariadb": "mariadbd", "redis": "redis-server"}[engine]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    assert callable(world)
    with world(server_folder) as settings:
        told = ", ".join(f"{key}: '{value}'" for key, value in settings.items())
        (server_folder / "estate.yaml").write_text(
            "evac: 1\nsites: {west: {}, east: {}}\nservices: {}\n"
            f"stores: {{db: {{engine: {engine}, members: [{{at: west, mode: primary}}]}}}}\n"
            f"endpoints:\n  db-west: {{for: db, at: west, driver: {driver.name}, settings: {{{told}}}}}\n"
        )
        estate = estates.load(server_folder / "estate.yaml")

        async def story() -> tuple[MemberSeen, list[str], str]:
            drivers = Drivers({driver.name: driver})
            try:
                (seen,) = (await observe(estate, drivers, 1, WITHIN_S)).members
                probes = probes_of(estate, drivers, WITHIN_S)["west"]
                opinions = [(await probe.ask()).opinion for probe in probes]
                (site,) = await look_at(estate, drivers, ("west",), 1, WITHIN_S)
                return seen, opinions, site.state
            finally:
                await drivers.close()

        seen, opinions, state = asyncio.run(story())
    assert (seen.role, seen.busy) == ("unreachable", True)
    assert seen.error is not None
    assert seen.error[0] == code
    assert seen.error[2], "it says what to do"
    assert opinions == ["up"], "a witness does not count it as lost"
    assert state == "answers", "and no loss plan runs against its site unasked"
