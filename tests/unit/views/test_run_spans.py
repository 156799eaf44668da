"""Spans of a run are a view of its journal: every recorded run folds, the same twice, each span inside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.app.tracing import RunSpan, RunSpans
from evac.run.values import Event
from tests.journals.recording import from_file

JOURNALS = sorted((Path(__file__).parents[2] / "journals").glob("*.jsonl"))


def folded(run: str, events: list[Event]) -> list[RunSpan]:
    spans = RunSpans(run)
    return [span for event in events for span in spans.feed(event)]


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_recorded_runs_fold_into_whole_traces(path: Path) -> None:
    specs, events, _ = from_file(path)
    run = specs[0].run
    spans = folded(run, list(events))
    assert spans == folded(run, list(events))
    assert len({span.id for span in spans}) == len(spans)
    assert {span.trace for span in spans} <= {RunSpans(run).trace}
    roots = [span for span in spans if not span.parent]
    ended = [event for event in events if event.kind == "run_ended"]
    assert len(roots) == (1 if ended else 0)
    for span in spans:
        assert span.begin_ms <= span.end_ms
        assert span.attributes["cicd.pipeline.run.id"] == run if "evac.wait" not in span.attributes else True
        if roots and span.parent:
            assert span.parent == roots[0].id


STORY = [
    Event(
        "run_created",
        1_000,
        "",
        0,
        {
            "incident": "fire",
            "plan": "sha256:ab",
            "scenario": "lose pangyo",
            "reason": "hunter2",
            "mode": "act",
        },
    ),
    Event("approval_needed", 1_000, "", 0, {"outside": ["hunter2"]}),
    Event("approved", 4_000, "", 0, {"who": "kim", "reason": "hunter2"}),
    Event("run_started", 4_000, "", 0, {"token": 1}),
    Event("step_started", 4_100, "promote:db:1", 1, {"token": 1}),
    Event("step_unknown", 4_200, "promote:db:1", 1, {"message": "hunter2"}),
    Event("step_observed", 4_300, "promote:db:1", 1, {"outcome": "absent", "evidence": {"x": "hunter2"}}),
    Event("step_started", 5_000, "promote:db:1", 2, {"token": 1}),
    Event("paused", 5_100, "", 0, {"by": "operator", "who": "kim", "reason": "hunter2"}),
    Event("step_succeeded", 6_000, "promote:db:1", 2, {"evidence": {"x": "hunter2"}}),
    Event("resumed", 7_000, "", 0, {"who": "kim", "reason": "hunter2"}),
    Event("step_started", 7_100, "start:web:1", 1, {"token": 1}),
    Event("step_failed", 7_200, "start:web:1", 1, {"code": "http-500", "message": "hunter2"}),
    Event("step_skipped", 7_300, "start:web:1", 0, {"who": "kim", "reason": "hunter2"}),
    Event("run_ended", 8_000, "", 0, {"phase": "succeeded_with_exceptions", "why": "hunter2"}),
]


def test_a_story_in_spans() -> None:
    spans = folded("run-1", STORY)
    assert [(one.name, one.begin_ms, one.end_ms, one.error) for one in spans] == [
        ("wait for approval", 1_000, 4_000, ""),
        ("promote", 4_100, 4_300, "absent"),
        ("promote", 5_000, 6_000, ""),
        ("wait for pause", 5_100, 7_000, ""),
        ("start", 7_100, 7_200, "http-500"),
        ("RUN lose pangyo", 1_000, 8_000, ""),
    ]
    attempt, root = spans[2].attributes, spans[-1].attributes
    assert attempt["cicd.pipeline.task.name"] == "promote:db:1"
    assert attempt["cicd.pipeline.task.run.id"] == "promote:db:1/2"
    assert attempt["cicd.pipeline.task.run.result"] == "success"
    assert root["cicd.pipeline.name"] == "lose pangyo"
    assert root["cicd.pipeline.result"] == "success"
    assert root["evac.run.phase"] == "succeeded_with_exceptions"
    assert spans[1].moments == ((4_200, "unknown"),)


def test_no_word_of_a_person_or_a_driver_is_in_a_span() -> None:
    assert "hunter2" not in str(folded("run-1", STORY))


def test_what_is_open_at_the_end_is_closed_as_not_known() -> None:
    ended = Event("run_ended", 5_000, "", 0, {"phase": "cancelled", "why": ""})
    spans = folded("run-1", [*STORY[:5], ended])
    assert [(one.name, one.error) for one in spans[-2:]] == [
        ("promote", "outcome-unknown"),
        ("RUN lose pangyo", "cancelled"),
    ]
    assert spans[-1].attributes["cicd.pipeline.result"] == "cancellation"
