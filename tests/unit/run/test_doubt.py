"""A step that a killed leader began: the person who is asked reads why nobody can tell what it did."""

from __future__ import annotations

from evac.run.state import apply
from evac.run.values import Event, RunSpec, RunStep
from evac.run.view import RunView
from evac.run.waits import Outcome, waiting

STEP = RunStep("rejoin:db:west", "rejoin", "db", 0, 1_000, data_set="db")
SPEC = RunSpec("run", "incident", "plan", (STEP,), approvals=0)
WHY = "postgres@west at west: did not finish within 10 s"


def in_doubt(why: str, before: str = "") -> RunView:
    view = RunView(SPEC)
    apply(view, Event("run_created", 0, data={"run": "run", "plan": "plan", "token": 1}))
    apply(view, Event("run_started", 0, data={"token": 1}))
    apply(view, Event("step_started", 1, STEP.id, 1, {"token": 1, "epoch": 1, "deadline_ms": 0}))
    if before:
        apply(view, Event("step_unknown", 2, STEP.id, 1, {"message": before}))
    apply(view, Event("leader_changed", 3, data={"owner": "north/2/b", "token": 2}))
    for look in range(SPEC.patience.attempts):
        assert not view.doubtful
        evidence = {"why": why} if why else {}
        seen = {"outcome": "unclear", "evidence": evidence}
        apply(view, Event("step_observed", 1_000 * (look + 1), STEP.id, 1, seen))
    return view


def doubts(view: RunView) -> list[str]:
    return [wait.facts.why for wait in waiting(view) if isinstance(wait.facts, Outcome)]


def test_the_last_look_says_why_where_the_try_itself_could_not() -> None:
    assert doubts(in_doubt(WHY)) == [WHY]
    assert doubts(in_doubt("")) == [""]


def test_what_the_try_itself_said_is_kept() -> None:
    assert doubts(in_doubt(WHY, "the connection broke")) == ["the connection broke"]
