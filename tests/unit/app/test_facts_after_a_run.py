"""A run ended a moment ago: no plan is made of, or taken on, what was known before that."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from evac.app import observed_stores, situations
from evac.app.observed_stores import SeenEstate
from evac.app.published import KEY, Published
from evac.app.published import encode as encoded
from evac.app.situations import facts_now
from evac.drivers.capabilities import RoleReport
from evac.drivers.registry import Drivers
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.leadership import LEADER
from evac.engine.runs.effects import EFFECTS, encode
from evac.engine.stores.datasets import DataSets, Epoch
from evac.engine.stores.datasets import encode as record
from evac.engine.stores.permits import Permitting
from evac.model.errors import NotAllowed, Retryable
from evac.model.estate import Endpoint, Estate, Site, Store, StoreMember
from evac.model.observation import MemberSeen, Observation
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.model.situation import Moved
from evac.store.port import Lease, MemoryStore, Put
from tests.unit.engine import small_world

ESTATE = Estate(
    "two",
    sites=(Site("east"), Site("west")),
    stores=(Store("db", "db", "postgres", (StoreMember("east", "primary"), StoreMember("west", "async"))),),
    endpoints=tuple(
        Endpoint(f"db-{site}", "db", site, "postgres", {"name": site, "host": site})
        for site in ("east", "west")
    ),
)
ENDED = Moved("fire", "lose", ("east",), 1, 2, "succeeded", {}, {}, {}, {}, {})


class World:
    """Where the primary is, and a leader that looks at it."""

    def __init__(self) -> None:
        self.primary, self.looks, self.epoch = "east", 0, 0
        self.silent = set[str]()
        self.store, clock = MemoryStore(), SystemClock()
        self.drivers = Drivers({"postgres": lambda: self})  # type: ignore[dict-item, return-value]
        self.seen = SeenEstate(ESTATE, RunPolicy(), self.store, self.drivers, clock)

    async def report_role(self, action: Any, *asked: Any) -> RoleReport:
        self.looks += 1
        if action.at in self.silent:
            return RoleReport("unreachable")
        return RoleReport("primary" if action.at == self.primary else "async", 0, epoch=self.epoch)

    async def close(self) -> None:
        return None

    async def end_a_run(self) -> None:
        """It moved the primary, which its record says."""
        self.primary = "west"
        await self.store.transact((), (Put(EFFECTS + "fire", encode(ENDED)),))

    def known(self) -> str:
        return next(one.site for one in self.seen.observation.members if one.role == "primary")


async def first_look(world: World, lease: Lease) -> asyncio.Future[NotAllowed | None]:
    """Until something is known: the pause after the look is still to come."""
    look = asyncio.ensure_future(world.seen.look(lease))
    while not world.seen.observation.members and not look.done():
        await asyncio.sleep(0.01)
    assert not look.done()
    return look


def test_the_leader_takes_nothing_before_it_looked_again_and_looks_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observed_stores, "PERIOD_S", 600.0)

    async def story() -> None:
        world = World()
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        look = await first_look(world, lease)
        assert (world.known(), await world.seen.behind(())) == ("east", False)
        await world.end_a_run()
        assert await world.seen.behind(())
        await asyncio.wait_for(look, 60)  # though the next look was ten minutes away
        look = asyncio.ensure_future(world.seen.look(lease))
        while await world.seen.behind(()) and not look.done():
            await asyncio.sleep(0.01)
        assert world.known() == "west"
        look.cancel()

    asyncio.run(story())


def test_a_command_waits_for_the_look_after_a_run_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        world = World()
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        look = await first_look(world, lease)
        look.cancel()
        await world.end_a_run()
        asking = asyncio.ensure_future(facts_now(ESTATE, world.store, world.drivers, 5))
        await asyncio.sleep(0.3)
        assert not asking.done()
        again = asyncio.ensure_future(world.seen.look(lease))
        found = await asking
        assert found.effects is not None
        assert [one.run for one in found.effects.moved] == ["fire"]
        assert {one.site: one.role for one in found.members} == {"east": "async", "west": "primary"}
        again.cancel()

        monkeypatch.setattr(situations, "CAUGHT_UP_S", 0.2)
        await world.store.transact((), (Put(EFFECTS + "later", encode(ENDED)),))
        began_s = time.monotonic()
        assert await facts_now(ESTATE, world.store, world.drivers, 5) == found
        assert time.monotonic() - began_s >= 0.2, "a leader that does not look refuses the plan later"

    asyncio.run(story())


def test_a_leader_permits_no_primary_before_it_observed_the_members() -> None:
    """Someone restored the epoch, and the observation, from before a takeover while nobody led."""

    async def story() -> None:
        world, granted, said = World(), dict[str, list[int]](), list[tuple[object, ...]]()
        before = encoded(Observation(0, (MemberSeen("db", "east", "primary"),)), "", {})
        await world.store.transact((), (Put(KEY, before), Put("epoch/db", record(Epoch("db", 2, "east")))))
        await world.seen.begin()
        world.primary, world.epoch = "west", 3

        class Agent:
            def __init__(self, site: str) -> None:
                self.site = site

            async def renew(self, store: str, epoch: int, *more: object) -> dict[str, object]:
                granted.setdefault(self.site, []).append(epoch)
                return {}

        policy = RunPolicy(stores={"db": StorePolicy("db", ("lease",), self_fence=True, lease_ttl_ms=60)})
        agents = {site: Agent(site) for site in ("east", "west")}
        seen, sets = world.seen, DataSets(world.store, "me", SystemClock())
        permitting = Permitting(
            *(world.store, sets, policy, SystemClock(), agents.get, seen.primary_of, seen.obeyed),  # type: ignore[arg-type]
            see=seen.see,
            has_looked=seen.has_looked,
            say=lambda *words: said.append(words),
        )
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        await permitting.chore(lease)
        assert (granted, seen.obeyed("db")) == ({}, 3)
        look = asyncio.ensure_future(seen.look(lease))
        while not seen.has_looked(lease) and not look.done():
            await asyncio.sleep(0.01)
        await permitting.chore(lease)
        assert granted == {"west": [3]}
        look.cancel()
        await world.store.release(lease)
        again = await world.store.acquire(LEADER, "c1", 60_000)
        world.epoch = 4  # another leader moved it meanwhile
        await permitting.chore(again)
        assert (granted, seen.obeyed("db")) == ({"west": [3]}, 4), "in another term it observes again"
        assert not said

    asyncio.run(story())


def other_store(world: World, clock: Clock | None = None) -> None:
    """The estate has a second store, `log`, whose members answer as those of `db`."""
    log = Store("log", "log", "postgres", ESTATE.stores[0].members)
    ends = tuple(replace(end, subject="log") for end in ESTATE.endpoints)
    both = replace(ESTATE, stores=(*ESTATE.stores, log), endpoints=(*ESTATE.endpoints, *ends))
    world.seen = SeenEstate(both, RunPolicy(), world.store, world.drivers, clock or SystemClock())


def primaries(world: World) -> dict[str, str]:
    return {one.store: one.site for one in world.seen.observation.members if one.role == "primary"}


def test_an_epoch_that_cannot_be_read_stops_observing_its_own_store_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Roles of that store stay as last seen, because a returned old primary may be what is observed now."""
    monkeypatch.setattr(observed_stores, "PERIOD_S", 0.0)
    monkeypatch.setattr(observed_stores, "LEAST_S", 0.0)

    async def story() -> None:
        world = World()
        other_store(world)
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        good = Put("epoch/log", record(Epoch("log", 1, "east", changes=1)))
        await world.store.transact((), (good,))
        await world.seen.look(lease)
        assert primaries(world) == {"db": "east", "log": "east"}
        await world.store.transact((), (Put("epoch/log", b"[]"),))
        world.primary = "west"
        refused = await world.seen.look(lease)
        assert refused is not None
        assert (refused.code, "cannot read the epoch of log" in refused.message) == ("epoch-unreadable", True)
        assert primaries(world) == {"db": "west", "log": "east"}
        published = await Published(world.store).get()
        assert published is not None
        assert published.facts == world.seen.observation.facts
        assert not await world.seen.behind(("west",)), "plans for other stores do not wait for it"
        await world.store.transact((), (good,))
        assert await world.seen.look(lease) is None
        assert primaries(world) == {"db": "west", "log": "west"}

    asyncio.run(story())


