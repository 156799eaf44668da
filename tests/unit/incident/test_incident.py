"""What journals and notes come to: who was down, until when, in which order, and what proves it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.incident.dora import classify
from evac.incident.incident import Dossier, summary
from evac.incident.records import NOTE_KINDS, Note, Source, checked, commander, from_data, open_draft, to_data
from evac.incident.regulator import basics
from evac.incident.runbook import runbook
from evac.incident.services import fates
from evac.incident.timeline import TOGETHER, grouped, timeline
from evac.model.errors import InvalidInput, RunError
from evac.views.incident_document import incident_short
from evac.views.incident_view import show_sheet
from evac.views.live_charts import impact_of
from evac.views.sheet import sheet_markdown
from tests.unit.incident.stories import (
    DIGEST,
    NOTICES,
    OUTCOMES,
    STEPS,
    T0,
    carried_out,
    fire,
    note,
    outcome,
    plan_of,
    step,
    verdict,
)


def levels(dossier: Dossier) -> dict[str, list[tuple[int, str]]]:
    return {f.service: [(c.at_ms - T0, c.level) for c in f.changes] for f in summary(dossier).fates}


def test_each_service_is_down_until_its_last_base_step() -> None:
    found = levels(fire())
    assert found["web"] == [(-60_000, "down"), (5_000, "degraded"), (6_000, "up")]
    assert found["cart"] == [(-60_000, "down"), (2_000, "up")], (
        "it comes back with the store that it waits for"
    )
    assert found["gone"] == [(-60_000, "down")]
    assert found["ads"] == [(1_000, "down")], "it served until it was shed"
    assert "fine" not in found


def test_every_change_names_the_record_that_proves_it() -> None:
    dossier = fire()
    events = dossier.runs[0].events
    for fate in summary(dossier).fates:
        for change in fate.changes:
            if change.source.stream == "watch":
                assert NOTICES[change.source.number - 1].at_ms == change.at_ms
            else:
                assert events[change.source.number - 1].at_ms == change.at_ms


def test_what_the_loss_took_down_is_down_before_its_replicas_are_shed() -> None:
    """Both lost something that they need, and replicas of both are shed: only one comes back."""
    plan = plan_of(
        steps=[
            step("shed", "shop"),
            step("shed", "mail"),
            step("start", "db", "base", after=["shed:shop", "shed:mail"]),
            step("verify", "shop", "base", after=["start:db:base"]),
        ],
        outcomes=[
            outcome("shop", "degraded", 10, 3_000, 9_000, critical=("start:db:base", "verify:shop:base")),
            outcome("mail", "unplaced", 10, 9_000, 9_000),
        ],
    )
    found = levels(fire(plan=plan))
    assert [level for _, level in found["shop"]] == ["down", "degraded"]
    assert [level for _, level in found["mail"]] == ["down"]
    assert found["shop"][0][0] == found["mail"][0][0] == -60_000, "not only since the shed"


def test_a_step_left_out_proves_nothing() -> None:
    plan = plan_of(steps=STEPS[:4], outcomes=[outcome("web", "restored", 1, 4_000)])
    events = carried_out(plan, lambda step, attempt: "refuse" if step == "start:web:base" else "ok")
    events = [e for e in events if e.kind != "run_ended"]
    dossier = fire(plan=plan, events=events)
    last = events[-1].at_ms
    told = {"who": "kim", "reason": "no"}
    skipped = [
        *events,
        events[-1]._replace(kind="step_skipped", step="start:web:base", at_ms=last, data=told),
    ]
    assert levels(dossier)["web"][-1][1] == "down"
    assert levels(fire(plan=plan, events=skipped))["web"][-1][1] == "down"


def test_what_is_taken_back_is_down_again() -> None:
    plan = plan_of(
        steps=[step("start", "web", "base"), step("boot", "spare", after=["start:web:base"])],
        outcomes=[outcome("web", "restored", 1, 4_000)],
    )
    events = [e for e in carried_out(plan) if e.kind != "run_ended"]
    at = next(n for n, e in enumerate(events) if e.step == "start:web:base" and e.kind == "step_succeeded")
    undo = events[at]._replace(
        kind="undo_started", attempt=1, at_ms=T0 + 5_000, data={"token": 1, "who": "k", "reason": "r"}
    )
    found = levels(fire(plan=plan, events=[*events[: at + 1], undo]))
    assert [level for _, level in found["web"]] == ["down", "up", "down"]


def test_an_evacuation_takes_nobody_down() -> None:
    found = levels(fire(plan=plan_of("evacuate")))
    assert {level for rows in found.values() for _, level in rows} == {"moving", "up"}


def test_it_begins_with_the_first_doubt_that_was_not_over() -> None:
    about = summary(fire())
    assert (about.begun_ms, about.begun) == (T0 - 60_000, Source("watch", 4))
    assert (about.detected_ms, about.detected) == (T0 - 20_000, Source("watch", 5))
    assert summary(fire(notices=())).begun == Source("run-1", 1)


def test_it_ends_when_all_is_up_or_a_person_says_so() -> None:
    assert summary(fire()).ended_ms is None, "two services are down still"
    over = summary(fire([note("resolved", 60_000)]))
    assert (over.ended_ms, over.state) == (T0 + 60_000, "over, services down")
    assert over.still_down == ("ads", "gone"), "to resolve an incident restores nothing"
    assert over.fates == summary(fire()).fates
    again = summary(fire([note("resolved", 60_000), note("reopened", 70_000)]))
    assert (again.ended_ms, again.state) == (None, "under way")
    assert summary(fire([note("resolved", 1), note("reopened", 2), note("resolved", 3)])).ended_ms == T0 + 3
    whole = plan_of(outcomes=[outcome("web", "restored", 1, 4_000)])
    about = summary(fire(plan=whole))
    assert about.ended_ms is not None
    assert str(about.ended).startswith("run-1#")


def test_people_lie_between_the_largest_service_and_the_sum() -> None:
    about = summary(fire())
    assert (about.people_least, about.people_most) == (150_000, 190_015)


def test_the_timeline_holds_every_record_once_and_in_order() -> None:
    dossier = fire([note("command", 10, value="lee"), note("note", 20, "smoke")])
    entries = timeline(dossier)
    assert [e.source.number for e in entries if e.kind == "verdict"] == [4, 5]
    of_run = [
        e.source.number
        for e in entries
        if e.source.stream == "run-1" and e.kind not in ("down", "restored", "degraded")
    ]
    assert of_run == list(range(1, len(dossier.runs[0].events) + 1))
    words = [e.words for e in entries if e.weight == "main"]
    assert "lee is in command (kim)" in words
    assert "db accepts writes in anyang" in words
    assert "web is serving again at reduced capacity" in words
    assert not any("another run" in word for word in words), "it names a run of another incident"
    shuffled = list(dossier.notes)
    random.Random(1).shuffle(shuffled)
    assert (
        timeline(Dossier("fire-1", dossier.runs, dossier.notices, tuple(shuffled), dossier.losses)) == entries
    )


def test_a_clock_that_goes_back_does_not_reorder_a_stream() -> None:
    events = carried_out(plan_of())
    events[5] = events[5]._replace(at_ms=T0 - 3_600_000)
    entries = [
        e
        for e in timeline(fire(events=events))
        if e.source.stream == "run-1" and e.kind not in ("down", "restored", "degraded")
    ]
    numbers = [e.source.number for e in entries]
    assert numbers == sorted(numbers)


def test_a_journal_that_contradicts_itself_is_refused() -> None:
    events = carried_out(plan_of())
    with pytest.raises(RunError):
        summary(fire(events=[*events, events[3]]))


@pytest.mark.parametrize("kind", NOTE_KINDS)
def test_notes_come_back_as_they_were(kind: str) -> None:
    made = note(kind, 1, "words", "web", "maintenance")
    assert from_data("fire-1", made.id, to_data(checked(made))) == made


@pytest.mark.parametrize(
    "wrong",
    [
        note("note", 1, " "),
        note("note", 1, "x" * 4_001),
        note("note", 1, "bell \x07"),
        note("note", 1, "x", who=" "),
        note("state", 1, name="web", value="fine"),
        note("fact", 1, name="cause"),
        note("gossip", 1, "x"),
        note("note", -T0 - 1, "x"),
        Note("a/b", "fire-1", "note", "kim", T0, "x"),
        Note("a", "../x", "note", "kim", T0, "x"),
    ],
)
def test_a_note_that_does_not_hold_together_is_refused(wrong: Note) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(wrong)
    assert refused.value.hint


@pytest.mark.parametrize(
    "row", [None, [], {}, {"version": 2}, {"version": 1, "kind": "note", "who": 7, "at_ms": 1}]
)
def test_what_is_no_note_is_refused(row: object) -> None:
    with pytest.raises(InvalidInput):
        from_data("fire-1", "a", row)


def test_who_commands_and_which_draft_is_open() -> None:
    notes = [note("command", 5, value="lee"), note("command", 1, value="kim"), note("draft", 1, "d")]
    assert commander(notes) == ("lee", T0 + 5)
    assert commander([]) == ("", 0)
    assert open_draft(notes) is not None
    assert open_draft([*notes, note("update", 2, "u")]) is None


def test_a_runbook_has_every_step_with_its_id() -> None:
    book = runbook(plan_of(), DIGEST)
    assert sorted(s.id for part in book.parts for s in part.steps) == sorted(s.id for s in STEPS)
    with pytest.raises(InvalidInput):
        runbook(plan_of(steps=STEPS * 3_000), DIGEST)


def test_a_second_loss_in_view_of_the_watch_is_not_mixed_in() -> None:
    entries = timeline(fire(notices=(*NOTICES, verdict(9, T0 + 2_000, "lost", "ansan"))))
    assert not [e for e in entries if "ansan" in e.words and e.kind == "verdict"]


def test_fates_of_a_run_without_a_plan_of_services_are_none() -> None:
    record = fire().runs[0]
    bare = type(record)(record.spec, record.events)
    assert fates(bare, T0, Source("run-1", 1)) == ()


def test_what_one_record_says_of_many_services_is_one_line() -> None:
    entries = timeline(fire())
    rows = grouped(entries)
    assert [entry for row in rows for entry in row if entry.kind not in TOGETHER] == [
        entry for entry in entries if entry.kind not in TOGETHER
    ], "nothing else moves"
    assert sorted(map(repr, (entry for row in rows for entry in row))) == sorted(map(repr, entries))
    down = next(row for row in rows if row[0].kind == "down")
    assert len(down) > 1
    assert all(
        (one.kind, one.source, one.at_ms) == (down[0].kind, down[0].source, down[0].at_ms) for one in down
    )


@given(st.sets(st.sampled_from([one.service for one in OUTCOMES])))
def test_people_that_nobody_states_are_unknown_and_not_nobody(unstated: set[str]) -> None:
    """In sums, in words, and for a regulator, whose thresholds are then never said to be missed."""
    plan = plan_of()
    paths = tuple(sorted(f"services/{service}/people" for service in unstated))
    counts = {one.service: 0 if one.service in unstated else one.people for one in plan.outcomes}
    outcomes = tuple(replace(one, people=counts[one.service]) for one in plan.outcomes)
    plan = replace(plan, unknown=paths, outcomes=outcomes)
    dossier = fire(plan=plan)
    about = summary(dossier)
    down = [fate for fate in about.fates if fate.was_down]
    assert {fate.service for fate in about.fates if fate.people is None} == unstated & {
        fate.service for fate in about.fates
    }
    assert about.people_most == sum(counts[fate.service] for fate in down)
    assert about.people_unstated == sum(fate.service in unstated for fate in down)
    report = basics(dossier, about, T0 + 3_600_000)
    sheet = sheet_markdown(show_sheet(incident_short(dossier, about), (), T0 + 3_600_000))
    if about.people_unstated:
        assert str(report.people.value).startswith("at least") or report.people.value is None
        assert "at least" in sheet or "unknown" in sheet
    clients = next(one for one in classify(dossier, about, report).criteria if one.name.startswith("clients"))
    assert clients.met != "not met" or not about.people_unstated
    felt = impact_of(outcomes, plan.unstated, T0, T0, {}, {}, T0 + 1)
    assert {one.service for one in felt.services if one.people is None} == unstated & {
        one.service for one in felt.services
    }
    assert felt.unstated_now == sum(one.people is None for one in felt.down)
