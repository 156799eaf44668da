"""Several boot servers of a site die one after the other: boots move on with their limits, and never back."""

from __future__ import annotations

from dataclasses import replace

from evac.run.state import fingerprint, replay
from evac.run.values import Event, RunLimit, RunSpec
from tests.unit.run.test_outages import ROOM, boots, events, fails, in_flight, replays, spec_of, up
from tests.unit.run.waves import Wave

SERVERS = 18
"""Six of each boot server."""


def three() -> RunSpec:
    """Boot servers b0, b1 and b2, each with a limit of how many boot from it at once."""
    spec = spec_of(3, SERVERS)
    steps = tuple(
        replace(step, uses=(*step.uses, (f"boots:{step.boot_server}", 1, 0))) if step.boot_server else step
        for step in spec.steps
    )
    others = tuple(one for one in spec.limits if not one.id.startswith("boots:"))
    return replace(
        spec, steps=steps, limits=(*others, *(RunLimit(f"boots:b{n}", "slots", ROOM) for n in range(3)))
    )


def moved_once() -> tuple[Wave, list[int]]:
    """All are up but those of b0, which died: they boot from b1 now."""
    world = in_flight(three())
    for i in (*boots(world, "b1"), *boots(world, "b2")):
        up(world, i)
    mine = boots(world, "b0")
    fail(world, mine)
    assert [e.data["other"] for e in events(world, "boot_server_lost")] == ["b1"]
    assert used(world) == {"b0": 0, "b1": 6, "b2": 0}
    return world, mine


def fail(world: Wave, mine: list[int]) -> None:
    """They do not come up, and what is tried again has no result yet."""
    world.now_ms += 400
    for i in mine:
        fails(world, i)
    world.pending.clear()


def used(world: Wave) -> dict[str, int]:
    return {f"b{n}": world.view.limits.used(f"boots:b{n}") for n in range(3)}


def test_boots_that_were_moved_move_on_when_the_next_boot_server_dies_as_well() -> None:
    world, mine = moved_once()
    fail(world, mine)
    second = events(world, "boot_server_lost")[1].data
    assert (second["server"], second["other"], second["stood_in"]) == ("b1", "b2", ["b0"])
    assert (
        {world.view.boots.server_of(i) for i in mine} == {world.view.booted_from(i) for i in mine} == {"b2"}
    )
    assert used(world) == {"b0": 0, "b1": 0, "b2": 6}, "under the limits of whoever serves"
    for i in mine:
        up(world, i)
    assert world.finish() == "succeeded_with_exceptions", "four had been left out when it was noticed"
    assert not world.view.boots.quarantined
    assert {world.view.attempts[i] for i in mine} == {3}
    assert replays(world)


def test_once_all_have_died_the_last_one_is_tried_by_one_at_a_time_and_none_goes_back() -> None:
    world, mine = moved_once()
    fail(world, mine)
    fail(world, mine)
    lost = [(e.data["server"], e.data["other"], e.data["holds"]) for e in events(world, "boot_server_lost")]
    assert lost == [("b0", "b1", False), ("b1", "b2", False), ("b2", "", True)]
    assert world.view.boots.unreplaced == {"b2"}
    for _ in range(8):
        (canary,) = [i for i in mine if world.view.phases[i] == "running"]
        assert world.view.booted_from(canary) == "b2"
        fail(world, [canary])
        while "running" not in world.view.phases:
            assert world.step()
            world.settle()
            world.pending.clear()
    world.outcome = lambda step, attempt: "ok"
    (canary,) = [i for i in mine if world.view.phases[i] == "running"]
    up(world, canary)
    assert world.finish() == "succeeded_with_exceptions"
    assert not world.view.boots.quarantined
    assert len(events(world, "boot_server_lost")) == 3
    assert replays(world)


def test_two_that_die_at_once_do_not_take_over_from_each_other() -> None:
    """All of both take far too long at the same moment. What is under way goes on, and fails one by one."""
    world = in_flight(three())
    for i in boots(world, "b2"):
        up(world, i)
    late, *mine = boots(world, "b0")
    fail(world, mine)
    lost = [(e.data["server"], e.data["other"]) for e in events(world, "boot_server_lost")]
    assert lost == [("b0", "b1"), ("b1", "b2")]
    assert {world.view.boots.server_of(i) for i in boots(world, "b0")} == {"b2"}
    assert world.view.booted_from(late) == "b0", "it was not tried again so far"
    for i in (late, *boots(world, "b1")):
        fails(world, i)
    assert (world.view.phases[late], world.view.booted_from(late)) == ("running", "b2")
    assert used(world) == {"b0": 0, "b1": 0, "b2": 12}
    assert replays(world)


def test_what_a_feed_takes_back_boots_under_the_limits_of_whoever_serves_by_then() -> None:
    world, mine = moved_once()
    for i in mine[1:]:
        up(world, i)
    fail(world, [mine[0]])
    world.say("feed_tripped", feed="f0", why="its breaker was found open", open=True, evidence={})
    world.say("gate_opened", "power:f0", world.view.attempts[0], who="mina", reason="closed")
    behind = [i for i, step in enumerate(world.view.steps) if "f0" in step.feeds]
    while {world.view.phases[i] for i in behind} != {"running"}:
        assert world.step()
        world.settle()
    by = [world.view.steps[i].boot_server for i in behind]
    assert by.count("b0") == by.count("b1") == by.count("b2") == 3
    assert (used(world)["b0"], used(world)["b2"]) == (0, 3)
    assert used(world)["b1"] == 6 + (mine[0] not in behind)


def test_one_broken_server_among_moved_ones_goes_to_the_floor() -> None:
    world, mine = moved_once()
    broken, *others = mine
    for i in others:
        world.view.started[i] += 60
        up(world, i)
    fail(world, [broken])
    assert world.finish() == "succeeded_with_exceptions"
    assert world.view.boots.quarantined == {broken}
    assert len(events(world, "boot_server_lost")) == 1


def test_the_journal_of_a_version_that_did_not_move_boots_on_is_read_as_it_was_meant() -> None:
    world, mine = moved_once()
    fail(world, mine[:5])
    old = [
        event._replace(data={key: value for key, value in event.data.items() if key != "stood_in"})
        for event in world.events
    ]
    lost = max(n for n, event in enumerate(old) if event.kind == "boot_server_lost")
    view = replay(world.spec, old[: lost + 1])
    assert {view.boots.server_of(i) for i in mine} == {"b1"}
    assert {view.phases[i] for i in mine} <= {"running", "failed", "skipped"}


def test_from_where_each_boots_is_known_to_a_new_plan() -> None:
    spec = three()
    world = Wave(spec, others=(replace(spec, plan="p2"),), trouble=0.0)
    before, _ = moved_once()
    for event in before.events:
        world.put(event)
    world.now_ms = before.now_ms
    world.put(Event("plan_replaced", world.now_ms, data={"plan": "p2", "why": "again"}))
    assert {world.view.booted_from(i) for i in boots(world, "b0")} == {"b1"}
    assert used(world) == {"b0": 0, "b1": 6, "b2": 0}
    fail(world, boots(world, "b0"))
    assert [e.data["other"] for e in events(world, "boot_server_lost")] == ["b1", "b2"]
    both = replay(spec, world.events, (replace(spec, plan="p2"),))
    assert fingerprint(world.view) == fingerprint(both)
