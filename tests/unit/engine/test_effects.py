"""What runs left behind, in a store: kept, read once, and taken back by a person."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from evac.app.planner.plans import make_plan
from evac.derive.situation import moved as derived
from evac.derive.situation import of, promised
from evac.drivers.port import Action
from evac.engine.runs.effects import (
    EFFECTS,
    EffectsReader,
    clear,
    decode,
    encode,
    numbered,
    of_run,
)
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY
from evac.estate import load
from evac.model.errors import Corrupt, NotAllowed
from evac.model.observation import Observation
from evac.model.scenario import Scenario, lose
from evac.model.situation import Effects, LostNow, Moved
from evac.run.state import replay
from evac.run.values import RunSpec, RunStep
from evac.steps.registry import kind_of
from evac.store.port import Delete, MemoryStore, Put, Store
from tests.unit.run.world import World
from tests.unit.truth.test_moves import pools
from tests.web.rooms import ESTATE as SMALL


def moved(run: str, scenario: str, *domains: str, at_ms: int, phase: str = "succeeded") -> Moved:
    return Moved(
        run,
        scenario,  # type: ignore[arg-type]
        domains,
        at_ms,
        at_ms + 5,
        phase,
        {"shop": (("west-pool", 2),)},
        {"shop": ("west",)},
        {"w1": True},
        {"orders": (("east", "none"), ("west", "primary"))},
        {"shop": ("shift:shop", at_ms + 4)},
    )


async def put(store: Store, *records: Moved, **marks: str) -> None:
    changes = [Put(EFFECTS + one.run, encode(one)) for one in records]
    await store.transact((), (*changes, Put(SITES_KEY, orjson.dumps(marks))))


def test_a_record_comes_back_as_it_was() -> None:
    one = moved("fire-1", "lose", "east", at_ms=10)
    assert decode(encode(one)) == one
    with pytest.raises(Corrupt):
        decode(b"no record")


def test_a_lost_site_has_its_run_and_its_time_and_records_are_in_the_order_of_their_ends() -> None:
    async def work() -> None:
        store = MemoryStore()
        await put(
            store,
            moved("b-first", "lose", "east", at_ms=10),
            moved("a-second", "restore", "north", at_ms=20),
            east="lost",
            west="active",
        )
        found = await EffectsReader(store).read(99)
        assert [one.run for one in found.moved] == ["b-first", "a-second"]
        (lost,) = found.lost
        assert (lost.domain, lost.state, lost.since_ms, lost.run) == ("east", "lost", 10, "b-first")

    asyncio.run(work())


def test_what_is_lost_names_the_run_that_left_it_and_not_a_later_one_about_the_same_loss() -> None:
    async def work() -> None:
        store, opened = MemoryStore(), Put(OPEN + "fire-3", orjson.dumps({"leaving": ["east"]}))
        fires = [moved(f"fire-{at}", "lose", "east", "west/h1", at_ms=at * 10) for at in (1, 2)]
        await put(store, *fires, east="lost", west="active")
        await store.transact((), (opened,))
        first = [("east", 10, "fire-1"), ("west/h1", 10, "fire-1")]
        found = (await EffectsReader(store).read(99)).lost
        assert [(one.domain, one.since_ms, one.run) for one in found] == first
        back = [moved(f"back-{n}", "restore", site, at_ms=30) for n, site in enumerate(("east", "west/h1"))]
        await put(store, *back, moved("fire-4", "lose", "east", at_ms=40), east="lost", west="active")
        found = (await EffectsReader(store).read(99)).lost
        assert [(one.domain, one.since_ms, one.run) for one in found] == [("east", 40, "fire-4")]
        await store.transact((), (Delete(OPEN + "fire-3"),))
        await clear(store, "east", "kim", "a drill", 50)
        await put(store, moved("fire-6", "lose", "east", at_ms=60), east="lost", west="active")
        found = (await EffectsReader(store).read(99)).lost
        assert [(one.domain, one.since_ms, one.run) for one in found] == [("east", 60, "fire-6")]
        await store.transact((), (Delete(OPEN + "fire-3"),))
        await clear(store, "east", "kim", "a drill", 70)
        never = replace(moved("fire-7", "lose", "east", at_ms=0), ended_ms=65, phase="cancelled")
        await put(store, never, moved("fire-8", "lose", "east", at_ms=80), east="lost", west="active")
        found = (await EffectsReader(store).read(99)).lost
        assert [(one.domain, one.run) for one in found] == [("east", "fire-8")], "that drill was cleared"

    asyncio.run(work())


def test_how_often_a_domain_came_back_counts_its_site_and_what_a_person_cleared() -> None:
    async def work() -> None:
        store = MemoryStore()
        reader = EffectsReader(store)
        seen = [await reader.times_back("east/h1")]
        for at, (scenario, phase) in enumerate(
            (
                ("restore", "succeeded"),
                ("failback", "succeeded"),
                ("lose", "succeeded"),
                ("restore", "failed"),
            ),
            1,
        ):
            await put(store, moved(f"run-{at}", scenario, "east", at_ms=at, phase=phase), east="active")
            seen.append(await reader.times_back("east/h1"))
        await put(store, moved("other", "restore", "east/h2", "west", at_ms=9), east="lost")
        seen.append(await reader.times_back("east/h1"))
        await clear(store, "east", "kim", "a drill", 50)
        seen.append(await reader.times_back("east/h1"))
        assert seen == [(0, 0), (1, 0), (2, 0), (2, 0), (2, 0), (2, 0), (2, 50)]

    asyncio.run(work())


def test_a_run_under_way_marks_its_site_and_counts_once_it_has_ended() -> None:
    async def work() -> None:
        store, opened = MemoryStore(), {"leaving": ["east"]}
        await put(store, east="lost", west="active")
        await store.transact((), (Put(OPEN + "fire-1", orjson.dumps({**opened, "made": "3.40"})),))
        assert (await EffectsReader(store).read(90)).lost[0].since_ms == 40, "whoever leads by now"
        await store.transact((), (Put(OPEN + "fire-1", orjson.dumps(opened)),))
        reader = EffectsReader(store)
        before = await reader.read(50)
        assert (before.lost[0].run, before.lost[0].since_ms, before.moved) == ("fire-1", 50, ())
        kept = Put(EFFECTS + "fire-1", encode(moved("fire-1", "lose", "east", at_ms=40)))
        await store.transact((), (kept, Delete(OPEN + "fire-1")))
        after = await reader.read(90)
        assert [one.run for one in after.moved] == ["fire-1"]
        assert after.lost[0].since_ms == 50

    asyncio.run(work())


def test_a_run_that_began_and_ended_between_two_looks_is_read() -> None:
    async def work() -> None:
        store, now = MemoryStore(), 99
        reader = EffectsReader(store)
        before = await reader.read(now)
        assert not await reader.has_newer(before)
        await put(store, moved("short", "lose", "east", at_ms=10))
        assert await reader.has_newer(before)
        after = await reader.read(now)
        assert [one.run for one in after.moved] == ["short"]
        assert not await reader.has_newer(after)
        await store.transact((), (Put(EFFECTS + "odd", b"no record"),))
        assert not await reader.has_newer(after), "what nobody can read moved nothing"
        await put(store, east="lost", west="lost")
        assert await reader.has_newer(after), "a run that began marks its site"
        assert not await reader.has_newer(after, with_marks=False)
        marked = await reader.read(now)
        assert not await reader.has_newer(marked)
        await clear(store, "west", "kim", "a drill", now)
        assert await reader.has_newer(marked), "whoever plans now does so without the mark"

    asyncio.run(work())


def test_a_hall_is_lost_until_it_is_restored_or_cleared() -> None:
    async def work() -> None:
        store = MemoryStore()
        await put(store, moved("fire", "lose", "east/h1", "east/h2", at_ms=10), east="active")
        assert [one.domain for one in (await EffectsReader(store).read(20)).lost] == ["east/h1", "east/h2"]
        await put(store, moved("power", "restore", "east/h1", at_ms=30), east="active")
        assert [one.domain for one in (await EffectsReader(store).read(40)).lost] == ["east/h2"]
        await clear(store, "east/h2", "kim", "it never burnt", 50)
        assert not (await EffectsReader(store).read(60)).lost

    asyncio.run(work())


def test_a_mark_is_cleared_by_a_person_and_not_while_a_run_leaves_the_site() -> None:
    async def work() -> None:
        store = MemoryStore()
        await put(store, east="evacuated", west="active")
        await store.transact((), (Put(OPEN + "fire-1", orjson.dumps({"leaving": ["east"]})),))
        with pytest.raises(NotAllowed, match="fire-1 is in progress"):
            await clear(store, "east", "kim", "a drill", 50)
        await store.transact((), (Delete(OPEN + "fire-1"),))
        await clear(store, "east", "kim", "a drill", 60)
        entry = await store.get(SITES_KEY)
        assert entry is not None
        assert orjson.loads(entry.value) == {"east": "active", "west": "active"}
        with pytest.raises(NotAllowed, match="not marked"):
            await clear(store, "east", "kim", "a drill", 70)

    asyncio.run(work())


def test_of_two_runs_the_later_one_is_the_last_whatever_their_leaders_clocks_said() -> None:
    async def work() -> None:
        store = MemoryStore()
        first = await numbered(store, moved("of-a-clock-ahead", "lose", "east", at_ms=9_000_000))
        await put(store, first)
        second = await numbered(store, moved("later", "failback", "east", at_ms=10))
        await put(store, second)
        assert (first.number, second.number) == (1, 2)
        assert decode(encode(second)) == second
        assert [one.run for one in (await EffectsReader(store).read(99)).moved] == [first.run, second.run]

    asyncio.run(work())


@pytest.mark.parametrize("site", ["north", "south"])
def test_what_people_did_by_hand_is_what_the_plan_promised(site: str) -> None:
    """No driver moves anything here: each step was attested, traffic as well."""
    estate = load(SMALL)
    plan = make_plan(estate, lose(site), budget_ms=200).plan
    digest = "sha256:p"
    steps = tuple(
        RunStep(s.id, s.kind, s.target, s.start_ms, s.end_ms - s.start_ms, s.after) for s in plan.steps
    )
    spec = RunSpec("fire", "fire", digest, steps)
    world = World(spec, lambda step, attempt: "ok", lambda step: 1_000, now_ms=7_000)
    world.begin()
    assert world.finish() == "awaiting_approval"
    world.now_ms += 60_000
    world.say("approved", who="kim")
    assert world.finish() == "succeeded"
    view = replay(spec, world.events)
    found = of_run(view, {digest: plan}, lambda step: (), estate)
    expected = derived(estate, plan.scenario, promised(estate, plan))
    shifted = {s.target for s in plan.steps if kind_of(s.kind).moves_traffic}
    assert shifted
    assert found.since == {site: 7_000}, "since the fire, not since the approval"
    assert found.traffic == expected.traffic
    assert found.placed == expected.placed
    assert all(site not in found.traffic[service] for service in shifted)


def test_a_site_that_a_proxy_lets_users_into_again_is_one_that_they_are_sent_to() -> None:
    """The step is in no plan: it was added when the plan was bound."""
    estate = load(SMALL)
    service = estate.services[0].id
    estate = replace(estate, traffic={service: ("south",)})
    plan = make_plan(estate, Scenario("failback", ("north",)), budget_ms=0).plan
    step = RunStep(f"redirect:{service}", "redirect", service, 0, 1)
    spec = RunSpec("back", "back", "sha256:p", (step,), approvals=0)
    world = World(spec, lambda step, attempt: "ok")
    world.begin()
    assert world.finish() == "succeeded"
    ready = Action("ready", service, "haproxy", "south", {}, {"site": "north"})
    found = of_run(replay(spec, world.events), {"sha256:p": plan}, lambda step: (ready, ready), estate)
    assert found.traffic[service] == ("north", "south")


@pytest.mark.parametrize("ended", [1, 2, 3], ids=["started", "verified", "stopped"])
def test_a_move_that_a_run_left_unfinished_is_a_surplus_for_the_next_plan(ended: int, tmp_path: Path) -> None:
    """The new replicas run, and the old ones still do, until the old ones were stopped."""
    estate = pools(tmp_path)
    plan = make_plan(estate, lose("a"), budget_ms=200).plan
    steps = tuple(
        RunStep(s.id, s.kind, s.target, s.start_ms, s.end_ms - s.start_ms, s.after) for s in plan.steps
    )
    moving = [step.id for step in steps if step.target == "wiki"]
    assert [kind_of(step.kind).frees_capacity for step in steps if step.target == "wiki"] == [0, 0, 1]
    spec = RunSpec("fire", "fire", "sha256:p", steps, approvals=0)
    world = World(spec, lambda step, attempt: "ok" if step in moving[:ended] else "refuse")
    world.begin()
    assert world.finish() != "succeeded"
    world.say("cancelled", who="kim", reason="a drill")
    assert world.finish() == "cancelled"
    left = of_run(replay(spec, world.events), {"sha256:p": plan}, lambda step: (), estate)
    assert dict(left.placed["wiki"]) == ({"pb": 1, "pc": 1} if ended < 3 else {"pc": 1})
    lost = LostNow("a", "lost", 1, "fire")
    seen = Observation(at_ms=10, effects=Effects((lost,), (decode(encode(left)),)))
    assert of(estate, seen).estate.surplus == (("wiki",) if ended < 3 else ())
