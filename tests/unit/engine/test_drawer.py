"""The drawer: a plan for each loss, made anew when the estate changes, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac import __version__
from evac.engine.plans.library import (
    PART_BYTES,
    Drawer,
    Made,
    Ready,
    digest_of,
    find_plan,
    get_plan,
    lend_plan,
    put_plan,
    scenarios_of,
)
from evac.engine.plans.queue import WantedPlan, Work
from evac.model.errors import Corrupt, InvalidInput, LeaseLost, PlanError, UnsafePlan
from evac.store.port import Delete, Entry, Lease, MemoryStore, Put

SITES = ("anyang", "ansan", "pangyo")
NO_LUCK = PlanError("no-plan", "no luck")


class _Clock:
    def __init__(self) -> None:
        self.wall_ms = 1_764_000_000_000

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_ms(self) -> int:
        return self.wall_ms


class _World:
    """A store with a leader, and a planner that writes down what it was asked."""

    def __init__(self) -> None:
        self.store, self.clock, self.estate = MemoryStore(), _Clock(), "sha256:one"
        self.asked: list[tuple[str, ...]] = []
        self.drawer = Drawer(self.store, self.clock, SITES, self._plan, lambda: self.estate, look_ms=10)
        self.guard: Lease

    async def _plan(self, lost: tuple[str, ...]) -> bytes:
        self.asked.append(lost)
        if lost == ("anyang", "ansan"):
            raise PlanError("no-plan", "nothing is left to serve from")
        return f"{self.estate} without {lost}".encode()

    async def fill(self) -> None:
        while await self.drawer.fill_one(self.guard):
            pass


def _story(story: Any) -> None:
    async def play() -> None:
        world = _World()
        world.guard = await world.store.acquire("leader", "c1", 60_000)
        await story(world)

    asyncio.run(play())


def _run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_scenarios_are_each_site_and_each_pair() -> None:
    assert scenarios_of(SITES) == (
        ("ansan",),
        ("anyang",),
        ("pangyo",),
        ("ansan", "anyang"),
        ("ansan", "pangyo"),
        ("anyang", "pangyo"),
    )
    assert scenarios_of(("a", "b")) == (("a",), ("b",)), "without both there is nothing to plan"
    assert scenarios_of(("a",)) == ()


def test_it_fills_and_then_rests() -> None:
    async def story(world: _World) -> None:
        await world.fill()
        assert world.asked == list(scenarios_of(SITES))
        ready = await world.drawer.take(("pangyo",))
        assert ready is not None
        assert ready[1] == b"sha256:one without ('pangyo',)"
        assert ready[0].plan == digest_of(ready[1])
        world.asked.clear()
        await world.fill()
        assert world.asked == []

    _story(story)


def test_an_idle_library_makes_plans_as_soon_as_the_estate_is_another() -> None:
    async def story(world: _World) -> None:
        hour_ms = 3_600_000
        world.drawer = Drawer(
            world.store, world.clock, SITES, world._plan, lambda: world.estate, look_ms=hour_ms
        )
        filling = asyncio.create_task(world.drawer.run(world.guard))
        async with asyncio.timeout(30):
            while len(world.asked) < len(scenarios_of(SITES)):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # idle by now
            world.asked.clear()
            world.estate = "sha256:two"
            while len(world.asked) < len(scenarios_of(SITES)):
                await asyncio.sleep(0.01)
        filling.cancel()

    _story(story)


def test_another_estate_makes_every_plan_anew_and_the_old_ones_are_not_taken() -> None:
    async def story(world: _World) -> None:
        await world.fill()
        world.estate = "sha256:two"
        assert await world.drawer.take(("pangyo",)) is None, "a stale plan is not a plan"
        assert await world.drawer.look(("pangyo",)) is not None
        world.asked.clear()
        await world.fill()
        assert len(world.asked) == 6
        taken = await world.drawer.take(("pangyo", "anyang"))
        assert taken is not None
        assert taken[1] == b"sha256:two without ('anyang', 'pangyo')"

    _story(story)


def test_old_plans_are_made_anew_one_at_a_time() -> None:
    async def story(world: _World) -> None:
        await world.fill()
        world.clock.wall_ms += 3_600_001
        world.asked.clear()
        assert await world.drawer.fill_one(world.guard)
        assert world.asked == [("ansan",)]
        await world.fill()
        assert len(world.asked) == 6

    _story(story)


def test_a_loss_without_a_plan_says_why_and_is_not_tried_again_at_once() -> None:
    async def story(world: _World) -> None:
        async def fail(lost: tuple[str, ...]) -> bytes:
            raise PlanError("no-plan", "nothing is left to serve from")

        world.drawer = Drawer(world.store, world.clock, SITES, fail, lambda: "e")
        assert await world.drawer.fill_one(world.guard)
        ready = await world.drawer.look(("ansan",))
        assert ready is not None
        assert (ready.plan, ready.problem) == ("", "nothing is left to serve from")
        assert await world.drawer.take(("ansan",)) is None
        assert await world.drawer.plan_now(("ansan",), world.guard) is None

    _story(story)


@pytest.mark.parametrize("lost", [(), ("pangyo",), ("anyang", "pangyo")])
def test_what_lies_ready_says_for_which_loss_as_it_did_when_it_was_made(lost: tuple[str, ...]) -> None:
    async def story(world: _World) -> None:
        made = await world.drawer.plan_now(lost, world.guard)
        assert made is not None
        assert made[0].lost == lost
        assert await world.drawer.take(lost) == made

    _story(story)


def test_a_planner_that_never_ends_is_stopped() -> None:
    async def story(world: _World) -> None:
        async def hang(lost: tuple[str, ...]) -> bytes:
            await asyncio.sleep(60)
            return b""

        world.drawer = Drawer(world.store, world.clock, SITES, hang, lambda: "e", plan_ms=20)
        assert await world.drawer.fill_one(world.guard)
        ready = await world.drawer.look(("ansan",))
        assert ready is not None
        assert ready.problem == "no plan in 0 s"

    _story(story)


def test_only_the_leader_fills_it() -> None:
    async def story(world: _World) -> None:
        await world.store.release(world.guard)
        with pytest.raises(LeaseLost):
            await world.drawer.run(world.guard)
        assert await world.store.list("drawer/") == []

    _story(story)


def test_a_changed_estate_is_noticed_while_it_runs() -> None:
    async def story(world: _World) -> None:
        task = asyncio.ensure_future(world.drawer.run(world.guard))
        await asyncio.sleep(0.05)
        assert len(world.asked) == 6
        world.estate = "sha256:two"
        await asyncio.sleep(0.1)
        assert len(world.asked) == 12
        task.cancel()

    _story(story)


@given(st.integers(1, 3 * PART_BYTES))
@settings(max_examples=10, deadline=None)
def test_plans_of_any_size_come_back_whole(size: int) -> None:
    async def story() -> None:
        store, data = MemoryStore(), random.Random(size).randbytes(size)
        digest = await put_plan(store, data)
        assert await put_plan(store, data) == digest, "twice is once"
        assert await get_plan(store, digest) == data
        assert len(await store.list("plan/")) == -(-size // PART_BYTES)

    _run(story())


def test_a_plan_that_says_much_with_few_words_takes_little_room() -> None:
    async def story() -> None:
        store, data = MemoryStore(), b'{"steps":[' + b"1," * PART_BYTES + b"1]}"
        digest = await put_plan(store, data)
        (entry,) = await store.list(f"plan/{digest}/")
        assert len(entry.value) < len(data) // 50
        assert await get_plan(store, digest) == data
        for broken in (entry.value[:-1], entry.value + b"x", entry.value[:40] + b"!" + entry.value[41:]):
            await store.transact((), [Put(entry.key, broken)])
            with contextlib.suppress(Corrupt):
                assert await get_plan(store, digest) == data

    _run(story())


def test_a_plan_that_is_not_whole_is_corrupt() -> None:
    async def story() -> None:
        store = MemoryStore()
        digest = await put_plan(store, random.Random(1).randbytes(2 * PART_BYTES + 1))
        keys = [entry.key for entry in await store.list("plan/")]
        for key in keys:
            entry = await store.get(key)
            assert entry is not None
            await store.transact((), [Delete(key)])
            with pytest.raises(Corrupt):
                await get_plan(store, digest)
            await store.transact((), [Put(key, b"y" + entry.value[1:])])
            with pytest.raises(Corrupt):
                await get_plan(store, digest)
            await store.transact((), [Put(key, entry.value)])
        assert len(await get_plan(store, digest)) == 2 * PART_BYTES + 1
        with pytest.raises(Corrupt):
            await get_plan(store, "sha256:00")

    _run(story())


def test_a_plan_is_named_by_the_beginning_of_its_digest() -> None:
    async def story() -> None:
        store = MemoryStore()
        digest = await put_plan(store, b"x" * (PART_BYTES + 1))
        assert await find_plan(store, digest[:19]) == await find_plan(store, digest) == digest
        for named in ("sha256:00", digest[:18], "sha256:" + "g" * 12, digest + "0", "plan/"):
            with pytest.raises(InvalidInput, match="does not identify a plan"):
                await find_plan(store, named)
        with pytest.raises(InvalidInput, match="is not in the store"):
            await find_plan(store, "sha256:" + "0" * 12)
        await store.transact((), [Put(f"plan/{digest[:-1]}!/000000", b"y")])
        with pytest.raises(InvalidInput, match="several plans"):
            await find_plan(store, digest[:19])

    _run(story())


class _Keeper:
    """A planner that keeps many plans, two at a time: what it is asked, and what it answers."""

    lanes = 2

    def __init__(self) -> None:
        self.more = [WantedPlan(("pangyo/hall",), "hall", 40), WantedPlan(("pangyo/feed",), "feed", 90)]
        self.asked: list[tuple[int, str, str]] = []
        self.fails: dict[str, PlanError] = {}
        self.same = True

    async def scenarios(self) -> list[WantedPlan]:
        if self.more is None:
            raise PlanError("planner-died", "the planning process ended unexpectedly")
        return self.more

    async def stand(
        self,
        lane: int,
        lost: tuple[str, ...],
        work: Work,
        known: Ready | None,
        load: Callable[[str], Awaitable[bytes]],
    ) -> Made:
        self.asked.append((lane, "+".join(lost), work))
        await asyncio.sleep(0)
        if work in self.fails:
            raise self.fails[work]
        if known is not None and known.plan and work != "search" and self.same:
            return Made(await load(known.plan), "basis", known.searched, confirmed=True)
        return Made(f"{work} {lost}".encode(), "basis", searched=work == "search")


def _kept(story: Any) -> None:
    async def play() -> None:
        world, keeper = _World(), _Keeper()
        world.drawer = Drawer(world.store, world.clock, SITES, keeper, lambda: world.estate, look_ms=10)
        world.guard = await world.store.acquire("leader", "c1", 60_000)
        await story(world, keeper)

    asyncio.run(play())


def test_every_domain_gets_a_plan_and_a_better_one_afterwards() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        await world.fill()
        names = [name for _, name, work in keeper.asked if work == "make"]
        assert names[-2:] == ["pangyo/feed", "pangyo/hall"]
        assert len(names) == 8
        assert [work for _, _, work in keeper.asked[8:]] == ["search"] * 8
        ready = await world.drawer.look(("pangyo/feed",))
        assert ready is not None
        assert (ready.kind, ready.people, ready.searched) == ("feed", 90, True)

    _kept(story)


def test_after_a_change_what_was_made_of_the_same_is_confirmed_and_keeps_its_age() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        await world.fill()
        before = await world.drawer.look(("pangyo",))
        keeper.asked.clear()
        world.estate, world.clock.wall_ms = "sha256:two", world.clock.wall_ms + 5_000
        await world.fill()
        after = await world.drawer.look(("pangyo",))
        assert before is not None
        assert after is not None
        assert (after.plan, after.made_ms, after.at_ms) == (before.plan, before.made_ms, world.clock.wall_ms)
        assert {work for _, _, work in keeper.asked} == {"make"}, (
            "what was searched for is not searched again"
        )

    _kept(story)


def test_a_planner_that_died_is_asked_again_what_wants_a_plan() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        more, keeper.more = keeper.more, None  # type: ignore[assignment]
        assert await world.drawer.fill_one(world.guard)
        keeper.more = more
        await world.fill()
        assert await world.drawer.look(("pangyo/feed",)) is not None

    _kept(story)


def test_a_search_that_fails_leaves_the_plan_that_is_there() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        keeper.fails = {"search": NO_LUCK}
        await world.fill()
        ready = await world.drawer.take(("pangyo",))
        assert ready is not None
        assert ready[0].problem == ""
        assert ready[1] == b"make ('pangyo',)"

    _kept(story)


def test_a_plan_that_lies_there_goes_once_the_checker_refuses_it_and_not_when_nobody_can_look() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        await world.fill()
        keeper.fails, keeper.same = {"confirm": NO_LUCK}, False
        world.clock.wall_ms += 3_600_001
        await world.fill()
        assert await world.drawer.take(("pangyo",)) is not None
        keeper.fails = {"confirm": UnsafePlan("plan-wrong", "F17 web: has no room")}
        world.clock.wall_ms += 3_600_001
        await world.fill()
        assert await world.drawer.take(("pangyo",)) is None
        ready = await world.drawer.look(("pangyo",))
        assert ready is not None
        assert (ready.plan, ready.problem) == ("", "F17 web: has no room")

    _kept(story)


@pytest.mark.parametrize("judged", [None, "", "0.0.1"])
def test_a_plan_that_no_checker_of_this_version_accepted_is_not_ready_until_one_does(
    judged: str | None,
) -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        await world.fill()
        entry = await world.store.get("drawer/pangyo")
        assert entry is not None
        told = orjson.loads(entry.value)
        assert told.pop("judged") == __version__
        told |= {} if judged is None else {"judged": judged}
        await world.store.transact((), (Put(entry.key, orjson.dumps(told)),))
        world.drawer = Drawer(world.store, world.clock, SITES, keeper, lambda: world.estate, look_ms=10)
        assert await world.drawer.take(("pangyo",)) is None
        keeper.asked.clear()
        await world.fill()
        assert [(name, work) for _, name, work in keeper.asked] == [("pangyo", "make")]
        taken = await world.drawer.take(("pangyo",))
        assert taken is not None
        assert taken[0].plan == told["plan"]

    _kept(story)


def test_two_lanes_share_the_work_and_one_of_them_never_searches() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        task = asyncio.ensure_future(world.drawer.run(world.guard))
        async with asyncio.timeout(30):
            while len(keeper.asked) < 16:
                await asyncio.sleep(0.01)
        task.cancel()
        assert {lane for lane, _, work in keeper.asked if work == "make"} == {0, 1}
        assert {lane for lane, _, work in keeper.asked if work == "search"} == {0}
        made = [name for _, name, work in keeper.asked if work == "make"]
        assert len(made) == len(set(made)) == 8

    _kept(story)


def test_a_domain_that_is_gone_from_the_estate_leaves_the_drawer() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        await world.fill()
        keeper.more = keeper.more[:1]
        world.estate = "sha256:two"
        await world.fill()
        assert await world.drawer.look(("pangyo/feed",)) is None
        assert await world.drawer.look(("pangyo/hall",)) is not None

    _kept(story)


def test_a_plan_that_was_lent_goes_after_a_day_unless_it_is_kept_or_lent_again() -> None:
    async def story(world: _World) -> None:
        day_ms, lent = 86_400_000, {}
        for name in ("left", "kept", "again", "just now"):
            lent[name] = await lend_plan(world.store, name.encode(), world.clock.now_ms())
        await put_plan(world.store, b"kept", world.guard)
        assert await world.drawer.sweep(world.guard) == 0
        world.clock.wall_ms += day_ms
        await lend_plan(world.store, b"again", world.clock.now_ms())
        known, meanwhile = world.store.get, [b"just now"]

        async def get(key: str) -> Entry | None:
            found = await known(key)
            if key == f"plan-kept/{lent['just now']}" and meanwhile:  # handed over again as it is taken away
                await lend_plan(world.store, meanwhile.pop(), world.clock.now_ms())
            return found

        world.store.get = get  # type: ignore[method-assign]
        await world.drawer.sweep(world.guard)
        assert not meanwhile
        for name in ("kept", "again", "just now"):
            assert await get_plan(world.store, lent[name]) == name.encode()
        with pytest.raises(Corrupt):
            await get_plan(world.store, lent["left"])
        world.clock.wall_ms += day_ms
        assert await world.drawer.sweep(world.guard) == 2
        assert [entry.key for entry in await world.store.list("plan-left/")] == []
        assert {entry.key.split("/")[1] for entry in await world.store.list("plan/")} == {lent["kept"]}

    _story(story)


def test_a_plan_that_another_took_the_place_of_is_taken_away_after_a_day_unless_somebody_keeps_it() -> None:
    async def story(world: _World, keeper: _Keeper) -> None:
        await world.fill()
        first = {ready.lost: ready for lost in SITES if (ready := await world.drawer.look((lost,)))}
        kept = first["pangyo",].plan
        await put_plan(world.store, await get_plan(world.store, kept), world.guard)
        keeper.same, world.estate = False, "sha256:two"
        keeper.fails = {"search": NO_LUCK}
        await world.fill()
        assert await world.drawer.sweep(world.guard) == 0, "somebody may hold its digest"
        world.clock.wall_ms += 90_000_000
        assert await world.drawer.sweep(world.guard) > 0
        assert await get_plan(world.store, kept)
        with pytest.raises(Corrupt):
            await get_plan(world.store, first["ansan",].plan)
        for ready in [await world.drawer.look((lost,)) for lost in SITES]:
            assert ready is not None
            assert await get_plan(world.store, ready.plan), "what lies in the drawer stays"

    _kept(story)


def test_a_plan_that_is_made_at_once_beside_a_lane_at_work_leaves_none_that_nobody_takes_away() -> None:
    async def play() -> None:
        store, clock, made = MemoryStore(), _Clock(), 0

        async def plan(lost: tuple[str, ...]) -> bytes:
            nonlocal made
            made += 1
            number = made
            for _ in range(number * 3 % 7):  # they end in another order than they began
                await asyncio.sleep(0)
            return f"{number} without {lost}".encode()

        drawer = Drawer(store, clock, ("anyang", "ansan"), plan, lambda: "sha256:one", look_ms=10)
        guard = await store.acquire("leader", "c1", 60_000)
        lost = ("ansan",)
        await asyncio.gather(drawer.fill_one(guard), *(drawer.plan_now(lost, guard) for _ in range(4)))
        ready = await drawer.look(lost)
        assert ready is not None
        stored = {entry.key.split("/")[1] for entry in await store.list("plan/")}
        left = {entry.key.removeprefix("plan-left/") for entry in await store.list("plan-left/")}
        assert len(stored) == 5
        assert stored == left | {ready.plan}

    _run(play())
