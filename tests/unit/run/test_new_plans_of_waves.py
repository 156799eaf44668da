"""A new plan in the middle of a boot wave: in parts as at once, and what befell feeds is not forgotten."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.model.errors import RunError
from evac.run import view as run_view
from evac.run.decide import decide
from evac.run.state import apply, apply_in_parts, fingerprint, replay
from evac.run.values import Event, RunSpec
from evac.run.waits import waiting
from tests.unit.run.waves import Wave, wave

REPLACED = {"plan": "p2", "why": "again", "lost": []}


def under_way(spec: RunSpec, other: RunSpec, seed: int, turns: int, trouble: float = 0.3) -> Wave:
    world = Wave(spec, seed=seed, trouble=trouble, others=(other,))
    world.begin()
    for _ in range(turns):
        if not world.step():
            break
    return world


def shorter(spec: RunSpec, seed: int) -> RunSpec:
    """Another plan of the same wave, in another order, that lacks some servers."""
    steps = spec.steps[: len(spec.steps) - seed % 5]
    return replace(spec, plan="p2", steps=(*steps[:2], *reversed(steps[2:])))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 80))
def test_in_parts_it_leads_where_it_leads_at_once_and_the_view_stays_as_it_is(seed: int, turns: int) -> None:
    spec = wave(seed)
    world = under_way(spec, shorter(spec, seed), seed, turns)
    if world.view.phase not in ("running", "paused"):
        return
    event = Event("plan_replaced", world.now_ms, data=REPLACED)
    was = fingerprint(world.view)
    *_, after = apply_in_parts(world.view, event)
    assert fingerprint(world.view) == was
    assert fingerprint(after) == fingerprint(replay(spec, [*world.events, event], world.others))
    world.view.become(after)
    assert fingerprint(world.view) == fingerprint(apply(replay(spec, world.events, world.others), event))


def test_a_large_plan_is_taken_over_in_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_view, "PART", 8)
    spec = wave(3, servers=96)
    world = under_way(spec, replace(spec, plan="p2"), 3, 20)
    parts = list(apply_in_parts(world.view, Event("plan_replaced", world.now_ms, data=REPLACED)))
    assert len(parts) > 2 * len(spec.steps) // 8


@pytest.mark.parametrize("plan", ["p2", "p3"])
def test_a_plan_that_cannot_take_over_leaves_the_view_as_it_is(plan: str) -> None:
    spec = wave(3)
    broken = replace(spec, plan="p2", steps=(*spec.steps, replace(spec.steps[-1], id="x", after=("nobody",))))
    broken = replace(broken, steps=(*broken.steps, broken.steps[-1]))
    world = under_way(spec, broken, 3, 20)
    was = fingerprint(world.view)
    with pytest.raises(RunError):
        deque(apply_in_parts(world.view, Event("plan_replaced", 0, data=REPLACED | {"plan": plan})), 0)
    assert fingerprint(world.view) == was


def tripped(seed: int = 5) -> Wave:
    """The breaker of f1 was seen open, when all of its servers were up."""
    spec = wave(seed)
    spec = replace(spec, limits=tuple(replace(limit, capacity=10**6) for limit in spec.limits))
    world = under_way(spec, replace(spec, plan="p2"), seed, 0, trouble=0.0)
    while world.view.counts.get("succeeded", 0) < 10:
        world.step()
    world.say("drift_seen", "power:f1", 1, evidence={"breaker": "Tripped"}, undone=False)
    world.settle()
    assert "f1" in world.view.boots.tripped
    return world


def test_a_feed_that_tripped_waits_for_a_person_under_the_new_plan_too() -> None:
    world = tripped()
    closed = world.acts.count(("power:f1", 1))
    world.say("plan_replaced", **REPLACED)
    i = world.view.number("power:f1")
    assert "f1 tripped" in world.view.gate_of(i)
    assert any((one.kind, one.step) == ("gate", "power:f1") for one in waiting(world.view))
    assert world.finish() == "paused"
    assert [step for step, _ in world.acts].count("power:f1") == closed, "nobody closed it"
    assert fingerprint(world.view) == fingerprint(replay(world.spec, world.events, world.others))
    world.say("gate_opened", "power:f1", world.view.attempts[i], who="mina", reason="looked at")
    assert world.view.gate_of(i) == ""
    assert world.finish() == "succeeded"


def test_who_fell_silent_is_known_by_name_and_not_by_its_place_in_the_old_plan() -> None:
    spec = wave(5)
    spec = replace(spec, limits=tuple(replace(limit, capacity=10**6) for limit in spec.limits))
    world = under_way(spec, shorter(spec, 4), 5, 0, trouble=0.0)
    while world.view.counts.get("running", 0) < 8:
        world.step()
        world.settle()
    silent = [i for i, step in enumerate(world.view.steps) if step.feeds == ("f0",)][:2]
    names = [world.view.steps[i].id for i in silent]
    for name in names:
        world.say("step_unknown", name, 1, message="silent", code="bmc-silent")
    world.say("plan_replaced", **REPLACED)
    assert [world.view.steps[i].id for i in world.view.boots.gone["f0"]] == names
    assert list(world.view.boots.gone["f0"]) != silent
    decide(world.view, world.now_ms)


def test_a_fork_that_is_played_forward_changes_nothing_of_the_run() -> None:
    world = under_way(wave(5), wave(5, plan="p2"), 5, 0, trouble=0.0)
    while world.view.counts.get("running", 0) < 3:
        world.step()
        world.settle()
    boots = [i for i, phase in enumerate(world.view.phases) if phase == "running"]
    one, two = [world.view.steps[i].id for i in boots if world.view.steps[i].feeds == ("f0",)][:2]
    world.say("step_unknown", one, 1, message="silent", code="bmc-silent")
    was = fingerprint(world.view)
    other = world.view.fork()
    apply(other, Event("step_unknown", world.now_ms, two, 1, {"message": "", "code": "bmc-silent"}))
    assert len(other.boots.gone["f0"]) == 2
    assert fingerprint(world.view) == was
