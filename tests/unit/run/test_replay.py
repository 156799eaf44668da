"""The property that holds the house up: from every prefix of every journal, crash, replay and finish."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.model.run_policy import Patience
from evac.run.patience import INTERRUPTIONS_MOST
from evac.run.state import alike, fingerprint, replay
from evac.run.values import Event, RunLimit, RunSpec, RunStep
from tests.unit.run.world import World, overused, seeded_outcomes


def random_spec(seed: int, steps: int) -> RunSpec:
    rng = random.Random(seed)
    made = []
    for n in range(steps):
        after = tuple(sorted(f"s{m}" for m in rng.sample(range(n), min(n, rng.randrange(3)))))
        uses = (("api", rng.randrange(1, 3), 0),) if rng.random() < 0.5 else ()
        uses += (("boots", 1, 0),) if rng.random() < 0.3 else ()
        made.append(RunStep(f"s{n}", "start", f"t{n}", rng.randrange(1000), 100, after, uses))
    limits = (RunLimit("api", "slots", 3), RunLimit("boots", "rate", 2, 500))
    return RunSpec(
        f"run-{seed}", "fire", "p1", tuple(made), limits, patience=Patience(attempts=5), approvals=0
    )


def cut_short(world: World, doing: str, most: int) -> int:
    """Ends the controller in the middle of step `db`, which did nothing yet, each time that it is executed or
    undone, at most so often; how often that was.
    """
    for n in range(most):
        world.settle()
        while world.view.phases[world.view.index["db"]] != doing:
            if not world.step():
                return n
            world.settle()
        (world.done.discard if doing == "running" else world.done.add)("db")
        world.take_over(world.events.copy())
    return most


@given(st.integers(0, INTERRUPTIONS_MOST - 1), st.integers(1, 5))
def test_a_controller_that_ends_is_no_failure_of_the_step_that_it_executed(times: int, attempts: int) -> None:
    """However few failures are allowed, and after all of them but one."""
    step = RunStep("db", "start", "db", 0, 100)
    spec = RunSpec("r", "fire", "p", (step,), patience=Patience(attempts=attempts), approvals=0)
    world = World(spec, lambda step, attempt: "retry" if attempt - times < attempts else "ok")
    world.begin()
    assert cut_short(world, "running", times) == times
    assert world.finish() == "succeeded"
    assert world.acts[-1] == ("db", times + attempts)
    assert not starts_without_a_look_between(world.events)
    assert not [event for event in world.events if event.kind == "paused"]


def test_a_step_that_ends_its_controller_each_time_waits_for_a_person() -> None:
    world = World(RunSpec("r", "fire", "p", (RunStep("db", "start", "db", 0, 100),), approvals=0))
    world.begin()
    assert cut_short(world, "running", 99) == INTERRUPTIONS_MOST
    assert world.finish() == "paused"
    code, words = world.view.step("db").failure
    assert (code, str(INTERRUPTIONS_MOST) in words) == ("too-many-interruptions", True)
    world.say("step_retried", "db", INTERRUPTIONS_MOST, who="mina", reason="more memory")
    assert cut_short(world, "running", INTERRUPTIONS_MOST - 1) == INTERRUPTIONS_MOST - 1
    assert world.finish() == "succeeded"


@pytest.mark.parametrize(("times", "end"), [(INTERRUPTIONS_MOST - 1, "cancelled"), (99, "failed")])
def test_an_undo_goes_on_after_its_controller_ended_but_not_for_ever(times: int, end: str) -> None:
    first = RunStep("db", "start", "db", 0, 100, safe_undo=True)
    last = RunStep("last", "start", "last", 0, 100, ("db",), gate="check")
    world = World(RunSpec("r", "fire", "p", (first, last), approvals=0))
    world.begin()
    world.finish()
    world.say("rollback_started", who="mina", reason="false alarm")
    cut_short(world, "undoing", times)
    assert world.finish() == end
    assert ("db" in world.done) == (end == "failed")


def starts_without_a_look_between(events: list[Event]) -> list[str]:
    """Steps that began twice although nobody had looked, and nothing said that the first try did nothing."""
    open_steps: set[str] = set()
    found = []
    for event in events:
        if event.kind == "step_started":
            if event.step in open_steps:
                found.append(event.step)
            open_steps.add(event.step)
        elif event.kind in ("step_observed", "step_failed") and event.data.get("outcome") != "unclear":
            open_steps.discard(event.step)
    return found


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_every_prefix_leads_to_the_same_end(seed: int, steps: int) -> None:
    spec = random_spec(seed, steps)
    whole = World(spec, seeded_outcomes(seed))
    whole.begin()
    assert whole.finish() == "succeeded"
    assert not overused(spec, whole.events)
    for cut in range(1, len(whole.events) + 1):
        again = World(spec, seeded_outcomes(seed), now_ms=whole.events[cut - 1].at_ms)
        again.done = {
            event.step
            for event in whole.events[:cut]
            if event.kind == "step_started"
            and seeded_outcomes(seed)(event.step, event.attempt) in ("ok", "lost")
        }
        again.take_over(whole.events[:cut])
        assert again.finish() == "succeeded"
        assert again.done == {f"s{n}" for n in range(steps)}
        assert all(phase == "succeeded" for phase in again.view.phases)
        assert not starts_without_a_look_between(again.events)
        assert not overused(spec, again.events)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_replayed_prefix_is_the_state_that_lived(seed: int, steps: int) -> None:
    spec = random_spec(seed, steps)
    world = World(spec, seeded_outcomes(seed))
    prints = []
    put = world.put
    world.put = lambda event: (put(event), prints.append(fingerprint(world.view)))[0]  # type: ignore[method-assign]
    world.begin()
    world.finish()
    assert len(prints) == len(world.events)
    for cut in range(1, len(world.events) + 1):
        assert fingerprint(replay(spec, world.events[:cut])) == prints[cut - 1]


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_two_states_are_alike_where_their_fingerprints_are_the_same(seed: int, steps: int) -> None:
    spec = random_spec(seed, steps)
    world = World(spec, seeded_outcomes(seed))
    world.begin()
    world.finish()
    states = [replay(spec, world.events[:cut]) for cut in range(1, len(world.events) + 1)]
    for one in states:
        assert alike(one, world.view) == (fingerprint(one) == fingerprint(world.view))
    assert alike(states[-1], world.view), "whoever decided has more in hand than the events say"


@given(st.sampled_from(("phases", "attempts", "tries", "started", "ended", "waits")))
def test_a_state_with_another_value_in_one_place_is_not_alike(column: str) -> None:
    spec = random_spec(7, 4)
    world = World(spec, seeded_outcomes(7))
    world.begin()
    world.finish()
    other = replay(spec, world.events)
    assert alike(world.view, other)
    getattr(other, column)[2] = "failed" if column == "phases" else 4711
    assert not alike(world.view, other)
    again = replay(spec, world.events)
    again.limits._timed.append((again.last_ms + 1, 0, 1))
    assert not alike(world.view, again)
