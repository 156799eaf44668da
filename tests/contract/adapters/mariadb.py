"""Real MariaDB for the suites: a primary in pangyo, and replicas in anyang and ansan."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import (
    Fences,
    Follows,
    Promotes,
    Protects,
)
from evac.drivers.mariadb import DRIVER
from evac.drivers.mariadb.driver import MariadbDriver
from evac.drivers.port import Action, Value, Verb
from evac_lab.process import MissingProgram
from evac_lab.servers.mariadb import MariadbServer, install, mariadb
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.replicated import asks_of
from tests.contract.capabilities.story import Case, order, until_stopped
from tests.contract.capabilities.suites import Adapter
from tests.contract.ports import free_port

PASSWORD = "quiet-harbour-419"
SERVICE = "shop"
"""An account of a service: it may not write to a server that is read-only."""
WITHOUT_PASSWORD = "copier"
"""An account that may replicate, and has no password."""
SITES = {"dc-pangyo": "pangyo", "dc-anyang": "anyang", "dc-ansan": "ansan"}


@cache
def template() -> Path:
    """An empty data folder, made once for all servers."""
    folder = Path(tempfile.mkdtemp(prefix="evac-mariadb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return install(folder / "data")


@dataclass(slots=True)
class DataSet:
    """Members by name, all running."""

    folder: Path
    members: dict[str, MariadbServer] = field(default_factory=dict)

    @property
    def pangyo(self) -> MariadbServer:
        return self.members["dc-pangyo"]

    @property
    def anyang(self) -> MariadbServer:
        return self.members["dc-anyang"]

    def settings(self, name: str) -> dict[str, Value]:
        member = self.members[name]
        return {
            "host": member.host,
            "port": member.port,
            "password": "env:EVAC_TEST_MARIADB",
            "name": name,
        }

    def action(self, verb: Verb, name: str, **parameters: Value) -> Action:
        return Action(verb, "store-orders", "mariadb", SITES[name], self.settings(name), parameters)

    def fence(self, name: str = "dc-anyang", **parameters: Value) -> Action:
        given: dict[str, Value] = {"proof": "sync", "standing": name, "standing_age_ms": 500, **parameters}
        return self.action("fence", name, **given)

    def rejoin(self, name: str, to: str) -> Action:
        primary = self.members[to]
        return self.action("rejoin", name, primary_host=primary.host, primary_port=primary.port)


@contextmanager
def data_set(
    folder: Path,
    *,
    synchronous: tuple[str, ...] = ("dc-anyang",),
    replicas: tuple[str, ...] = ("dc-anyang",),
    without_tls: tuple[str, ...] = (),
) -> Iterator[DataSet]:
    """A running data set with a table `app.orders`; ansan confirms nothing. All is ended at the end."""
    os.environ["EVAC_TEST_MARIADB"] = PASSWORD
    world = DataSet(folder)
    folder.chmod(0o755)
    try:
        for number, name in enumerate(("dc-pangyo", *replicas), 1):
            try:
                empty = template()
            except MissingProgram as error:
                pytest.skip(str(error))
            world.members[name] = mariadb(
                folder / SITES[name],
                "127.0.0.1",
                free_port(),
                name,
                number,
                template=empty,
                password=PASSWORD,
                confirms=name != "dc-ansan",
                tls=name not in without_tls,
                accounts=(
                    f"CREATE USER IF NOT EXISTS {SERVICE}@'%' IDENTIFIED BY '{PASSWORD}'",
                    f"GRANT SELECT, INSERT ON app.* TO {SERVICE}@'%'",
                    f"CREATE USER IF NOT EXISTS {WITHOUT_PASSWORD}@'%'",
                    f"GRANT REPLICATION SLAVE ON *.* TO {WITHOUT_PASSWORD}@'%'",
                ),
            )
        for server in world.members.values():
            server.process.start()
        for server in world.members.values():
            server.process.wait_until(server.answers, 20.0)
        asyncio.run(_made(world, synchronous))
        yield world
    finally:
        for server in world.members.values():
            server.resume()
            server.kill()
        del os.environ["EVAC_TEST_MARIADB"]


async def _made(world: DataSet, synchronous: tuple[str, ...]) -> None:
    """The first primary and its copies, led there by the driver as on an ordinary day."""
    driver, given = MariadbDriver(), order(token=0, epoch=0)
    first = world.action("promote", "dc-pangyo", proof="none")
    await driver.execute(first, given)
    world.pangyo.sql("CREATE DATABASE app", "CREATE TABLE app.orders (id INT PRIMARY KEY) ENGINE=InnoDB")
    for name in world.members:
        if name != "dc-pangyo":
            await driver.execute(world.rejoin(name, "dc-pangyo"), given)
    await driver.execute(world.action("protect", "dc-pangyo", synchronous=synchronous), given)


def ask(server: MariadbServer, expression: str) -> str:
    """One value, asked past every driver."""
    return server.sql(f"SELECT {expression}").strip()


def _state(server: MariadbServer) -> object:
    """Whom it follows, what it lets in, and what evac recorded there."""
    found = server.sql(
        "SELECT @@read_only, @@rpl_semi_sync_master_enabled, @@rpl_semi_sync_master_timeout",
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'evac'",
        "SHOW ALL SLAVES STATUS",
    ).splitlines()
    source = found[2].split("\t")[3:15] if len(found) > 2 else []
    return found[:2], source[1:2] + source[3:4] + source[-2:]


def _wire(server: MariadbServer) -> TcpWire:
    way = with_settings(host="{host}", port="{port}")
    return TcpWire(server.host, server.port, "mysql", way, turns=2, bounded=False)


def _case(action: Action, server: MariadbServer, is_done: str, **changes: Any) -> Case:
    """is_done: an SQL condition, asked of the server."""

    async def state() -> object:
        return await asyncio.to_thread(_state, server)

    async def done() -> bool:
        return await asyncio.to_thread(ask, server, is_done) == "1"

    async def silence() -> None:
        server.pause()
        await until_stopped(server.process.pid)

    async def speak() -> None:
        server.resume()

    return Case(
        MariadbDriver(),
        action,
        state,
        done,
        silence=silence,
        speak=speak,
        tokens=True,
        epochs=True,
        secrets=(PASSWORD,),
        silent_codes=("mariadb-silent",),
        wires=(_wire(server),),
        **changes,
    )


_RECEIVERS = "SELECT COUNT(*) FROM information_schema.processlist WHERE command = 'Slave_IO'"


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    replicas = ("dc-anyang", "dc-ansan") if verb == "rejoin" else ("dc-anyang",)
    synchronous = () if verb == "protect" else ("dc-anyang",)
    with data_set(folder, synchronous=synchronous, replicas=replicas) as world:
        pangyo, anyang = world.pangyo, world.anyang
        peers = {"peers": (f"{anyang.host}:{anyang.port}",), "synchronous": ("dc-anyang",)}
        match verb:
            case "fence":
                yield _case(world.fence(), anyang, f"({_RECEIVERS}) = 0", undo="done")
            case "promote":
                promote = world.action("promote", "dc-anyang", peers=(f"{pangyo.host}:{pangyo.port}",))
                yield _case(promote, anyang, "@@read_only = 0", prepare=lambda: _fenced(world))
            case "demote":
                demote = world.action("demote", "dc-pangyo", **peers)
                yield _case(demote, pangyo, "@@read_only = 1", undo="done")
            case "protect":
                protect = world.action("protect", "dc-pangyo", synchronous=("dc-anyang",))
                yield _case(protect, pangyo, "@@rpl_semi_sync_master_enabled = 1")
            case "rejoin":
                follows = f"({_RECEIVERS}) = 1 AND (SELECT COUNT(*) FROM app.orders WHERE id = 7) = 1"
                rejoin = world.rejoin("dc-ansan", "dc-anyang")
                yield _case(rejoin, world.members["dc-ansan"], follows, prepare=lambda: _moved(world))


async def _fenced(world: DataSet) -> None:
    await MariadbDriver().execute(world.fence(), order())
    world.pangyo.kill()


async def _moved(world: DataSet) -> None:
    await _fenced(world)
    await MariadbDriver().execute(world.action("promote", "dc-anyang"), order())
    world.anyang.sql("INSERT INTO app.orders VALUES (7)")


ADAPTER = Adapter(
    DRIVER,
    acts=dict.fromkeys((Fences, Promotes, Protects, Follows), _acts),
    asks=asks_of(data_set, MariadbDriver, lambda server: server.process.pid, _wire, PASSWORD, SITES),
)
