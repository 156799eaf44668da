"""While something is lost, the verdict on another loss counts what that loss makes worse, and no more."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from evac.app.planner.plans import make_plan
from evac.audit import audit
from evac.derive.situation import of
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.model.situation import Effects, LostNow
from evac.office.reckoning import loss_by, made_worse, verdict_of, what_if_of
from evac.planning.compiled import interpreted
from evac.planning.plan import plan
from tests.unit.derive.test_situation import SITES, estate_of
from tests.unit.truth.written import servers, written

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


DARK = """
sites: {a: {}, b: {}, c: {}}
halls: {a/h: {}}
racks: {a/h/r: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB}}
providers: {pay.example: {}}
pools:
  pb: {site: b, cpu: 9 cores, memory: 9 GiB}
  pc: {site: c, cpu: 9 cores, memory: 9 GiB}
services:
  pay: {people: 9, external: true, provider: pay.example}
  old: {people: 9, eligible_sites: [a], REST}
  shop: {people: 9, replicas: {pb: 1}, needs: [pay], REST}
""".replace("REST", "start: 1 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}")


def test_what_is_down_already_and_no_worse_off_is_not_of_what_goes_down(tmp_path: Path) -> None:
    """The server of old is off; its provider takes down shop."""
    table = servers("v1,a,a/h/r,c,condemned,")
    estate = written(tmp_path, DARK, servers=table, replicas="service,target,count\nold,v1,1\n")
    estate, lost = replace(estate, lost=("c",)), "provider:pay.example"
    with interpreted():
        before, then = (plan(estate, lose(name), work=0) for name in ("c", lost))
    loss = what_if_of(audit(estate), (lost,)).loss
    assert (loss.down, loss.down_before) == (3, 1)
    verdict = verdict_of("x", then, before)
    assert (verdict.down, verdict.already) == (2, 1)
    assert loss_by(loss, verdict).down_before == 0
    alone = loss_by(loss, verdict_of("x", then))
    assert (alone.down, alone.down_before) == (3, 1)
