"""Where drivers are set to send users goes over the files and the last run, where it is clear and lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from evac.app.observed_stores import SeenEstate
from evac.app.observed_traffic import LASTS_S, traffic_endpoints
from evac.app.published import KEY, Published
from evac.app.quiet_looks import PERIOD_S
from evac.app.situations import facts_now
from evac.derive.situation import of
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.engine.runs.effects import EFFECTS, encode
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY
from evac.model.digest import estate_digest
from evac.model.errors import Permanent, Retryable
from evac.model.estate import Endpoint, Estate, Pool, Service, Site, Traffic
from evac.model.fleet import ON_POOL, Replicas, np
from evac.model.observation import Observation
from evac.model.run_policy import RunPolicy
from evac.model.situation import Effects, Moved
from evac.store.port import Delete, Lease, MemoryStore, Put
from evac.views.situation_view import lines_of
from evac.watch.verdict import SiteState
from tests.unit.app.leading import tell

SITES = ("east", "west", "edge")
ESTATE = Estate(
    "three",
    sites=tuple(Site(site) for site in SITES),
    pools=tuple(Pool(f"{site}-vm", site) for site in SITES),
    services=(Service("shop", traffic=Traffic("load_balancer")),),
    replicas=Replicas(
        np.zeros(2, np.int32),
        np.full(2, ON_POOL, np.uint8),
        np.arange(2, dtype=np.int32),
        np.full(2, 2, np.int64),
    ),
    endpoints=tuple(Endpoint(f"lb-{site}", "shop", site, "haproxy", {}) for site in SITES[:2]),
)
BOTH = ("east", "west")


class LaterClock(SystemClock):
    """One that a test can move."""

    def __init__(self) -> None:
        super().__init__()
        self.later_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.later_ms


class World:
    """Where the proxy of each site sends users."""

    def __init__(self) -> None:
        self.to: dict[str, tuple[str, ...] | None] = dict.fromkeys(BOTH, BOTH)
        self.silent: set[str] = set()
        self.refuses: set[str] = set()
        self.asked = 0
        self.store, self.clock = MemoryStore(), LaterClock()
        self.drivers = Drivers(dict.fromkeys(("haproxy", "dns"), lambda: self))  # type: ignore[arg-type]
        self.seen = self.controller()
        self.lease: Lease

    def controller(self) -> SeenEstate:
        return SeenEstate(ESTATE, RunPolicy(), self.store, self.drivers, self.clock)

    async def report_traffic(self, action: Any, timeout_s: float) -> tuple[str, ...] | None:
        self.asked += 1
        if action.at in self.silent:
            raise Retryable("haproxy-unreachable", "it does not answer")
        if action.at in self.refuses:
            raise Permanent("haproxy-no-backend", "it has no backend shop")
        return self.to[action.at]

    async def close(self) -> None:
        return None

    def now(self) -> tuple[Observation, Mapping[str, SiteState]]:
        return self.seen.observation, self.seen.states()

    async def ask(self, seconds: float = LASTS_S) -> None:
        """Asks as often as the leader does within so many seconds."""
        for _ in range(round(seconds / PERIOD_S) + 1):
            await self.seen._traffic.look(ESTATE, self.now)
            self.clock.later_ms += round(PERIOD_S * 1_000)

    async def look(self) -> dict[str, tuple[str, ...]]:
        """What everyone knows next."""
        self.seen._looked_in = -1
        looked = asyncio.ensure_future(self.seen.look(self.lease))
        while not self.seen.has_looked(self.lease):
            assert not looked.done()
            await asyncio.sleep(0.001)
        looked.cancel()
        return dict(self.seen.estate.traffic)

    async def known(self) -> dict[str, tuple[str, ...]]:
        await self.ask()
        return await self.look()

    async def send(self, sites: tuple[str, ...] | None) -> None:
        self.to = dict.fromkeys(BOTH, sites)

    async def ended(self, run: str, *to: str, scenario: Any = "failback", service: str = "shop") -> None:
        placed = {service: (("east-vm", 2), ("west-vm", 2))}
        left = Moved(run, scenario, ("edge",), 1, 2, "succeeded", placed, {service: to} if to else {})
        await self.store.transact((), (Put(EFFECTS + run, encode(left)),))


def _play(story: Callable[[World], Awaitable[None]]) -> None:
    tell(World, story)


def test_users_are_where_proxies_send_them_once_that_has_lasted() -> None:
    async def story(world: World) -> None:
        assert await world.known() == {}
        assert world.seen.digest == estate_digest(ESTATE), "as the files say"
        await world.send(("east",))
        await world.ask(LASTS_S - PERIOD_S)
        assert await world.look() == {}, "a deployment may take a site out for a moment"
        await world.ask(PERIOD_S)
        assert await world.look() == {"shop": ("east",)}
        assert world.seen.digest != estate_digest(ESTATE)
        now = of(ESTATE, world.seen.observation)
        assert now.services == (), "it may be meant to serve at one of two sites"
        (words,) = lines_of(now, now.at_ms)
        assert words.startswith("users of shop are sent only to east, as haproxy reports")
        assert words.endswith("; it also runs in west")
        await world.send(BOTH)
        assert await world.known() == {}
        assert world.seen.digest == estate_digest(ESTATE)

    _play(story)


def test_what_is_not_clear_says_nothing() -> None:
    async def story(world: World) -> None:
        world.to = {"east": ("east",), "west": ("west",)}
        assert await world.known() == {}, "each proxy sends to its own site"
        await world.send(("east",))
        assert await world.known() == {"shop": ("east",)}
        world.to["west"] = None
        assert await world.known() == {}
        await world.send(("edge",))
        assert await world.known() == {}, "the estate has none of it there"
        await world.send(("east",))
        world.refuses = {"west"}
        assert await world.known() == {}, "it may send them elsewhere"
        world.refuses, world.silent = set(), {"west"}
        assert await world.known() == {"shop": ("east",)}
        world.silent = {*BOTH}
        await world.send(("west",))
        assert await world.known() == {"shop": ("east",)}, "keeps what was seen"

    _play(story)


def test_only_services_with_one_layer_that_can_be_asked_are() -> None:
    extra = Endpoint("name", "shop", "east", "dns", {})
    by_hand = Endpoint("person", "shop", "east", "command", {"argv": "/bin/true"})
    names = tuple(replace(end, driver="dns") for end in ESTATE.endpoints)
    assert [*traffic_endpoints(ESTATE)] == ["shop"]
    assert [*traffic_endpoints(replace(ESTATE, endpoints=names))] == ["shop"]
    for one in (extra, by_hand):
        assert not traffic_endpoints(replace(ESTATE, endpoints=(*ESTATE.endpoints, one)))
    for kind in ("anycast", "none"):
        anycast = (Service("shop", traffic=Traffic(kind)),)  # type: ignore[arg-type]
        assert not traffic_endpoints(replace(ESTATE, services=anycast))


@pytest.mark.parametrize("state", ["suspect", "isolated", "lost"])
def test_nothing_is_asked_in_times_that_are_not_quiet(state: SiteState) -> None:
    async def story(world: World) -> None:
        await world.send(("east",))
        world.seen.states = lambda: {"east": state}
        await world.known()
        world.seen.states = dict
        await world.store.transact((), (Put(f"{OPEN}move", b"{}"),))
        await world.known()
        await world.store.transact(
            (), (Delete(f"{OPEN}move"), Put(SITES_KEY, orjson.dumps({"east": "lost"})))
        )
        await world.look()
        await world.known()
        assert world.asked == 0

    _play(story)


def test_a_run_goes_over_what_was_seen_before_it_of_services_that_it_touched() -> None:
    async def story(world: World) -> None:
        await world.send(("east",))
        assert await world.known() == {"shop": ("east",)}
        await world.ended("other", service="wiki")
        assert await world.look() == {"shop": ("east",)}
        await world.ended("move", "west")
        world.silent = {*BOTH}
        assert await world.look() == {"shop": ("west",)}
        assert await world.known() == {"shop": ("west",)}
        world.silent = set()
        await world.send(BOTH)
        assert await world.known() == {"shop": BOTH}, "someone sent them back"

    _play(story)


def test_commands_and_the_next_leader_know_it() -> None:
    async def story(world: World) -> None:
        await world.send(("east",))
        await world.known()
        entry = await world.store.get(KEY)
        assert entry is not None
        assert (await Published(world.store).read(entry.value)).facts == world.seen.observation.facts
        digest = world.seen.digest
        world.seen = world.controller()
        await world.seen.begin()
        assert (dict(world.seen.estate.traffic), world.seen.digest) == ({"shop": ("east",)}, digest)
        for led in (True, False):
            if not led:
                await world.store.release(world.lease)
            found = await facts_now(ESTATE, world.store, world.drivers, 5)
            assert estate_digest(of(ESTATE, found).estate) == digest

    _play(story)


def test_what_no_run_sent_away_is_not_sent_back() -> None:
    """A service that serves at one of two sites on purpose still does after a run that sent nobody."""
    home = (("east-vm", 2), ("west-vm", 2))
    for stayed, away in ((("shop",), ()), ((), ("shop",))):
        run = Moved(
            "r", "lose", ("edge",), 1, 2, "succeeded", {"shop": home}, {"shop": ("east",)}, stayed=stayed
        )
        now = of(ESTATE, Observation(3, effects=Effects((), (run,)))).estate
        assert (dict(now.traffic), now.sent_away) == ({"shop": ("east",)}, away)
        assert now.as_routed == stayed
        other = replace(now, as_routed=away)
        assert estate_digest(other) != estate_digest(now), "a way home has other steps then"
