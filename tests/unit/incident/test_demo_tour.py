"""The steps of the demonstration: whatever comes first, their number falls only after a reopening."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from evac.app.demo.tour import STEPS, TourStep, step_of
from evac.incident.incident import Dossier, summary
from evac.run.values import Event
from tests.unit.incident.stories import carried_out, fire, note, plan_of

EVENTS: Final = carried_out(plan_of())
END: Final = len(EVENTS)
NOTES: Final = st.sampled_from(
    (
        ("update", ""),
        ("update", "investigating"),
        ("update", "identified"),
        ("update", "monitoring"),
        ("update", "resolved"),
        ("state", "degraded"),
        ("note", ""),
        ("resolved", ""),
    )
)
MOVES: Final = st.lists(st.one_of(st.integers(1, END), NOTES), max_size=12)


def step(events: list[Event], notes: list[Any], waits: bool) -> TourStep:
    dossier: Dossier = fire(notes, events=events)
    return step_of(dossier, summary(dossier), {"run-1": len(events)} if waits else {})


@given(MOVES, st.lists(st.booleans(), min_size=13, max_size=13))
def test_the_number_never_falls(moves: list[Any], waits: list[bool]) -> None:
    came, notes, last = 1, [], 1
    for n, (move, waiting) in enumerate(zip([1, *moves], waits, strict=False)):
        if isinstance(move, int):
            came = min(END, came + move)
        else:
            notes.append(note(move[0], 1_000_000 + n, "words", value=move[1]))
        found = step(EVENTS[:came], notes, waiting)
        assert last <= found.number <= STEPS, (last, found)
        assert found.links, "there is always somewhere to go"
        last = found.number


def test_each_step_says_what_is_true() -> None:
    told = note("update", 1_000_000, "words", value="monitoring")
    over = note("resolved", 1_000_001, "words")
    assert step_of(None, None, {}).number == 1
    assert step(EVENTS[:2], [], False).number == 2
    assert "Users see nothing yet" not in step(EVENTS, [], False).words, "the phase is what counts"
    assert step(EVENTS, [], False).links[0][1].endswith("phase=monitoring")
    down = step(EVENTS, [told], False)
    assert (down.number, "ads" in down.words, "keep the incident open" in down.words) == (4, True, True)
    ended = step(EVENTS, [told, over], False)
    assert (ended.number, ended.typed, "Still down: " in ended.words) == (5, "evac init .", True)
    assert step(EVENTS, [told, over, note("reopened", 1_000_002, "words")], False).number == 4
    assert ended.line("http://x").endswith("evac init . in a folder with your own files.")
    assert "http://x/credits" in ended.line("http://x")


def test_a_wait_that_was_seen_before_the_decision_is_over() -> None:
    dossier = fire((), events=EVENTS)
    run = dossier.runs[0].run
    before, after = (step_of(dossier, summary(dossier), {run: n}).words for n in (END - 1, END))
    assert "waits for you" not in before
    assert "The run waits for you again" in after
