"""Every driver of the store, opened the same way for one suite of contract tests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evac.net.secrets import Secret
from evac.store.etcd import EtcdStore
from evac.store.opening import Seal, SealedStore
from evac.store.port import Compare, Lease, MemoryStore, Put, Store
from evac.store.sqlite import HostClock, SqliteStore
from tests.contract.store.members import Members, etcd_program

SERVERS = (pytest.mark.enable_socket, pytest.mark.servers)
DRIVERS = (
    "memory",
    "sqlite",
    "sealed",
    pytest.param("etcd", marks=SERVERS),
    pytest.param("etcd-three", marks=SERVERS),
)


class StoppedClock(HostClock):
    """Of this boot, and moved by the test alone: a lease ends when the test says so, however long the machine
    stood still before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_ms = super().now_ms()

    def now_ms(self) -> int:
        return self.at_ms


@dataclass
class Case:
    """A driver, where its data are, and the clock its leases end by (etcd has one of its own)."""

    driver: str
    folder: Path
    endpoints: tuple[str, ...] = ()
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    memory: MemoryStore | None = None
    clock: StoppedClock = field(default_factory=StoppedClock)

    async def let_pass(self, passed_ms: int) -> None:
        """That long by the clock of the leases."""
        if self.driver.startswith("etcd"):
            await asyncio.sleep(passed_ms / 1_000)
        else:
            self.clock.at_ms += passed_ms

    def open(self) -> Store:
        """Another client of the same data; of memory there is only one."""
        if self.driver == "sqlite":
            return SqliteStore(self.folder / "evac.db", clock=self.clock)
        if self.driver == "sealed":
            inner = SqliteStore(self.folder / "evac.db", clock=self.clock)
            return SealedStore(inner, Seal((Secret("key of the contract " * 2, "env:KEY"),)))
        if self.driver == "memory":
            self.memory = self.memory or MemoryStore(self.clock.now_ms)
            return self.memory
        return EtcdStore(self.endpoints, prefix=self.prefix)


@asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Store]:
    store = case.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def connected(*endpoints: str, **options: object) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(endpoints, **options)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


def tell(case: Case, story: Callable[[Store], Awaitable[None]]) -> None:
    """Runs a story on a store of its own."""

    async def told() -> None:
        async with opened(case) as store:
            await story(store)

    asyncio.run(told())


async def create(store: Store, key: str, value: bytes, guard: Lease | None = None) -> int:
    return await store.transact([Compare(key, 0)], [Put(key, value)], guard)


def _members(folder: Path, count: int) -> Iterator[Members]:
    if etcd_program() is None:
        pytest.skip("etcd is not installed: sudo apt-get install etcd-server")
    members = Members(folder, count)
    try:
        members.start()
        yield members
    finally:
        members.stop()


@pytest.fixture(scope="session")
def etcd_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    yield from _members(tmp_path_factory.mktemp("etcd-one"), 1)


@pytest.fixture(scope="session")
def etcd_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    yield from _members(tmp_path_factory.mktemp("etcd-three"), 3)


@pytest.fixture(params=DRIVERS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    """A driver with no data yet."""
    fixture = {"etcd": "etcd_one", "etcd-three": "etcd_three"}.get(request.param)
    endpoints = request.getfixturevalue(fixture).endpoints if fixture else ()
    return Case(request.param, tmp_path, endpoints)
