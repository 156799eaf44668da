"""Real PostgreSQL for the suites: a primary in pangyo, replicas in anyang and ansan, and writers that keep a
ledger of what was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from evac.drivers.capabilities import (
    Fences,
    Follows,
    Promotes,
    Protects,
)
from evac.drivers.port import Action, Value, Verb
from evac.drivers.postgres import DRIVER
from evac.drivers.postgres.driver import PostgresDriver
from evac.drivers.postgres.link import FAILURES
from evac_lab.process import MissingProgram
from evac_lab.servers import postgres
from evac_lab.servers.postgres import PostgresServer
from tests.contract.adapters.pgbackrest import blank
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.replicated import asks_of
from tests.contract.capabilities.story import Case, order, until_stopped
from tests.contract.capabilities.suites import Adapter
from tests.contract.ports import free_port

PASSWORD = "quiet-harbour-417"
UNUSED = ("template0",)
"""pg_rewind starts a server that was killed in template1."""
SITES = {"dc-pangyo": "pangyo", "dc-anyang": "anyang", "dc-ansan": "ansan"}


@dataclass(slots=True)
class DataSet:
    """Members by name, all running."""

    folder: Path
    members: dict[str, PostgresServer] = field(default_factory=dict)

    @property
    def pangyo(self) -> PostgresServer:
        return self.members["dc-pangyo"]

    @property
    def anyang(self) -> PostgresServer:
        return self.members["dc-anyang"]

    def settings(self, name: str, *, by_hand: bool = False) -> dict[str, Value]:
        member = self.members[name]
        found: dict[str, Value] = {
            "host": member.host,
            "port": member.port,
            "user": member.user,
            "password": "env:EVAC_TEST_PASSWORD",
            "dbname": "postgres",
            "name": name,
        }
        if by_hand:
            found |= {"data": str(member.data), "bin": member.bin, "system_user": "postgres"}
        return found

    def action(self, verb: Verb, name: str, *, by_hand: bool = False, **parameters: Value) -> Action:
        return Action(
            verb, "store-messages", "postgres", SITES[name], self.settings(name, by_hand=by_hand), parameters
        )

    def fence(self, name: str = "dc-anyang", **parameters: Value) -> Action:
        given: dict[str, Value] = {"proof": "sync", "standing": name, "standing_age_ms": 500, **parameters}
        return self.action("fence", name, **given)

    def rejoin(self, name: str, to: str, **parameters: Value) -> Action:
        primary = self.members[to]
        given: dict[str, Value] = {
            "primary_host": primary.host,
            "primary_port": primary.port,
            "primary_name": to,
            "archive": str(self.folder / "archive"),
            **parameters,
        }
        return self.action("rejoin", name, by_hand=True, **given)


@contextmanager
def data_set(
    folder: Path, *, synchronous: tuple[str, ...] = ("dc-anyang",), replicas: tuple[str, ...] = ("dc-anyang",)
) -> Iterator[DataSet]:
    """A running data set with a table `messages`; everything is ended at the end."""
    os.environ["EVAC_TEST_PASSWORD"] = PASSWORD
    world = DataSet(folder)
    try:
        host = "127.0.0.1"
        try:
            template = blank(*postgres.INITDB_OPTIONS, password=PASSWORD, without=UNUSED)
            first = postgres.primary(
                folder / "pangyo", host, free_port(), "dc-pangyo", password=PASSWORD, template=template
            )
        except MissingProgram as error:
            pytest.skip(str(error))
        world.members["dc-pangyo"] = first
        first.start()
        first.sql("CREATE TABLE messages (id bigint PRIMARY KEY, writer int NOT NULL, body text NOT NULL)")
        for name in replicas:
            world.members[name] = postgres.standby(first, folder / SITES[name], host, free_port(), name)
            world.members[name].start()
        postgres.set_synchronous(first, synchronous)
        for name in replicas:
            postgres.wait_for_standby(first, name, ("sync",) if name in synchronous else ("async",))
        yield world
    finally:
        for member in world.members.values():
            member.resume()
            member.kill()
        del os.environ["EVAC_TEST_PASSWORD"]


async def query(server: PostgresServer, text: str, timeout_s: float = 5.0) -> list[tuple[object, ...]]:
    """Rows of one query, asked past every driver."""
    connection = await connect(server)
    try:
        async with asyncio.timeout(timeout_s):
            return [tuple(row.values()) for row in await connection.fetch(text)]
    finally:
        connection.terminate()


async def connect(server: PostgresServer) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=server.host,
        port=server.port,
        user="postgres",
        password=PASSWORD,
        database="postgres",
        timeout=3.0,
        statement_cache_size=0,
    )


@dataclass(slots=True)
class Ledger:
    """Ids whose insert was acknowledged, and ids that were sent."""

    acknowledged: list[int] = field(default_factory=list)
    sent: int = 0
    stop: bool = False


async def write_all_the_time(server: PostgresServer, ledger: Ledger, writers: int = 8) -> None:
    """Until `ledger.stop`, or until the server is gone."""

    async def writer(number: int) -> None:
        with suppress(TimeoutError, *FAILURES):
            connection = await connect(server)
            try:
                while not ledger.stop:
                    ledger.sent += 1
                    id_ = ledger.sent
                    statement = "INSERT INTO messages VALUES ($1, $2, 'hello')"
                    async with asyncio.timeout(3.0):
                        await connection.execute(statement, id_, number)
                    ledger.acknowledged.append(id_)
            finally:
                connection.terminate()

    await asyncio.gather(*(writer(number) for number in range(writers)))


_STATE = """
SELECT pg_is_in_recovery(), current_setting('primary_conninfo'), current_setting('synchronous_standby_names'),
       current_setting('default_transaction_read_only'),
       (SELECT string_agg(name || setting, ' ' ORDER BY name) FROM pg_file_settings WHERE name LIKE 'evac%')
