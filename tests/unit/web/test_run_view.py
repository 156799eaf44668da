"""What the page of a run offers for a step as it stands."""

from __future__ import annotations

from evac.web.pages.run_view import step_verbs, steps_page
from tests.unit.run.test_boots import begun, forget, gone_silent, roomy
from tests.unit.run.test_outages import boots, fails, in_flight, spec_of


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


def test_a_boot_that_waits_for_its_boot_server_says_so_and_not_what_its_last_try_failed_for() -> None:
    world = in_flight(spec_of(1))
    for i in boots(world, "b0"):
        fails(world, i)
    rows = {row["id"]: row for row in steps_page(world.view, "", 0, world.now_ms)["rows"]}
    waiting = [rows[step.id] for i, step in enumerate(world.view.steps) if world.view.phases[i] == "ready"]
    assert waiting
    assert {row["detail"] for row in waiting} == {"waits for the boot server b0"}
    tried = [rows[step.id] for i, step in enumerate(world.view.steps) if world.view.phases[i] == "running"]
    assert {row["detail"] for row in tried} == {" [server-no-boot]"}
