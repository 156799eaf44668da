"""Traffic in growing shares: each begins when the one before is seen to be healthy, else it goes back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import orjson

from evac.model.run_policy import Pace
from evac.run.pacing import Health
from tests.unit.engine.small_world import World, play, policy_of
from tests.unit.engine.test_another_loss import ask, evacuating, events, until_ended, until_event

SHARES = (100, 500, 1_000)
PACE = Pace(SHARES, wait_ms=200, errors_permille=50)


def paced(health: Callable[[int], Health | None]) -> World:
    """health: of the n-th look."""
    looks = 0

    async def look(service: str, site: str) -> Health | None:
        nonlocal looks
        assert (service, site) == ("web", "anyang")
        looks += 1
        return health(looks)

    return World(policy_of("hold", pace=PACE), health=look, shares=SHARES)


async def pools(world: World) -> list[str]:
    entry = await world.store.get("pooled")
    assert entry is not None
    found: list[str] = orjson.loads(entry.value)["web"]
    return found


def test_healthy_shares_grow_to_the_whole_with_a_wait_between_them() -> None:
    async def story(world: World) -> None:
        run = await evacuating(world)
        await until_ended(world)
        starts = [e for e in await events(world, run, "step_started") if e.step.startswith("shift")]
        assert [event.step for event in starts] == ["shift:web", "shift:web:2", "shift:web:3"]
        assert all(b.at_ms - a.at_ms >= PACE.wait_ms for a, b in itertools.pairwise(starts))
        assert await pools(world) == ["anyang"]
        assert world.systems.undone == []

    play(story, paced(lambda look: Health(40, 0)))


def test_a_slight_illness_slows_down_and_too_little_known_waits() -> None:
    def health(look: int) -> Health | None:
        return {1: None, 2: Health(30, 2)}.get(look, Health(40, 0))

    async def story(world: World) -> None:
        run = await evacuating(world)
        await until_ended(world)
        waits = [e.data for e in await events(world, run, "step_waits")]
        assert "only 0 requests seen" in waits[0]["why"]
        assert "are allowed" in waits[1]["why"]
        assert waits[1]["again_ms"] >= 1_000 > waits[0]["again_ms"]
        assert len(waits) == 2

    play(story, paced(health))


def test_a_sick_share_goes_back_and_a_person_lets_it_go_on() -> None:
    sick = True

    def health(look: int) -> Health:
        return Health(40, 20) if sick and look > 1 else Health(40, 0)

    async def story(world: World) -> None:
        nonlocal sick
        run = await evacuating(world)
        changed = await until_event(world, run, "pace_changed")
        assert changed.data["share"] == 0
        await until_event(world, run, "paused")
        await world.until(lambda: len(world.systems.undone) == 2)
        assert world.systems.undone == [("shift", 500), ("shift", 100)], "the last share first, no store"
        assert await pools(world) == ["anyang", "pangyo"]
        await asyncio.sleep(0.6)
        kinds = [event.kind for event in await events(world, run)]
        assert kinds[-1] == "paused", "and then nothing until a person says so"
        sick = False
        await ask(world, run, "resume", "r2")
        await until_ended(world)
        assert await pools(world) == ["anyang"]
        assert world.systems.verbs_done().count("promote") == 1
        starts = [e.step for e in await events(world, run, "step_started") if e.step.startswith("shift")]
        assert starts == ["shift:web", "shift:web:2", "shift:web", "shift:web:2", "shift:web:3"]

    play(story, paced(health))


def test_what_stays_unseen_asks_a_person_and_takes_nothing_back() -> None:
    async def story(world: World) -> None:
        run = await evacuating(world)
        changed = await until_event(world, run, "pace_changed")
        assert changed.data["share"] == 0
        await until_event(world, run, "paused")
        assert world.systems.undone == []
        assert [e.step for e in await events(world, run, "step_started")][-1] == "shift:web"

    play(story, paced(lambda look: None))
