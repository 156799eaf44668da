"""Real Patroni clusters for tests: two members over one etcd member."""

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

import pytest

from evac.drivers.patroni.driver import PatroniDriver
from evac.drivers.port import Action, Value, Verb
from evac_lab.process import MissingProgram
from evac_lab.servers import postgres
from evac_lab.servers.etcd import EtcdServer, etcd, wait_for_all
from evac_lab.servers.patroni import PatroniMember, patroni, wait_for_sync
from evac_lab.servers.postgres import PostgresServer
from tests.contract.drivers.ports import free_port

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
        store = etcd(folder / "etcd", host, free_port(), free_port(), "only")
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
        store = etcd(folder / "etcd", host, free_port(), free_port(), "only")
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