class LateClock(SystemClock):
    """A test moves it on."""

    late_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.late_ms


def test_an_epoch_that_cannot_be_read_ends_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed_stores, "PERIOD_S", 0.0)
    monkeypatch.setattr(observed_stores, "LEAST_S", 0.0)

    async def story() -> None:
        world, clock = World(), LateClock()
        other_store(world, clock)
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        await world.seen.look(lease)
        world.primary = "nowhere"
        await world.seen.look(lease)
        clock.late_ms = 600_000
        await world.seen.look(lease)
        assert [one.store for one in world.seen.observation.silent] == ["db", "log"]
        await world.store.transact((), (Put("epoch/log", b"[]"),))
        await world.seen.look(lease)
        assert [one.store for one in world.seen.observation.silent] == ["db", "log"]

    asyncio.run(story())


def test_a_holder_counts_as_new_until_its_epoch_was_read_before_and_after_an_observation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Damaged while the systems were asked: the roles of the store stay, and so must what they cover."""
    monkeypatch.setattr(observed_stores, "PERIOD_S", 0.0)
    monkeypatch.setattr(observed_stores, "LEAST_S", 0.0)

    async def story() -> None:
        world = World()
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        await world.seen.look(lease)
        moved = Put("epoch/db", record(Epoch("db", 1, "west", changes=1)))
        await world.store.transact((), (moved,))

        async def damaged(*asked: Any) -> RoleReport:
            await world.store.transact((), (Put("epoch/db", b"[]"),))
            raise Retryable("silent", "it does not answer")

        monkeypatch.setattr(world, "report_role", damaged)
        assert await world.seen.look(lease) is not None
        assert world.known() == "east"
        await world.store.transact((), (moved,))

        async def silent(*asked: Any) -> RoleReport:
            raise Retryable("silent", "it does not answer")

        monkeypatch.setattr(world, "report_role", silent)
        await world.seen.look(lease)
        assert world.known() == "west", "though no one saw it there"

    asyncio.run(story())


def test_epochs_that_cannot_be_read_slow_no_observation_and_are_all_named() -> None:
    world, bad = World(), b"[]"

    async def look(guard: Lease) -> NotAllowed | None:
        return await world.seen.look(guard)

    lead = small_world.World(small_world.policy_of("act"), sites=("anyang",), chores=[look])
    world.store = lead.store
    other_store(world, lead.clock)

    async def put(store: str, value: bytes) -> None:
        await lead.store.transact((), (Put(f"epoch/{store}", value),))

    async def looks() -> float:
        """How often the leader looks at the two members of both stores in eight seconds."""
        before = world.looks
        await asyncio.sleep(8)
        return (world.looks - before) / 4

    async def story(lead: small_world.World) -> None:
        await lead.until(lambda: world.looks > 0)
        often = await looks()
        assert often >= 3
        await put("log", bad)
        assert often - 1 <= await looks() <= often + 1
        await put("db", bad)
        await looks()
        one = "cannot read the epoch of log, so none can be claimed"
        both = "cannot read the epochs of db, log, so none can be claimed"
        assert lead.words("trouble") == [one, both], "once while the words stay the same"
        for store in ("db", "log"):
            await put(store, record(Epoch(store)))
        await looks()
        await put("log", bad)
        await looks()
        assert lead.words("trouble") == [one, both, one]

    small_world.play(story, lead)


@pytest.mark.parametrize("spoilt", [(), ("db",), ("log",), ("db", "log")])
def test_a_store_whose_epoch_cannot_be_read_may_have_moved(spoilt: tuple[str, ...]) -> None:
    """No plan of a person counts as up to date, and what is on hold for that store stays so."""

    async def story() -> None:
        world = World()
        other_store(world)
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        look = await first_look(world, lease)
        for name in ("db", "log"):
            value = b"{}" if name in spoilt else record(Epoch(name, 1, "east"))
            await world.store.transact((), (Put(f"epoch/{name}", value),))
        if spoilt:
            with pytest.raises(NotAllowed) as refused:
                await world.seen.behind(())
            assert refused.value.code == "epoch-unreadable"
            assert all(name in refused.value.message for name in spoilt)
        else:
            assert not await world.seen.behind(())
        for site in ("east", "west"):
            assert not await world.seen.behind((site,))
            assert set((await world.seen.runs_at(site))[1]) == {"db", "log"} - set(spoilt)
        look.cancel()

    asyncio.run(story())


def test_an_observation_without_every_answer_decides_nothing_about_a_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does one that began before someone asked. What is gone need not answer."""
    monkeypatch.setattr(observed_stores, "LEAST_S", 0.0)

    async def story() -> None:
        world, clock = World(), SystemClock()
        lease = await world.store.acquire(LEADER, "c1", 60_000)
        assert world.seen.unsure(0, ()), "nothing was observed yet"
        since_ms = clock.monotonic_ms()
        await world.seen.look(lease)
        world.seen.unsure(clock.monotonic_ms() + 1, ())
        assert not world.seen.unsure(since_ms, ())
        assert world.seen.unsure(clock.monotonic_ms() + 1, ())
        world.silent = {"west"}
        await world.seen.look(lease)
        assert world.seen.unsure(since_ms, ())
        assert world.seen.unsure(since_ms, ("east",))
        assert not world.seen.unsure(since_ms, ("west",))
        world.silent = set()
        await world.seen.look(lease)
        assert not world.seen.unsure(since_ms, ())

    asyncio.run(story())
