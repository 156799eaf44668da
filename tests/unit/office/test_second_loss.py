"""While something is lost, the verdict on another loss counts what that loss makes worse, and no more."""

from __future__ import annotations

import itertools

import pytest

from evac.app.planner.plans import make_plan
from evac.derive.situation import of
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.model.situation import Effects, LostNow
from evac.office.reckoning import made_worse, verdict_of
from tests.unit.derive.test_situation import SITES, estate_of

GONE = ("shed", "unplaced", "unknown")
PAIRS = tuple(itertools.permutations(SITES, 2))


def plans_of(seed: int, first: str, second: str) -> tuple[Plan, Plan]:
    """The plan for what is lost, and for a second loss, while the first is not yet dealt with."""
    now = of(estate_of(seed), Observation(0, effects=Effects((LostNow(first, "lost"),)))).estate
    return tuple(make_plan(now, lose(name), budget_ms=0).plan for name in (first, second))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_second_loss_counts_what_it_makes_worse_and_nothing_else(
    seed: int, first: str, second: str
) -> None:
    before, plan = plans_of(seed, first, second)
    was = {one.service: one for one in before.outcomes if one.goes_down or one.state in GONE}
    found, worse = verdict_of("x", plan, before), {one.service for one in made_worse(plan, before)[0]}
    for one in plan.outcomes:
        old = was.get(one.service)
        if (one.goes_down or one.state in GONE) and old is None:
            assert one.service in worse, "it is up before this loss"
        if one.state in GONE and old is not None and old.state not in GONE:
            assert one.service in worse, "it would have come back"
        old = next((o for o in before.outcomes if o.service == one.service), None)
        if old is not None and (one.state, one.recovery_ms) == (old.state, old.recovery_ms):
            assert one.service not in worse, "it is down in the same way without this loss"
    as_before = {one.service for one in plan.outcomes if one.state != "running"} - worse
    assert found.already == sum(
        one.service in as_before and (one.goes_down or one.state in GONE) for one in plan.outcomes
    )
    assert found.affected == len(worse)
    for one in plan.outcomes:
        if one.service in as_before:
            assert one.service in {old.service for old in before.outcomes}, "it was not affected before"
    for store in plan.stores:
        olds = [one for one in before.stores if one.store == store.store]
        if store.primary_ms is None and not any(one.primary_ms is None for one in olds):
            assert store in made_worse(plan, before)[1]


def test_the_loss_of_a_site_that_holds_nothing_affects_no_other_service() -> None:
    found = 0
    for seed in range(40):
        estate = estate_of(seed)
        homes = {SITES[int(site)] for site in estate.replicas.target}
        idle = sorted(set(SITES[2:]) - homes)
        if not idle:
            continue
        before, plan = plans_of(seed, "north", idle[0])
        verdict = verdict_of("x", plan, before)
        if any(one.state in GONE for one in made_worse(plan, before)[0]):
            continue  # the idle site had the room that the lost services need
        found += 1
        assert verdict.verdict == "ok"
        assert verdict.words.startswith("no other service is affected" if verdict.already else "no service")
    assert found


def test_without_an_earlier_loss_everything_that_the_plan_names_counts() -> None:
    _, plan = plans_of(3, "north", "east")
    found = verdict_of("x", plan)
    assert (found.already, found.affected) == (0, len([o for o in plan.outcomes if o.state != "running"]))
