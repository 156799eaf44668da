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
from evac.store.sqlite import SqliteStore
from tests.contract.store.members import Members, etcd_program

SERVERS = (pytest.mark.enable_socket, pytest.mark.servers)
DRIVERS = (
    "memory",
    "sqlite",
    "sealed",
    pytest.param("etcd", marks=SERVERS),
    pytest.param("etcd-three", marks=SERVERS),
)


@dataclass
class Case:
    """A driver and where its data are. least_ttl_ms: the shortest lease it keeps to."""

    driver: str
    folder: Path
    endpoints: tuple[str, ...] = ()
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    memory: MemoryStore | None = None

    @property
    def least_ttl_ms(self) -> int:
        return 1_000 if self.driver.startswith("etcd") else 150

    def open(self) -> Store:
        """Another client of the same data; of memory there is only one."""
        if self.driver == "sqlite":
            return SqliteStore(self.folder / "evac.db")
        if self.driver == "sealed":
            inner = SqliteStore(self.folder / "evac.db")
            return SealedStore(inner, Seal((Secret("key of the contract " * 2, "env:KEY"),)))
        if self.driver == "memory":
            self.memory = self.memory or MemoryStore()
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
