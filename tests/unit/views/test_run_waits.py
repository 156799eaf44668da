"""What waits for a person says what to do, where, and what to type."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest

from evac.cli import console
from evac.cli.run_command import code_of
from evac.engine.runs.binding import Bound, decode_bound, encode_bound
from evac.model.errors import RunError
from evac.run.forecast import forecast
from evac.run.limits import LimitRow, Limits, capacity_of
from evac.run.state import apply, replay
from evac.run.table import LIVE
from evac.run.values import KEPT, LEFT_WORDS, Event, Left, RunLimit, RunPhase, RunSpec, RunStep
from evac.run.view import RunView
from evac.run.waits import Failure, Gate, Paused, WaitKind, waiting
from evac.views.documents import LeftRow, LossRow, RunDocument, RunShown, run_document, run_head, slow_words
from evac.views.run_report import run_text
from evac.views.wait_words import words_of

BY_HAND = RunStep(
    "boot:s1",
    "boot",
    "s1",
    0,
    100,
    manual=True,
    words="power on a server: s1 (hall h1, rack r1, position 12)",
)
OTHER = RunStep("boot:s2", "boot", "s2", 0, 100)
SPEC = RunSpec("dark-1", "dark", "p1", (BY_HAND, OTHER), approvals=0, mend_ms=60_000)
BEGUN = (
    Event("run_created", 1, data={"plan": "p1"}),
    Event("run_started", 1, data={"token": 1}),
)


def sentences(view: RunView) -> list[str]:
    return [words_of(one) for one in waiting(view)]


def under_way(*events: Event, spec: RunSpec = SPEC) -> RunView:
    return replay(spec, (*BEGUN, *events))


def test_the_work_of_a_person_is_told_with_its_place_and_the_command_that_ends_it() -> None:
    view = under_way(Event("step_started", 2, "boot:s1", 1, {"token": 1}))
    assert sentences(view) == [
        "by hand: power on a server: s1 (hall h1, rack r1, position 12); then attest boot:s1"
    ]
    (row,) = run_document(RunShown(view, "c1", 10)).waits
    assert (row.kind, row.step, row.verbs) == ("by_hand", "boot:s1", ("attest", "skip"))
    assert waiting(view)[0].since_ms == 2
    text = run_text(run_document(RunShown(view, "c1", 10)), 120, False)
    assert "next: evac run attest dark-1 boot:s1 --reason WHY" in text


def test_a_run_of_an_older_version_has_no_words_and_names_what_it_is_about() -> None:
    old = RunStep("boot:s1", "boot", "s1", 0, 100, manual=True)
    view = under_way(
        Event("step_started", 2, "boot:s1", 1, {"token": 1}),
        spec=RunSpec("r", "i", "p1", (old,), approvals=0),
    )
    assert sentences(view) == ["by hand: power on a server, s1; then attest boot:s1"]


def test_the_words_lie_with_the_bound_run() -> None:
    bound = Bound(SPEC, {})
    assert decode_bound(encode_bound(bound)).spec == SPEC


def test_a_gate_is_told_with_the_command_that_opens_it() -> None:
    power = RunStep("power:f1", "power", "f1", 0, 1)
    spec = RunSpec(
        "dark-1", "dark", "p1", (power, RunStep("boot:s2", "boot", "s2", 0, 1, ("power:f1",))), approvals=0
    )
    view = under_way(
        Event("feed_tripped", 2, data={"feed": "f1", "why": "found open", "open": True}), spec=spec
    )
    text = run_text(run_document(RunShown(view, "c1", 10)), 120, False)
    assert "next: evac approve dark-1 --step power:f1 --reason WHY" in text


def test_what_a_feed_took_with_it_is_to_be_done_again_and_without_lost_on_it_can_wait() -> None:
    boot = RunStep("boot:s2", "boot", "s2", 0, 1, ("power:f1",), feeds=("f1",))
    start = RunStep("start:web", "start", "web", 0, 1, ("boot:s2",), manual=True)
    spec = RunSpec(
        "dark-1", "dark", "p1", (RunStep("power:f1", "power", "f1", 0, 1), boot, start), approvals=0
    )
    story = []
    for step in ("power:f1", "boot:s2", "start:web"):
        story.append(Event("step_started", 2, step, 1, {"token": 1}))
        if step != "start:web":
            story.append(Event("step_succeeded", 3, step, 1, {"evidence": {"state": "up", "power": "on"}}))
    tripped = Event("feed_tripped", 4, data={"feed": "f1", "why": "they fell silent", "open": False})
    view = under_way(*story, tripped, spec=spec)
    gate, later = waiting(view)
    assert (gate.kind, gate.step, gate.since_ms) == ("gate", "power:f1", 4)
    assert words_of(gate).startswith("power:f1 needs approval: f1 tripped")
    assert words_of(later) == "start:web can wait: a step that it depends on must be done again"
    text = run_text(run_document(RunShown(view, "c1", 10)), 120, False)
    assert "was done, and will be done again" in text
    assert "power on" not in text
    assert "next: evac approve dark-1 --step power:f1 --reason WHY" in text


def test_what_is_in_doubt_says_why_and_not_what_an_earlier_try_failed_for() -> None:
    view = under_way(
        Event("step_started", 2, "boot:s2", 1, {"token": 1}),
        Event("step_failed", 3, "boot:s2", 1, {"code": "bmc-busy", "message": "too many", "again_ms": 0}),
        Event("step_started", 4, "boot:s2", 2, {"token": 1}),
        Event(
            "step_unknown", 5, "boot:s2", 2, {"code": "bmc-silent", "message": "nothing was heard from it"}
        ),
    )
    text = run_text(run_document(RunShown(view, "c1", 10)), 120, False)
    assert "nothing was heard from it" in text
    assert "too many" not in text


def test_a_server_that_the_run_goes_on_without_by_itself_waits_for_nobody() -> None:
    failed = {"code": "bmc-silent", "message": "it cannot be reached", "again_ms": -1}
    view = under_way(
        Event("step_started", 2, "boot:s2", 1, {"token": 1}), Event("step_failed", 3, "boot:s2", 1, failed)
    )
    assert waiting(view) == []
    assert not forecast(view, 10).waits
    apply(view, Event("paused", 4, data={"by": "operator", "who": "kim", "reason": "lunch"}))
    failure = waiting(view)[-1]
    assert failure.facts == Failure("bmc-silent", "it cannot be reached"), "nothing goes on by itself now"
    assert (failure.step, failure.verbs, failure.since_ms) == ("boot:s2", ("retry", "skip"), 3)


def test_what_failed_for_a_password_alone_is_tried_again_by_itself_when_the_pause_ends() -> None:
    failed = {"code": "credentials-refused", "message": "401", "again_ms": -1}
    view = under_way(
        Event("step_started", 2, "boot:s2", 1, {"token": 1}),
        Event("step_failed", 3, "boot:s2", 1, failed),
        Event("paused", 4, data={"by": "step", "who": "evac", "reason": "mend the password"}),
    )
    assert [one.facts for one in waiting(view)] == [Paused("step", "evac", "mend the password", 0, "stay")]
    assert sentences(view) == ["paused (step: mend the password): resume the run to continue"]


def test_steps_that_are_late_and_do_not_matter_yet_are_one_line() -> None:
    steps = tuple(RunStep(f"start:s{n}", "start", f"s{n}", 0, 50) for n in range(5))
    spec = RunSpec("fire-1", "fire", "p1", steps, approvals=0)
    view = under_way(*(Event("step_started", 2, step.id, 1, {"token": 1}) for step in steps), spec=spec)
    assert slow_words(run_head(RunShown(view, "c1", 40))) == ""
    late = run_document(RunShown(view, "c1", 80))
    assert slow_words(late) == ("5 steps take longer than predicted: start:s0, start:s1, start:s2 and 2 more")
    assert "longer than predicted" in run_text(late, 120, False)


def test_a_pause_that_ends_when_a_gate_is_opened_is_no_second_thing_to_do() -> None:
    gated = RunStep("promote:db", "promote", "db", 0, 100, gate="it may lose writes")
    spec = RunSpec("fire-1", "fire", "p1", (gated, OTHER), approvals=0)
    paused = Event("paused", 3, data={"by": "gate", "who": "evac", "reason": "approval needed for"})
    done = (Event("step_started", 2, "boot:s2", 1, {"token": 1}), Event("step_succeeded", 2, "boot:s2", 1))
    view = under_way(*done, paused, spec=spec)
    (gate,) = waiting(view)
    assert (gate.facts, gate.verbs) == (Gate("it may lose writes"), ("approve", "skip"))
    assert sentences(view) == ["promote:db needs approval: it may lose writes"]
    text = run_text(run_document(RunShown(view, "c1", 10)), 120, False)
    assert "next: evac approve fire-1 --step promote:db --reason WHY" in text
    by_kim = Event("paused", 3, data={"by": "gate", "who": "kim", "reason": "wait"})
    held = under_way(*done, by_kim, spec=spec)
    assert sentences(held)[0] == "paused (gate: wait): resume the run to continue"
    assert "next: evac run resume fire-1 --reason WHY" in run_text(
        run_document(RunShown(held, "c1", 10)), 120, False
    )


def test_a_forecast_says_that_somebody_works_by_hand() -> None:
    view = under_way(Event("step_started", 2, "boot:s2", 1, {"token": 1}))
    assert not forecast(view, 10).waits
    apply(view, Event("step_started", 3, "boot:s1", 1, {"token": 1}))
    assert forecast(view, 10).waits


def test_a_limit_that_a_person_changed_is_told_with_what_is_held() -> None:
    limits = (RunLimit("power:f1", "slots", 700, whole=1_000, beside=100), RunLimit("hands", "slots", 4))
    steps = (replace(OTHER, uses=(("power:f1", 400, KEPT),)), BY_HAND)
    view = under_way(
        Event("step_started", 2, "boot:s2", 1, {"token": 1}),
        spec=RunSpec("dark-1", "dark", "p1", steps, limits, approvals=0, mend_ms=60_000),
    )

    def document() -> RunDocument:
        return run_document(RunShown(view, "c1", 10))

    assert document().limits_changed == ()
    for name, capacity in (("power:f1", 300), ("hands", 6)):
        apply(view, Event("limit_changed", 3, data={"limit": name, "capacity": capacity, "who": "kim"}))
    assert document().limits_changed == (LimitRow("hands", 6, 4, 0), LimitRow("power:f1", 400, 1_000, 500))
    text = run_text(document(), 120, False)
    assert "hands 6 instead of 4, 0 held\n" in text
    assert "power:f1 400 W instead of 1,000 W, 500 W held; nothing starts until there is capacity\n" in text


def test_a_limit_that_is_not_there_is_answered_with_those_that_are() -> None:
    names = ("boots:b1", "hands", "power:f1", "power:f2", "power:f3")
    limits = Limits(RunLimit(name, "slots", 1) for name in names)
    with pytest.raises(RunError, match=r"it has boots:b1, hands, power:f1 and 2 more of its kind$"):
        capacity_of(limits, "dhcp", "4")


def test_a_run_that_has_ended_asks_nobody_for_what_can_no_longer_be_said() -> None:
    failed = {"code": "bmc-silent", "message": "it cannot be reached", "again_ms": -1}
    view = under_way(
        Event("step_started", 2, "boot:s1", 1, {"token": 1}),
        Event("step_started", 2, "boot:s2", 1, {"token": 1}),
        Event("step_failed", 3, "boot:s2", 1, failed),
        Event("cancelled", 4, data={"who": "kim", "reason": "it was a drill"}),
        Event("run_ended", 5_002, data={"phase": "cancelled", "why": "it was a drill"}),
    )
    assert waiting(view) == []
    text = run_text(run_document(RunShown(view, "", 900_000)), 120, False)
    assert "next: evac status ESTATE" in text, "a cancelled run may leave a mark on its sites"
    unprotected = replace(run_document(RunShown(view, "", 9)), left=(LeftRow("db", "unprotected", 0),))
    for state in get_args(get_type_hints(Left)["state"]):
        said = run_text(replace(unprotected, left=(LeftRow("db", state, 0),)), 120, False)
        assert f"db: {LEFT_WORDS[state]}" in said
        assert ("not restored" in said) == (state not in ("unprotected", "beyond_rpo"))
        assert "_" not in said.partition("db: ")[2].splitlines()[0], "no code is shown to a person"
    assert run_text(unprotected, 120, False).splitlines()[-1].endswith("next: evac status ESTATE")
    assert "5 s" in text, "what was under way took until the end of the run"
    assert "15 min" not in text


@pytest.mark.parametrize(("then", "words"), [("resume", "resumes by itself"), ("cancel", "is cancelled")])
def test_a_pause_says_when_it_ends_by_itself_and_how(then: str, words: str) -> None:
    pause = {"by": "operator", "who": "kim", "reason": "lunch", "until_ms": 3_600_000, "then": then}
    view = under_way(Event("paused", 4, data=pause))
    assert sentences(view) == [
        f"paused (operator: lunch): resume the run to continue; it {words} at 01:00 UTC"
    ]
    text = run_text(run_document(RunShown(view, "c1", 10)), 120, False)
    assert "next: evac run resume dark-1 --reason WHY" in text


def test_names_that_must_be_typed_stand_in_the_command_that_agrees() -> None:
    two = {"plan": "p1", "names": ["anyang", "pangyo"], "lost": ["anyang", "pangyo"]}
    view = replay(
        SPEC, (Event("run_created", 1, data=two), Event("approval_needed", 1, data={"outside": []}))
    )
    assert sentences(view) == [
        "needs approval by 1 more person; type the names of the evacuated sites to confirm: anyang, pangyo"
    ]
    text = run_text(run_document(RunShown(view, "c1", 10)), 120, False)
    assert "next: evac approve dark-1 --confirm anyang --confirm pangyo --reason WHY" in text


def test_of_what_people_do_fences_come_first_and_the_rest_as_planned() -> None:
    """The old primary writes until it is fenced; names say nothing of what is urgent."""
    steps = (
        RunStep("boot:s1", "boot", "s1", 0, 100, manual=True),
        RunStep("fence:zeta", "fence", "zeta", 50, 100, manual=True),
        RunStep("shift:alpha", "shift", "alpha", 40, 100, manual=True),
        RunStep("boot:s0", "boot", "s0", 60, 100, manual=True),
        RunStep("fence:beta", "fence", "beta", 70, 100, manual=True),
    )
    spec = RunSpec("r", "i", "p1", steps, approvals=0)
    begun = (Event("step_started", 2, step.id, 1, {"token": 1}) for step in steps)
    asked = [wait.step for wait in waiting(under_way(*begun, spec=spec)) if wait.kind == "by_hand"]
    assert asked == ["fence:zeta", "fence:beta", "boot:s1", "shift:alpha", "boot:s0"]


def test_stores_that_lose_nothing_for_the_same_reason_are_one_line() -> None:
    def row(store: str, lost_ms: int | None, words: str) -> LossRow:
        return LossRow(store, "muc", lost_ms, "seen", words)

    losses = (
        row("a", 0, "nothing: it confirms every commit"),
        row("b", 2_000, "2 s: seen 2 s ago"),
        row("c", 0, "nothing: it confirms every commit"),
        row("d", 0, "nothing, as declared in the estate; never observed"),
    )
    document = replace(run_document(RunShown(under_way(), "c1", 10)), most_lost=losses)
    text = run_text(document, 200, False)
    lines = [
        line.strip().removeprefix("worst-case loss").strip() for line in text.splitlines() if "loss" in line
    ]
    assert lines[1:] == [
        "a, c: nothing: it confirms every commit",
        "d: nothing, as declared in the estate; never observed",
    ], "what is only declared is never said to be certain"
    assert "b" in lines[0]


(SOME_WAIT,) = run_document(
    RunShown(under_way(Event("step_started", 2, "boot:s1", 1, {"token": 1})), "c1", 10)
).waits


@pytest.mark.parametrize("state", get_args(RunPhase))
@pytest.mark.parametrize("kind", [None, *get_args(WaitKind)])
def test_the_exit_code_of_an_open_run_says_that_it_waits_for_a_person(
    state: RunPhase, kind: WaitKind | None
) -> None:
    """Whatever it waits for, and even while other steps of it continue."""
    document = run_document(RunShown(under_way(), "c1", 10))
    waits = () if kind is None else (replace(SOME_WAIT, kind=kind),)
    shown = replace(document, state=state, waits=waits)
    asks = state in LIVE and (kind is not None or state in ("awaiting_approval", "paused"))
    assert (code_of(shown) == console.PAUSED) == asks
    assert code_of(replace(shown, in_doubt=1)) == console.UNKNOWN
    stuck = replace(shown, not_taken_over="the plan differs")
    assert (code_of(stuck) == console.PAUSED) == (state in LIVE)


def test_a_result_that_was_undone_elsewhere_is_said() -> None:
    done = [
        Event("step_started", 2, "boot:s2", 1, {"token": 1}),
        Event("step_succeeded", 3, "boot:s2", 1, {"evidence": {}}),
    ]
    for undone, words in ((True, "evac corrected it"), (False, "evac does not correct it")):
        drift = [Event("drift_seen", at, "boot:s2", 0, {"evidence": {}, "undone": undone}) for at in (4, 5)]
        document = run_document(RunShown(under_way(*done, *drift), "c1", 10))
        assert [(one.step, one.corrected) for one in document.drifted] == [("boot:s2", undone)]
        text = run_text(document, 120, False)
        assert text.count("undone elsewhere") == 1
        assert words in text
