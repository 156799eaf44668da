"""The screen of a run that goes on: how far, what to type, what runs and what happened, on any terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.cli.run_screen import KEYS, Recent, watch_screen
from evac.run.state import replay
from evac.run.values import Event, RunSpec, RunStep
from evac.views.documents import RunDocument, RunShown, run_document

BY_HAND = RunStep("boot:s1", "boot", "s1", 0, 100, manual=True, words="power on a server: s1")
OTHER = RunStep("start:web", "start", "web", 0, 100)
LAST = RunStep("verify:web", "verify", "web", 100, 100, ("start:web",))
SPEC = RunSpec("fire-1", "fire", "p1", (BY_HAND, OTHER, LAST), approvals=0, mend_ms=60_000)
BEGUN = (
    Event("run_created", 1_000, data={"plan": "p1"}),
    Event("run_started", 1_000, data={"token": 1}),
    Event("step_started", 2_000, "boot:s1", 1, {"token": 1}),
    Event("step_started", 3_000, "start:web", 1, {"token": 1}),
)


def document(*more: Event, now_ms: int = 65_000) -> RunDocument:
    return run_document(RunShown(replay(SPEC, (*BEGUN, *more)), "c1", now_ms))


def test_it_says_how_far_what_waits_with_its_command_and_what_runs() -> None:
    lines = [words for words, _ in watch_screen(document(), [], 80, 40)]
    text = "\n".join(lines)
    assert lines[0].startswith("fire-1: ")
    assert "0 of 3 steps" in text
    assert "Running for 1 min 04 s" in text
    assert lines[lines.index("Waiting for a person (1)") + 2] == (
        "  evac run attest fire-1 boot:s1 --reason WHY"
    )
    assert any(line.startswith("  start:web") and line.endswith("1 min 02 s") for line in lines)
    assert lines[-1] == KEYS


def test_what_changed_from_one_look_to_the_next_is_told_newest_first() -> None:
    recent = Recent()
    recent.see(document())
    assert not recent.lines, "what was so at the first look did not just happen"
    recent.see(document(Event("step_succeeded", 66_000, "start:web", 1, {}), now_ms=66_000))
    (line,) = recent.lines
    assert "start:web  succeeded" in line[0]
    assert line[0] in [words for words, _ in watch_screen(document(), list(recent.lines), 80, 40)]


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (200, 60)])
def test_it_fits_and_the_keys_stay_in_sight(width: int, height: int) -> None:
    lines = watch_screen(
        document(), [(f"12:00:0{n}  step-{n}  succeeded", "") for n in range(8)], width, height
    )
    assert len(lines) <= height
    assert lines[-1][0] == KEYS
    for words, _ in lines[:-1]:
        assert len(words) <= width or words.startswith("  evac ")


def test_the_time_left_is_that_of_the_forecast() -> None:
    seen = document()
    assert seen.expected_at is not None, "every run that is under way has one"
    for expected, words in (
        ("1970-01-01T00:02:05Z", "about 1 min left"),
        ("1970-01-01T00:01:00Z", "overdue"),
    ):
        lines = watch_screen(replace(seen, expected_at=expected), [], 80, 40)
        assert words in "\n".join(line for line, _ in lines)
