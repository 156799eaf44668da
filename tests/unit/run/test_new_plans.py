"""A new plan in the middle of a run: which fences still prove, what is typed, what is not tried again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest

from evac.model.run_policy import Envelope
from evac.run.decide import decide
from evac.run.replan import Merged, merging
from evac.run.state import apply, fingerprint, replay
from evac.run.values import Event, RunSpec, RunStep, StepPhase
from evac.run.view import RunView


def merge(old: Mapping[str, tuple[RunStep, StepPhase]], new: RunSpec, attempts: Mapping[str, int]) -> Merged:
    parts = merging(old, new, attempts)
    while True:
        try:
            next(parts)
        except StopIteration as done:
            return cast(Merged, done.value)


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
    "plan_replaced",
    5,
    data={
        "plan": "p2",
        "why": "loss",
        "lost": ["anyang", "pangyo"],
        "approvals": 1,
        "names": ["anyang", "pangyo"],
    },
)
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
    again = replay(spec("p1", ONE), [*story, *rest, typed], (spec("p2", OTHER, sites=("anyang", "pangyo")),))
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
        (
            Event("step_unknown", 6, "shift:w", 1, {"message": "?"}),
            Event("step_observed", 7, "shift:w", 1, {"outcome": "absent", "evidence": {}}),
        ),
    ],
)
def test_what_the_new_plan_does_not_know_is_not_tried_again(events: tuple[Event, ...]) -> None:
    _, view = begun(START, REPLACED, *events)
    assert view.step("shift:w").phase == "skipped"
    assert view.exceptions
    _, done = begun(START, REPLACED, Event("step_succeeded", 6, "shift:w", 1, {}))
    assert done.step("shift:w").phase == "succeeded"


def skipped_demote(second: RunSpec) -> RunView:
    """A person skips the demotion; then the site burns, and the new plan's fence is complete."""
    first = spec("p1", fence("pangyo", "pangyo"), PROMOTE)
    story = [
        Event("run_created", 0, data={"plan": "p1"}),
        Event("run_started", 1, data={"token": 1}),
        Event("step_skipped", 2, "fence:s", data={"who": "kim", "reason": "it burns"}),
        Event("plan_replaced", 3, data={"plan": "p2", "why": "loss", "lost": ["pangyo"], "approvals": 0}),
    ]
    return replay(first, story, (second,))


PROMOTE = RunStep("promote:s", "promote", "s", 20, 10, ("fence:s",), data_set="s", site="ansan", act="a")


def test_a_fence_skipped_in_an_earlier_plan_holds_nothing_up_once_the_new_one_is_complete() -> None:
    view = skipped_demote(spec("p2", fence("pangyo", "ansan"), PROMOTE))
    started = Event("step_started", 4, "fence:s~2", 1, {"token": 1, "epoch": 1, "deadline_ms": 99})
    assert [effect.step for effect in decide(view, 4) if effect.kind == "start"] == ["fence:s~2"]
    apply(view, started)
    assert not [effect for effect in decide(view, 5) if effect.kind == "start"], "not fenced yet"
    apply(view, Event("step_succeeded", 6, "fence:s~2", 1, {}))
    assert [effect.step for effect in decide(view, 7) if effect.kind == "start"] == ["promote:s"]


def test_a_fence_that_was_skipped_and_that_the_new_plan_means_too_holds_its_promotion_up() -> None:
    view = skipped_demote(spec("p2", fence("pangyo", "pangyo"), PROMOTE))
    assert not [effect for effect in decide(view, 4) if effect.kind == "start"]
