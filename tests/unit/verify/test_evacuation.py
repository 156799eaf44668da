"""The orderly way out of a site: its tools serve until it goes dark, from the first moment on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evac.app.planner.plans import Question, make_plan, scenario_of
from evac.estate import load
from evac.model.estate import Estate
from evac.model.plan import Plan, Step
from evac.verify import check

SMALL = Path(__file__).resolve().parents[2] / "fixtures" / "estates" / "small"


@pytest.mark.parametrize("deadline_ms", [None, 900_000])
@pytest.mark.parametrize("site", ["north", "south"])
def test_what_is_stopped_at_once_is_stopped_with_the_tools_of_the_site(
    site: str, deadline_ms: int | None
) -> None:
    estate = load(SMALL)
    made = make_plan(
        estate, scenario_of(estate, Question(evacuate=(site,), deadline_ms=deadline_ms)), budget_ms=0
    )
    assert any(step.kind == "stop" and step.end_ms == 0 for step in made.plan.steps)
    assert check(estate, made.plan).violations == ()


def evacuated() -> tuple[Estate, Plan]:
    estate = load(SMALL)
    return estate, make_plan(estate, scenario_of(estate, Question(evacuate=("north",))), budget_ms=0).plan


def changed(plan: Plan, step: str, **values: object) -> Plan:
    assert any(one.id == step for one in plan.steps)
    steps = [replace(one, **values) if one.id == step else one for one in plan.steps]  # type: ignore[arg-type]
    return replace(plan, steps=tuple(steps))


def without(plan: Plan, step: str) -> Plan:
    return replace(plan, steps=tuple(one for one in plan.steps if one.id != step))


def stopping(plan: Plan) -> Step:
    return next(step for step in plan.steps if step.kind == "stop")


WRONG: dict[str, tuple[str, str, Callable[[Plan], Plan]]] = {
    "before its replacement serves": (
        "F25",
        "stop:deploy",
        lambda p: changed(p, "stop:deploy", start_ms=0, end_ms=0, after=()),
    ),
    "while nothing takes its place": (
        "F25",
        "stop:web",
        lambda p: changed(p, "stop:web", start_ms=0, end_ms=0),
    ),
    "without waiting for what takes its place": (
        "F5",
        "stop:deploy",
        lambda p: changed(p, "stop:deploy", after=()),
    ),
    "never": ("F25", "pay", lambda p: without(p, "stop:pay")),
    "twice": (
        "F25",
        "stop:again",
        lambda p: replace(p, steps=(*p.steps, replace(stopping(p), id="stop:again"))),
    ),
    "though it stands elsewhere": ("F25", "stop:web", lambda p: changed(p, "stop:web", target="cmdb")),
    "though nobody knows it": ("F2", "stop:web", lambda p: changed(p, "stop:web", target="nobody")),
    "for too short a time": ("F25", "stop:ads", lambda p: changed(p, "stop:ads", end_ms=5_000)),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_an_evacuation_leaves_is_stopped_as_it_must_be(how: str) -> None:
    estate, plan = evacuated()
    rule, subject, breaking = WRONG[how]
    found = check(estate, breaking(plan)).violations
    assert (rule, subject) in {(one.rule, one.subject) for one in found}


@pytest.mark.parametrize("question", [Question(lose=("north",)), Question(failback=("north",))])
def test_nothing_is_stopped_where_no_site_is_evacuated(question: Question) -> None:
    estate, plan = evacuated()
    stop = next(step for step in plan.steps if step.id == "stop:evac")
    other = make_plan(estate, scenario_of(estate, question), budget_ms=0).plan
    found = check(estate, replace(other, steps=(stop, *other.steps))).violations
    assert ("F25", "stop:evac") in {(one.rule, one.subject) for one in found}
