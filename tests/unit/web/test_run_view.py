"""What the page of a run offers for a step as it stands."""

from __future__ import annotations

from evac.web.pages.run_view import step_verbs
from tests.unit.run.test_boots import begun, forget, gone_silent, roomy


def test_a_tripped_feed_can_be_let_in_again_from_its_page() -> None:
    world = begun(roomy())
    while not any(step.startswith("boot:") for step, _ in world.acts):
        world.step()
        world.settle()
    forget(world, lambda step: "f0" in step.feeds)
    gone_silent(world, "f0", 99)
    world.settle()
    closing = world.view.index["power:f0"]
    assert not world.view.steps[closing].gate, "the plan asks nobody; the trip does"
    assert step_verbs(world.view, closing) == ("approve", "skip")
    world.say("gate_opened", "power:f0", world.view.attempts[0], who="mina", reason="breaker closed")
    assert step_verbs(world.view, closing) == ()
