"""A newer generation ends an older one: at agents, before effects, in a whole house of controllers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evac.agent.config import FenceConfig
from evac.agent.memory import TokenLedger
from evac.drivers.port import Action, Order
from evac.drivers.process.driver import AgentAnchors, AgentGenerations, AgentPermits
from evac.engine.clock import SystemClock
from evac.engine.lead.generations import Generations, GuardedDriver
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.watch_journal import STREAM, decode
from evac.model.errors import (
    EvacError,
    InvalidInput,
    LeaseLost,
    NotAllowed,
    OutcomeUnknown,
    Permanent,
    Retryable,
    Superseded,
    Unavailable,
)
from evac.model.generation import token_in
from evac.store.generation import Newer, raise_generation, read_newer
from evac.store.journal import read
from evac.store.port import Delete, Lease, MemoryStore, Put
from tests.unit.agent.test_agent import start_unit
from tests.unit.engine import agents
from tests.unit.engine.small_world import Systems, World, play, policy_of


class Ledger:
    """The memory of an agent, asked without a wire. dead: it answers nothing."""

    def __init__(self, folder: Path, name: str = "token") -> None:
        self.kept, self.dead = TokenLedger(folder / f"{name}.json"), False

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str, int]:
        if self.dead:
            raise Retryable("agent-unreachable", "it burnt")
        self.kept.heed(generation, opener)
        return self.kept.generation, self.kept.opener, self.kept.highest


ACTION = Action("shift", "web", "simulated", "ansan", {}, {"to": "ansan"})
ORDER = Order("r", "s", 1, 7, 1, "why", 5.0, "r/s")


@pytest.mark.enable_socket
@pytest.mark.servers
def test_an_agent_obeys_nobody_of_an_older_generation(tmp_path: Path) -> None:
    fence = FenceConfig("chat-store", units=("sleeper",), margin_ms=500, timeout_ms=400, again_ms=100)
    made = agents.config(tmp_path, agents.sleeper(store="chat-store"), fences=(fence,))

    async def story() -> None:
        async with agents.running(made) as agent:
            told = AgentGenerations(agents.at(agent.config))
            anchors = AgentAnchors(agents.at(agent.config))
            permits = AgentPermits(agents.at(agent.config))
            await start_unit(made, token=900)
            await anchors.put("watch", 5, 50, "a" * 64, 2)
            assert await told.ask(0, "", 2) == (0, "", 900)
            assert await told.ask(1, "laptop", 2) == (1, "laptop", 900)
            for order in (
                lambda: start_unit(made, token=901),
                lambda: anchors.put("watch", 6, 60, "b" * 64, 2),
                lambda: permits.renew("chat-store", 3, 5_000, 901, 2),
            ):
                with pytest.raises(Permanent, match="generation 1") as refused:
                    await order()
                assert refused.value.code == "superseded"
            await start_unit(made, token=token_in(1, 2))
            # The new generation goes on from a copy that was made before: its heads stand apart.
            await anchors.put("watch", 4, 40, "c" * 64, 2, 1)
            assert [row["segment"] for row in await anchors.heads("watch", 2, 1)] == [4]
            assert [row["segment"] for row in await anchors.heads("watch", 2)] == [5]
            for client in (told, anchors, permits):
                await client.close()
        async with agents.running(made) as again:
            told = AgentGenerations(agents.at(again.config))
            assert await told.ask(0, "", 2) == (1, "laptop", token_in(1, 2))
            await told.close()

    asyncio.run(story())


@pytest.mark.enable_socket
@pytest.mark.servers
@pytest.mark.parametrize("token", ["seven", True, -1, None, 7.5], ids=str)
def test_an_agent_that_reports_no_token_still_reports_a_newer_generation(
    tmp_path: Path, token: object
) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        async with agents.running(made) as agent:
            told = AgentGenerations(agents.at(agent.config))
            agent._ledger.heed(1, "laptop")
            ledger: Any = agent._ledger
            ledger.highest = token
            known = Generations(MemoryStore(), SystemClock(), {"ansan": told})
            await known.ask()
            with pytest.raises(Superseded):
                known.check()
            with pytest.raises(OutcomeUnknown, match="which token it has obeyed"):
                await told.known(2)
            await told.close()

    asyncio.run(story())


def test_the_first_who_opens_a_generation_keeps_it(tmp_path: Path) -> None:
    async def story() -> None:
        agent, clock = Ledger(tmp_path), SystemClock()
        found = []
        for opener in ("one", "other"):
            store = MemoryStore()
            await raise_generation(store, 1, opener, 5)
            laptop = Generations(store, clock, {"ansan": agent})
            await laptop.begin()
            await laptop.ask()
            found.append(laptop)
        found[0].check()
        with pytest.raises(Superseded):
            found[1].check()
        await found[0].ask()
        found[0].check()
        with pytest.raises(Permanent):
            agent.kept.heed(4_001, "too great")

    asyncio.run(story())


def test_a_store_never_goes_back_to_an_older_generation() -> None:
    async def story() -> None:
        store = MemoryStore()
        assert (await raise_generation(store, 0, "nobody", 1)).number == 0
        assert (await raise_generation(store, 3, "one", 1)).opener == "one"
        assert (await raise_generation(store, 3, "other", 2)).opener == "one"
        with pytest.raises(NotAllowed, match="above 2"):
            await raise_generation(store, 2, "other", 2)

    asyncio.run(story())


def test_nothing_is_done_where_a_newer_generation_may_act(tmp_path: Path) -> None:
    async def story() -> None:
        systems, here, there = Systems(), Ledger(tmp_path, "here"), Ledger(tmp_path, "there")
        tellers = {"ansan": here, "pangyo": there}
        known = Generations(MemoryStore(), SystemClock(), tellers, strict=lambda: True)
        driver = GuardedDriver(systems, known)
        await driver.execute(ACTION, ORDER)
        assert systems.verbs_done() == ["shift"]
        here.dead, known.answered, known._asked_ms = True, {}, None
        with pytest.raises(Retryable) as silent:
            await driver.execute(ACTION, ORDER)
        assert silent.value.code == "generation-unknown"
        there.kept.heed(2, "laptop")  # asked again because nobody knows, and now another agent tells
        known._asked_ms = None
        for call in (driver.execute, driver.undo):
            with pytest.raises(Superseded):
                await call(ACTION, ORDER)
        assert (await driver.observe(ACTION, ORDER)).outcome == "done"
        assert systems.verbs_done() == ["shift"]
        assert systems.undone == []

    asyncio.run(story())


def test_a_system_that_refuses_for_the_generation_ends_the_leadership(tmp_path: Path) -> None:
    class Refusing(Systems):
        async def execute(self, action, order):  # type: ignore[no-untyped-def]
            raise Permanent("superseded", "the zone has seen generation 1")

    async def story() -> None:
        store = MemoryStore()
        known = Generations(store, SystemClock(), {})
        heard = []
        known.on_ended = lambda: heard.append(known.newer)
        with pytest.raises(Superseded):
            await GuardedDriver(Refusing(), known).execute(ACTION, ORDER)
        newer = await read_newer(store)
        assert newer is not None
        assert (newer.number, len(heard)) == (1, 1)

    asyncio.run(story())


def test_an_old_house_stops_says_so_and_never_leads_again(tmp_path: Path) -> None:
    """The agent of ansan was told by a laptop. Who leads the old store learns it there, and stops."""
    agent = Ledger(tmp_path)

    async def story(world: World) -> None:
        await world.until_planned()
        first = world.leader
        agent.kept.heed(1, "laptop")
        await world.until(lambda: not world.leader, 30)
        for site in world.sites:  # one that comes back reads it in the store, also where no agent answers
            world.tasks[site].cancel()
        agent.dead = True
        world.burnt.clear()
        for site in world.sites:
            world.start(site)
        world.burn("pangyo")
        await asyncio.sleep(10)
        assert world.leader == ""
        assert world.systems.log == []
        told = [word for word in world.words("trouble") if "generation 1 was opened" in word]
        assert told
        written = [
            decode(record) async for segment in read(world.store, STREAM) for record in segment.records
        ]
        assert written[-1].data == {"code": "superseded", "generation": 1}
        assert written[-1].site == first
        # A person may open a still newer one in this very store.
        await raise_generation(world.store, 2, "a person", 1)
        agent.dead = False
        await world.until(lambda: bool(world.leader), 30)
        term = world.controllers[world.leader]._term
        assert term is not None
        assert term.leadership.token >> 40 == 2

    play(story, World(policy_of("act"), agents={"ansan": agent}))


@pytest.mark.parametrize("raised", [False, True], ids=["a newer one acts", "the store was made one of it"])
def test_what_is_learned_while_the_lease_is_taken_ends_the_term_as_well(tmp_path: Path, raised: bool) -> None:
    """Before there is a term to end: whoever took the lease gives it up at once."""

    async def story(world: World) -> None:
        await world.until_planned()
        term, acquire = world.controllers[world.leader]._term, world.store.acquire
        assert term is not None
        learned = 0

        async def learning(name: str, owner: str, ttl_ms: int) -> Lease:
            nonlocal learned
            lease = await acquire(name, owner, ttl_ms)
            if name == "leader" and not learned:
                learned = lease.token
                known = next(
                    c for c in world.controllers.values() if c._desk.owner == owner
                ).parts.generations
                assert known is not None
                if raised:
                    await raise_generation(world.store, 3, "a person", 1)
                    await known.begin()
                else:
                    known._learn(Newer(1, "laptop", "ansan", 1))
                    await known._write()
            return lease

        world.store.acquire = learning  # type: ignore[method-assign]
        term.ending.set()
        await world.until(lambda: bool(learned), 30)
        await asyncio.sleep(1)
        holder = await world.store.holder("leader")
        assert holder is None or holder.token > learned
        assert (world.leader != "") is raised

    play(story, World(policy_of("act"), agents={"ansan": Ledger(tmp_path)}))


def test_whoever_cannot_read_the_generation_goes_on_to_watch_and_does_not_lead(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        before = await world.store.get("generation")
        await world.store.transact((), (Put("generation", b'{"number": "seven"}'),))
        for controller in world.controllers.values():
            if controller._term is not None:
                controller._term.ending.set()
        await world.until(lambda: not world.leader, 30)
        await asyncio.sleep(5)
        assert world.leader == ""
        assert not [site for site in world.sites if world.tasks[site].done()]
        assert [words for words in world.words("trouble") if "cannot lead" in words]
        assert before is None
        await world.store.transact((), (Delete("generation"),))
        await world.until(lambda: world.leader != "", 30)

    play(story, World(policy_of("act"), agents={"ansan": Ledger(tmp_path)}))


def test_a_leader_goes_on_under_the_generation_that_its_store_was_made_one_of(tmp_path: Path) -> None:
    """As when controllers are started again, one after the other, with --generation."""

    async def story(world: World) -> None:
        await world.until_planned()
        before = world.controllers[world.leader]._term
        assert before is not None
        await raise_generation(world.store, 3, "a person", 1)
        await world.until(lambda: world.leader != "" and _token_of(world) >> 40 == 3, 30)
        assert _token_of(world) > before.leadership.token
        assert await read_newer(world.store) is None
        assert not [words for words in world.words("trouble") if "was opened" in words]

    play(story, World(policy_of("act"), agents={"ansan": Ledger(tmp_path)}))


def test_a_leader_stops_when_an_agent_obeys_what_its_store_never_issued(tmp_path: Path) -> None:
    """Another store's leader, or this store restored from an older copy. It does not lead again under the
    next token, which would at some time be high enough.
    """
    agent = Ledger(tmp_path)

    async def story(world: World) -> None:
        await world.until_planned()
        first = _token_of(world)
        agent.kept.obey(first)  # its own order
        await asyncio.sleep(5)
        assert _token_of(world) == first
        agent.kept.obey(first + 1_000)
        await world.until(lambda: not world.leader, 30)
        world.burn("pangyo")
        await asyncio.sleep(20)
        assert world.leader == ""
        assert world.systems.log == []
        told = [words for words in world.words("trouble") if f"has obeyed token {first + 1_000}" in words]
        assert told
        assert [words for words in told if words.startswith("cannot lead")] == []
        assert len(told) == len(world.sites)  # each controller says it once
        written = [
            decode(record) async for segment in read(world.store, STREAM) for record in segment.records
        ]
        assert written[-1].data == {"code": "store-behind"}
        agent.dead = True  # the store itself says it to those that are started again
        world.burnt.clear()
        for site in world.sites:
            world.tasks[site].cancel()
            world.start(site)
        await asyncio.sleep(20)
        assert world.leader == ""
        assert all("has obeyed token" in one.neither for one in world.controllers.values())
        agent.dead = False
        await raise_generation(world.store, 1, "a person", 1)
        await world.until(lambda: world.leader != "", 30)
        assert _token_of(world) > agent.kept.highest

    play(story, World(policy_of("act"), agents={"ansan": agent}))


@pytest.mark.parametrize("above", [0, 1], ids=["ours", "of another store"])
def test_a_token_counts_only_while_we_hold_the_lease(tmp_path: Path, above: int) -> None:
    async def story() -> None:
        agent, store = Ledger(tmp_path), MemoryStore()
        lease = await store.acquire(LEADER, "here", 600_000)
        agent.kept.obey(lease.stamp + above)
        known = Generations(store, SystemClock(), {"ansan": agent})
        known.leads_with = lambda: 0
        await known.ask()
        known.check()
        known.leads_with = lambda: lease.stamp  # also for what was asked before the lease was taken
        await known.compare_tokens()
        assert known.ended(0) == bool(above)
        await known.ask()
        assert known.over == bool(above)

    asyncio.run(story())


@pytest.mark.parametrize("holder", ["another", "nobody", "unknown"])
def test_a_leader_that_was_paused_for_longer_than_its_lease_only_ends_its_term(
    tmp_path: Path, holder: str
) -> None:
    """Its own clock stood still, as that of a stopped virtual machine, and the agents obey who leads now."""

    class Silent(MemoryStore):
        async def holder(self, name: str) -> Lease | None:
            if holder == "unknown":
                raise Unavailable("nobody answers")
            return await super().holder(name)

    async def story() -> None:
        agent, store, systems, lost = Ledger(tmp_path), Silent(), Systems(), list[str]()
        ours = await store.acquire(LEADER, "paused", 600_000)
        await store.release(ours)
        theirs = await store.acquire(LEADER, "another", 600_000)
        if holder == "nobody":
            await store.release(theirs)
        agent.kept.obey(theirs.stamp)
        known = Generations(store, SystemClock(), {"ansan": agent})
        known.leads_with = lambda: ours.stamp
        known.on_lost = lambda: lost.append("lost")
        await known.ask()
        assert lost == ["lost"]
        with pytest.raises(LeaseLost) as refused:
            await GuardedDriver(systems, known).execute(ACTION, ORDER)
        assert refused.value.code == "lease-lost"
        assert systems.log == []
        assert not known.over
        known.leads_with = lambda: 0
        known.check()  # so that it leads again when it is its turn

    asyncio.run(story())


def test_a_controller_leads_again_after_the_agents_obeyed_who_led_during_its_pause(tmp_path: Path) -> None:
    agent = Ledger(tmp_path)

    async def story(world: World) -> None:
        await world.until_planned()
        paused = world.controllers[world.leader]
        term, known = paused._term, paused.parts.generations
        assert term is not None
        assert known is not None
        await world.store.release(term.leadership.lease)
        other = await world.store.acquire(LEADER, "other/1/b", 600)
        agent.kept.obey(other.stamp)
        assert paused.leads  # it has not noticed yet
        await known.ask()
        assert not known.over
        await world.until(lambda: paused._term is None, 30)
        await world.until(lambda: world.leader != "" and _token_of(world) > other.stamp, 30)
        assert not [words for words in world.words("trouble") if "has obeyed token" in words]

    play(story, World(policy_of("act"), agents={"ansan": agent}))


@pytest.mark.parametrize(
    "error",
    [
        NotAllowed("store-new", "this store is new, but ansan obeys another", "name that store"),
        InvalidInput("estate-gone", "the estate cannot be read"),
        Retryable("agent-odd", "the agent gave an odd answer"),
    ],
    ids=lambda error: error.code,
)
def test_nobody_leads_a_new_store_until_it_is_compared_without_an_error(error: EvacError) -> None:
    """Whatever prevents the comparison; and as soon as nothing does, somebody leads."""
    wrong = [error]

    async def compare() -> None:
        if wrong:
            raise wrong[0]

    async def story(world: World) -> None:
        await asyncio.sleep(25)
        assert world.leader == ""
        assert await world.store.holder(LEADER) is None
        assert [one.neither for one in world.controllers.values()] == [error.with_hint] * len(world.sites)
        told = [words for words in world.words("trouble") if error.message in words]
        assert told == [f"cannot lead: {error.with_hint}"] * len(world.sites)
        assert not error.with_hint.endswith("next: ")
        wrong.clear()
        await world.until(lambda: world.leader != "", 30)
        assert world.controllers[world.leader].neither == ""

    play(story, World(policy_of("act"), compare=compare))


def _token_of(world: World) -> int:
    term = world.controllers[world.leader]._term
    return 0 if term is None else term.leadership.token
