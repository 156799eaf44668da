"""The lease as a fence: permits while we lead, none once a store is fenced, a wait that is long enough."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from evac.drivers.port import Action, Order
from evac.engine.stores import permits
from evac.engine.stores.datasets import DataSets, Epoch, encode
from evac.engine.stores.guards import SITES_KEY
from evac.engine.stores.permits import LeaseDriver, Permitting, wait_ms
from evac.model.errors import Permanent, Retryable
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.store.port import MemoryStore, Put

TTL_MS = 60
POLICY = RunPolicy(stores={"db": StorePolicy("db", ("lease",), self_fence=True, lease_ttl_ms=TTL_MS)})
FENCE = Action("fence", "db", "lease", "pangyo", {}, {"proof": "lease", "old": "pangyo", "ttl_ms": TTL_MS})
ORDER = Order("r", "fence:db", 1, 1, 1, "", 10, "r/fence:db")


@dataclass
class Clock:
    ms: int = 1_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


@dataclass
class Agent:
    granted: list[tuple[int, int]] = field(default_factory=list)
    silent: bool = False
    watches: bool = True
    resumed: list[tuple[list[str], list[str]]] = field(default_factory=list)

    async def resume(
        self, units: Collection[str], stores: Collection[str], token: int, timeout_s: float
    ) -> Collection[str]:
        self.resumed.append((sorted(units), sorted(stores)))
        return ()

    async def renew(
        self, store: str, epoch: int, ttl_ms: int, token: int, timeout_s: float
    ) -> Mapping[str, Any]:
        if not self.watches:
            raise Permanent("store-unknown", "no fence for db is configured here")
        if self.silent:
            raise Retryable("agent-silent", "no answer")
        self.granted.append((ttl_ms, token))
        return {}


def unsaid(kind: object, site: str, words: str, data: object) -> None:
    raise AssertionError(words)


def world() -> tuple[MemoryStore, Clock, Agent, Permitting]:
    store, clock, agent = MemoryStore(), Clock(), Agent()
    sets = DataSets(store, "me", clock)
    return (
        store,
        clock,
        agent,
        Permitting(store, sets, POLICY, clock, lambda site: agent, lambda name: "pangyo", say=unsaid),
    )


def test_nothing_is_proved_where_nobody_was_seen_to_watch() -> None:
    async def story() -> None:
        store, _, agent, permits = world()
        agent.silent = True
        await permits.chore(await store.acquire("leader", "me", 10_000))
        checked = await LeaseDriver(permits).check(FENCE, ORDER)
        assert "no agent has ever been observed" in checked.problems[0]

    asyncio.run(story())


def test_a_fence_stops_the_permits_and_waits_the_longest_of_them_out() -> None:
    async def story() -> None:
        store, clock, agent, permits = world()
        lease = await store.acquire("leader", "me", 10_000)
        await permits.chore(lease)
        assert agent.granted == [(TTL_MS, lease.token)]
        driver = LeaseDriver(permits)
        assert (await driver.check(FENCE, ORDER)).ready
        assert (await driver.observe(FENCE, ORDER)).outcome == "absent"
        clock.ms += 20
        fencing = asyncio.create_task(driver.execute(FENCE, ORDER))
        await asyncio.sleep(0.01)
        await permits.chore(lease)
        assert len(agent.granted) == 1, "no permit while it is fenced"
        assert (await driver.observe(FENCE, ORDER)).outcome == "absent"
        clock.ms = 1_000 + wait_ms(TTL_MS) - 1
        assert (await driver.observe(FENCE, ORDER)).outcome == "absent"
        clock.ms += 1
        assert (await driver.observe(FENCE, ORDER)).outcome == "done"
        evidence = await asyncio.wait_for(fencing, 5)
        assert evidence["proof"] == "lease"

    asyncio.run(story())


@pytest.mark.parametrize("obeyed", [3, 0])
def test_an_older_record_of_who_holds_a_store_permits_no_old_primary(obeyed: int) -> None:
    """Someone who writes the store restores the record from before the site burned. A leader that saw the
    newer one remembers it, and one that takes over knows what the members of the store obeyed.
    """

    async def story() -> None:
        store, clock = MemoryStore(), Clock()
        agents = {"pangyo": Agent(), "anyang": Agent()}
        sets = DataSets(store, "me", clock)

        def taken_over() -> Permitting:
            seen = lambda name: "anyang" if obeyed else "pangyo"  # noqa: E731
            return Permitting(
                store, sets, POLICY, clock, agents.get, seen, lambda name: obeyed, runs_at, say=unsaid
            )

        permits = taken_over()
        lease = await store.acquire("leader", "me", 10_000)
        sites = orjson.dumps({"pangyo": "active", "anyang": "active"})
        for number, holder in ((3, "anyang"), (2, "pangyo")):
            record = encode(Epoch("db", number, holder))
            await store.transact((), (Put("epoch/db", record), Put(SITES_KEY, sites)))
            permits = taken_over() if obeyed else permits
            await permits.chore(lease)
            await asyncio.gather(*(permits._resume(site, lease, runs_at) for site in agents))
            assert len(agents["anyang"].granted) == 4 - number
            assert agents["anyang"].resumed[-1] == (["web"], ["db"])
        assert agents["pangyo"].granted == []
        assert agents["pangyo"].resumed == [(["web"], [])] * 2

    async def runs_at(site: str) -> tuple[Collection[str], Collection[str]]:
        return ["web"], ["db"]

    asyncio.run(story())


def test_a_fence_that_ends_while_a_permit_is_prepared_lets_none_go_out() -> None:
    async def story() -> None:
        store, clock, agent, permits = world()
        lease = await store.acquire("leader", "me", 10_000)
        await store.transact((), (Put("permit/db", orjson.dumps({"site": "pangyo", "ttl_ms": TTL_MS})),))
        clock.ms += wait_ms(TTL_MS)
        read, driver = permits.fact, LeaseDriver(permits)

        async def fenced_meanwhile(name: str) -> tuple[str, int] | None:
            permits.fact = read  # type: ignore[method-assign]
            await driver.execute(FENCE, ORDER)
            return await read(name)

        permits.fact = fenced_meanwhile  # type: ignore[method-assign]
        await permits._permit("db", lease)
        assert (await driver.observe(FENCE, ORDER)).outcome == "done"
        assert agent.granted == [], "the fence was proved"

    asyncio.run(story())


def test_whoever_takes_over_waits_from_then_on() -> None:
    async def story() -> None:
        store, clock, agent, permits = world()
        lease = await store.acquire("leader", "me", 10_000)
        await permits.chore(lease)
        sets = DataSets(store, "other", clock)
        later = Permitting(store, sets, POLICY, clock, lambda site: None, lambda name: "pangyo", say=unsaid)
        clock.ms += 5_000
        await store.release(lease)
        await later.chore(await store.acquire("leader", "other", 10_000))
        assert later.over_at_ms("db", TTL_MS) == clock.ms + wait_ms(TTL_MS)
        assert agent.granted

    asyncio.run(story())


@pytest.mark.parametrize(("before_ms", "now_ms"), [(TTL_MS, 20 * TTL_MS), (20 * TTL_MS, TTL_MS)])
def test_the_longest_permit_is_waited_out_when_policy_changes_its_length(before_ms: int, now_ms: int) -> None:
    """Whoever leads next waits out what any leader before it may have granted, written down or not."""

    def policy(ttl_ms: int) -> RunPolicy:
        return RunPolicy(stores={"db": StorePolicy("db", ("lease",), self_fence=True, lease_ttl_ms=ttl_ms)})

    async def story() -> None:
        store, clock, agent = MemoryStore(), Clock(), Agent()
        for ttl_ms in (before_ms, now_ms):
            sets = DataSets(store, "me", clock)
            leads = Permitting(
                store, sets, policy(ttl_ms), clock, lambda site: agent, lambda name: "pangyo", say=unsaid
            )
            lease = await store.acquire("leader", "me", 10_000)
            await leads.chore(lease)
            if ttl_ms == before_ms:
                await store.release(lease)
        fact = await leads.fact("db")
        assert fact == ("pangyo", 20 * TTL_MS)
        clock.ms += wait_ms(20 * TTL_MS)
        await leads.chore(lease)
        assert await leads.fact("db") == ("pangyo", now_ms), "no longer one is valid any more"
        await store.transact((), (Put("permit/db", orjson.dumps({"site": "pangyo", "ttl_ms": 1})),))
        assert await leads.fact("db") == ("pangyo", now_ms), "of an older state of the store"

    asyncio.run(story())


def test_an_agent_that_has_no_fence_any_more_proves_nothing() -> None:
    async def story() -> None:
        store, _, agent, permits = world()
        lease = await store.acquire("leader", "me", 10_000)
        await permits.chore(lease)
        assert (await LeaseDriver(permits).check(FENCE, ORDER)).ready
        agent.silent = True
        await permits.chore(lease)
        assert (await LeaseDriver(permits).check(FENCE, ORDER)).ready, "it still watches, as far as is known"
        agent.watches = False
        await permits.chore(lease)
        assert not (await LeaseDriver(permits).check(FENCE, ORDER)).ready

    asyncio.run(story())


def test_the_watcher_of_another_site_proves_nothing() -> None:
    async def story() -> None:
        store, _, _, permits = world()
        await permits.chore(await store.acquire("leader", "me", 10_000))
        other = Action("fence", "db", "lease", "anyang", {}, {"proof": "lease", "old": "anyang"})
        assert not (await LeaseDriver(permits).check(other, ORDER)).ready

    asyncio.run(story())


@pytest.mark.parametrize(
    ("mark", "holder", "expected"),
    [
        ("active", "pangyo", [(["chat"], ["db"])]),
        ("active", "anyang", [(["chat"], [])]),
        ("lost", "pangyo", []),
        ("evacuating", "pangyo", []),
        (None, "pangyo", []),
    ],
)
def test_units_run_again_only_at_a_site_in_service_and_a_store_only_where_its_primary_is(
    mark: str | None,
    holder: str,
    expected: list[tuple[list[str], list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permits, "RESUME_S", 0)

    async def runs_at(site: str) -> tuple[Collection[str], Collection[str]]:
        return ("chat",), ("db",)

    async def story() -> list[tuple[list[str], list[str]]]:
        store, clock, agent = MemoryStore(), Clock(), Agent()
        if mark is not None:
            await store.transact((), (Put(SITES_KEY, orjson.dumps({"pangyo": mark})),))
        sets = DataSets(store, "me", clock)
        permitting = Permitting(
            store, sets, POLICY, clock, lambda site: agent, lambda name: holder, runs_at=runs_at, say=unsaid
        )
        await permitting.resume(await store.acquire("leader", "me", 10_000))
        return agent.resumed

    assert asyncio.run(story()) == expected


@pytest.mark.parametrize("record", [b"[]", b"{", encode(Epoch("bad", purpose="sell"))])
def test_an_unreadable_epoch_stops_permits_and_restarts_of_its_own_store_only(
    record: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each term reports it once for permits and once for restarts, and again if it is unreadable again."""
    monkeypatch.setattr(permits, "RESUME_S", 0)
    policy = RunPolicy(stores={name: replace(POLICY.store("db"), store=name) for name in ("bad", "good")})
    said: list[tuple[str, str]] = []

    async def runs_at(site: str) -> tuple[Collection[str], Collection[str]]:
        return ["shop.service"], ["bad", "good"]

    def say(kind: object, site: str, words: str, data: Mapping[str, Any]) -> None:
        assert "cannot read the epoch of bad" in words
        said.append((data["store"], data["code"]))

    async def story() -> None:
        store, clock, agent = MemoryStore(), Clock(), Agent()
        permitting = Permitting(
            *(store, DataSets(store, "me", clock), policy, clock, {"west": agent}.get, lambda name: "west"),
            runs_at=runs_at,
            say=say,
        )
        lease = await store.acquire("leader", "me", 10_000)
        register = Put(SITES_KEY, orjson.dumps({"east": "active", "west": "active"}))

        async def rounds(epoch: bytes) -> None:
            await store.transact((), (Put("epoch/bad", epoch), register))
            for _ in range(2):
                agent.granted, agent.resumed = [], []
                await permitting.chore(lease)
                await permitting.resume(lease)

        await rounds(record)
        assert len(agent.granted) == 1, "for the good store only"
        assert await permitting.fact("bad") is None
        assert await permitting.fact("good") == ("west", TTL_MS)
        assert agent.resumed == [(["shop.service"], ["good"])]
        assert said == [("bad", "epoch-unreadable")] * 2
        await rounds(encode(Epoch("bad", 1, "west")))
        assert (len(agent.granted), agent.resumed) == (2, [(["shop.service"], ["bad", "good"])])
        await rounds(record)
        assert (len(agent.granted), agent.resumed) == (1, [(["shop.service"], ["good"])])
        assert len(said) == 4
        await store.release(lease)
        lease = await store.acquire("leader", "me", 10_000)
        await rounds(record)
        assert len(said) == 6

    asyncio.run(story())
