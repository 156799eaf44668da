"""A plan that the checker refuses becomes no run, and takes the place of none, whoever made it."""

from __future__ import annotations

from evac.app import runs
from evac.engine.plans.library import digest_of, put_plan
from evac.engine.stores.guards import read_register
from evac.store.port import Put
from tests.unit.engine.small_world import World, play, policy_of
from tests.unit.engine.test_another_loss import burns, events, five

WHY = "the checker does not accept this plan: F14 promote:chat: the old primary is not fenced first"


def test_a_proposal_is_answered_with_what_the_checker_says_and_nothing_is_journalled() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.refuses = WHY
        data = await world.plan(("pangyo",))
        await put_plan(world.store, data)
        proposal = runs.Proposal("move-1", data, "a new roof", ("pangyo",), "evacuating", typed=("pangyo",))
        number = runs.new_id(1)
        key, value = runs.proposal_entry(number, digest_of(data), proposal)
        await world.store.transact((), (Put(key, value),))
        told = {"refused": WHY, "code": "plan-wrong", "kind": "unsafe-plan", "hint": ""}
        assert await runs.answer_to(world.store, number, 5) == told
        for nothing in ("open/", "incident/", "journal/move"):
            assert await world.store.list(nothing) == []
        assert (await read_register(world.store))["pangyo"] == "active"

    play(story, World(policy_of("hold")))


def test_a_controller_that_may_act_does_not_apply_it_by_itself() -> None:
    async def story(world: World) -> None:
        await world.until_planned()
        world.refuses = WHY
        world.burn("pangyo")
        await world.until(lambda: bool(world.words("trouble")))
        assert world.words("trouble") == [f"pangyo is lost: {WHY}"]
        (told,) = [notice for notice in world.notices if notice.kind == "trouble"]
        assert told.data["code"] == "plan-wrong"
        assert await world.store.list("open/") == []
        assert world.systems.verbs_done() == []

    play(story, World(policy_of("act")))


def test_a_run_under_way_keeps_its_plan() -> None:
    async def story(world: World) -> None:
        run = await burns(world)
        world.refuses = WHY
        world.burn("anyang")
        await world.until(lambda: f"anyang is lost: {WHY}" in world.words("trouble"))
        assert await events(world, run, "plan_replaced") == []

    play(story, five())
