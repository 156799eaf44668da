"""Real Redis for the suites: a primary in pangyo and its replica in anyang."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as client

from evac.drivers.capabilities import AnswersProbe, Follows, Promotes, Protects, ReportsRole
from evac.drivers.port import Action, Value, Verb
from evac.drivers.redis import DRIVER
from evac.drivers.redis.driver import RedisDriver
from evac.model.generation import token_in
from evac_lab.process import MissingProgram
from evac_lab.servers.redis import RedisServer
from evac_lab.servers.redis import redis as redis_server
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import Case, order, until_stopped
from tests.contract.capabilities.suites import Adapter, Asked, AskedProbe, AskedRole
from tests.contract.ports import free_port

PASSWORD = "quiet-harbour-418"


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica, connected."""
    servers: list[RedisServer] = []
    os.environ["EVAC_TEST_REDIS"] = PASSWORD
    try:
        try:
            servers.append(redis_server(folder / "a", "127.0.0.1", free_port(), "pangyo", password=PASSWORD))
        except MissingProgram as error:
            pytest.skip(str(error))
        servers[0].start()
        servers.append(
            redis_server(folder / "b", "127.0.0.1", free_port(), "anyang", of=servers[0], password=PASSWORD)
        )
        servers[1].start()
        asyncio.run(_until_connected(servers[1]))
        yield servers[0], servers[1]
    finally:
        for server in servers:
            server.resume()
            server.kill()


async def _until_connected(server: RedisServer) -> None:
    async with asyncio.timeout(10):
        while (await ask(server, "ROLE"))[3] != "connected":
            await asyncio.sleep(0.02)


async def ask(server: RedisServer, *command: str) -> Any:
    """One command, past every driver."""
    link = client.Redis(host=server.host, port=server.port, password=PASSWORD, decode_responses=True)
    try:
        return await link.execute_command(*command)
    finally:
        await link.aclose()


def action(verb: Verb, server: RedisServer, **parameters: Value) -> Action:
    settings: dict[str, Value] = {
        "host": server.host,
        "port": server.port,
        "password": "env:EVAC_TEST_REDIS",
    }
    return Action(verb, "store-presence", "redis", "anyang", settings, parameters)


def _wire(server: RedisServer) -> TcpWire:
    way = with_settings(host="{host}", port="{port}")
    return TcpWire(server.host, server.port, "redis", way, turns=8, bounded=False)


def _case(what: Action, server: RedisServer, is_done: Callable[[], Awaitable[bool]], **changes: Any) -> Case:
    async def state() -> object:
        # A replica's offset grows by pings alone; what it is and what it was told do not.
        return [
            (await ask(server, "ROLE"))[0],
            await ask(server, "GET", "evac:authority"),
            await ask(server, "CONFIG", "GET", "min-replicas-to-write"),
        ]

    async def silence() -> None:
        server.pause()
        await until_stopped(server.process.pid)

    async def speak() -> None:
        server.resume()

    return Case(
        RedisDriver(),
        what,
        state,
        is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        epochs=True,
        secrets=(PASSWORD,),
        silent_codes=("redis-unreachable",),
        wires=(_wire(server),),
        **changes,
    )


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with two_servers(folder) as (pangyo, anyang):

        async def lost() -> None:
            pangyo.kill()

        async def moved() -> None:
            driver, given = RedisDriver(), order(token=token_in(1, 7))
            await driver.execute(action("demote", pangyo), given)
            await driver.execute(action("promote", anyang), given)

        async def promoted() -> bool:
            return bool((await ask(anyang, "ROLE"))[0] == "master")

        async def demoted() -> bool:
            try:
                await ask(pangyo, "SET", "presence:1", "here")
            except client.ResponseError as error:
                return "NOREPLICAS" in str(error)
            return False

        async def protected() -> bool:
            found = await ask(pangyo, "CONFIG", "GET", "min-replicas-to-write")
            return "1" in (found.values() if isinstance(found, dict) else found)

        async def follows() -> bool:
            role = await ask(pangyo, "ROLE")
            return bool(role[0] == "slave" and role[2] == anyang.port and role[3] == "connected")

        match verb:
            case "promote":
                yield _case(action("promote", anyang), anyang, promoted, prepare=lost)
            case "demote":
                peers = (f"{anyang.host}:{anyang.port}",)
                yield _case(action("demote", pangyo, peers=peers), pangyo, demoted, undo="done")
            case "protect":
                yield _case(action("protect", pangyo, synchronous=("anyang",)), pangyo, protected)
            case "rejoin":
                rejoin = action("rejoin", pangyo, primary_host=anyang.host, primary_port=anyang.port)
                yield _case(rejoin, pangyo, follows, prepare=moved)


@contextmanager
def _asks(folder: Path) -> Iterator[dict[str, Any]]:
    with two_servers(folder) as (pangyo, anyang):

        async def silence() -> None:
            pangyo.pause()
            await until_stopped(pangyo.process.pid)

        async def speak() -> None:
            pangyo.resume()

        yield {
            "driver": RedisDriver(),
            "action": action("verify", pangyo),
            "replica": action("verify", anyang),
            "silence": silence,
            "speak": speak,
            "secrets": (PASSWORD,),
            "wires": (_wire(pangyo),),
        }


@contextmanager
def _roles(folder: Path) -> Iterator[Asked]:
    with _asks(folder) as same:
        yield AskedRole(**same)


@contextmanager
def _probe(folder: Path) -> Iterator[Asked]:
    with _asks(folder) as same:
        alive: Action = same["action"]
        del same["replica"]
        yield AskedProbe(**same, gone=replace(alive, settings={**alive.settings, "port": free_port()}))


ADAPTER = Adapter(
    DRIVER,
    acts=dict.fromkeys((Promotes, Follows, Protects), _acts),
    asks={ReportsRole: _roles, AnswersProbe: _probe},
)
