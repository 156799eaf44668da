"""Another loss while a run is under way: one plan for all lost sites, in the same run, and what is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from evac.engine.plans.library import digest_of, put_plan
from evac.engine.runs import requests
from evac.engine.runs.conductor import Conductor
from evac.engine.runs.effects import CLEARED, EffectsReader
from evac.engine.runs.reading import events_of
from evac.engine.stores.guards import SITES_KEY, read_register
from evac.run.values import Event
from evac.store.port import Put
from tests.unit.engine.small_world import World, play, policy_of
from tests.unit.engine.test_effects import moved, put

FIVE = ("anyang", "ansan", "busan", "daegu", "pangyo")
SERVING = ("pangyo", "anyang", "busan")
BOTH = ("anyang", "pangyo")


def five(mode: str = "act", **more: Any) -> World:
    return World(policy_of(mode), sites=FIVE, serving=SERVING, **more)


async def run_of(world: World) -> str:
    (entry,) = await world.store.list("open/")
    return entry.key.removeprefix("open/")


async def events(world: World, run: str, *kinds: str) -> list[Event]:
    return [event for event in await events_of(world.store, run) if not kinds or event.kind in kinds]


async def until_event(world: World, run: str, kind: str, most_s: float = 8.0) -> Event:
    try:
        async with asyncio.timeout(most_s):
            while not (found := await events(world, run, kind)):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError([notice.words for notice in world.notices]) from None
    return found[-1]


async def ask(world: World, run: str, verb: Any, number: str, **more: Any) -> None:
    request = requests.Request(number, verb, "kim", "it burns", **more)
    await world.store.transact((), [Put(requests.key_of(run, number), requests.encode(request))])


async def until_ended(world: World, most_s: float = 10.0) -> None:
    try:
        async with asyncio.timeout(most_s):
            while not await world.ended():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError([notice.words for notice in world.notices]) from None


def state(world: World) -> str:
    return world.controllers[world.leader].standings["pangyo"].verdict.state if world.leader else ""


async def epoch(world: World) -> dict[str, Any]:
    entry = await world.store.get("epoch/chat")
    assert entry is not None
    return dict(orjson.loads(entry.value))


async def burns(world: World, stuck: str = "fence") -> str:
    """One site burns, and its run gets as far as what is stuck; the run."""
    await world.until_planned()
    world.systems.stuck.add(stuck)
    world.burn("pangyo")
    await world.until(lambda: stuck in world.systems.verbs_done())
    return await run_of(world)


async def two_burn(world: World, stuck: str = "fence") -> str:
    """The candidate burns while it is fenced, or promoted; the run."""
    run = await burns(world, stuck)
    world.burn("anyang")
    await until_event(world, run, "plan_replaced")
    world.systems.stuck.clear()
    return run


def test_a_second_site_waits_for_both_names_and_then_goes_on_in_the_same_run() -> None:
    async def story(world: World) -> None:
        run = await two_burn(world)
        told = (await until_event(world, run, "plan_replaced")).data
        assert (told["lost"], told["names"], told["approvals"]) == (list(BOTH), list(BOTH), 0)
        asked = await until_event(world, run, "approval_needed")
        assert any("type their names to confirm: anyang, pangyo" in words for words in asked.data["outside"])
        await ask(world, run, "approve", "r1")
        refused = await until_event(world, run, "request_refused")
        assert "--confirm anyang --confirm pangyo" in refused.data["why"]
        assert (await read_register(world.store))["anyang"] == "active", "nobody typed its name"
        assert "promote" not in world.systems.verbs_done()
        await ask(world, run, "approve", "r2", typed=BOTH)
        await until_ended(world)
        assert (await read_register(world.store))["anyang"] == "lost"
        assert [entry[2] for entry in world.systems.log if entry[0] == "promote"] == ["busan"]
        assert world.systems.done["shift", "web"] == {"to": "busan", "away": "anyang,pangyo"}
        assert (await epoch(world))["holder"] == "busan"
        started = [event.step for event in await events(world, run, "step_started")]
        assert started == ["fence:chat", "fence:chat~2", "promote:chat", "shift:web"]
        assert len(await world.store.list("incident/")) == 1

    play(story, five())


def test_a_site_is_lost_since_it_was_first_taken_for_lost_whoever_looks_and_whatever_came_after() -> None:
    async def since(world: World) -> dict[str, int]:
        found = await EffectsReader(world.store).read(9_999_999_999_999)
        return {one.domain: one.since_ms for one in found.lost}

    async def story(world: World) -> None:
        run = await burns(world)
        first = await since(world)
        assert list(first) == ["pangyo"]
        world.burn("anyang")
        await until_event(world, run, "plan_replaced")
        await ask(world, run, "approve", "r1", typed=BOTH)
        async with asyncio.timeout(8.0):
            while (await read_register(world.store))["anyang"] != "lost":
                await asyncio.sleep(0.02)
        both = await since(world)
        assert first.items() <= both.items()
        assert both["anyang"] > first["pangyo"]
        world.systems.stuck.clear()
        await until_ended(world)

    play(story, five())


def test_no_plan_of_before_a_promotion_is_taken_once_its_new_primary_burns() -> None:
    async def story(world: World) -> None:
        run = await burns(world, "shift")
        world.unseen.add("anyang")
        world.burn("anyang")
        await world.until(lambda: world.asked_unseen >= 3)
        assert not await events(world, run, "plan_replaced"), "whoever was promoted last is not looked at yet"
        world.unseen.clear()
        await until_event(world, run, "plan_replaced")
        world.systems.stuck.clear()
        await ask(world, run, "approve", "r1", typed=BOTH)
        await until_ended(world)
        assert (await epoch(world))["holder"] == "busan"

    play(story, five())


def test_names_typed_beforehand_let_the_new_plan_go_on_by_itself() -> None:
    async def story(world: World) -> None:
        run = await burns(world)
        await ask(world, run, "approve", "r1", typed=BOTH)
        await until_event(world, run, "approved")
        world.burn("anyang")
        await until_event(world, run, "plan_replaced")
        world.systems.stuck.clear()
        await until_ended(world)
        assert not await events(world, run, "approval_needed")
        assert await read_register(world.store) == dict.fromkeys(FIVE, "active") | dict.fromkeys(BOTH, "lost")

    play(story, five())


def test_the_leader_burns_with_the_second_site_in_the_middle() -> None:
    async def story(world: World) -> None:
        await world.until(lambda: world.leader == "anyang")
        for site in FIVE:
            if site != "anyang":
                world.start(site)
        run = await two_burn(world)
        assert world.leader not in ("", "anyang", "pangyo")
        first = world.leader
        world.stores[first].cut = True  # and its successor stops right after the new plan was written
        world.tasks[first].cancel()
        world.start(first)
        await ask(world, run, "approve", "r1", typed=BOTH)
        await until_ended(world, 14.0)
        replaced = await events(world, run, "plan_replaced")
        assert [event.data["lost"] for event in replaced] == [list(BOTH)], "said once"
        assert [entry[2] for entry in world.systems.log if entry[0] == "promote"] == ["busan"]
        assert (await epoch(world))["holder"] == "busan"

    play(story, five(), ("anyang",))


def test_a_promotion_in_doubt_at_the_second_site_asks_once_and_a_person_settles_it() -> None:
    async def story(world: World) -> None:
        world.systems.unseen.add(("promote", "anyang"))
        run = await two_burn(world, "promote")
        await ask(world, run, "approve", "r1", typed=BOTH)
        failed = await until_event(world, run, "step_failed")
        assert (failed.step, failed.data["code"]) == ("fence:chat~2", "candidate-unknown")
        assert "--seen fenced=anyang" in failed.data["message"]
        await asyncio.sleep(0.5)
        assert len(await events(world, run, "step_failed")) == 1, "said once"
        await ask(world, run, "attest", "r2", step="fence:chat~2")
        refused = await until_event(world, run, "request_refused")
        assert "the outcome of anyang" in refused.data["why"]
        await ask(world, run, "attest", "r3", step="fence:chat~2", evidence={"fenced": "anyang"})
        await until_ended(world)
        assert [entry[2] for entry in world.systems.log if entry[0] == "promote"] == ["anyang", "busan"]
        assert ((await epoch(world))["holder"], (await epoch(world))["rung"]) == ("busan", "attest")

    play(story, World(policy_of("act", proofs=("sync", "attest")), sites=FIVE, serving=SERVING))


def test_a_person_attests_while_a_dead_leader_still_holds_the_store() -> None:
    async def story(world: World) -> None:
        world.systems.unseen.add(("promote", "anyang"))
        run = await two_burn(world, "promote")
        await ask(world, run, "approve", "r1", typed=BOTH)
        await until_event(world, run, "step_failed")
        await world.stores[world.leader].acquire("store/chat", "gone/1", 3_000)
        await ask(world, run, "attest", "r2", step="fence:chat~2", evidence={"fenced": "anyang"})
        await until_ended(world)
        assert await events(world, run, "request_refused") == []
        assert ((await epoch(world))["holder"], (await epoch(world))["rung"]) == ("busan", "attest")

    play(story, World(policy_of("act", proofs=("sync", "attest")), sites=FIVE, serving=SERVING))


def test_what_a_run_does_not_touch_is_answered_when_it_has_ended() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.stuck.add("promote")
        world.burn("pangyo")
        await world.until(lambda: "promote" in world.systems.verbs_done())
        first = await run_of(world)
        world.burn("daegu")
        await world.until(lambda: any("does nothing at this site" in words for words in world.words("loss")))
        world.systems.stuck.clear()
        await world.until(lambda: any("--confirm daegu --confirm pangyo" in w for w in world.words("loss")))
        assert not await events(world, first, "plan_replaced")
        assert (await events(world, first))[-1].kind == "run_ended"
        assert (await read_register(world.store))["daegu"] == "active"
        assert len([w for w in world.words("loss") if "does nothing at this site" in w]) == 1

    play(story, five())


def test_a_second_site_that_answers_again_is_counted_on_again() -> None:
    async def story(world: World) -> None:
        run = await two_burn(world)
        world.burnt.discard("anyang")
        world.start("anyang")
        await until_ended(world)
        replaced = await events(world, run, "plan_replaced")
        assert [event.data["lost"] for event in replaced] == [list(BOTH), ["pangyo"]]
        assert (await read_register(world.store))["anyang"] == "active"
        assert (await epoch(world))["holder"] == "anyang"

    play(story, five())


def test_a_site_that_lives_by_now_is_not_left_as_a_lost_one_whoever_types_its_name() -> None:
    async def story(world: World) -> None:
        run = await two_burn(world)
        world.cuts |= {("anyang", site) for site in FIVE if site != "anyang"}
        world.burnt.discard("anyang")
        world.start("anyang")
        leader = world.controllers[world.leader]
        await world.until(lambda: leader.standings["anyang"].verdict.state == "isolated")
        await ask(world, run, "approve", "r1", typed=BOTH)
        refused = await until_event(world, run, "request_refused")
        assert "anyang is isolated" in refused.data["why"]
        assert (await read_register(world.store))["anyang"] == "active"
        world.cuts.clear()
        await until_ended(world)
        assert (await events(world, run, "plan_replaced"))[-1].data["lost"] == ["pangyo"]
        assert (await read_register(world.store))["anyang"] == "active"

    play(story, five())


async def evacuating(world: World) -> str:
    """A person has pangyo evacuated to anyang, and approves; the run."""
    await world.until_planned()
    data = world.evacuation("pangyo", "anyang")
    await put_plan(world.store, data)
    wanted = {
        "incident": "move-1",
        "plan": digest_of(data),
        "reason": "a new roof",
        "leaving": ["pangyo"],
        "mark": "evacuating",
        "ends": {"pangyo": "evacuated"},
    }
    await world.store.transact((), [Put(f"proposal/{1:013d}-{1:012x}", orjson.dumps(wanted))])
    async with asyncio.timeout(5):
        while not await world.store.list("open/"):
            await asyncio.sleep(0.01)
    run = await run_of(world)
    await ask(world, run, "approve", "r1")
    return run


async def evacuate(world: World, stuck: str) -> str:
    """A person has pangyo evacuated to anyang; it burns while something hangs."""
    world.systems.stuck.add(stuck)
    run = await evacuating(world)
    await world.until(lambda: stuck in world.systems.verbs_done())
    world.burn("pangyo")
    await until_event(world, run, "plan_replaced")
    world.systems.stuck.clear()
    return run


@pytest.mark.parametrize("proof", ["sync", "network"])
def test_a_site_lost_in_an_orderly_way_out_is_left_the_hard_way(proof: str) -> None:
    async def story(world: World) -> None:
        run = await evacuate(world, "promote")
        await until_ended(world)
        kinds = [event.kind for event in await events(world, run)]
        assert kinds.index("made_ungraceful") < kinds.index("plan_replaced")
        assert "approval_needed" not in kinds[2:], "it is inside what was approved"
        assert "fence" not in world.systems.verbs_done(), "what was demoted completely is the proof"
        assert (await epoch(world))["rung"] == "demote"
        assert (await epoch(world))["holder"] == "anyang"
        assert (await read_register(world.store))["pangyo"] == "lost"

    play(story, five("hold", proof=proof))


def test_a_demotion_that_did_not_come_through_is_no_proof_and_the_ladder_is_climbed() -> None:
    async def story(world: World) -> None:
        run = await evacuate(world, "demote")
        await until_ended(world)
        assert world.systems.verbs_done() == ["demote", "fence", "promote", "shift"]
        assert (await epoch(world))["rung"] == "sync"
        ended = (await events(world, run))[-1]
        assert ended.data["phase"] == "succeeded_with_exceptions"

    play(story, five("act"))


def test_a_plan_that_takes_long_is_not_made_in_silence() -> None:
    world = World(policy_of("act"))
    quick = world.plan

    async def slow(lost: tuple[str, ...]) -> bytes:
        await asyncio.sleep(35 if world.burnt else 0)
        return await quick(lost)

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.done["promote", "chat"] = {"candidate": "anyang"}  # all plans are of another estate
        world.burn("pangyo")
        await world.until(lambda: any("made: 30 s so far" in words for words in world.words("run")), 90)
        said = [words for words in world.words("run") if "still being made" in words]
        assert said == [
            f"the plan for the loss of pangyo is still being made: {n} s so far" for n in (10, 20, 30)
        ]
        (first,) = [words for words in world.words("loss") if "being made now" in words]
        assert first.startswith("pangyo is lost; no plan is ready for this")
        await world.until(lambda: any("starts without approval" in w for w in world.words("loss")), 90)

    world.plan = slow  # type: ignore[method-assign]
    play(story, world)


def test_a_plan_for_a_site_that_is_healthy_again_keeps_no_other_loss_waiting() -> None:
    """It is no longer made, and begins nothing: the site that it leaves is not lost."""
    world = five()
    quick, asked, ended = world.plan, asyncio.Event(), asyncio.Event()

    async def slow(lost: tuple[str, ...]) -> bytes:
        if lost == ("pangyo",) and world.burnt:
            asked.set()
            try:
                await asyncio.sleep(300)
            finally:
                ended.set()
        return await quick(lost)

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.done["promote", "chat"] = {"candidate": "anyang"}  # all plans are of another estate
        world.burn("pangyo")
        await world.until(asked.is_set)
        world.burnt.discard("pangyo")
        await world.until(lambda: state(world) == "healthy")
        await world.until(ended.is_set)
        world.burn("ansan")
        await world.until(lambda: any(w.startswith("ansan is lost; ") for w in world.words("loss")))
        begun = [words for words in world.words("loss") if "starts without approval" in words]
        assert not any(words.startswith("pangyo") for words in begun), begun

    world.plan = slow  # type: ignore[method-assign]
    play(story, world)


def test_a_plan_that_leaves_any_site_that_is_healthy_again_is_given_up() -> None:
    """Of two lost sites, the one that did not ask for the plan comes back: the other one is answered."""
    world = five()
    quick = world.plan

    async def slow(lost: tuple[str, ...]) -> bytes:
        await asyncio.sleep(300 if world.burnt and lost == BOTH else 0)
        return await quick(lost)

    def asking() -> str:
        """The site whose loss is being answered with a plan for both."""
        words = "the plan for the loss of anyang, pangyo is still being made"
        return next((one.site for one in world.notices if one.words.startswith(words)), "")

    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.done["promote", "chat"] = {"candidate": "anyang"}  # all plans are of another estate
        for site in BOTH:
            world.burn(site)
        await world.until(lambda: asking() != "", 60)
        (other,) = {*BOTH} - {asking()}
        world.burnt.discard(other)
        begins = f"{asking()} is lost; "
        await world.until(
            lambda: any(w.startswith(begins) and "starts without approval" in w for w in world.words("loss")),
            60,
        )
        assert not any(w.startswith(f"{other} is lost; run") for w in world.words("loss"))
        assert (await read_register(world.store))[other] == "active"

    world.plan = slow  # type: ignore[method-assign]
    play(story, world)


def test_a_site_that_was_restored_and_is_lost_again_before_it_counts_as_healthy_is_answered_again() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: "promote" in world.systems.verbs_done())
        await until_ended(world)
        losses = len(world.words("loss"))
        for restored in (False, True):
            world.cuts |= {("anyang", "pangyo")}  # one witness reaches it, the other one does not
            world.burnt.discard("pangyo")
            await world.until(lambda: state(world) == "suspect")
            if restored:
                back = replace(moved("back", "restore", "pangyo", at_ms=9), number=9)
                await put(world.store, back, **dict.fromkeys(world.sites, "active"))
            world.burnt.add("pangyo")
            await world.until(lambda: state(world) == "lost")
            if restored:
                await world.until(lambda: len(world.words("loss")) > losses)
            else:
                await asyncio.sleep(0.5)
                assert len(world.words("loss")) == losses, "the same loss is answered once"
        assert any("run" in one.data for one in world.notices if one.kind == "loss")
        assert len(await world.store.list("incident/")) == 2

    play(story, World(policy_of("act")))


@pytest.mark.parametrize("restored", [False, True])
def test_a_return_that_is_recorded_while_it_is_lost_again_is_noticed(restored: bool) -> None:
    """A restore run was in its last steps, or its mark is cleared."""

    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: "promote" in world.systems.verbs_done())
        await until_ended(world)
        losses = len(world.words("loss"))
        await asyncio.sleep(3.0)
        assert len(world.words("loss")) == losses, "the same loss is answered once"
        if restored:
            back = replace(moved("back", "restore", "pangyo", at_ms=9), number=9)
            await put(world.store, back, **dict.fromkeys(world.sites, "active"))
        else:
            at_ms = world.clock.now_ms()
            marks = orjson.dumps(dict.fromkeys(world.sites, "active"))
            cleared = orjson.dumps({"at_ms": at_ms, "who": "kim", "reason": "it is back", "mark": ""})
            await world.store.transact((), [Put(SITES_KEY, marks), Put(CLEARED + "pangyo", cleared)])
        await world.until(lambda: len(world.words("loss")) > losses)
        await asyncio.sleep(3.0)
        assert len(world.words("loss")) == losses + 1
        assert len(await world.store.list("incident/")) == 2

    play(story, World(policy_of("act")))


def test_a_loss_whose_answer_still_waits_is_answered_once_however_often_it_flaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may, asked, ready = asyncio.Event(), asyncio.Event(), Conductor.ready

    async def slow(conductor: Conductor) -> None:
        asked.set()
        await may.wait()
        await ready(conductor)

    async def story(world: World) -> None:
        await world.until_planned()
        monkeypatch.setattr(Conductor, "ready", slow)
        world.burn("pangyo")
        await world.until(asked.is_set)
        for _ in range(3):
            world.cuts |= {("anyang", "pangyo")}  # one witness reaches it, the other one does not
            world.burnt.discard("pangyo")
            await world.until(lambda: state(world) == "suspect")
            world.burnt.add("pangyo")
            await world.until(lambda: state(world) == "lost")
        may.set()
        await world.until(lambda: any("starts without approval" in words for words in world.words("loss")))
        await asyncio.sleep(3.0)
        assert len(world.words("loss")) == 1, world.words("loss")

    play(story, World(policy_of("act")))
