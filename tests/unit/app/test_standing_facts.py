"""Prechecks of the synchronous copy: one of before a change of who confirms commits is never believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from evac.app import observed_stores as module
from evac.app.observed_stores import SeenEstate
from evac.drivers.port import Checked
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.engine.runs.live_actions import PREFIX, Standing
from evac.engine.stores import datasets
from evac.engine.stores.datasets import DataSets
from evac.model.errors import Retryable
from evac.model.estate import Endpoint, Estate, Site, Store, StoreMember
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.store.port import Delete, MemoryStore, Put

POLICY = RunPolicy(stores={"chat": StorePolicy("chat", proofs=("sync",))})
ESTATE = Estate(
    "two",
    sites=(Site("anyang"), Site("pangyo")),
    stores=(
        Store("chat", "chat", "postgres", (StoreMember("pangyo", "primary"), StoreMember("anyang", "sync"))),
    ),
    endpoints=tuple(
        Endpoint(f"chat-{site}", "chat", site, "postgres", {"name": f"dc-{site}", "host": site})
        for site in ("anyang", "pangyo")
    ),
)


async def nothing() -> None:
    """Happens while the primary is asked."""


class Primary:
    """Says that its copy confirms every commit; meanwhile something happens."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], Awaitable[None]] = nothing
        self.problems: tuple[str, ...] = ()

    async def report_role(self, *asked: Any) -> Any:
        raise Retryable("unreachable", "its site burns")

    async def precheck_sync(self, *asked: Any) -> Checked:
        await self.meanwhile()
        return Checked(self.problems)

    async def close(self) -> None:
        return None


class Desk:
    """A leader's chore over a store in memory."""

    def __init__(self) -> None:
        self.store, self.primary, clock = MemoryStore(), Primary(), SystemClock()
        drivers = Drivers({"postgres": lambda: self.primary})  # type: ignore[dict-item, return-value]
        self.seen = SeenEstate(ESTATE, POLICY, self.store, drivers, clock)
        self.sets = DataSets(self.store, "c1", clock)

    async def check(self) -> int | None:
        """One round; the number that the written fact carries, None where there is none."""
        lease = await self.store.acquire("leader", "c1", 5_000)
        await self.seen.check_standing(lease)
        await self.store.release(lease)
        held, entry = self.seen.standing("chat"), await self.store.get(PREFIX + "chat")
        assert (held is None) is (entry is None), "what is deleted is not believed either"
        return None if held is None else held.changes

    async def begin(self) -> None:
        """A protection starts, as its admission has it."""
        before = await self.sets.read("chat")
        claimed, _ = datasets.claim(before, holder="pangyo", candidate="pangyo", purpose="protect", run="r1")
        _, permit = datasets.begin(claimed, "pangyo", "r1", POLICY.store("chat"))
        await self.store.transact(permit.compares, (*permit.changes, Delete(PREFIX + "chat")))

    async def settle(self) -> None:
        _, permit = datasets.settle(await self.sets.read("chat"), True, ())
        await self.store.transact(permit.compares, (*permit.changes, Delete(PREFIX + "chat")))

    async def begin_and_settle(self) -> None:
        await self.begin()
        await self.settle()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(module, "STANDING_S", 0)
    return Desk()


def test_what_is_not_proven_yet_is_looked_for_often(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fire that comes before the first proof waits for a person."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def story() -> None:
        desk.primary.problems = ("no copy follows yet",)
        assert [await desk.check() for _ in range(6)] == [None] * 6
        desk.primary.problems = ()
        assert [await desk.check() for _ in range(2)] == [0, 0]
        desk.primary.problems = ("its copy is gone",)
        assert await desk.check() == 0, "what was proven grows old, and is not taken back"

    monkeypatch.setattr(module, "STANDING_S", 5.0)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    asyncio.run(story())
    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 0.5]


