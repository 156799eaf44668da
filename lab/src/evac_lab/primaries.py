"""Finds the server that takes writes now, by asking every PostgreSQL and Redis in parallel, each with a
deadline.

Like a client library with a list of hosts (`target_session_attrs=read-write`), but without waiting for a dead
host before asking the next. If two claim to be writable, the newer timeline wins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from evac.model.records import dataclass

ASK_SECONDS: Final = 0.4
ROLE_SECONDS: Final = 1.0
"""Finding a Redis role takes four round trips: connection, password and question."""
CONNECT_SECONDS: Final = 0.8
CLOSE_SECONDS: Final = 1.0
_WRITABLE: Final = """
select case when pg_is_in_recovery() then '' else pg_walfile_name(pg_current_wal_lsn()) end
"""
_NOT_REPLICATED: Final = "01000"
"""Class of the PostgreSQL warning that a commit's wait for replication was cut short."""

Failures: Final = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    EOFError,
)
"""What a database may return instead of a result."""


@dataclass(frozen=True, slots=True)
class Database:
    """How to reach the lab's PostgreSQL. hosts: site -> address."""

    hosts: Mapping[str, str]
    port: int
    user: str
    password: str
    name: str

    async def connect(self, host: str, application: str) -> Connection:
        """A connection to one host. Raises one of `Failures`."""
        async with asyncio.timeout(CONNECT_SECONDS):
            raw = await asyncpg.connect(
                host=host,
                port=self.port,
                user=self.user,
                password=self.password or None,
                database=self.name,
                timeout=CONNECT_SECONDS,
                statement_cache_size=16,
                ssl=False,
                server_settings={"application_name": application},
            )
        return Connection(raw)


_CLOSING: Final[set[asyncio.Task[None]]] = set()


class Connection:
    """A connection that never counts a commit as acknowledged unless PostgreSQL replicated it.

    A cancelled wait for the synchronous replica ends in success and a warning; here it is a failure.
    """

    def __init__(self, raw: asyncpg.Connection[Any]) -> None:
        self._raw = raw
        self._warned = ""
        raw.add_log_listener(self._listen)

    def _listen(self, _: object, message: Any) -> None:
        if getattr(message, "sqlstate", "") == _NOT_REPLICATED:
            self._warned = str(message)

    async def execute(self, query: str, *arguments: object, seconds: float) -> str:
        """Raises one of `Failures`; after a timeout the connection is useless."""
        self._warned = ""
        async with asyncio.timeout(seconds):
            done = await self._raw.execute(query, *arguments)
        if self._warned:
            raise asyncpg.InterfaceError(f"not replicated: {self._warned}")
        return done

    async def rows(self, query: str, *arguments: object, seconds: float) -> list[Any]:
        async with asyncio.timeout(seconds):
            return list(await self._raw.fetch(query, *arguments))

    async def timeline(self) -> int:
        """Its timeline number while it takes writes, else 0."""
        (row,) = await self.rows(_WRITABLE, seconds=ASK_SECONDS)
        return int(row[0][:8], 16) if row[0] else 0

    @property
    def closed(self) -> bool:
        return self._raw.is_closed()

    def abandon(self) -> None:
        """Ends it in the background and notifies the server first: otherwise a write that waits for a lost
        replica would keep its session and row lock for as long as it waits.
        """
        task = asyncio.get_running_loop().create_task(self._close())
        _CLOSING.add(task)
        task.add_done_callback(_CLOSING.discard)

    async def _close(self) -> None:
        with contextlib.suppress(*Failures):
            await self._raw.close(timeout=CLOSE_SECONDS)
        self.end()

    def end(self) -> None:
        """Ends it at once, without notifying the server, which may be dead."""
        with contextlib.suppress(*Failures):
            self._raw.terminate()


class PrimaryFinder:
    """Finds the PostgreSQL that takes writes by polling all of them over open connections."""

    def __init__(self, database: Database, application: str, period_s: float = 0.2) -> None:
        self._database = database
        self._application = application
        self._period_s = period_s
        self._open: dict[str, Connection] = {}
        self._timelines: dict[str, int] = {}

    @property
    def site(self) -> str:
        """Site of the primary; "" while unknown."""
        writable = {site: timeline for site, timeline in self._timelines.items() if timeline}
        return max(writable, key=lambda site: writable[site]) if writable else ""

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for site in self._database.hosts:
                    group.create_task(self._follow(site))
        finally:
            for connection in self._open.values():
                connection.end()

    async def _follow(self, site: str) -> None:
        while True:
            self._timelines[site] = await self._ask(site)
            await asyncio.sleep(self._period_s)

    async def _ask(self, site: str) -> int:
        try:
            if site not in self._open:
                host = self._database.hosts[site]
                self._open[site] = await self._database.connect(host, f"{self._application}-finder")
            return await self._open[site].timeline()
        except Failures:
            if (lost := self._open.pop(site, None)) is not None:
                lost.end()
            return 0


async def find_primary(database: Database, application: str) -> tuple[str, Connection] | None:
    """The present primary and an open connection to it, which the caller ends; None if none answers."""
    found = await asyncio.gather(*(_try(database, site, application) for site in database.hosts))
    ranked = sorted((one for one in found if one is not None), key=lambda one: -one[0])
    for _, _, connection in ranked[1:]:
        connection.end()
    return (ranked[0][1], ranked[0][2]) if ranked else None


async def _try(database: Database, site: str, application: str) -> tuple[int, str, Connection] | None:
    try:
        connection = await database.connect(database.hosts[site], application)
    except Failures:
        return None
    try:
        timeline = await connection.timeline()
    except Failures:
        timeline = 0
    if not timeline:
        connection.end()
        return None
    return timeline, site, connection


async def redis_master(hosts: Sequence[str], port: int, password: str) -> str:
    """Address of the Redis that takes writes; "" if none does. Of two masters (one returned from the dead and
    has not been notified) the one with followers, then the one that has written more.
    """
    found = await asyncio.gather(*(_master(host, port, password) for host in hosts))
    ranked = sorted((rank, host) for rank, host in zip(found, hosts, strict=True) if rank is not None)
    return ranked[-1][1] if ranked else ""


async def _master(host: str, port: int, password: str) -> tuple[int, int] | None:
    """(number of replicas, bytes written) of a master; None for any other."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis(host=host, port=port, password=password or None, socket_timeout=ROLE_SECONDS)
    try:
        async with asyncio.timeout(ROLE_SECONDS):
            role: Any = await client.execute_command("ROLE")  # type: ignore[no-untyped-call]
        return (len(role[2]), int(role[1])) if role[0] in (b"master", "master") else None
    except (RedisError, OSError, TimeoutError):
        return None
    finally:
        await client.aclose()
