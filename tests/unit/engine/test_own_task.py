"""Who is cancelled while a task group ends for another reason ends as well, at whatever moment that is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from evac.model.errors import LeaseLost
from evac.net.internal_errors import enduring, in_own_task
from tests.unit.engine.small_world import World, policy_of

MOST_S = 5.0
"""For what takes milliseconds, or never ends."""


async def _fails(error: Exception) -> None:
    raise error


async def _slow_to_end() -> None:
    try:
        await asyncio.sleep(3_600)
    finally:
        for _ in range(5):
            await asyncio.sleep(0)


async def _group(error: Exception) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_slow_to_end())
        tasks.create_task(_fails(error))


async def _term() -> None:
    try:
        await _group(LeaseLost("leader"))
    except* LeaseLost:
        pass


async def _competes() -> None:
    while True:
        await in_own_task(_term())


async def _endures() -> None:
    await enduring("a duty", lambda: _group(ValueError("a mistake")), lambda words, data: None)


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("works", [_competes, _endures])
def test_a_cancellation_at_any_moment_ends_whoever_begins_anew(
    works: Callable[[], Awaitable[None]], turns: int
) -> None:
    async def story() -> None:
        task = asyncio.ensure_future(works())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=MOST_S)
        task.cancel()
        assert done, "it goes on"
        assert task.cancelled()

    asyncio.run(story())


def test_what_work_gives_and_raises_is_handed_on() -> None:
    async def gives() -> int:
        return 7

    assert asyncio.run(in_own_task(gives())) == 7
    with pytest.raises(LeaseLost):
        asyncio.run(in_own_task(_fails(LeaseLost("leader"))))


@pytest.mark.parametrize("turns", range(0, 30, 3))
def test_a_controller_that_is_told_to_end_while_its_term_ends_does(turns: int) -> None:
    async def story() -> None:
        world = World(policy_of("act"))
        for site in world.sites:
            world.start(site)
        await world.until(lambda: bool(world.leader))
        leader = world.leader
        world.controllers[leader]._end_term()
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks = list(world.tasks.values())
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=MOST_S)
        for task in left:
            task.cancel()
        assert not left, "it leads on"

    asyncio.run(story())
