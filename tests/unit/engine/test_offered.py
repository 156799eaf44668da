"""Whatever a person is offered for a step is accepted when they ask for it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from evac.engine.runs.requests import VERBS, Request, RequestTerms, event_of
from evac.model.errors import EvacError, NotAllowed, RunError
from evac.run.values import ENDED, Event, RunSpec
from evac.run.view import RunView
from evac.run.waits import run_verbs, step_verbs
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
def test_every_request_that_is_offered_is_taken_and_a_refusal_names_others(seed: int, steps: int) -> None:
    rng = random.Random(f"asked {seed}")
    world = World(_spec(seed, steps), lambda step, attempt: _outcome(seed, step, attempt))
    world.begin()
    for turn in range(120):
        went_on = world.step()
        view, offered = world.view, []

        def asked(verb: str, step: str = "", turn: int = turn) -> Event:
            request = Request(f"r{turn}", verb, "kim", "seen", step=step, at_ms=world.now_ms)  # type: ignore[arg-type]
            return event_of(world.view, request, world.now_ms, TERMS)

        for step in ("", *(step.id for step in view.steps)):
            verbs = step_verbs(view, view.index[step]) if step else run_verbs(view)
            for verb in VERBS:
                if verb in verbs:
                    event = asked(verb, step)
                    assert (event.step, event.data["who"]) == (step, "kim")
                    if step or rng.random() < 0.1:
                        offered.append(event)
                elif verb != "limit" and (no := _refusal(lambda v=verb, s=step: asked(v, s))) is not None:  # type: ignore[misc]
                    for named in _named(view, no):
                        asked(*named)
        if offered and (not went_on or rng.random() < 0.3):
            world.put(rng.choice(offered))
        elif not went_on and view.phase in ENDED:
            break
        if rng.random() < 0.05 and world.view.started_ms >= 0:
            world.take_over(list(world.events))


def _refusal(ask: Callable[[], object]) -> EvacError | None:
    try:
        ask()
    except (RunError, NotAllowed) as error:
        return error
    return None


def _named(view: RunView, error: EvacError) -> list[tuple[str, str]]:
    """Verb and step of each command that a refusal names; a run that has ended has none."""
    run = re.escape(view.spec.run)
    found = re.findall(rf"evac (?:run )?(\w+) {run}(?: --step)? ?(\S*) --reason WHY", error.hint)
    assert found or view.phase in ENDED or error.code in ("undo-order", "undo-store"), error
    return found


def test_a_step_in_doubt_is_tried_again_by_a_person_and_needs_to_be_seen_by_no_one() -> None:
    world = World(random_spec(1, 1), lambda step, attempt: "gone")
    world.begin()
    while not world.view.counts.get("unknown"):
        assert world.step()
    step = world.view.steps[0].id
    request = Request("r", "retry", "kim", "I looked: it did nothing", step=step, at_ms=world.now_ms)
    world.put(event_of(world.view, request, world.now_ms, TERMS))
    assert (world.view.phases[0], world.view.unseen) == ("ready", {0: 2})
