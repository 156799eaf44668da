"""A step of which nobody can see what became: the run pauses once, is looked at on and on, and goes on."""

from __future__ import annotations

import asyncio

from evac.engine.runs.reading import events_of
from tests.unit.engine.small_world import World, play, policy_of


async def _until_ended(world: World) -> None:
    async with asyncio.timeout(60):
        while not await world.ended():
            await asyncio.sleep(0.02)


def test_a_run_in_doubt_says_once_that_it_is_paused_however_often_it_looks() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.unseen.add(("shift", "anyang"))
        world.burn("pangyo")
        await world.until(lambda: any("paused" in words for words in world.words("run")), 60)
        (entry,) = await world.store.list("open/")
        run = entry.key.removeprefix("open/")
        await asyncio.sleep(15)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds.count("step_observed") > 6, "it is looked at on and on"
        assert kinds.count("paused") == 1
        assert "resumed" not in kinds
        assert len([words for words in world.words("run") if "paused" in words]) == 1
        world.systems.unseen.clear()
        await _until_ended(world)
        kinds = [event.kind for event in await events_of(world.store, run)]
        assert kinds.count("resumed") == 1
        assert kinds[-1] == "run_ended"

    play(story, World(policy_of("act")))


def test_a_run_in_doubt_of_one_step_goes_on_with_another_that_a_person_frees() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.systems.unseen.add(("promote", "anyang"))
        world.burn("pangyo")
        await world.until(lambda: any("paused" in words for words in world.words("run")), 60)
        await asyncio.sleep(5)
        assert "shift" not in world.systems.verbs_done(), "traffic never goes before its store"
        world.systems.unseen.clear()
        await _until_ended(world)
        assert world.systems.verbs_done()[-1] == "shift"

    play(story, World(policy_of("act")))
