"""A proposal becomes a run with its answer, or it is withdrawn: nobody is told of nothing where a run is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

import orjson
import pytest

from evac.app import runs
from evac.engine.plans.library import digest_of, put_plan
from evac.engine.runs.proposals import refused
from evac.engine.stores.guards import read_register
from evac.model.errors import (
    EvacError,
    NotAllowed,
    OutcomeUnknown,
    RunError,
    StalePlan,
    Unavailable,
    UnsafePlan,
)
from evac.model.observation import seen_in
from evac.store.port import Change, Compare, Delete, Lease, MemoryStore, Put, Store
from tests.unit.engine.small_world import World, play, policy_of

Between = Callable[[Sequence[Change]], Awaitable[None]]


def _between(store: Store, key: str, happens: Between) -> None:
    """What happens just before the first transaction that changes a key of that name or folder."""
    known, once = store.transact, [happens]

    async def transact(
        compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        if once and any(change.key.startswith(key) for change in changes):
            await once.pop()(changes)
        return await known(compares, changes, guard)

    store.transact = transact  # type: ignore[method-assign]


def test_no_run_is_made_of_an_incident_that_looks_like_the_one_under_way() -> None:
    """Else a person who is to approve the one approves the other."""

    async def story(world: World) -> None:
        await world.until_planned()
        first = runs.Proposal(
            "move-1", await world.plan(("pangyo",)), "roof", ("pangyo",), "evacuating", typed=("pangyo",)
        )
        await runs.propose(world.store, first, 1, 60)
        other = replace(first, incident="m\N{CYRILLIC SMALL LETTER O}ve-1")
        with pytest.raises(NotAllowed, match="looks the same as 'move-1', which has an open") as caught:
            await runs.propose(world.store, other, 2, 60)
        assert caught.value.code == "incident-lookalike"

    play(story, World(policy_of("hold")))


def test_no_run_is_made_of_a_proposal_that_was_withdrawn_meanwhile() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        data, tried = await world.plan(("pangyo",)), asyncio.Event()
        first, second = runs.new_id(1), runs.new_id(2)
        await put_plan(world.store, data)
        proposal = runs.Proposal("move-1", data, "a new roof", ("pangyo",), "evacuating", typed=("pangyo",))

        async def withdraw(changes: Sequence[Change]) -> None:
            await world.store.transact((), (Delete(f"proposal/{first}"),))
            tried.set()

        _between(world.stores[world.leader], "open/", withdraw)
        key, value = runs.proposal_entry(first, digest_of(data), proposal)
        await world.store.transact((), (Put(key, value),))
        async with asyncio.timeout(5):
            await tried.wait()
        key, value = runs.proposal_entry(second, digest_of(data), proposal)
        await world.store.transact((), (Put(key, value),))
        answer = await runs.answer_to(world.store, second, 5)
        assert answer is not None
        assert "run" in answer, "the incident was free: nothing was left of the first"
        assert await world.store.get(f"answer/{first}") is None
        assert len(await world.store.list("open/")) == 1
        assert await world.store.list("proposal/") == []
        assert (await read_register(world.store))["pangyo"] == "evacuating"

    play(story, World(policy_of("hold")))


def test_a_site_that_answers_is_left_as_lost_only_by_a_second_word() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        data = await world.plan(("pangyo",))
        fire = runs.Proposal("fire-1", data, "fire", ("pangyo",), "lost", typed=("pangyo",))
        with pytest.raises(NotAllowed) as error:
            await runs.propose(world.store, fire, 1)
        assert error.value.code == "site-answers"
        assert error.value.message == (
            "pangyo answers (agent); its primary accepts writes (chat); 9 services, 41 million users"
        )
        assert "evac plan ESTATE --evacuate pangyo" in error.value.hint
        assert error.value.hint.endswith("--execute --reason WHY --confirm pangyo --abandon pangyo")
        assert (await read_register(world.store))["pangyo"] == "active"
        assert await world.store.list("open/") == []
        run = await runs.propose(world.store, replace(fire, abandoned=("pangyo",)), 2)
        seen = (await runs.events_of(world.store, run))[0].data["seen"]
        assert [(one["site"], one["state"], one["people"]) for one in seen] == [
            ("pangyo", "answers", 41_000_000)
        ]
        assert seen_in(seen[0]).writable == ("chat",)

    play(story, World(policy_of("hold")))


def test_a_site_that_is_silent_needs_no_second_word() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        data = await world.plan(("pangyo",))
        world.burnt.add("pangyo")
        fire = runs.Proposal("fire-1", data, "fire", ("pangyo",), "lost", typed=("pangyo",))
        run = await runs.propose(world.store, fire, 1)
        assert [one["state"] for one in (await runs.events_of(world.store, run))[0].data["seen"]] == [
            "silent"
        ]

    play(story, World(policy_of("hold")))


def test_the_answer_comes_with_the_run() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        data, seen = await world.plan(("pangyo",)), list[str]()
        await put_plan(world.store, data)

        async def look(changes: Sequence[Change]) -> None:
            seen.extend(sorted(change.key.partition("/")[0] for change in changes))

        _between(world.stores[world.leader], "open/", look)
        run = await runs.propose(world.store, runs.Proposal("move-1", data, "a new roof", ()), 1, 5)
        assert await world.store.get(f"open/{run}") is not None
        assert {"answer", "incident", "journal", "open", "proposal"} <= set(seen)

    play(story, World(policy_of("hold")))


def test_a_leader_that_was_quicker_than_the_withdrawal_is_heard() -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.transact((), (Put("proposal/p", b"{}"),))

        async def answer(changes: Sequence[Change]) -> None:
            await store.transact((), (Put("answer/p", orjson.dumps({"run": "r"})),))

        _between(store, "proposal/p", answer)
        assert await runs.answer_to(store, "p", 0.001) == {"run": "r"}

    asyncio.run(story())


def test_who_does_not_wait_takes_nothing_back() -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.transact((), (Put("proposal/p", b"{}"),))
        assert await runs.answer_to(store, "p", 0) is None
        assert await store.get("proposal/p") is not None
        assert await runs.answer_to(store, "p", 0.001) is None
        assert await store.get("proposal/p") is None

    asyncio.run(story())


def test_a_withdrawal_of_which_nobody_knows_is_no_promise() -> None:
    async def story() -> None:
        store = MemoryStore()

        async def silent(changes: Sequence[Change]) -> None:
            if isinstance(changes[0], Delete):
                raise Unavailable("no answer")
            _between(store, "proposal/", silent)

        _between(store, "proposal/", silent)
        with pytest.raises(OutcomeUnknown, match="may still be"):
            await runs.propose(store, runs.Proposal("i", b"{}", "why"), 1, 0.001)
        assert await store.list("proposal/"), "it may still be taken"

    asyncio.run(story())


@pytest.mark.parametrize(
    "error",
    [
        StalePlan("plan-stale", "of another estate", "evac plan"),
        UnsafePlan("plan-wrong", "F19", "evac verify"),
        NotAllowed("not-confirmed", "ansan was not confirmed", "--confirm ansan"),
        RunError("incident-taken", "there is a run"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whoever_asked_gets_the_error_that_the_leader_had(error: EvacError) -> None:
    told = runs.refusal(runs.Refusal.of(refused(error)))
    assert type(told) is type(error)
    assert (told.code, told.message, told.hint) == (error.code, error.message, error.hint)


def test_the_answer_of_an_older_leader_says_no_kind() -> None:
    def told(**answer: str) -> EvacError:
        return runs.refusal(runs.Refusal.of(answer))

    assert isinstance(told(refused="F19", code="plan-wrong"), UnsafePlan)
    guarded = told(refused="no", code="guard")
    assert (type(guarded), guarded.code, guarded.message) == (NotAllowed, "guard", "no")
    assert (told().code, told().message) == ("refused", "the leader refused it")


@pytest.mark.parametrize("knows", [True, False])
def test_a_leader_that_has_not_looked_since_a_run_ended_looks_before_it_refuses(knows: bool) -> None:
    """One that has just begun reads what the last one saw: a person would only ask for the same again."""
    world, asked = World(policy_of("hold")), list[int]()

    async def behind(sites: Collection[str]) -> bool:
        asked.append(len(asked))
        return not knows or len(asked) < 4

    async def story(world: World) -> None:
        await world.until_planned()
        proposal = runs.Proposal(
            "move-1", await world.plan(("pangyo",)), "roof", ("pangyo",), "evacuating", typed=("pangyo",)
        )
        if knows:
            assert (await runs.propose(world.store, proposal, 1, 60)).startswith("move-1")
            return
        with pytest.raises(StalePlan, match="since the systems were last observed"):
            await runs.propose(world.store, proposal, 1, 60)

    world.behind = behind  # type: ignore[method-assign]
    play(story, world)


@pytest.mark.parametrize(
    ("stale", "unsure", "made"), [(0, 0, True), (3, 3, True), (1, 0, False), (4, 3, False)]
)
def test_a_leader_that_got_no_answer_looks_again_before_it_calls_a_plan_stale(
    stale: int, unsure: int, made: bool
) -> None:
    """What did not answer in time has not changed: the same plan is accepted once it answers. stale: how
    often the checker calls it so; unsure: how often an answer was missing then.
    """
    world, asked = World(policy_of("hold")), list[tuple[str, ...]]()
    tried = list[bytes]()

    async def accept(data: bytes) -> None:
        tried.append(data)
        if len(tried) <= stale:
            raise StalePlan("plan-stale", "of another state")

    def is_unsure(since_ms: int, gone: Collection[str]) -> bool:
        asked.append(tuple(gone))
        return len(asked) <= unsure

    async def story(world: World) -> None:
        await world.until_planned()
        tried.clear()
        proposal = runs.Proposal(
            "move-1", await world.plan(("pangyo",)), "roof", ("pangyo",), "evacuating", typed=("pangyo",)
        )
        if made:
            assert (await runs.propose(world.store, proposal, 1, 60)).startswith("move-1")
        else:
            with pytest.raises(StalePlan, match="of another state"):
                await runs.propose(world.store, proposal, 1, 60)
        assert len(tried) == (stale + 1 if made else unsure + 1)
        assert set(asked) <= {("pangyo",)}, "what the plan takes for lost need not answer"

    world.accept, world.unsure = accept, is_unsure  # type: ignore[method-assign]
    play(story, world)
