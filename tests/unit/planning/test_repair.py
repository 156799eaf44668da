"""A plan mended in the middle: what failed servers should carry starts elsewhere; all else stays."""

from __future__ import annotations

from random import Random

import pytest

from evac.app.planner.plans import make_plan
from evac.derive.planning_instance import derive
from evac.derive.situation import estate_after
from evac.estate.examples import pangyo
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.plan import Plan
from evac.model.scenario import Policy, Scenario, lose
from evac.planning.repair import Repaired, repair
from evac.verify import check

ROOM = ("F2", "F7", "F8", "F9", "F10")


@pytest.fixture(scope="module")
def wave() -> tuple[Estate, Plan, Instance]:
    burnt = pangyo(servers=1_000, mended=False)
    estate = estate_after(burnt, make_plan(burnt, lose("pangyo"), budget_ms=100).plan)
    plan = make_plan(estate, Scenario("restore", ("pangyo",)), budget_ms=100).plan
    return estate, plan, derive(estate, plan.scenario, Policy((), plan.tier_weights), plan.tick_ms)


def _break(
    wave: tuple[Estate, Plan, Instance], seed: int
) -> tuple[Plan, frozenset[str], frozenset[str], Repaired]:
    _, plan, instance = wave
    random = Random(seed)
    boots = sorted(step.target for step in plan.steps if step.kind == "boot")
    failed = frozenset(random.sample(boots, max(1, len(boots) // random.choice((100, 30, 10)))))
    now_ms = random.randrange(max(step.end_ms for step in plan.steps))
    dead = {step.id for step in plan.steps if step.kind == "boot" and step.target in failed}
    begun: set[str] = set()
    for step in sorted(plan.steps, key=lambda s: (s.start_ms, s.id)):
        if step.start_ms <= now_ms and step.id not in dead and not dead & set(step.after):
            begun.add(step.id)
    return plan, failed, frozenset(begun), repair(instance, plan, failed, begun)


@pytest.mark.parametrize("seed", range(6))
def test_no_rule_of_capacity_is_broken_and_nothing_stands_on_a_failed_server(
    wave: tuple[Estate, Plan, Instance], seed: int
) -> None:
    estate = wave[0]
    _, failed, _, mended = _break(wave, seed)
    found = [v for v in check(estate, mended.plan).violations if v.rule in ROOM]
    assert not found
    assert not any(name in failed for step in mended.plan.steps for name, _ in step.servers)
    assert not any(step.kind == "boot" and step.target in failed for step in mended.plan.steps)


@pytest.mark.parametrize("seed", range(6))
def test_what_has_begun_stays_as_it_is_and_no_replica_vanishes_unsaid(
    wave: tuple[Estate, Plan, Instance], seed: int
) -> None:
    plan, failed, begun, mended = _break(wave, seed)
    kept = {step.id: step for step in mended.plan.steps}
    for step in plan.steps:
        if step.id in begun:
            assert (kept[step.id].servers, kept[step.id].count) == (step.servers, step.count)
    before = sum(step.count for step in plan.steps if step.kind == "start")
    after = sum(step.count for step in mended.plan.steps if step.kind == "start")
    assert after + sum(count for _, count in mended.left_out) == before
    on_failed = sum(
        count for step in plan.steps if step.kind == "start" for name, count in step.servers if name in failed
    )
    assert mended.moved + sum(count for _, count in mended.left_out) == on_failed
    assert mended.moved > 0 or not on_failed


@pytest.mark.parametrize("seed", range(4))
def test_every_step_waits_for_steps_that_are_there(wave: tuple[Estate, Plan, Instance], seed: int) -> None:
    _, _, _, mended = _break(wave, seed)
    ids = [step.id for step in mended.plan.steps]
    assert len(ids) == len(set(ids))
    assert not [name for step in mended.plan.steps for name in step.after if name not in set(ids)]


def test_a_start_that_moved_waits_for_the_boot_of_its_new_server(wave: tuple[Estate, Plan, Instance]) -> None:
    plan, _, _, mended = _break(wave, 3)
    old = {step.id: step for step in plan.steps}
    booted = {step.target for step in mended.plan.steps if step.kind == "boot"}
    changed = [
        s
        for s in mended.plan.steps
        if s.kind == "start" and s.servers != getattr(old.get(s.id), "servers", ())
    ]
    assert changed
    for step in changed:
        assert {f"boot:{name}" for name, _ in step.servers if name in booted} <= set(step.after)


def test_nothing_failed_nothing_changed(wave: tuple[Estate, Plan, Instance]) -> None:
    _, plan, instance = wave
    mended = repair(instance, plan, (), ())
    assert mended == Repaired(mended.plan, 0, ())
    assert {step.id: step for step in mended.plan.steps} == {step.id: step for step in plan.steps}
