"""A world with a controller that leads, in which tests tell stories."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from evac.app.observed_stores import SeenEstate
from evac.engine.lead.leadership import LEADER
from evac.store.port import Lease, MemoryStore


class Led(Protocol):
    """A world as `tell` needs it."""

    store: MemoryStore
    seen: SeenEstate
    lease: Lease


_World = TypeVar("_World", bound=Led)


def tell(world_of: Callable[[], _World], story: Callable[[_World], Awaitable[None]]) -> None:
    """Tells a story in a new world, whose controller leads from the beginning."""

    async def told() -> None:
        world = world_of()
        world.lease = await world.store.acquire(LEADER, "c1", 60_000)
        await world.seen.begin()
        await story(world)

    asyncio.run(told())
