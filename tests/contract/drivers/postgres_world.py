"""A real data set for tests: a primary in pangyo, replicas in anyang and ansan, and writers that keep a
ledger of what was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from evac.drivers.port import Action, Value, Verb
from evac.drivers.postgres.link import FAILURES
from evac_lab.process import MissingProgram
from evac_lab.servers import postgres
from evac_lab.servers.postgres import PostgresServer
from tests.contract.drivers.ports import free_port

PASSWORD = "quiet-harbour-417"
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
            first = postgres.primary(folder / "pangyo", host, free_port(), "dc-pangyo", password=PASSWORD)
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
