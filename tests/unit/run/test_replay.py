"""The property that holds the house up: from every prefix of every journal, crash, replay and finish."""

import random

from hypothesis import given
from hypothesis import strategies as st

from evac.model.run_policy import Patience
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
