"""A small messenger service, as real as the lab needs it: one process a site, behind that site's HAProxy.

    POST /messages            {"id", "room", "sender", "text"} -> 201 once PostgreSQL has acknowledged it
    GET  /messages?room=R     the last messages of a room
    PUT  /presence/NAME       seen now, kept in Redis for a minute; GET /presence/NAME
    GET  /health              200 while this process answers: what load balancer and witnesses ask
    GET  /ready               200 while it has a primary to write to

Several instances share one address: the kernel spreads connections over them. Each message has an id chosen
by its sender, so that a retry never writes it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from evac.model.records import dataclass
from evac_lab.primaries import ASK_SECONDS, Connection, Database, Failures, PrimaryFinder, redis_master

WRITE_SECONDS: Final = 0.9
POOL: Final = 12
_MOST_BODY: Final = 64 * 1024
_PRESENCE_SECONDS: Final = 60
ROLE: Final = "messenger"
_CONNECTIONS: Final = 45
"""Connection limit of its role: writes that hang for a lost replica must not use up the connections of
operators.
"""

_SCHEMA: Final = """
create table if not exists messages (
    id text primary key, room text not null, sender text not null, text text not null,
    at timestamptz not null default clock_timestamp());
create index if not exists messages_by_room on messages (room, at);
create table if not exists probes (
    member text not null, number bigint not null, primary key (member, number));
create role {role} login connection limit {connections} password '{password}';
grant select, insert, update on messages, probes to {role}
"""
# A second try writes too. `do nothing` would be answered at once, without waiting for the replica, although
# the row of the first try may stand here only: an acknowledged message would be lost with this primary.
_INSERT: Final = """
insert into messages (id, room, sender, text) values ($1, $2, $3, $4)
on conflict (id) do update set text = excluded.text
"""
_LAST: Final = "select id, sender, text from messages where room = $1 order by at desc limit 50"


def schema(password: str) -> str:
    """Statements that create its tables and role. password: hexadecimal, of that role."""
    return _SCHEMA.format(role=ROLE, connections=_CONNECTIONS, password=password)


@dataclass(frozen=True, slots=True)
class MessengerConfig:
    """Configuration of one messenger process, written by the lab as JSON."""

    site: str
    host: str
    port: int
    database: Database
    redis_hosts: tuple[str, ...]
    redis_port: int
    redis_password: str = ""


class Messenger:
    """The service of one site: an open pool to the primary, which follows it when it moves."""

    def __init__(self, config: MessengerConfig) -> None:
        self.config = config
        self._finder = PrimaryFinder(config.database, f"messenger-{config.site}")
        self._idle: dict[str, list[Connection]] = {}
        self._slots = asyncio.Semaphore(POOL)
        self._redis_master = ""

    @property
    def primary(self) -> str:
        return self._finder.site

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Follows primaries while the service runs."""
        tasks = [asyncio.create_task(self._finder.run()), asyncio.create_task(self._follow_redis())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in [one for idle in self._idle.values() for one in idle]:
            connection.end()

    async def _follow_redis(self) -> None:
        while True:
            config = self.config
            self._redis_master = await redis_master(
                config.redis_hosts, config.redis_port, config.redis_password
            )
            await asyncio.sleep(1.0)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection to the primary; a failed one is not reused. Raises one of `Failures`."""
        async with self._slots:
            site = self.primary
            if not site:
                raise ConnectionError("no primary answers")
            idle = self._idle.setdefault(site, [])
            usable = [one for one in idle if not one.closed]
            idle[:] = usable[:-1]
            name = f"messenger-{self.config.site}"
            one = (
                usable[-1]
                if usable
                else await self.config.database.connect(self.config.database.hosts[site], name)
            )
            try:
                yield one
            except BaseException:
                one.abandon()
                raise
            idle.append(one)

    async def post(self, request: web.Request) -> web.Response:
        """Acknowledges a message only after PostgreSQL does."""
        try:
            body = json.loads(await request.read())
            row = tuple(str(body[key]) for key in ("id", "room", "sender", "text"))
        except (ValueError, KeyError, TypeError):
            return _answer(400, error="a message must have id, room, sender and text")
        try:
            async with self.connection() as connection:
                await connection.execute(_INSERT, *row, seconds=WRITE_SECONDS)
        except Failures as error:
            return _answer(503, error=f"not acknowledged: {type(error).__name__}")
        return _answer(201, id=row[0], site=self.config.site)

    async def messages(self, request: web.Request) -> web.Response:
        try:
            async with self.connection() as connection:
                rows = await connection.rows(_LAST, request.query.get("room", ""), seconds=WRITE_SECONDS)
        except Failures as error:
            return _answer(503, error=f"no answer: {type(error).__name__}")
        return _answer(200, messages=[dict(row) for row in rows])

    async def presence(self, request: web.Request) -> web.Response:
        """PUT: the person is here. GET: whether they were, within a minute."""
        from redis.exceptions import RedisError

        key = f"presence:{request.match_info['name'][:100]}"
        if not self._redis_master:
            return _answer(503, error="no Redis accepts writes")
        try:
            async with asyncio.timeout(ASK_SECONDS), self._redis() as client:
                if request.method == "PUT":
                    await client.set(key, self.config.site, ex=_PRESENCE_SECONDS)
                    return _answer(204)
                found = await client.get(key)
        except (RedisError, OSError, TimeoutError) as error:
            return _answer(503, error=f"no answer: {type(error).__name__}")
        return _answer(200, here=found is not None)

    def _redis(self) -> Any:
        from redis.asyncio import Redis

        password = self.config.redis_password or None
        return Redis(host=self._redis_master, port=self.config.redis_port, password=password)

    async def health(self, _: web.Request) -> web.Response:
        return _answer(200, site=self.config.site, primary=self.primary)

    async def ready(self, _: web.Request) -> web.Response:
        return _answer(200 if self.primary else 503, site=self.config.site, primary=self.primary)


def _answer(status: int, **body: object) -> web.Response:
    return web.json_response(body, status=status) if status != 204 else web.Response(status=204)


def application(config: MessengerConfig) -> web.Application:
    """The service as an aiohttp application."""
    messenger = Messenger(config)
    app = web.Application(client_max_size=_MOST_BODY)
    app.cleanup_ctx.append(messenger.run)
    app.router.add_post("/messages", messenger.post)
    app.router.add_get("/messages", messenger.messages)
    app.router.add_put("/presence/{name}", messenger.presence)
    app.router.add_get("/presence/{name}", messenger.presence)
    app.router.add_get("/health", messenger.health)
    app.router.add_get("/ready", messenger.ready)
    return app


def read_config(path: Path) -> MessengerConfig:
    """What `write_config` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    database = Database(**data.pop("database"))
    return MessengerConfig(**{**data, "database": database, "redis_hosts": tuple(data["redis_hosts"])})


def write_config(path: Path, config: MessengerConfig) -> None:
    from dataclasses import asdict

    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(config)), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Entry point of the process: `python -m evac_lab.messenger CONFIG`."""
    config = read_config(Path(arguments[0]))
    web.run_app(
        application(config),
        host=config.host,
        port=config.port,
        print=None,
        access_log=None,
        handle_signals=True,
        shutdown_timeout=0.5,
        reuse_port=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
