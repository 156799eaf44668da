"""Whatever a person is offered for a step is accepted when they ask for it."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from evac.engine.runs.requests import Request, RequestTerms, event_of
from evac.run.values import RunSpec
from evac.run.waits import step_verbs
from tests.unit.run.test_replay import random_spec
from tests.unit.run.world import World

TERMS = RequestTerms()


def _spec(seed: int, steps: int) -> RunSpec:
    """Some steps are done by hand, some wait for a person, some can be rolled back."""
    rng = random.Random(f"kinds {seed}")
    spec = random_spec(seed, steps)
    made = (
        replace(step, manual=rng.random() < 0.2, gate="delicate" * (rng.random() < 0.2), safe_undo=True)
        for step in spec.steps
    )
    return replace(spec, steps=tuple(made))


def _outcome(seed: int, step: str, attempt: int) -> str:
    return random.Random(f"{seed}/{step}/{attempt}").choice(["ok", "ok", "retry", "refuse", "lost", "gone"])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 7))
def test_every_request_that_is_offered_is_taken(seed: int, steps: int) -> None:
    rng = random.Random(f"asked {seed}")
    world = World(_spec(seed, steps), lambda step, attempt: _outcome(seed, step, attempt))
    world.begin()
    for turn in range(120):
        went_on = world.step()
        offered = []
        for i, step in enumerate(world.view.steps):
            for verb in step_verbs(world.view, i):
                request = Request(f"r{turn}", verb, "kim", "seen", step=step.id, at_ms=world.now_ms)  # type: ignore[arg-type]
                event = event_of(world.view, request, world.now_ms, TERMS)
                assert (event.step, event.data["who"]) == (step.id, "kim")
                offered.append(event)
        if offered and (not went_on or rng.random() < 0.3):
            world.put(rng.choice(offered))
        elif not went_on:
            break
        if rng.random() < 0.05 and world.view.started_ms >= 0:
            world.take_over(list(world.events))


def test_a_step_in_doubt_is_tried_again_by_a_person_and_needs_to_be_seen_by_no_one() -> None:
    world = World(random_spec(1, 1), lambda step, attempt: "gone")
    world.begin()
    while not world.view.counts.get("unknown"):
        assert world.step()
    step = world.view.steps[0].id
    request = Request("r", "retry", "kim", "I looked: it did nothing", step=step, at_ms=world.now_ms)
    world.put(event_of(world.view, request, world.now_ms, TERMS))
    assert (world.view.phases[0], world.view.unseen) == ("ready", {0: 2})