"""
_CUT_OFF = "current_setting('primary_conninfo') = '' AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver)"
_IS_SYNC = "count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"


def _address(server: PostgresServer) -> str:
    return f"{server.host}:{server.port}"


def _wire(server: PostgresServer) -> TcpWire:
    way = with_settings(host="{host}", port="{port}")
    return TcpWire(server.host, server.port, "postgres", way, turns=6, bounded=False)


def _case(action: Action, server: PostgresServer, is_done: str, **changes: Any) -> Case:
    """is_done: an SQL expression, asked of the server."""

    async def state() -> object:
        return await query(server, _STATE)

    async def done() -> bool:
        return (await query(server, f"SELECT {is_done}"))[0][0] is True

    async def silence() -> None:
        server.pause()
        await until_stopped(server.running_pid())

    async def speak() -> None:
        server.resume()

    return Case(
        PostgresDriver(),
        action,
        state,
        done,
        silence=silence,
        speak=speak,
        tokens=True,
        epochs=True,
        secrets=(PASSWORD,),
        silent_codes=("postgres-silent",),
        wires=(_wire(server),),
        **changes,
    )


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    replicas = ("dc-anyang", "dc-ansan") if verb == "rejoin" else ("dc-anyang",)
    with data_set(
        folder, synchronous=() if verb == "protect" else ("dc-anyang",), replicas=replicas
    ) as world:
        pangyo, anyang = world.pangyo, world.anyang
        match verb:
            case "fence":
                yield _case(world.fence(), anyang, _CUT_OFF, undo="done")
            case "promote":
                promote = world.action("promote", "dc-anyang", peers=(_address(pangyo),))
                yield _case(promote, anyang, "NOT pg_is_in_recovery()", prepare=lambda: _fenced(world))
            case "demote":
                peers = {"peers": (_address(anyang),), "synchronous": ("dc-anyang",)}
                read_only = "current_setting('default_transaction_read_only') = 'on'"
                yield _case(world.action("demote", "dc-pangyo", **peers), pangyo, read_only, undo="done")
            case "protect":
                protect = world.action("protect", "dc-pangyo", synchronous=("dc-anyang",))
                yield _case(protect, pangyo, _IS_SYNC)
            case "rejoin":  # of a standby that runs: nothing is done on its machine
                remote = replace(world.rejoin("dc-ansan", "dc-anyang"), settings=world.settings("dc-ansan"))
                streams = "count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port"
                ansan = world.members["dc-ansan"]
                yield _case(remote, ansan, f"{streams} = {anyang.port}", prepare=lambda: _moved(world))


async def _fenced(world: DataSet) -> None:
    await PostgresDriver().execute(world.fence(), order())
    world.pangyo.kill()


async def _moved(world: DataSet) -> None:
    await _fenced(world)
    await PostgresDriver().execute(world.action("promote", "dc-anyang"), order())


ADAPTER = Adapter(
    DRIVER,
    acts=dict.fromkeys((Fences, Promotes, Protects, Follows), _acts),
    asks=asks_of(data_set, PostgresDriver, lambda server: server.running_pid(), _wire, PASSWORD, SITES),
)
