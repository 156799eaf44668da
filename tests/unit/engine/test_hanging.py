"""Commits that hang, and continue automatically before a person agreed to another synchronous copy."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest

from evac.engine.runs.protection import REJOIN_MS
from evac.engine.runs.reading import events_of
from evac.engine.stores.datasets import Epoch, encode, key_of
from evac.store.port import Entry, Put
from tests.unit.engine.rejoining import Rejoining
from tests.unit.engine.small_world import SiteStore, World, play, policy_of

PROTECT = orjson.dumps(
    {
        "protect": {
            "store": "chat",
            "driver": "simulated",
            "at": "pangyo",
            "settings": {},
            "synchronous": ["dc-ansan"],
        }
    }
)


async def _protections(lost: list[str], roles: object, left: list[str]) -> dict[str, bytes]:
    return {"chat": PROTECT} if "anyang" in lost else {}


class Copies:
    """What the leader sees of the copies of the store: none follows, or commits have gone on for long."""

    def __init__(self) -> None:
        self.hanging: dict[str, tuple[str, ...]] = {}
        self.going_on: set[str] = set()

    def hang(self) -> None:
        self.hanging["chat"] = ("anyang",)
        self.going_on.clear()

    def go_on(self) -> None:
        self.hanging.clear()
        self.going_on.add("chat")

    def world(self, mode: str) -> World:
        return World(
            policy_of(mode),
            protections=_protections,
            hangs=lambda: self.hanging,
            commits_go_on=lambda: self.going_on,
        )

    def rejoining(self, deadline_ms: int) -> World:
        """deadline_ms: the least that a step has."""
        policy = policy_of("act")
        policy = replace(policy, patience=replace(policy.patience, deadline_least_ms=deadline_ms))
        return Rejoining(policy, protections=_protections, hangs=lambda: self.hanging)


async def _open(world: World) -> list[str]:
    return [entry.key.removeprefix("open/") for entry in await world.store.list("open/")]


async def _until_open(world: World, number: int) -> list[str]:
    async with asyncio.timeout(20):
        while len(found := await _open(world)) != number:
            await asyncio.sleep(0.02)
    return found


def test_a_protection_that_nobody_approved_is_withdrawn_when_commits_go_on() -> None:
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        copies.hang()
        (run,) = await _until_open(world, 1)
        await asyncio.sleep(2)
        assert await _open(world) == [run], "it waits as long as commits do"
        copies.go_on()
        await _until_open(world, 0)
        last = (await events_of(world.store, run))[-2:]
        assert [event.kind for event in last] == ["cancelled", "run_ended"]
        assert last[0].data == {"who": "evac", "reason": "commits of chat continue automatically"}
        await world.until(lambda: any("is withdrawn" in words for words in world.words("run")))
        assert world.systems.log == []

    play(story, copies.world("hold"))


def test_a_second_hang_of_the_same_epoch_gets_a_run_of_its_own() -> None:
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        runs = []
        for _ in range(3):
            copies.hang()
            runs += await _until_open(world, 1)
            copies.go_on()
            await _until_open(world, 0)
        copies.hang()
        (run,) = await _until_open(world, 1)
        assert len({*runs, run}) == 4
        request = {"verb": "approve", "who": "kim", "reason": "it burns"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        await _until_open(world, 0)
        assert world.systems.verbs_done() == ["protect"]

    play(story, copies.world("hold"))


def test_what_a_person_approved_is_not_withdrawn() -> None:
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.slow["protect"] = 3
        copies.hang()
        (run,) = await _until_open(world, 1)
        request = {"verb": "approve", "who": "kim", "reason": "it burns"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        await world.until(lambda: "protect" in world.systems.verbs_done())
        copies.go_on()
        await _until_open(world, 0)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert "cancelled" not in kinds
        assert "step_succeeded" in kinds

    play(story, copies.world("hold"))


def test_a_protection_whose_step_failed_is_withdrawn_when_commits_go_on() -> None:
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.refused["protect"] = "dc-ansan does not stream now"
        copies.hang()
        (run,) = await _until_open(world, 1)
        await world.until(lambda: any("paused" in words for words in world.words("run")))
        await asyncio.sleep(2)
        assert await _open(world) == [run], "a person may say retry for as long as commits wait"
        copies.go_on()
        await _until_open(world, 0)
        assert (await events_of(world.store, run))[-1].data["phase"] == "cancelled"

    play(story, copies.world("act"))


def test_a_step_that_failed_is_tried_again_as_long_as_commits_hang() -> None:
    copies = Copies()
    policy = policy_of("act")
    policy = replace(policy, patience=replace(policy.patience, backoff_most_ms=5_000))
    world = World(policy, protections=_protections)
    world.hangs = lambda: {} if ("protect", "chat") in world.systems.done else copies.hanging

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.refused["protect"] = "dc-ansan does not stream now"
        copies.hang()
        (run,) = await _until_open(world, 1)
        await asyncio.sleep(3)
        assert len(world.systems.verbs_done()) == 3, "as often as policy says"
        await asyncio.sleep(4)
        assert len(world.systems.verbs_done()) == 6
        world.systems.refused.clear()
        await asyncio.sleep(8)
        events = await events_of(world.store, run)
        assert events[-1].data["phase"] == "succeeded"
        assert {one.data["who"] for one in events if one.kind == "step_retried"} == {"evac"}
        assert len(await world.store.list("incident/")) == 1

    play(story, world)


@pytest.mark.parametrize(("key", "unreadable"), [("sites", b'{"pangyo":3}'), ("epoch/chat", b"[]")])
def test_what_nobody_can_read_is_reported_once_and_ends_no_controller(key: str, unreadable: bytes) -> None:
    """As soon as it is readable, commits are let go on."""
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        await world.store.transact((), [Put(key_of("chat"), encode(Epoch("chat", 3, "pangyo")))])
        kept = (await world.store.get(key)).value  # type: ignore[union-attr]
        await world.store.transact((), [Put(key, unreadable)])
        copies.hang()
        await asyncio.sleep(5)
        assert not any(task.done() for task in world.tasks.values())
        said = [words for words in world.words("trouble") if words.startswith("commits of chat are waiting")]
        assert len(said) == 1, said
        assert world.systems.log == []
        await world.store.transact((), [Put(key, kept)])
        await world.until(lambda: world.systems.verbs_done() == ["protect"])

    play(story, copies.world("act"))


async def _of_two(lost: list[str], roles: object, left: list[str]) -> dict[str, bytes]:
    other = orjson.loads(PROTECT)["protect"] | {"store": "album"}
    return {"album": orjson.dumps({"protect": other}), "chat": PROTECT} if "anyang" in lost else {}


@pytest.mark.parametrize("spoilt", ["album", "chat", "gone"])
@pytest.mark.parametrize("how", ["commits hang", "site lost"])
def test_an_epoch_that_nobody_can_read_stops_the_protection_of_its_own_store_only(
    spoilt: str, how: str
) -> None:
    """gone: a store that the estate no longer has. The store is named, and protected once it is readable."""
    hanging: dict[str, tuple[str, ...]] = {}
    world = World(policy_of("act"), protections=_of_two)
    world.hangs = lambda: {store: at for store, at in hanging.items() if store not in protected()}

    def protected() -> set[str]:
        """Stores with a run that protects them; a person approves that of the other store."""
        return {words.split()[0] for words in world.words("loss") if "-protect-" in words}

    async def story(world: World) -> None:
        await world.until_planned()
        await world.store.transact((), [Put(key_of(spoilt), b"[]")])
        if how == "site lost":
            world.burn("anyang")
        else:
            hanging.update(album=("anyang",), chat=("anyang",))
        await world.until(lambda: protected() >= {"album", "chat"} - {spoilt}, 30.0)
        await asyncio.sleep(5)
        assert spoilt not in protected()
        assert not any(task.done() for name, task in world.tasks.items() if "anyang" not in name)
        said = [words for words in world.words("trouble") if f"cannot read the epoch of {spoilt}," in words]
        assert said or spoilt == "gone"
        assert len(said) == len(set(said))
        if how == "commits hang":
            await world.store.transact((), [Put(key_of(spoilt), encode(Epoch(spoilt, 3, "pangyo")))])
            await world.until(lambda: protected() == {"album", "chat"}, 30.0)

    play(story, world)


@pytest.mark.parametrize("mode", ["advise", "act"])
@pytest.mark.parametrize("how", ["commits hang", "site lost"])
def test_a_loss_is_not_certain_while_the_epoch_of_the_store_cannot_be_read(mode: str, how: str) -> None:
    """The files may name a primary and a replica that changed their roles since."""
    hanging: dict[str, tuple[str, ...]] = {}
    world = World(policy_of(mode), protections=_of_two, hangs=lambda: hanging)

    async def story(world: World) -> None:
        await world.until_planned()
        await world.store.transact((), [Put(key_of("chat"), b"[]")])
        if how == "site lost":
            world.burn("anyang")
        else:
            hanging.update(album=("anyang",), chat=("anyang",))
        lost = "lost its synchronous replica at anyang"
        await world.until(lambda: any(f"album {lost}" in words for words in world.words("loss")), 30.0)
        await world.until(
            lambda: any("cannot read the epoch of chat," in words for words in world.words("trouble")), 30.0
        )
        assert not any(f"chat {lost}" in notice.words for notice in world.notices)

    play(story, world)


@pytest.mark.parametrize("follows", [True, False])
def test_a_copy_that_is_brought_back_is_waited_for(follows: bool) -> None:
    """Its commits hang until it follows; where it does not in the end, another one is looked for."""
    copies = Copies()
    world = copies.rejoining(60_000)

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.slow["rejoin"] = 8
        world.burn("pangyo")
        await world.until(lambda: "rejoin" in world.systems.verbs_done())
        copies.hang()
        await asyncio.sleep(7.5)
        assert not any("protect" in run for run in await _open(world))
        if follows:
            copies.go_on()
        await asyncio.sleep(2)
        assert any("chat-protect-2" in words for words in world.words("loss")) is not follows

    play(story, world)


def test_a_copy_that_must_be_rebuilt_is_not_waited_for() -> None:
    """That takes hours, and commits hang meanwhile."""
    copies = Copies()
    world = copies.rejoining(3_600_000)

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.slow["rejoin"] = 1_800
        world.burn("pangyo")
        await world.until(lambda: "rejoin" in world.systems.verbs_done())
        copies.hang()
        await asyncio.sleep(REJOIN_MS / 1_000 - 5)
        assert not any("protect" in run for run in await _open(world))
        await world.until(lambda: any("chat-protect-2" in words for words in world.words("loss")), 30.0)

    play(story, world)


@pytest.mark.parametrize("again", ["hang", "try"])
def test_a_copy_is_waited_for_a_minute_in_each_try(again: str) -> None:
    """Not in each hang: it may be a copy that must be rebuilt."""
    copies = Copies()
    world = copies.rejoining(50_000 if again == "try" else 3_600_000)

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.slow["rejoin"] = 1_800
        world.burn("pangyo")
        await world.until(lambda: "rejoin" in world.systems.verbs_done())
        copies.hang()
        if again == "try":
            await world.until(lambda: world.systems.verbs_done().count("rejoin") == 2, 70.0)
            await asyncio.sleep(40)
        else:
            await asyncio.sleep(50)
            copies.go_on()
            await asyncio.sleep(1)
            copies.hang()
            await asyncio.sleep(25)
        waits = not any("chat-protect-2" in words for words in world.words("loss"))
        assert waits is (again == "try")

    play(story, world)


def test_a_run_that_is_made_before_a_new_leader_knows_what_was_left_open_is_carried_out_once() -> None:
    copies = Copies()

    async def story(world: World) -> None:
        copies.hang()
        for site in world.sites:
            world.start(site)
            _slowly_listed(world.stores[site], "open/")
        (run,) = await _until_open(world, 1)
        await asyncio.sleep(6)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds == ["run_created", "approval_needed"], "nobody takes it over from whoever made it"
        assert len(world.words("leader")) == 1, "and it leads on"

    play(story, copies.world("hold"), ())


def test_a_run_that_is_asked_for_again_while_a_new_leader_takes_it_over_is_carried_out_once() -> None:
    copies = Copies()

    async def story(world: World) -> None:
        await world.until_planned()
        copies.hang()
        (run,) = await _until_open(world, 1)
        first = world.leader
        for site in world.sites:
            _slowly_listed(world.stores[site], f"journal/{run}/")
        world.tasks[first].cancel()
        await world.until(lambda: world.leader not in ("", first))
        await asyncio.sleep(8)
        request = {"verb": "approve", "who": "kim", "reason": "it burns"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        await _until_open(world, 0)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds.count("leader_changed") == 1, "it is taken over once"
        assert world.systems.verbs_done() == ["protect"]
        leads = [words for words in world.words("leader") if words.endswith("leads")]
        assert len(leads) == 2, "and whoever took it over leads on"

    play(story, copies.world("hold"))


def _slowly_listed(store: SiteStore, prefix: str) -> None:
    """What is there under a prefix is asked for now, and said as it is three seconds later."""
    known = store.list

    async def listed(asked: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        if asked == prefix and not after:
            await asyncio.sleep(3)
        return await known(asked, after, limit)

    store.list = listed  # type: ignore[method-assign]