@pytest.mark.parametrize("what", ["begin", "begin_and_settle"])
def test_a_look_that_a_change_overtook_writes_nothing(desk: Desk, what: str) -> None:
    async def story() -> None:
        assert await desk.check() == 0
        desk.primary.meanwhile = getattr(desk, what)
        assert await desk.check() is None
        desk.primary.meanwhile = nothing
        assert await desk.check() == (None if what == "begin" else 2), "nothing while it is under way"

    asyncio.run(story())


def test_whoever_was_promoted_after_the_last_look_is_the_primary_though_it_burns(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_S", 0)
    monkeypatch.setattr(module, "PERIOD_S", 0)

    async def story() -> None:
        lease = await desk.store.acquire("leader", "c1", 5_000)
        await desk.seen.look(lease)
        before = await desk.sets.read("chat")
        claimed, permit = datasets.claim(
            before, holder="pangyo", candidate="anyang", purpose="promote", run="r1"
        )
        await desk.store.transact(permit.compares, permit.changes)
        settled, permit = datasets.settle(
            replace(claimed, revision=(await desk.sets.read("chat")).revision), True
        )
        await desk.store.transact(permit.compares, permit.changes)
        reader = SeenEstate(ESTATE, POLICY, desk.store, Drivers(), SystemClock())
        await reader.read()
        assert [await desk.seen.behind((site,)) for site in ("anyang", "pangyo")] == [True, False]
        assert await reader.behind(("anyang",)), "whoever leads next knows it as well"
        await desk.seen.look(lease)
        assert not await desk.seen.behind(("anyang", "pangyo"))
        await reader.read()
        for seen in (desk.seen, reader):
            (chat,) = seen.estate.stores
            assert {member.at: member.mode for member in chat.members} == {
                "anyang": "primary",
                "pangyo": "none",
            }
        assert settled.holder == "anyang"

    asyncio.run(story())


def test_a_look_from_the_middle_of_a_change_writes_nothing_after_it(desk: Desk) -> None:
    async def story() -> None:
        await desk.begin()
        desk.primary.meanwhile = desk.settle
        assert await desk.check() is None
        desk.primary.meanwhile = nothing
        assert await desk.check() == 2

    asyncio.run(story())


def test_whoever_only_reads_forgets_what_was_deleted(desk: Desk) -> None:
    async def story() -> None:
        assert await desk.check() == 0
        await desk.begin_and_settle()
        await desk.seen.read()
        assert desk.seen.standing("chat") is None

    asyncio.run(story())


class JumpingClock(SystemClock):
    """A wall clock that is so far ahead of its monotonic one, which goes on as it is told."""

    def __init__(self, ahead_ms: int) -> None:
        self.ahead_ms, self.now = ahead_ms, 1_000_000

    def now_ms(self) -> int:
        return self.now + self.ahead_ms

    def monotonic_ms(self) -> int:
        return self.now


@pytest.mark.parametrize("ahead_ms", [3_600_000, -7_200_000])
def test_a_fact_ages_by_the_clock_of_its_reader_whatever_clock_its_writer_has(ahead_ms: int) -> None:
    """A reader whose clock jumped takes over: the check is as old as it is, neither hours old nor to come."""

    async def story() -> None:
        store, clock = MemoryStore(), JumpingClock(ahead_ms)
        reader = SeenEstate(ESTATE, POLICY, store, Drivers(), clock)
        for written, age_ms in ((clock.now, None), (clock.now + 5_000, 400)):
            fact = Standing("chat", "dc-anyang", "anyang", "pangyo", written, 0)
            lease = await store.acquire("leader", "c1", 5_000)
            await store.transact((), (Put(PREFIX + "chat", fact.encode()),), lease)
            await store.release(lease)
            await reader.read()
            found = reader.standing("chat")
            assert found is not None
            if age_ms is None:
                assert found.at_ms == written, "found there at the first look: it is dated by its writer"
                clock.now += 400
            else:
                assert clock.now_ms() - found.at_ms == age_ms
        clock.now += 10_000
        await reader.read()
        found = reader.standing("chat")
        assert found is not None
        assert clock.now_ms() - found.at_ms == 10_400, "and it grows old"

    asyncio.run(story())
