"""A new store in place of a lost one: members of stores and agents remember the highest token that they
obeyed, and refuse a lower one, whichever store it is from.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from evac.app.anchoring import AgentReach, agents_of
from evac.app.observing import observe
from evac.drivers.process.driver import AgentGenerations
from evac.drivers.registry import Drivers
from evac.engine.lead.leadership import LEADER
from evac.estate import load
from evac.model.errors import EvacError, NotAllowed
from evac.model.estate import Estate
from evac.model.generation import generation_of
from evac.model.records import dataclass
from evac.store.generation import read_generation
from evac.store.port import Store
from evac.views.words import listed

ASK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Obeyed:
    """who: the systems that have obeyed a leader; generation: the newest that any of them knows."""

    who: tuple[str, ...] = ()
    generation: int = 0


async def is_new(store: Store) -> bool:
    """Whether no controller has ever led here."""
    return await store.holder(LEADER) is None and not await store.list("journal/", limit=1)


async def obeyed(estate: Estate, drivers: Drivers, now_ms: int) -> Obeyed:
    """What the members of stores and the agents that answer have obeyed."""
    members = (await observe(estate, drivers, now_ms)).members
    tokens = {f"the member of {one.store} at {one.site}": one.token for one in members}
    agents = agents_of(estate)
    found = await asyncio.gather(*(_of_agent(reach) for reach in agents.values()))
    known = [generation for generation, _ in found]
    tokens |= {f"the agent at {site}": token for site, (_, token) in zip(agents, found, strict=True)}
    who = tuple(sorted(name for name, token in tokens.items() if token))
    return Obeyed(who, max([*known, *map(generation_of, tokens.values())], default=0))


async def _of_agent(reach: AgentReach) -> tuple[int, int]:
    """(Newest generation, highest token) that an agent knows; zeros if it does not answer."""
    agent = AgentGenerations(*reach)
    try:
        return await agent.known(ASK_S)
    except (EvacError, OSError, TimeoutError):
        return 0, 0
    finally:
        await agent.close()


async def next_generation(store: Store, estate: Estate, drivers: Drivers, now_ms: int) -> int:
    """Generation with which a new store is obeyed: above all that anyone has obeyed. 0 if the store has a
    history of its own; its own generation if no one has obeyed any.
    """
    if not await is_new(store):
        return 0
    own, found = (await read_generation(store)).number, await obeyed(estate, drivers, now_ms)
    return max(own, found.generation + 1) if found.who or found.generation else own


async def check_not_replaced(store: Store, estate: Path, now_ms: int) -> None:
    """Raise NotAllowed if the store is new, of no generation that someone chose, and systems have obeyed the
    leader of another one: they would refuse every order, and that store may still act.
    """
    if not await is_new(store) or (await read_generation(store)).number:
        return
    drivers = Drivers()
    try:
        found = await obeyed(load(estate), drivers, now_ms)
    finally:
        await drivers.close()
    if found.who:
        verb = "has" if len(found.who) == 1 else "have"
        raise NotAllowed(
            "store-new",
            f"this store is new, but {listed(found.who)} {verb} obeyed the leader of another store and would "
            "refuse every order",
            "name that store with --store; if it is lost: evac run adopt PLAN ESTATE --incident NAME "
            "--reason WHY",
        )
