"""A new store in place of a lost one: members of stores and agents remember the highest token that they
obeyed, and refuse a lower one, whichever store it is from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

from evac.app.anchoring import AgentReach, agents_of
from evac.app.observing import observe
from evac.drivers.process.driver import AgentGenerations
from evac.drivers.registry import Drivers
from evac.engine.lead.leadership import LEADER
from evac.estate import load
from evac.model.errors import EvacError, NotAllowed
from evac.model.estate import Estate
from evac.model.generation import SET_UP_TOKEN, generation_of, token_in
from evac.model.observation import MemberSeen
from evac.model.records import dataclass
from evac.store.generation import read_generation
from evac.store.port import Store
from evac.views.words import listed

ASK_S: Final = 2.0
ASK_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Obeyed:
    """who: the systems that have obeyed a leader, or know a generation; generation, token: the newest and the
    highest that any of them knows. silent: agents that did not answer; unreachable: members that did not;
    answers: whether any agent did.
    """

    who: tuple[str, ...] = ()
    generation: int = 0
    token: int = 0
    silent: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    answers: bool = False


async def is_new(store: Store) -> bool:
    """Whether no controller has ever led here."""
    return await store.holder(LEADER) is None and not await store.list("journal/", limit=1)


async def obeyed(estate: Estate, drivers: Drivers, now_ms: int) -> Obeyed:
    """What the members of stores and the agents that answer have obeyed."""
    members = (await observe(estate, drivers, now_ms)).members
    tokens = {_member(one): one.token for one in members}
    unreachable = tuple(sorted(_member(one) for one in members if one.role == "unreachable"))
    agents = agents_of(estate)
    found = await asyncio.gather(*(_of_agent(reach) for reach in agents.values()))
    known = {f"the agent at {site}": one for site, one in zip(agents, found, strict=True) if one is not None}
    silent = tuple(sorted(f"the agent at {s}" for s, one in zip(agents, found, strict=True) if one is None))
    tokens |= {name: token for name, (_, token) in known.items()}
    who = {name for name, token in tokens.items() if token > SET_UP_TOKEN} | {
        name for name, (one, _) in known.items() if one
    }
    newest = [*(one for one, _ in known.values()), *map(generation_of, tokens.values())]
    highest = max(tokens.values(), default=0)
    return Obeyed(tuple(sorted(who)), max(newest, default=0), highest, silent, unreachable, bool(known))


def _member(seen: MemberSeen) -> str:
    return f"the member of {seen.store} at {seen.site}"


async def _of_agent(reach: AgentReach) -> tuple[int, int] | None:
    """(Newest generation, highest token) that an agent knows; None if it does not say."""
    agent = AgentGenerations(*reach)
    try:
        return await agent.known(ASK_S)
    except (EvacError, OSError, TimeoutError):
        return None
    finally:
        await agent.close()


async def next_generation(store: Store, estate: Estate, drivers: Drivers, now_ms: int) -> int:
    """Generation with which this store is obeyed: its own if no one has obeyed more than it issued, which is
    nothing for a new store; else one above all that anyone has obeyed. 0 requests none. Raises NotAllowed if
    a controller leads here that would be refused: it must be stopped first.
    """
    own, found = (await read_generation(store)).number, await obeyed(estate, drivers, now_ms)
    if not found.who:
        return own
    leads = await store.holder(LEADER)
    if not await is_new(store) and found.generation <= own:
        issued = leads.token if leads is not None else await _next_token(store)
        if found.token <= token_in(own, issued):
            return 0
    number = max(own, found.generation + 1)
    if leads is not None:
        raise NotAllowed(
            "store-new",
            f"{leads.owner} leads in this store, but {_have_obeyed(found)} another store's leader and would "
            "refuse every order",
            "name that store with --store; if it is lost: stop this controller, then start it again with "
            f"--generation {number}",
        )
    return number


async def _next_token(store: Store) -> int:
    """A token above all that this store has issued."""
    lease = await store.acquire(f"asking-{uuid4().hex}", "evac", ASK_MS)
    await store.release(lease)
    return lease.token


def _have_obeyed(found: Obeyed) -> str:
    return f"{listed(found.who)} {'has' if len(found.who) == 1 else 'have'} obeyed"


async def check_not_replaced(store: Store, estate: Path, now_ms: int) -> None:
    """Raise NotAllowed if the store is new, of no generation that someone chose, and systems have obeyed the
    leader of another one, which may still act: they would refuse every order. So it is if there are agents
    and none says what it has obeyed.
    """
    drivers = Drivers()
    try:
        found = await _obeyed_elsewhere(store, lambda: load(estate), drivers, now_ms)
    finally:
        await drivers.close()
    _must_not_have_obeyed(found, "if it is lost: evac run adopt PLAN ESTATE --incident NAME --reason WHY")
    if found.silent and not found.answers:
        raise NotAllowed(
            "store-new",
            "this store is new, and no agent says whether it has obeyed the leader of another one"
            f"{_silent(found)}",
            "see why: evac doctor ESTATE; if evac never led anything here, start a controller first: "
            "evac serve ESTATE",
        )


class MayLead:
    """Whether a controller may lead in this store. What a system has obeyed counts until it answers again.
    Where none has answered, a controller may lead: the first one often starts before the agents do, and it
    stops leading when an agent reports a higher token than its own.
    """

    def __init__(
        self, store: Store, estate: Callable[[], Estate], drivers: Drivers, now_ms: Callable[[], int]
    ) -> None:
        self._store, self._estate, self._drivers, self._now_ms = store, estate, drivers, now_ms
        self._known = Obeyed()

    async def check(self) -> None:
        """Raise NotAllowed if the store is new and systems have obeyed the leader of another one."""
        found = await _obeyed_elsewhere(self._store, self._estate, self._drivers, self._now_ms())
        known, self._known = self._known, found
        if left := {*found.silent, *found.unreachable}.intersection(known.who):
            self._known = found = replace(
                found,
                who=tuple(sorted({*found.who, *left})),
                generation=max(found.generation, known.generation),
                token=max(found.token, known.token),
            )
        number = found.generation + 1
        _must_not_have_obeyed(found, f"if it is lost, start the controllers with --generation {number}")


async def _obeyed_elsewhere(
    store: Store, estate: Callable[[], Estate], drivers: Drivers, now_ms: int
) -> Obeyed:
    """What systems have obeyed that is not from this store; nothing unless the store is unproven. It is read
    again after they have answered: they may have obeyed who took office here meanwhile.
    """
    if not await _is_unproven(store):
        return Obeyed()
    found = await obeyed(estate(), drivers, now_ms)
    return found if await _is_unproven(store) else Obeyed()


async def _is_unproven(store: Store) -> bool:
    """Whether no one has led here or chosen a generation that every system obeys."""
    return await is_new(store) and not (await read_generation(store)).number


def _must_not_have_obeyed(found: Obeyed, if_lost: str) -> None:
    """Raise NotAllowed. if_lost: what to do if the other store is lost."""
    if found.who:
        raise NotAllowed(
            "store-new",
            f"this store is new, but {_have_obeyed(found)} the leader of another store and would "
            f"refuse every order{_silent(found)}",
            f"name that store with --store; {if_lost}",
        )


def _silent(found: Obeyed) -> str:
    return f"; {listed(found.silent)} did not say" if found.silent else ""
