"""Boots whose leader dies: which of them rush, for how long that counts, and when they are looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.model.errors import RunError
from evac.run.boots.events import ARRIVES_MS
from evac.run.decide import decide
from evac.run.limits import Limits
from evac.run.state import fingerprint, replay
from evac.run.values import RunLimit, RunSpec
from tests.unit.run.waves import Wave, wave

HOLD_MS = 60
BOOT_MS = 100


def three_begun() -> Wave:
    """Three boots of one feed, begun at once; nothing else has room."""
    spec = wave(3, servers=6)
    steps = tuple(replace(one, uses=(("inrush:f0", 100, HOLD_MS),), feeds=("f0",)) for one in spec.steps[2:5])
    limits = (RunLimit("inrush:f0", "slots", 300),)
    world = Wave(
        RunSpec("run-1", "dark", "p1", tuple(replace(s, after=()) for s in steps), limits, approvals=0)
    )
    world.begin()
    world.settle()
    world.pending.clear()
    assert world.view.counts["running"] == 3
    return world


def names(world: Wave) -> list[str]:
    return [step.id for step in world.spec.steps]


def held(world: Wave, now_ms: int) -> int:
    world.view.limits.advance(now_ms)
    return world.view.limits.used("inrush:f0")


def replays(world: Wave) -> bool:
    return fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def test_an_inrush_counts_from_the_moment_at_which_the_controller_took_the_request() -> None:
    world = three_begun()
    first, second, _ = names(world)
    began = world.now_ms
    world.now_ms = began + 40
    world.say("switched_on", steps=[first])
    world.now_ms = began + HOLD_MS + 5  # its hold is over by now, and begins anew
    assert held(world, world.now_ms) == 100
    world.say("switched_on", steps=[second])
    assert replays(world)
    assert [held(world, began + ms) for ms in (66, 99, 101, 124, 126)] == [200, 200, 100, 100, 0]


def test_a_new_leader_counts_what_rushes_for_the_rest_of_it_and_what_may_arrive_for_longer() -> None:
    world = three_begun()
    first, second, third = names(world)
    began = world.now_ms
    world.say("switched_on", steps=[first])
    world.now_ms = began + 50
    world.say("switched_on", steps=[second])
    world.now_ms = took_over = began + 400_000  # however its clock goes
    world.say("leader_changed", owner="c2", token=2)
    assert replays(world)
    rest = (1, 9, 11, HOLD_MS - 1, HOLD_MS + 1, ARRIVES_MS + HOLD_MS - 1, ARRIVES_MS + HOLD_MS + 1)
    assert [held(world, took_over + ms) for ms in rest] == [300, 300, 200, 200, 100, 100, 0]
    again = replay(world.spec, world.events)
    assert again.boots.inrush_ms == {0: took_over - 50, 1: took_over, 2: took_over + ARRIVES_MS}, (
        "by the clock of the new leader"
    )
    world.now_ms = took_over + 2_000
    world.say("leader_changed", owner="c3", token=3)
    assert world.view.boots.inrush_ms[2] == took_over + 2_000 + ARRIVES_MS, "no event says that time passed"
    assert third in names(world)


def test_what_was_switched_on_is_looked_at_when_it_should_be_up_and_the_rest_at_once() -> None:
    world = three_begun()
    first, second, third = names(world)
    began = world.now_ms
    world.say("switched_on", steps=[first, third])
    world.now_ms = began + 30
    world.say("leader_changed", owner="c2", token=2)
    assert [(one.kind, one.step) for one in decide(world.view, world.now_ms)] == [("observe", second)]
    assert not decide(world.view, began + BOOT_MS - 1)
    due = decide(world.view, began + BOOT_MS + 31)
    assert sorted((one.kind, one.step) for one in due) == [("observe", first), ("observe", third)]


def test_a_server_that_is_begun_anew_was_not_switched_on_yet() -> None:
    world = three_begun()
    first, _, _ = names(world)
    world.say("switched_on", steps=[first])
    world.say("step_failed", first, 1, code="bmc-busy", message="", again_ms=0)
    world.now_ms += HOLD_MS
    world.settle()
    assert world.view.attempts[0] == 2
    assert 0 not in world.view.boots.inrush_ms
    world.say("step_succeeded", names(world)[1], 1)
    with pytest.raises(RunError, match="which is succeeded"):
        world.say("switched_on", steps=[names(world)[1]])


def test_a_hold_that_is_prolonged_is_never_counted_twice() -> None:
    limits = Limits([RunLimit("a", "slots", 10)])
    limits.take(((0, 4, 100),), 0)
    limits.hold_on(0, 4, 100, 250)
    limits.hold_on(0, 4, 250, 200)  # it ends before: nothing to prolong
    used = []
    for now_ms in (0, 99, 100, 249, 250):
        limits.advance(now_ms)
        used.append(limits.used("a"))
    assert used == [4, 4, 4, 4, 0]
