"""Boot servers that die when everything is under way, boots in doubt, and the last few that fail."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from evac.run.boots.events import SEVERAL_STALLED
from evac.run.forecast import forecast
from evac.run.state import fingerprint, replay
from evac.run.values import Event, RunSpec
from evac.run.waits import DoubtfulBootServer, waiting
from evac.views.quarantine import quarantine_of
from tests.unit.run.waves import Wave, wave

ROOM = 10**6


def spec_of(boot_servers: int, servers: int = 12, cold: bool = True) -> RunSpec:
    """Room for all at once; boots of boot server b0, or of b0 and b1 in turn."""
    spec = wave(7, servers)
    steps = tuple(
        replace(
            step,
            boot_server=f"b{n % boot_servers}",
            cold=cold,
            uses=tuple(use for use in step.uses if not use[0].startswith("boots:")),
        )
        if step.kind == "boot"
        else step
        for n, step in enumerate(spec.steps)
    )
    return replace(spec, steps=steps, limits=tuple(replace(limit, capacity=ROOM) for limit in spec.limits))


def in_flight(spec: RunSpec, at_ms: int = 0) -> Wave:
    """Everything is powered on, and nothing of it has a result yet. at_ms: when the run began; 0: at once."""
    world = Wave(spec, trouble=0.0)
    world.now_ms = at_ms or world.now_ms
    world.begin()
    while world.view.counts.get("running", 0) < len(spec.steps) - 2:
        assert world.step()
        world.settle()
    world.pending.clear()
    assert not world.view.counts.get("ready", 0) + world.view.counts.get("pending", 0)
    return world


def boots(world: Wave, server: str) -> list[int]:
    return [i for i, step in enumerate(world.view.steps) if step.boot_server == server]


def up(world: Wave, i: int) -> None:
    world.say("step_succeeded", world.view.steps[i].id, world.view.attempts[i])


def fails(world: Wave, i: int, code: str = "server-no-boot") -> None:
    data = {"code": code, "message": "", "again_ms": -1, "off": True}
    world.put(Event("step_failed", world.now_ms, world.view.steps[i].id, world.view.attempts[i], data))
    world.settle()


def in_doubt(world: Wave, i: int, **evidence: str) -> None:
    """Its leader dies, and it answers that it is on, and no more, for the time of a whole try."""
    step, attempt = world.view.steps[i].id, world.view.attempts[i]
    world.say("step_unknown", step, attempt, message="another leader")
    while i not in world.view.doubtful:
        world.now_ms += 1_000
        world.say("step_observed", step, attempt, outcome="unclear", evidence=evidence)
    world.pending.clear()


def events(world: Wave, kind: str) -> list[Event]:
    return [event for event in world.events if event.kind == kind]


def retried(world: Wave) -> list[tuple[str, int, bool]]:
    return [(e.step, e.data["turn"], e.data["cycle"]) for e in events(world, "step_retried")]


def replays(world: Wave) -> bool:
    return fingerprint(world.view) == fingerprint(replay(world.spec, world.events))


def test_a_boot_server_that_dies_with_all_in_flight_is_noticed_and_replaced() -> None:
    world = in_flight(spec_of(2))
    world.outcome = lambda step, attempt: "ok"
    for i in boots(world, "b1"):
        up(world, i)
    mine = boots(world, "b0")
    world.now_ms += 400
    for i in mine:
        fails(world, i)
    (lost,) = events(world, "boot_server_lost")
    assert (lost.data["server"], lost.data["other"], lost.data["holds"]) == ("b0", "b1", False)
    assert world.finish() == "succeeded_with_exceptions", "four had been left out when it was noticed"
    assert {world.view.attempts[i] for i in mine} == {2}
    assert replays(world)


def test_the_only_boot_server_that_dies_with_all_in_flight_is_tried_by_one_at_a_time() -> None:
    world = in_flight(spec_of(1))
    mine = boots(world, "b0")
    world.now_ms += 400
    for i in mine:
        fails(world, i)
    assert world.view.boots.unreplaced == {"b0"}
    for _ in range(30):  # it stays dead for two rounds and a half
        (canary,) = [i for i in mine if world.view.phases[i] == "running"]
        world.pending.clear()
        world.now_ms += 400
        fails(world, canary)
        while "running" not in world.view.phases:
            assert world.step()
            world.settle()
    assert forecast(world.view, world.now_ms).floor <= 1 < len(world.view.boots.quarantined), (
        "they take turns"
    )
    left = quarantine_of(world.view, lambda step: {}).down
    assert {one.remedy.partition(";")[0] for one in left} == {
        "boot server b0 is not serving, so fix it first, and it is retried"
    }
    world.outcome = lambda step, attempt: "ok"
    (canary,) = [i for i in mine if world.view.phases[i] == "running"]
    world.pending.clear()
    up(world, canary)
    assert world.finish() == "succeeded_with_exceptions"
    assert all(world.view.phases[i] == "succeeded" for i in mine), "no hand was laid on any of them"
    assert not world.view.boots.quarantined
    assert replays(world)


def test_broken_servers_that_end_last_are_no_dead_boot_server_and_are_tried_once_more() -> None:
    """They take longest to fail, so that nothing comes up after them."""
    world = in_flight(spec_of(1, servers=24))
    mine = boots(world, "b0")
    for i in mine[8:]:
        up(world, i)
    world.now_ms += 400
    for i in mine[:8]:
        world.view.started[i] -= 60  # they began before the others
    for i in mine[:8]:
        fails(world, i)
    assert not events(world, "boot_server_lost")
    assert sorted(retried(world)) == sorted((world.view.steps[i].id, 1, False) for i in mine[:8])
    world.pending.clear()
    world.view.started[mine[8]] = world.now_ms + 10  # another one came up meanwhile
    world.now_ms += 400
    for i in mine[:8]:
        fails(world, i)
    assert world.finish() == "succeeded_with_exceptions"
    assert len(retried(world)) == 8
    assert {world.view.steps[i].id for i in world.view.boots.quarantined} == {
        world.view.steps[i].id for i in mine[:8]
    }


def test_a_few_that_began_last_have_some_more_turns_and_then_go_to_the_floor() -> None:
    world = in_flight(spec_of(1))
    mine, at_ms = boots(world, "b0"), list[int]()
    for i in mine[2:]:
        up(world, i)
    for i in mine[:2]:
        world.view.started[i] += 10
    world.now_ms += 400
    for _ in range(world.spec.patience.attempts + 1):
        tried = [i for i in mine if world.view.phases[i] == "running"]
        assert tried == mine[:2]
        at_ms.append(world.now_ms)
        world.pending.clear()
        world.now_ms += 10
        for i in tried:
            fails(world, i)
        if len(at_ms) == 2:
            (wait,) = waiting(world.view)
            assert isinstance(wait.facts, DoubtfulBootServer)
            assert (wait.facts.server, wait.facts.boots) == ("b0", 2)
        while world.view.phase == "running" and "running" not in world.view.phases:
            assert world.step()
            world.settle()
    pauses = [later - before for before, later in pairwise(at_ms)]
    assert pauses == sorted(set(pauses)), "longer and longer"
    assert world.view.phase == "succeeded_with_exceptions"
    assert {turn for _, turn, _ in retried(world)} == {1, 2, 3}
    left = quarantine_of(world.view, lambda step: {}).down
    assert {one.code for one in left} == {"server-no-boot"}
    assert not events(world, "boot_server_lost"), f"{SEVERAL_STALLED} say it, not two"
    assert replays(world)


def test_broken_servers_here_and_there_are_left_to_the_floor_at_once() -> None:
    world = in_flight(spec_of(1, servers=90))
    mine = boots(world, "b0")
    broken = mine[::15]
    for n, i in enumerate(mine):
        world.view.started[i] = n * 10
    for i in mine:
        if i not in broken:
            up(world, i)
    world.now_ms += 900
    for i in broken:
        fails(world, i)
    assert not retried(world)
    assert world.view.phase == "succeeded_with_exceptions"
    assert world.view.boots.quarantined == set(broken)


def test_one_of_a_few_that_comes_up_has_the_others_tried_at_once() -> None:
    world = in_flight(spec_of(1))
    mine = boots(world, "b0")
    for i in mine[2:]:
        up(world, i)
    for i in mine[:2]:
        world.view.started[i] += 10
    world.now_ms += 400
    fails(world, mine[0])
    fails(world, mine[1])
    world.pending.clear()
    world.now_ms += 400
    fails(world, mine[0])
    world.view.started[mine[1]] = world.now_ms + 1  # it was tried later, and its boot server was back
    world.now_ms += 400
    up(world, mine[1])
    world.outcome = lambda step, attempt: "ok"
    world.settle()
    assert world.view.phases[mine[0]] == "running", "without a pause"
    assert world.finish() == "succeeded_with_exceptions"
    assert not world.view.boots.quarantined


@pytest.mark.parametrize("cold", [True, False])
def test_a_boot_in_doubt_is_looked_at_again_and_switched_off_only_if_it_was_off_before(cold: bool) -> None:
    world = in_flight(spec_of(1, cold=cold))
    first, *others = boots(world, "b0")
    for i in others:
        up(world, i)
    in_doubt(world, first, power="on", state="booting")
    world.settle()
    assert retried(world) == [(world.view.steps[first].id, 1, cold)]
    assert (world.view.phases[first], first in world.view.boots.cycled) == ("running", cold)
    assert replays(world)
    world.pending.clear()
    world.view.started[others[0]] = world.now_ms + 10  # another one came up meanwhile
    world.now_ms += 400
    fails(world, first)
    assert first not in world.view.boots.cycled
    assert world.finish() == "succeeded_with_exceptions"
    (left,) = quarantine_of(world.view, lambda step: {}).down
    assert left.code == "server-no-boot", "it was followed to its end: nothing is in doubt any more"


def test_a_boot_in_doubt_whose_controller_is_silent_is_left_to_people() -> None:
    world = in_flight(spec_of(1))
    first, *others = boots(world, "b0")
    for i in others:
        up(world, i)
    in_doubt(world, first, code="bmc-silent")
    assert world.finish() == "succeeded_with_exceptions"
    assert not retried(world)
    (left,) = quarantine_of(world.view, lambda step: {}).down
    assert left.code == "in-doubt"


def test_boots_in_doubt_go_to_the_boot_server_that_steps_in() -> None:
    world = in_flight(spec_of(2))
    for i in boots(world, "b1"):
        up(world, i)
    doubt, *others = boots(world, "b0")
    world.outcome = lambda step, attempt: "ok"
    in_doubt(world, doubt, power="on", state="booting")
    world.now_ms += 400
    for i in others:
        fails(world, i)
    assert [e.data["other"] for e in events(world, "boot_server_lost")] == ["b1"]
    assert world.finish() == "succeeded_with_exceptions"
    assert not world.view.boots.quarantined
    assert replays(world)


def test_a_person_who_retries_gives_a_server_all_of_its_turns_back() -> None:
    world = in_flight(spec_of(1))
    first, *others = boots(world, "b0")
    for i in others:
        up(world, i)
    world.view.started[first] += 10
    world.now_ms += 400
    fails(world, first)
    assert world.view.boots.turns == {first: 1}
    world.pending.clear()
    fails(world, first)
    world.say("step_retried", world.view.steps[first].id, 2, who="mina", reason="a new disk")
    assert not world.view.boots.turns


def test_turns_are_known_to_a_new_plan() -> None:
    spec = spec_of(1)
    other = replace(spec, plan="p2")
    world = Wave(spec, others=(other,), trouble=0.0)
    world.begin()
    while world.view.counts.get("running", 0) < len(spec.steps) - 2:
        assert world.step()
        world.settle()
    world.pending.clear()
    first, *others = boots(world, "b0")
    for i in others:
        up(world, i)
    in_doubt(world, first, power="on", state="booting")
    world.settle()
    world.say("plan_replaced", plan="p2", why="again")
    assert (world.view.boots.turns, world.view.boots.cycled) == ({first: 1}, {first})


@pytest.mark.parametrize(
    ("broken", "again"),
    [
        ((20, 21), True),
        ((20, 22), False),
        ((20, 21, 22, 40), True),
        ((20, 21, 40, 45, 50, 55), False),
        ((20, 21, 22, 40, 45, 50), True),
    ],
    ids=["a pair", "not in a row", "three", "as many as by chance", "more than by chance"],
)
def test_a_few_in_a_row_are_tried_once_more_unless_so_many_are_broken(
    broken: tuple[int, ...], again: bool
) -> None:
    """Their boot server was away for a moment in the middle of the wave, and serves since then."""
    world = in_flight(spec_of(1, servers=90))
    mine, last = boots(world, "b0"), world.spec.patience.attempts
    for n, i in enumerate(mine):
        world.view.started[i] = n * 10
    for n, i in enumerate(mine):
        if n not in broken:
            up(world, i)
            world.view.ended[i] = world.view.started[i] + 100
    world.now_ms += 900
    for n in broken:
        fails(world, mine[n])
    row = [n for n in broken if n < 40]
    tried = [(world.view.steps[mine[n]].id, last, False) for n in row] if again else []
    assert sorted(retried(world)) == sorted(tried)
    world.pending.clear()
    world.now_ms += 400
    for n in row if again else ():
        fails(world, mine[n])
    assert world.finish() == "succeeded_with_exceptions"
    assert len(retried(world)) == len(tried), "once"
    assert world.view.boots.quarantined == {mine[n] for n in broken}


def test_boots_that_began_long_after_each_other_are_no_row() -> None:
    world = in_flight(spec_of(1, servers=90))
    mine = boots(world, "b0")
    for n, i in enumerate(mine):
        world.view.started[i] = n * 10 + (200 if n > 20 else 0)
        if n not in (20, 21):
            up(world, i)
            world.view.ended[i] = world.view.started[i] + 100
    world.now_ms += 1_500
    for n in (20, 21):
        fails(world, mine[n])
    assert not retried(world)
