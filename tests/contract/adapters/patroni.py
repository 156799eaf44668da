"""Real Patroni clusters for the suites: two members over one etcd member."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import Fences, Follows, Promotes, Protects, ReportsRole
from evac.drivers.patroni import DRIVER
from evac.drivers.patroni.driver import PatroniDriver
from evac.drivers.port import Action, Value, Verb
from evac_lab.process import MissingProgram
from evac_lab.servers import postgres
from evac_lab.servers.etcd import EtcdServer, etcd, wait_for_all
from evac_lab.servers.patroni import PatroniMember, patroni, wait_for_sync
from evac_lab.servers.postgres import PostgresServer
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import Case, order, until_stopped
from tests.contract.capabilities.suites import REAL, Adapter, Asked, AskedRole
from tests.contract.ports import free_port

PASSWORD = "quiet-harbour-419"


@dataclass(slots=True)
class World:
    """A cluster of two over one etcd member."""

    store: EtcdServer
    members: list[PatroniMember]

    @property
    def pangyo(self) -> PatroniMember:
        return self.members[0]

    @property
    def anyang(self) -> PatroniMember:
        return self.members[1]

    def action(self, verb: Verb, member: PatroniMember, **parameters: Value) -> Action:
        settings: dict[str, Value] = {
            "scope": member.scope,
            "url": member.url,
            "etcd": self.store.url,
            "name": member.name,
            "rest_user": "evac",
            "rest_password": "env:EVAC_TEST_PATRONI",
        }
        return Action(verb, "store-messages", "patroni", "anyang", settings, parameters)

    def key(self, key: str) -> str:
        """A value in etcd, past every driver; empty where there is none."""
        body = json.dumps({"key": base64.b64encode(key.encode()).decode()}).encode()
        with urllib.request.urlopen(f"{self.store.url}/v3/kv/range", body, timeout=2) as answer:
            kvs = json.loads(answer.read()).get("kvs", [])
        return base64.b64decode(kvs[0].get("value", "")).decode() if kvs else ""


@contextmanager
def cluster(folder: Path, names: tuple[str, str] = ("dc-pangyo", "dc-anyang")) -> Iterator[World]:
    """A synchronous cluster whose replica streams; whether /sync names it is for the test to say."""
    host = "127.0.0.1"
    os.environ["EVAC_TEST_PATRONI"] = PASSWORD
    try:
        store = etcd(folder / "etcd", host, free_port(), free_port(), "only", frugal=True)
        members = [
            patroni(
                folder / name,
                host,
                free_port(),
                free_port(),
                name,
                scope="messages",
                etcd=store.url.removeprefix("http://"),
                password=PASSWORD,
            )
            for name in names
        ]
    except MissingProgram as error:
        pytest.skip(str(error))
    try:
        store.start()
        wait_for_all([store])
        members[0].start()
        members[0].wait_for("primary")
        members[1].start()
        members[1].wait_for("replica")
        wait_for_sync(members, names[1])
        yield World(store, members)
    finally:
        for member in members:
            member.resume()
            member.kill()
        store.resume()
        store.kill()
        del os.environ["EVAC_TEST_PATRONI"]


async def until_ready(driver: PatroniDriver, action: Action) -> None:
    async with asyncio.timeout(30):
        while not (await driver.precheck(action, 3.0)).ready:
            await asyncio.sleep(0.1)


@contextmanager
def standby_cluster(folder: Path) -> Iterator[tuple[PostgresServer, World]]:
    """A plain primary, and a cluster of one elsewhere that follows it."""
    host = "127.0.0.1"
    os.environ["EVAC_TEST_PATRONI"] = PASSWORD
    try:
        source = postgres.primary(folder / "source", host, free_port(), "source", password=PASSWORD)
        store = etcd(folder / "etcd", host, free_port(), free_port(), "only", frugal=True)
        member = patroni(
            folder / "standby",
            host,
            free_port(),
            free_port(),
            "dc-pangyo",
            scope="messages",
            etcd=store.url.removeprefix("http://"),
            password=PASSWORD,
            follows=(host, source.port),
            synchronous=False,
        )
    except MissingProgram as error:
        pytest.skip(str(error))
    try:
        source.start()
        source.sql("CREATE TABLE kept AS SELECT 1 AS id")
        store.start()
        wait_for_all([store])
        member.start()
        member.wait_for("standby_leader")
        yield source, World(store, [member])
    finally:
        member.kill()
        source.kill()
        store.kill()
        del os.environ["EVAC_TEST_PATRONI"]


LEADER, AUTHORITY = "/service/messages/leader", "/evac/patroni/service/messages"
ENDS_S = 45.0
"""An order that has to wait for the lease of a dead leader: Patroni accepts none under 20 s."""


def _wire(world: World) -> TcpWire:
    """To etcd, whose answers may be larger than what the suites send."""
    way = with_settings(etcd="http://{host}:{port}")
    return TcpWire(world.store.host, world.store.client_port, "http", way, bounded=False)


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with cluster(folder) as world:
        driver, old = PatroniDriver(), {"old_name": "dc-pangyo"}
        promote = world.action("promote", world.anyang, proof="power", **old)
        move = world.action("promote", world.anyang, proof="demote", **old)

        async def ready() -> None:
            await until_ready(driver, promote)

        async def lost() -> None:
            await ready()
            world.pangyo.kill()

        async def moved() -> None:
            await ready()
            await driver.execute(world.action("demote", world.pangyo), order())
            await driver.execute(move, order(timeout_s=ENDS_S))

        async def unprotected() -> None:
            await ready()
            await driver.execute(world.action("protect", world.pangyo), order(timeout_s=ENDS_S))

        async def leads() -> bool:
            in_recovery = world.anyang.sql("SELECT pg_is_in_recovery()")
            return (world.key(LEADER), in_recovery) == ("dc-anyang", "f")

        async def lease_is_over() -> bool:
            return world.key(LEADER) != "dc-pangyo"

        async def is_claimed() -> bool:
            return world.key(AUTHORITY).endswith(" demote")

        async def is_synchronous() -> bool:
            config, sync = (
                json.loads(world.key(f"/service/messages/{one}") or "{}") for one in ("config", "sync")
            )
            return bool(config.get("synchronous_mode")) and sync.get("sync_standby") == "dc-anyang"

        async def follows() -> bool:
            return world.pangyo.sql("SELECT pg_is_in_recovery()") == "t"

        match verb:
            case "promote":
                yield _case(world, driver, promote, leads, prepare=lost)
            case "fence":  # that the leader is dead is no proof: its lease has to end
                fence = world.action("fence", world.anyang, proof="lease", **old)
                yield _case(world, driver, fence, lease_is_over, prepare=lost)
            case "demote":
                demote = world.action("demote", world.pangyo)
                yield _case(world, driver, demote, is_claimed, prepare=ready, demotes_later=True)
            case "protect":
                protect = world.action("protect", world.pangyo, synchronous=("dc-anyang",))
                yield _case(world, driver, protect, is_synchronous, prepare=unprotected)
            case "rejoin":
                rejoin = world.action("rejoin", world.pangyo)
                yield _case(world, driver, rejoin, follows, prepare=moved, before=("absent", "done"))


def _case(world: World, driver: PatroniDriver, action: Action, is_done: Any, **changes: Any) -> Case:
    async def state() -> object:
        return world.key(LEADER) == "dc-pangyo", world.key(AUTHORITY)

    async def silence() -> None:
        world.store.pause()
        await until_stopped(world.store.process.pid)

    async def speak() -> None:
        world.store.resume()

    return Case(
        driver,
        action,
        state,
        is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        secrets=(PASSWORD,),
        silent_codes=("etcd-unreachable",),
        wires=(_wire(world),),
        order=order(timeout_s=ENDS_S),
        **changes,
    )


@contextmanager
def _roles(folder: Path) -> Iterator[Asked]:
    with cluster(folder) as world:

        async def silence() -> None:
            world.store.pause()
            await until_stopped(world.store.process.pid)

        async def speak() -> None:
            world.store.resume()

        driver = PatroniDriver()
        asyncio.run(until_ready(driver, world.action("promote", world.anyang, proof="demote")))
        yield AskedRole(
            driver,
            world.action("verify", world.pangyo),
            silence,
            speak,
            (PASSWORD,),
            (_wire(world),),
            replica=world.action("verify", world.anyang),
            confirms=("dc-anyang",),
        )


ADAPTER = Adapter(
    DRIVER,
    acts=dict.fromkeys((Promotes, Fences, Follows, Protects), _acts),
    asks={ReportsRole: _roles},
    marks=(*REAL, pytest.mark.slow),
)
