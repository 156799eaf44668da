"""What the page of a run offers for a step as it stands."""

from __future__ import annotations

from evac.run.waits import step_verbs
from evac.views.documents import RunShown, run_document, run_head
from evac.views.wait_words import forecast_facts
from evac.web.pages import frame
from evac.web.pages.projection import Shown, charts, projected
from evac.web.pages.run_view import WAITS_MOST, context, steps_page, wait_line
from tests.unit.run.test_boots import begun, forget, gone_silent, roomy
from tests.unit.run.test_forecast import fleet
from tests.unit.run.test_outages import boots, fails, in_flight, spec_of
from tests.unit.run.waves import Wave

DAY = 1_764_000_000_000 - 1_764_000_000_000 % 86_400_000


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
    told = [wait_line(one) for one in run_head(RunShown(world.view, "c1", world.now_ms)).waits]
    gate = next(row for row in told if row["step"] == "power:f0")
    assert gate["verbs"] == ["approve", "skip"]
    assert not any("--step" in row["words"] for row in told), "the page has buttons, and no command line"
    world.say("gate_opened", "power:f0", world.view.attempts[0], who="mina", reason="breaker closed")
    assert step_verbs(world.view, closing) == ()


def test_a_boot_that_waits_for_its_boot_server_says_so_and_not_what_its_last_try_failed_for() -> None:
    world = in_flight(spec_of(1))
    for i in boots(world, "b0"):
        fails(world, i)
    rows = {row["id"]: row for row in steps_page(world.view, "", 0, world.now_ms)["rows"]}
    waiting = [rows[step.id] for i, step in enumerate(world.view.steps) if world.view.phases[i] == "ready"]
    assert waiting
    assert {row["detail"] for row in waiting} == {"waits for boot server b0"}
    tried = [rows[step.id] for i, step in enumerate(world.view.steps) if world.view.phases[i] == "running"]
    assert {row["detail"] for row in tried} == {" [server-no-boot]"}


def test_steps_that_need_no_one_are_folded_and_no_step_is_left_out() -> None:
    world = Wave(fleet(40), trouble=0.0)
    world.begin()
    for _ in range(12):
        page = steps_page(world.view, "", 0, world.now_ms)
        shown, quiet = ({row["id"] for row in page[part]} for part in ("rows", "quiet"))
        assert not shown & quiet
        assert len(shown | quiet) == page["end"]
        states = {step.id: world.view.phases[i] for i, step in enumerate(world.view.steps)}
        assert {states[step] for step in quiet} <= {"pending", "succeeded"}
        assert {step for step, phase in states.items() if phase == "running"} & (shown | quiet) <= shown
        chosen = steps_page(world.view, "pending", 0, world.now_ms)
        assert not chosen["quiet"], "who asked for them sees them"
        world.step()
    world.finish()
    assert steps_page(world.view, "", 0, world.now_ms)["rows"] == []


def test_a_cold_start_says_how_many_servers_are_up_as_the_command_does_and_what_came_up_in_the_end() -> None:
    world = Wave(fleet(100), trouble=0.0)
    world.now_ms = DAY
    assert projected(world.view.fork(), world.now_ms).servers == ("", "")
    world.begin()
    for _ in range(4):
        world.step()
    words, _ = projected(world.view.fork(), world.now_ms).servers
    document = run_document(RunShown(world.view, "c1", world.now_ms)).forecast
    assert words == next(told for name, told, _ in forecast_facts(document) if name == "servers")
    assert " of 100 up; all on at " in words
    world.finish()
    assert projected(world.view.fork(), world.now_ms).servers == ("100 of 100 came up", "")


def test_servers_that_are_left_to_people_are_not_counted_as_done() -> None:
    world = in_flight(spec_of(1), DAY)
    first, *others = boots(world, "b0")
    fails(world, first, "bmc-wrong-serial")
    for i in others:
        world.say("step_succeeded", world.view.steps[i].id, world.view.attempts[i])
    whole, said = len(others) + 1, projected(world.view.fork(), world.now_ms)
    document = RunShown(world.view, "c1", world.now_ms)
    ((wide, narrow),) = charts(Shown(document, said, None, 0, ()), ())["kinds"]
    assert f"({len(others)} of {whole}, 1 skipped)" in wide
    assert f"({len(others)} of {whole}, 1 skipped)" in narrow
    world.finish()
    ended = projected(world.view.fork(), world.now_ms)
    assert ended.over
    assert ended.servers == (f"{len(others)} of {whole} came up", "warning")


def test_a_run_that_nobody_executes_and_what_was_undone_elsewhere_come_first() -> None:
    world = in_flight(spec_of(1))
    names = [f"start:s{k}" for k in range(WAITS_MOST + 3)]
    world.view.drifted = {name: (DAY + k, k % 2 == 0) for k, name in enumerate(names)}
    run = RunShown(world.view, "c1", world.now_ms, untaken="the plan <b>differs</b>")
    shown = Shown(run, projected(world.view.fork(), world.now_ms), None, 0, [])
    page = frame.render("run.html.j2", "/runs", world.now_ms, **context(shown)).decode()
    assert "Not running: the leader cannot take it over: the plan &lt;b&gt;differs&lt;/b&gt;</p>" in page
    assert [name for name in names if f"<strong>{name}</strong> was undone elsewhere" in page] == names[3:]
    assert "3 steps undone elsewhere before these." in page
    assert page.index("Not running") < page.index("was undone elsewhere") < page.index("Steps</h2>")
