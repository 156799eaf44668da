"""A store that no copy confirms although one should: reported, and protected again from what is there now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import orjson
import pytest

from evac.engine.runs.reading import events_of
from evac.engine.stores.datasets import Epoch, decode, encode, key_of
from evac.engine.stores.guards import read_register
from evac.engine.stores.stalled_commits import bound_of, plan_to_confirm
from evac.engine.stores.unconfirmed import Unconfirmed
from evac.model.errors import NotAllowed
from evac.model.estate import Endpoint
from evac.model.run_policy import RunPolicy, StorePolicy
from evac.store.port import Put
from tests.unit.engine.rejoining import Rejoining
from tests.unit.engine.small_world import World, play, policy_of

PRIMARY = Endpoint("chat-pangyo", "chat", "pangyo", "simulated", {})


class Copies:
    """What a leader sees: copies of the store that follow, and whether one of them confirms."""

    world: World

    def __init__(self, *following: str) -> None:
        self.following, self.at = list(following), "pangyo"
        self.confirms = self.is_seen = False

    def unconfirmed(self) -> Mapping[str, Unconfirmed]:
        if self.confirms or not self.is_seen:
            return {}
        plans = {site: plan_to_confirm(PRIMARY, f"dc-{site}") for site in self.following}
        return {"chat": Unconfirmed("chat", self.at, 0, self.world.clock.monotonic_ms(), plans)}

    def confirmed(self) -> frozenset[str]:
        return frozenset(("chat",) if self.confirms else ())


class Confirming(Copies):
    """Sees that the copy confirms a while after a run has made it."""

    done_ms = -1

    def confirmed(self) -> frozenset[str]:
        now_ms = self.world.clock.monotonic_ms()
        if self.done_ms < 0 and ("protect", "chat") in self.world.systems.done:
            self.done_ms = now_ms
        self.confirms = self.confirms or 0 <= self.done_ms < now_ms - 100
        return super().confirmed()


def _world(copies: Copies, mode: str = "act") -> World:
    copies.world = World(policy_of(mode), commits=copies)
    return copies.world


async def _with_epoch(world: World, copies: Copies, *synchronous: str, number: int = 3) -> None:
    """evac moved the store before, and left these copies to confirm."""
    epoch = Epoch("chat", number, "pangyo", synchronous=synchronous)
    if number:
        await world.store.transact((), [Put(key_of("chat"), encode(epoch))])
    copies.is_seen = True


async def _epoch(world: World) -> Epoch:
    return decode("chat", await world.store.get(key_of("chat")))


async def _incidents(world: World) -> list[str]:
    return [entry.key.removeprefix("incident/") for entry in await world.store.list("incident/")]


def _reports(world: World) -> list[str]:
    return [one.words for one in world.notices if one.data.get("code") == "unconfirmed"]


def test_a_copy_that_follows_again_confirms_again_once() -> None:
    copies = Confirming("anyang")
    world = _world(copies)

    async def story(world: World) -> None:
        await world.until_planned()
        await _with_epoch(world, copies)
        await world.until(lambda: copies.confirms)
        await asyncio.sleep(2)
        epoch = await _epoch(world)
        assert (epoch.number, epoch.holder, epoch.synchronous) == (4, "pangyo", ("dc-anyang",))
        assert world.systems.verbs_done() == ["protect"]
        assert await _incidents(world) == ["chat-confirm-4"]
        assert len(_reports(world)) == 2, "that none confirms, and that one does again"
        assert await read_register(world.store) == dict.fromkeys(world.sites, "active")

    play(story, world)


@pytest.mark.parametrize(
    ("mode", "number", "sites"),
    [("advise", 3, ("anyang",)), ("act", 0, ("anyang",)), ("act", 3, ()), ("act", 3, ("nowhere",))],
)
def test_it_is_only_reported_where_evac_may_or_can_do_nothing(
    mode: str, number: int, sites: tuple[str, ...]
) -> None:
    """In mode advise, where a person set who confirms, and without a copy at a site that runs."""
    copies = Copies(*sites)

    async def story(world: World) -> None:
        await world.until_planned()
        await _with_epoch(world, copies, number=number)
        await world.until(lambda: bool(_reports(world)))
        await asyncio.sleep(2)
        (words,) = _reports(world)
        commits = "no replica is known to confirm commits of its primary at pangyo"
        assert words == f"chat: {commits}, although it may lose no data"
        assert (await _incidents(world), world.systems.log) == ([], [])

    play(story, _world(copies, mode))


def test_a_primary_that_the_last_run_did_not_leave_there_is_believed_by_nobody() -> None:
    """An old primary that is back while the present one is silent."""
    copies = Copies("ansan")
    copies.at = "anyang"

    async def story(world: World) -> None:
        await world.until_planned()
        await _with_epoch(world, copies)
        await asyncio.sleep(2)
        assert (_reports(world), await _incidents(world), world.systems.log) == ([], [], [])

    play(story, _world(copies))


@pytest.mark.parametrize("mark", ["lost", "evacuating", "evacuated"])
def test_a_copy_at_a_site_that_was_left_waits_for_its_restore(mark: str) -> None:
    copies = Copies("anyang", "ansan")

    async def story(world: World) -> None:
        await world.until_planned()
        register = orjson.loads((await world.store.get("sites")).value)  # type: ignore[union-attr]
        register["anyang"] = mark
        await world.store.transact((), [Put("sites", orjson.dumps(register))])
        await _with_epoch(world, copies)
        await world.until(lambda: ("protect", "chat") in world.systems.done)
        assert world.systems.done["protect", "chat"]["synchronous"] == ("dc-ansan",)

    play(story, _world(copies))


@pytest.mark.parametrize(("mode", "left"), [("hold", ()), ("act", ("dc-anyang",))])
def test_it_waits_for_a_person_by_policy_and_where_someone_else_switched_it_off(
    mode: str, left: tuple[str, ...]
) -> None:
    """It is asked once, also by the next leader, and withdrawn once a copy confirms."""
    copies = Copies("anyang")

    async def story(world: World) -> None:
        await world.until_planned()
        await _with_epoch(world, copies, *left)
        async with asyncio.timeout(20):
            while not await _incidents(world):
                await asyncio.sleep(0.02)
        first = world.leader
        world.tasks[first].cancel()
        await world.until(lambda: world.leader not in ("", first))
        await asyncio.sleep(2)
        assert await _incidents(world) == ["chat-confirm-4"]
        (entry,) = await world.store.list("open/")
        run = entry.key.removeprefix("open/")
        copies.confirms = True
        async with asyncio.timeout(20):
            while await world.store.list("open/"):
                await asyncio.sleep(0.02)
        events = await events_of(world.store, run)
        assert events[-1].data["phase"] == "cancelled"
        assert world.systems.log == []

    play(story, _world(copies, mode))


UNREADABLE = {"sites": b'{"pangyo":3}', "epoch/chat": b"[]"}


@pytest.mark.parametrize("key", UNREADABLE)
def test_what_nobody_can_read_is_reported_once_and_ends_no_controller(key: str) -> None:
    """As soon as it is readable, the copy confirms."""
    copies = Confirming("anyang")

    async def story(world: World) -> None:
        await world.until_planned()
        await _with_epoch(world, copies)
        kept = (await world.store.get(key)).value  # type: ignore[union-attr]
        await world.store.transact((), [Put(key, UNREADABLE[key])])
        await asyncio.sleep(5)
        assert not any(task.done() for task in world.tasks.values())
        words = "no replica is known to confirm commits of chat: "
        assert len([one for one in world.words("trouble") if one.startswith(words)]) == 1
        assert world.leader
        assert world.systems.log == []
        await world.store.transact((), [Put(key, kept)])
        await world.until(lambda: copies.confirms)
        assert await _incidents(world) == ["chat-confirm-4"]

    play(story, _world(copies))


class Refusing(Copies):
    def unconfirmed(self) -> Mapping[str, Unconfirmed]:
        raise NotAllowed("not-now", "the files cannot be read", "mend them")


def test_a_duty_that_is_refused_begins_again_and_ends_no_controller() -> None:
    copies = Refusing("anyang")

    async def story(world: World) -> None:
        await world.until_planned()
        await asyncio.sleep(12)
        said = [words for words in world.words("trouble") if "the files cannot be read" in words]
        assert said == ["unconfirmed commits: the files cannot be read"]
        assert not any(task.done() for task in world.tasks.values())

    play(story, _world(copies))


def test_a_request_that_cannot_be_withdrawn_ends_no_controller() -> None:
    """A copy confirms again while nobody can read the epoch that the request belongs to."""
    copies = Copies("anyang")

    async def story(world: World) -> None:
        await world.until_planned()
        await _with_epoch(world, copies)
        await world.until(lambda: any("chat-confirm-4" in words for words in world.words("run")))
        kept = (await world.store.get(key_of("chat"))).value  # type: ignore[union-attr]
        await world.store.transact((), [Put(key_of("chat"), UNREADABLE["epoch/chat"])])
        copies.confirms = True
        await asyncio.sleep(5)
        assert not any(task.done() for task in world.tasks.values())
        assert len(_reports(world)) == 2, "that none confirms, and that one does again"
        await world.store.transact((), [Put(key_of("chat"), kept)])
        async with asyncio.timeout(20):
            while await world.store.list("open/"):
                await asyncio.sleep(0.02)

    play(story, _world(copies, "hold"))


def test_a_run_that_stopped_at_the_store_comes_first_and_hides_nothing() -> None:
    """While its step is under way, it is not even reported."""
    copies = Copies("ansan")
    copies.at = "anyang"
    world = copies.world = Rejoining(policy_of("act"), commits=copies)

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.slow["rejoin"] = 5
        world.burn("pangyo")
        await world.until(lambda: "rejoin" in world.systems.verbs_done())
        copies.is_seen = True
        await asyncio.sleep(3)
        assert _reports(world) == []
        world.systems.refused["rejoin"] = "it does not answer"
        world.systems.slow.clear()
        await world.until(lambda: bool(_reports(world)), 30.0)
        await asyncio.sleep(3)
        assert not [name for name in await _incidents(world) if "confirm" in name]
        assert len(_reports(world)) == 1

    play(story, world)


def test_a_run_that_nobody_approves_comes_first_and_hides_nothing() -> None:
    copies = Copies("ansan")

    async def story(world: World) -> None:
        await world.until_planned()
        await _with_epoch(world, copies)
        copies.is_seen = False
        world.burn("pangyo")
        async with asyncio.timeout(20):
            while not await world.store.list("open/"):
                await asyncio.sleep(0.02)
        copies.is_seen = True
        await world.until(lambda: bool(_reports(world)))
        await asyncio.sleep(3)
        assert not [name for name in await _incidents(world) if "confirm" in name]
        assert world.systems.log == []

    play(story, _world(copies, "hold"))


def test_a_refused_attempt_is_reported_once_and_made_again() -> None:
    copies = Confirming("anyang")

    async def story(world: World) -> None:
        await world.until_planned()
        world.refuses = "the plan is too old"
        await _with_epoch(world, copies)
        await world.until(lambda: any("too old" in words for words in world.words("trouble")))
        await asyncio.sleep(3)
        said = [words for words in world.words("trouble") if "too old" in words]
        assert said == ["chat is not protected, and its replica at anyang follows: the plan is too old"]
        world.refuses = ""
        await world.until(lambda: copies.confirms)
        assert await _incidents(world) == ["chat-confirm-4"]

    play(story, _world(copies))


def test_a_step_that_failed_is_tried_again_while_none_confirms() -> None:
    copies = Confirming("anyang")
    policy = policy_of("act")
    policy = replace(policy, patience=replace(policy.patience, backoff_most_ms=5_000))
    world = copies.world = World(policy, commits=copies)

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.refused["protect"] = "dc-anyang does not stream now"
        await _with_epoch(world, copies)
        await world.until(lambda: world.systems.verbs_done().count("protect") == 6, 30.0)
        world.systems.refused.clear()
        await world.until(lambda: copies.confirms, 30.0)
        assert (await _epoch(world)).synchronous == ("dc-anyang",)
        assert await _incidents(world) == ["chat-confirm-4"]

    play(story, world)


@pytest.mark.parametrize(("wanted", "approvals"), [("next", 0), ("async", 0), ("ask", 2)])
def test_the_plan_of_it_asks_people_where_policy_asks_them(wanted: str, approvals: int) -> None:
    policy = RunPolicy(
        approvals=2,
        stores={"chat": StorePolicy("chat", on_sync_loss=wanted)},  # type: ignore[arg-type]
    )
    data = plan_to_confirm(PRIMARY, "dc-anyang")
    bound = bound_of(data, policy, run="r", incident="i", digest="d")
    assert bound.spec.approvals == approvals
    assert bound.actions["protect:chat"][0].parameters["synchronous"] == ("dc-anyang",)
    said = "chat: no replica is known to confirm commits; let dc-anyang confirm them"
    assert bound.spec.labels["scenario"] == said
