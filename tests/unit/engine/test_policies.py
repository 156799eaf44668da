"""A policy that changes: what holds for a run is never looser than what it was made under."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.engine.lead.policies import (
    MODES,
    PROMOTIONS,
    SYNC_LOSSES,
    Policies,
    changes,
    digest_of,
    from_data,
    stricter,
    to_data,
)
from evac.engine.runs.open_runs import InHand, read_opened
from evac.engine.runs.reading import events_of
from evac.model.run_policy import (
    FENCE_PROOFS,
    PROFILES,
    Approver,
    Envelope,
    Pace,
    Patience,
    RunPolicy,
    StorePolicy,
    Window,
)
from evac.run.values import RunSpec
from evac.store.port import Put
from tests.unit.engine.small_world import SITES, World, play, policy_of

NAMES = st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple)
STORE = st.builds(
    StorePolicy,
    st.just("a"),
    st.lists(st.sampled_from(FENCE_PROOFS), unique=True).map(tuple),
    st.booleans(),
    st.integers(1, 9),
    st.sampled_from(SYNC_LOSSES),
    st.sampled_from(PROMOTIONS),
    st.integers(0, 9),
)
POLICY = st.builds(
    RunPolicy,
    st.sampled_from(MODES),
    st.integers(1, 3),
    st.lists(st.builds(Approver, st.sampled_from("kl"), st.just("key")), max_size=2).map(tuple),
    st.builds(Envelope, NAMES, NAMES, st.integers(0, 9), st.integers(0, 9)),
    st.sampled_from(tuple(PROFILES.values())),
    st.dictionaries(st.just("a"), STORE).map(MappingProxyType),
    st.lists(st.builds(Window, st.integers(0, 3), st.integers(4, 6), NAMES), max_size=2).map(tuple),
    st.builds(Patience, st.integers(1, 4)),
    st.builds(Pace, st.just((100, 1_000)), st.integers(0, 5)),
    st.dictionaries(st.just("dns"), st.integers(1, 5)).map(MappingProxyType),
    st.integers(1, 9),
    st.sampled_from(("told", "asked")),
)


@given(POLICY, POLICY)
def test_what_holds_for_a_run_is_looser_than_neither(made: RunPolicy, now: RunPolicy) -> None:
    held = stricter(made, now)
    for one in (made, now):
        assert MODES.index(held.mode) <= MODES.index(one.mode)
        assert held.approvals >= one.approvals
        assert bool(held.approvers) >= bool(one.approvers), (
            "where somebody had to sign, somebody still has to"
        )
        assert set(held.envelope.sites) <= set(one.envelope.sites)
        assert set(held.envelope.stores) <= set(one.envelope.stores)
        assert held.envelope.most_lost_ms <= one.envelope.most_lost_ms
        assert held.envelope.most_shed <= one.envelope.most_shed
        assert set(held.windows) >= set(one.windows)
        assert held.generation == "asked" or one.generation == "told"
        for name in ("a", "not named"):
            ours, theirs = held.store(name), one.store(name)
            assert set(ours.proofs) <= set(theirs.proofs)
            assert PROMOTIONS.index(ours.async_promotion) <= PROMOTIONS.index(theirs.async_promotion)
            assert SYNC_LOSSES.index(ours.on_sync_loss) <= SYNC_LOSSES.index(theirs.on_sync_loss)
            assert ours.most_lost_ms <= theirs.most_lost_ms
    assert (held.patience, held.pace, held.driver_limits) == (made.patience, made.pace, made.driver_limits)
    assert stricter(made, made) == made


@given(POLICY, POLICY)
def test_a_policy_comes_back_as_it_was_written(one: RunPolicy, other: RunPolicy) -> None:
    assert from_data(orjson.loads(orjson.dumps(to_data(one)))) == one
    same = (digest_of(one) == digest_of(other), changes(one, other) == ())
    named = {name: store for name, store in one.stores.items() if store != StorePolicy(name)}
    others = {name: store for name, store in other.stores.items() if store != StorePolicy(name)}
    if named == dict(one.stores) and others == dict(other.stores):
        assert same in ((True, True), (False, False))


def test_what_is_no_policy_of_this_version_is_not_read() -> None:
    assert from_data({}) == RunPolicy()
    for told in ({"guard_of_tomorrow": 1}, {"stores": {"a": {"store": "a", "proof": []}}}, {"windows": [1]}):
        with pytest.raises(TypeError):
            from_data(told)


def test_one_key_of_a_controller_is_written_as_before_there_could_be_several() -> None:
    """Journals have digests of policies that were written so."""
    one, two = (RunPolicy(controllers=MappingProxyType({"a": keys})) for keys in (("k",), ("new", "k")))
    assert to_data(one)["controllers"] == {"a": "k"}
    assert [from_data(orjson.loads(orjson.dumps(to_data(made)))) for made in (one, two)] == [one, two]


def test_a_run_keeps_its_policy_where_it_lies_with_it() -> None:
    made = policy_of("hold", approvals=2)
    run = InHand(RunSpec("r", "i", "p", ()), {"pangyo": "lost"}, {}, made, ("pangyo",), "lost", 2)
    again = read_opened("r", run.opened(), RunPolicy())
    assert (again.policy, again.leaving, again.approvals) == (made, ("pangyo",), 2)
    told = orjson.loads(run.opened())
    del told["policy"]
    assert read_opened("r", orjson.dumps(told), RunPolicy()).policy == RunPolicy(), "of an older version"


def test_runs_in_hand_are_known_and_forgotten() -> None:
    made = replace(policy_of("hold"), generation="asked")
    known = Policies(made)
    known.keep("r", made)
    known.now = policy_of("act")
    assert (known.of("r").mode, known.of("new").mode, known.made("r")) == ("hold", "act", made)
    assert (known.asks_generation, known.held) == (True, ("r",))
    known.now = policy_of("advise")
    assert known.of("r").mode == "advise", "what is stricter now holds at once"
    known.forget("r")
    assert (known.of("r"), known.asks_generation, known.held) == (known.now, False, ())
    known.keep("s", made)
    known.forget()
    assert known.made("s") is known.now


def _window(end_ms: int = 60_000) -> Window:
    """From the beginning of virtual time."""
    return Window(0, end_ms, ("anyang",), "new switches")


async def _until_told(world: World, run: str, why: str) -> None:
    """The journal of the run says what it waits for."""
    async with asyncio.timeout(8):
        while True:
            told = [event.data["why"] for event in await events_of(world.store, run) if "why" in event.data]
            if any(why in words for words in told):
                return
            await asyncio.sleep(0.02)


async def _run(world: World) -> str:
    (entry,) = await world.store.list("incident/")
    return str(orjson.loads(entry.value)["run"])


def test_a_looser_policy_changes_no_run_that_is_under_way_nor_under_the_next_leader() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: any("starts without approval" in words for words in world.words("loss")))
        run = await _run(world)
        await _until_told(world, run, "maintenance: new switches")
        world.policy = policy_of("act")
        for one in world.policies.values():
            one.now = world.policy
        await asyncio.sleep(0.5)
        assert world.systems.log == []
        first = world.leader
        world.tasks[first].cancel()
        await world.until(lambda: world.leader not in ("", first))
        await asyncio.sleep(0.5)
        assert world.systems.log == [], "the next one goes by looser files, and knows what it was made under"
        request = {"verb": "cancel", "who": "kim", "reason": "made anew under the new policy"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        async with asyncio.timeout(8):
            while not await world.ended():
                await asyncio.sleep(0.02)
        assert world.policies[world.leader].held == ()

    play(story, World(policy_of("act", windows=(_window(),))))


def test_a_stricter_policy_holds_for_a_run_that_is_under_way() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.burn("pangyo")
        await world.until(lambda: any("waits for approval" in words for words in world.words("loss")))
        run = await _run(world)
        window = _window(world.clock.now_ms() + 1_500)
        for one in world.policies.values():
            one.now = policy_of("hold", windows=(window,))
        request = {"verb": "approve", "who": "kim", "reason": "it burns"}
        await world.store.transact((), [Put(f"request/{run}/1", orjson.dumps(request))])
        await _until_told(world, run, "maintenance: new switches")
        await world.until(lambda: "shift" in world.systems.verbs_done())
        assert world.clock.now_ms() >= window.end_ms, "nothing was touched inside the window"

    play(story, World(policy_of("hold")), SITES)
