"""What drivers are set to run goes over the files and the last run, and never over a later run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import pytest

from evac.app.observed_stores import SeenEstate
from evac.app.published import KEY, Published
from evac.app.situations import facts_now
from evac.derive.situation import of
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.engine.runs.effects import EFFECTS, encode
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY
from evac.model.digest import estate_digest
from evac.model.errors import Permanent, Retryable
from evac.model.estate import Endpoint, Estate, Pool, Service, Site
from evac.model.fleet import ON_POOL, Replicas, np
from evac.model.observation import Observation
from evac.model.run_policy import RunPolicy
from evac.model.situation import Effects, Moved
from evac.store.port import Delete, Lease, MemoryStore, Put
from evac.watch.verdict import SiteState
from tests.unit.app.leading import tell

SITES = ("east", "west")
SETTINGS = {"agent": "https://agent", "secret": "env:KEY", "unit": "shop"}
ESTATE = Estate(
    "two",
    sites=tuple(Site(site) for site in SITES),
    pools=tuple(Pool(f"{site}-vm", site) for site in SITES),
    services=(Service("shop"),),
    replicas=Replicas(
        np.zeros(2, np.int32),
        np.full(2, ON_POOL, np.uint8),
        np.arange(2, dtype=np.int32),
        np.full(2, 2, np.int64),
    ),
    endpoints=tuple(Endpoint(f"shop-{site}", "shop", site, "process", SETTINGS) for site in SITES),
)
HOME = {"east-vm": 2, "west-vm": 2}


class World:
    """What agents are set to run at each site; None: never told."""

    def __init__(self) -> None:
        self.set: dict[str, int | None] = {"east": 2, "west": 2}
        self.silent: set[str] = set()
        self.gone: set[str] = set()
        self.during: Callable[[], Awaitable[None]] | None = None
        self.store, self.tokens = MemoryStore(), set[int]()
        self.drivers = Drivers({"process": lambda: self})  # type: ignore[dict-item, return-value]
        self.seen = self.controller()
        self.lease: Lease

    def controller(self) -> SeenEstate:
        return SeenEstate(ESTATE, RunPolicy(), self.store, self.drivers, SystemClock())

    async def report_replicas(self, action: Any, timeout_s: float, token: int) -> int | None:
        self.tokens.add(token)
        if self.during is not None:
            await self.during()
        if action.at in self.silent:
            raise Retryable("agent-unreachable", "it does not answer")
        if action.at in self.gone:
            raise Permanent("kubernetes-no-object", "there is no Deployment shop")
        return self.set[action.at]

    async def close(self) -> None:
        return None

    def now(self) -> tuple[Observation, Mapping[str, SiteState]]:
        return self.seen.observation, self.seen.states()

    async def ask(self) -> None:
        """Often enough for what is seen to count."""
        for _ in range(2):
            await self.seen._replicas.look(ESTATE, self.now, self.lease)

    async def look(self) -> dict[str, int]:
        """Looks at replicas, then at everything; what runs now, by pool."""
        await self.ask()
        self.seen._looked_in = -1
        looked = asyncio.ensure_future(self.seen.look(self.lease))
        while not self.seen.has_looked(self.lease):
            assert not looked.done()
            await asyncio.sleep(0.001)
        looked.cancel()
        return placed(self.seen.estate)

    async def ended(self, run: str, **counts: int) -> None:
        pools = tuple(sorted((f"{site}-vm", count) for site, count in counts.items()))
        left = Moved(run, "failback", ("west",), 1, 2, "succeeded", {"shop": pools}, {}, {}, {}, {})
        await self.store.transact((), (Put(EFFECTS + run, encode(left)),))


def placed(estate: Estate) -> dict[str, int]:
    replicas = estate.replicas
    pools = [estate.pools[row].id for row in replicas.target.tolist()]
    return dict(zip(pools, replicas.count.tolist(), strict=True))


def _play(story: Callable[[World], Awaitable[None]]) -> None:
    tell(World, story)


def test_what_runs_is_what_drivers_are_set_to_run() -> None:
    async def story(world: World) -> None:
        assert await world.look() == HOME
        assert world.seen.digest == estate_digest(of(ESTATE, world.seen.observation).estate)
        assert of(ESTATE, world.seen.observation).services == ()
        world.set = {"east": 1, "west": 3}
        assert await world.look() == {"east-vm": 1, "west-vm": 3}
        assert world.tokens == {world.lease.token}
        (away,) = of(ESTATE, world.seen.observation).services
        assert (away.service, away.now, away.cause.by) == ("shop", (("east", 1), ("west", 3)), "process")
        world.set["west"] = None
        world.seen = world.controller()
        await world.seen.begin()
        assert placed(world.seen.estate) == {"east-vm": 1, "west-vm": 3}, "known to the next leader"
        world.set = {"east": 0, "west": 4}
        assert await world.look() == {"west-vm": 4}

    _play(story)


def test_never_told_and_silent_drivers_say_nothing() -> None:
    async def story(world: World) -> None:
        world.set = {"east": None, "west": None}
        assert await world.look() == HOME
        world.set = {"east": 1, "west": 3}
        await world.look()
        world.silent, world.set = {"east"}, {"east": 0, "west": 2}
        assert await world.look() == {"east-vm": 1, "west-vm": 2}, "the silent site keeps what was seen"

    _play(story)


def test_an_open_run_is_not_observed_and_its_result_goes_over_what_was_seen_before() -> None:
    async def story(world: World) -> None:
        world.set = {"east": 1, "west": 3}
        await world.look()
        await world.store.transact((), (Put(f"{OPEN}move", b"{}"),))
        world.set = {"east": 0, "west": 3}
        assert await world.look() == {"east-vm": 1, "west-vm": 3}
        await world.ended("move", west=5)
        await world.store.transact((), (Delete(f"{OPEN}move"),))
        world.silent = {*SITES}
        await world.look()
        assert await world.look() == {"west-vm": 5}, "the run is later than what was seen"
        world.silent, world.set = set(), {"east": 0, "west": 6}
        assert await world.look() == {"west-vm": 6}

    _play(story)


def test_what_was_asked_while_a_run_began_or_ended_does_not_count() -> None:
    async def story(world: World) -> None:
        await world.look()

        async def begins() -> None:
            await world.store.transact((), (Put(f"{OPEN}move", b"{}"),))

        async def ends() -> None:
            await world.ended("move", west=4)

        for happens, then in ((begins, HOME), (ends, {"west-vm": 4})):
            world.set, world.during = {"east": 0, "west": 9}, happens
            await world.ask()
            world.during, world.silent = None, {*SITES}
            await world.store.transact((), (Delete(f"{OPEN}move"),))
            assert await world.look() == then
            world.silent = set()

    _play(story)


def test_commands_see_what_the_leader_sees() -> None:
    async def story(world: World) -> None:
        world.set = {"east": 1, "west": 3}
        await world.look()
        entry = await world.store.get(KEY)
        assert entry is not None
        published = await Published(world.store).read(entry.value)
        for led in (True, False):
            if not led:
                await world.store.release(world.lease)
            found = await facts_now(ESTATE, world.store, world.drivers, 5)
            assert placed(of(ESTATE, found).estate) == {"east-vm": 1, "west-vm": 3}
            assert estate_digest(of(ESTATE, found).estate) == world.seen.digest
        assert published.facts == world.seen.observation.facts
        await world.ended("move", west=5)
        found = await facts_now(ESTATE, world.store, world.drivers, 5)
        assert placed(of(ESTATE, found).estate) == {"west-vm": 5}

    _play(story)


def test_what_is_gone_and_what_runs_nowhere_says_nothing() -> None:
    """A service that is set to run nowhere is down; a loss has to bring it back where it belongs."""

    async def story(world: World) -> None:
        world.set = {"east": 1, "west": 6}
        assert await world.look() == {"east-vm": 1, "west-vm": 6}
        world.gone = {"west"}
        assert await world.look() == {"east-vm": 1, "west-vm": 2}
        world.set, world.gone = {"east": 0, "west": 0}, set()
        assert await world.look() == HOME

    _play(story)


def test_a_number_counts_once_it_was_seen_twice() -> None:
    """One that changes all the time, as an autoscaler's does, makes no plan stale."""

    async def story(world: World) -> None:
        for count in (3, 5, 4):
            world.set["west"] = count
            await world.seen._replicas.look(ESTATE, world.now, world.lease)
            known = world.seen._replicas.known(ESTATE, world.seen.observation, Effects())
            assert all(one.site != "west" for one in known)
        assert await world.look() == {"east-vm": 2, "west-vm": 4}

    _play(story)


@pytest.mark.parametrize("state", ["suspect", "isolated", "lost"])
def test_nothing_is_asked_while_a_site_may_be_lost_or_is(state: SiteState) -> None:
    async def story(world: World) -> None:
        await world.look()
        world.seen.states = lambda: {"east": state, "west": "healthy"}
        world.set = {"east": 2, "west": 9}
        assert await world.look() == HOME
        world.seen.states = lambda: {"east": "healthy", "west": "healthy"}
        lost = Put(SITES_KEY, orjson.dumps({"east": "lost", "west": "active"}))
        await world.store.transact((), (lost,))
        await world.look()
        assert await world.look() == HOME
        await world.store.transact((), (Delete(SITES_KEY),))
        await world.look()
        assert await world.look() == {"east-vm": 2, "west-vm": 9}

    _play(story)


def test_without_endpoints_of_services_nothing_is_asked() -> None:
    async def story(world: World) -> None:
        files = Estate("none", sites=ESTATE.sites)
        assert await world.seen._replicas.look(files, lambda: Observation(0), world.lease) > 0
        assert world.tokens == set()

    _play(story)
