"""An incident has one document: the JSON of the command and of the API, text and pages say the same."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.app.incidents import paper
from evac.incident.incident import Dossier, summary
from evac.incident.records import Note, RunRecord
from evac.incident.services import Change, Fate, first_down_ms, lasted_ms, restored
from evac.incident.timeline import timeline
from evac.model.plan import Plan
from evac.run.state import replay
from evac.run.values import Event, RunSpec, RunStep
from evac.views.incident_document import incident_course, incident_document
from tests.unit.incident.stories import OUTCOMES, STEPS, T0, fire, note, outcome, plan_of, step

RANK = {"down": 0, "degraded": 1, "moving": 2, "up": 3}


SLOWER = plan_of(
    steps=[*STEPS, step("start", "slow", "top")],
    outcomes=[*OUTCOMES, outcome("slow", "restored", 9, 0, 5_000)],
)
"""A fire in which `slow` is degraded and never down."""
PLANS = [plan_of(), SLOWER, plan_of("evacuate"), plan_of("failback")]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("notes", [(), (note("command", 5, value="kim"),)])
def test_the_command_and_the_api_say_the_same_of_every_service(notes: tuple[Note, ...], plan: Plan) -> None:
    dossier = fire(notes, plan)
    about = summary(dossier)
    entries = tuple(timeline(dossier, about))
    document = incident_document(dossier, about, entries)
    api = orjson.loads(orjson.dumps(document))
    command = orjson.loads(str(paper(dossier, about, "summary", "json", T0 + 9_000_000)))
    assert api["touched"], "a fire without an affected service compares nothing"
    assert {row["service"]: row["level"] for row in command["services"]} == {
        row["service"]: row["level"] for row in api["touched"]
    }
    sources = {row["service"]: [c["source"] for c in row["changes"]] for row in command["services"]}
    assert sources == {row["service"]: [c["source"] for c in row["changes"]] for row in api["touched"]}
    for name in ("incident", "title", "state", "commander", "still_down", "begun_by", "ended_by", "sites"):
        assert command[name] == api["incident"][name]
    assert api["entries"] == len(entries)
    assert api["plan"] == dossier.runs[0].spec.plan


@pytest.mark.parametrize("plan", PLANS)
def test_services_are_listed_once_and_the_worst_first(plan: Plan) -> None:
    dossier = fire(plan=plan)
    course = incident_course(dossier, summary(dossier))
    listed = [one.service for one in course.touched]
    assert sorted(listed) == sorted(fate.service for fate in summary(dossier).fates)
    ranks = [(RANK[one.level], one.tier) for one in course.touched]
    assert ranks == sorted(ranks)
    assert course.incident.services == len(course.touched)


@pytest.mark.parametrize(
    ("plan", "service", "levels"),
    [
        (SLOWER, "slow", ["degraded", "up"]),
        (plan_of("evacuate"), "web", ["moving", "up"]),
        (plan_of("failback"), "web", ["moving", "up"]),
    ],
)
def test_a_service_that_was_degraded_or_moving_is_touched_even_if_it_is_up_again(
    plan: Plan, service: str, levels: list[str]
) -> None:
    dossier = fire(plan=plan)
    course = incident_course(dossier, summary(dossier))
    (found,) = (one for one in course.touched if one.service == service)
    assert [change.level for change in found.changes] == levels
    assert "fine" not in {one.service for one in course.touched}, "it was up throughout"


REPLACING = ("p2", "p3")


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_the_plan_in_force_is_the_one_that_the_run_carries_out(replaced: int) -> None:
    specs = [
        RunSpec("run-1", "fire-1", plan, (RunStep("shift:w", "shift", "w", 0, 10, site="anyang", act=plan),))
        for plan in ("p1", *REPLACING)
    ]
    given = {"why": "loss", "lost": ["pangyo"], "approvals": 0}
    events = [
        Event("run_created", 0, data={"plan": "p1"}),
        Event("run_started", 1, data={"token": 1}),
        *(Event("plan_replaced", 2 + i, data={"plan": plan, **given}) for i, plan in enumerate(REPLACING)),
    ][: 2 + replaced]
    dossier = Dossier("fire-1", (RunRecord(specs[0], events, tuple(specs[1:])),))
    document = incident_document(dossier, summary(dossier), ())
    assert document.plan == replay(specs[0], events, specs[1:]).plans[-1] == ("p1", *REPLACING)[replaced]


LEVELS = st.sampled_from(("up", "degraded", "moving", "down"))


@given(st.lists(st.tuples(st.integers(1, 50), LEVELS), max_size=8), st.integers(0, 60))
def test_levels_last_as_long_as_the_clock_says(rows: list[tuple[int, str]], more: int) -> None:
    """Counted second by second."""
    at, changes = 0, []
    for gap, level in rows:
        at += gap
        changes.append(Change(at, level, None))  # type: ignore[arg-type]
    until = at + more
    seconds = [
        next((one.level for one in reversed(changes) if one.at_ms <= second), "") for second in range(until)
    ]
    for level in RANK:
        assert lasted_ms(changes, level, until) == seconds.count(level)
    assert first_down_ms(changes) == next((one.at_ms for one in changes if one.level == "down"), None)
    fate, back = Fate("web", 0, None, None, tuple(changes)), restored(changes)
    assert (fate.restored, fate.down_since_ms) == (back, first_down_ms(changes))
    if back is not None:
        assert back.level != "down"
        assert all(one.level != "down" for one in changes[changes.index(back) :])
