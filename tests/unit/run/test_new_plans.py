"""A new plan in the middle of a run: which fences still prove, what is typed, what is not tried again."""

from __future__ import annotations

import pytest

from evac.model.run_policy import Envelope
from evac.run.decide import decide
from evac.run.replan import merge
from evac.run.state import apply, fingerprint, replay
from evac.run.values import Event, RunSpec, RunStep, StepPhase
from evac.run.view import RunView


def fence(act: str, site: str) -> RunStep:
    return RunStep("fence:s", "fence", "s", 0, 10, data_set="s", site=site, act=act)


@pytest.mark.parametrize(
    ("was", "phase", "now", "kept"),
    [
        ("pangyo", "succeeded", "pangyo", True),
        ("pangyo", "succeeded", "pangyo>ansan", True),
        ("pangyo", "running", "pangyo>ansan", False),
        ("pangyo", "unknown", "pangyo", False),
        ("pangyo>anyang", "succeeded", "pangyo>ansan", False),
        ("pangyo>anyang", "succeeded", "pangyo", False),
        ("pangyo>anyang", "succeeded", "pangyo>anyang", True),
        ("pangyo", "succeeded", "anyang", False),
        ("pangyo", "succeeded", "anyang>ansan", False),
        ("", "succeeded", "", False),
    ],
)
def test_a_complete_fence_proves_for_what_it_is_about(
    was: str, phase: StepPhase, now: str, kept: bool
) -> None:
    new = RunSpec("r", "i", "p2", (fence(now, "there"),))
    merged = merge({"fence:s": (fence(was, "here"), phase)}, new, {"fence:s": 1})
    assert (merged.renamed == {}) is kept
    assert ("fence:s~2" in {step.id for step in merged.spec.steps}) is not kept


def spec(plan: str, *steps: RunStep, sites: tuple[str, ...] = ("pangyo",), approvals: int = 0) -> RunSpec:
    return RunSpec("r", "i", plan, steps, envelope=Envelope(sites), approvals=approvals)


ONE = RunStep("shift:w", "shift", "w", 0, 10, site="anyang", act="a")
OTHER = RunStep("shift:w", "shift", "w", 0, 10, site="anyang", act="b")


def begun(*events: Event) -> tuple[list[Event], RunView]:
    first, second = spec("p1", ONE), spec("p2", OTHER, sites=("anyang", "pangyo"))
    story = [
        Event("run_created", 0, data={"plan": "p1"}),
        Event("run_started", 0, data={"token": 1}),
        *events,
    ]
    return story, replay(first, story, (second,))


REPLACED = Event(
    "plan_replaced", 5, data={"plan": "p2", "why": "loss", "lost": ["anyang", "pangyo"], "approvals": 1,
                              "names": ["anyang", "pangyo"]},
)  # fmt: skip
START = Event("step_started", 1, "shift:w", 1, {"token": 1, "epoch": 0, "deadline_ms": 10})


def test_a_second_site_needs_an_approval_and_all_names_and_is_replayed_alike() -> None:
    story, view = begun(START, REPLACED)
    (effect,) = decide(view, 6)
    assert effect.event is not None
    assert effect.event.kind == "approval_needed"
    assert any("anyang, pangyo" in words for words in effect.event.data["outside"])
    approve = {"who": "kim", "reason": "fire", "envelope": {"sites": ["anyang", "pangyo"]}}
    rest = [effect.event, Event("approved", 7, data=approve)]
    for event in rest:
        apply(view, event)
    assert decide(view, 8) == [], "it was approved, and nobody typed the names"
    typed = Event("approved", 9, data=approve | {"typed": ["anyang", "pangyo"]})
    apply(view, typed)
    (effect,) = decide(view, 10)
    assert effect.event is not None
    assert effect.event.kind == "run_started"
    again = replay(spec("p1", ONE), [*story, *rest, typed],
                   (spec("p2", OTHER, sites=("anyang", "pangyo")),))  # fmt: skip
    assert fingerprint(again) == fingerprint(view)


def test_steps_come_from_the_plan_that_they_were_begun_under() -> None:
    _, view = begun(START, REPLACED)
    assert view.origin_of("shift:w") == ("p1", "shift:w")
    assert view.origin_of("shift:w~2") == ("p2", "shift:w")


@pytest.mark.parametrize(
    "events",
    [
        (Event("step_failed", 6, "shift:w", 1, {"code": "c", "message": "m", "again_ms": 0}),),
        (Event("step_failed", 6, "shift:w", 1, {"code": "c", "message": "m", "again_ms": -1}),),
        (Event("step_unknown", 6, "shift:w", 1, {"message": "?"}),
         Event("step_observed", 7, "shift:w", 1, {"outcome": "absent", "evidence": {}})),
    ],
)  # fmt: skip
def test_what_the_new_plan_does_not_know_is_not_tried_again(events: tuple[Event, ...]) -> None:
    _, view = begun(START, REPLACED, *events)
    assert view.step("shift:w").phase == "skipped"
    assert view.exceptions
    _, done = begun(START, REPLACED, Event("step_succeeded", 6, "shift:w", 1, {}))
    assert done.step("shift:w").phase == "succeeded"
