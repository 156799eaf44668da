"""An incident has one document: the JSON of the command and of the API, text and pages say the same."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.app.incidents import paper
from evac.incident.incident import summary
from evac.incident.records import Note
from evac.incident.services import Change, Fate, first_down_ms, lasted_ms, restored
from evac.incident.timeline import timeline
from evac.views.incident_document import incident_course, incident_document
from tests.unit.incident.stories import T0, fire, note

RANK = {"down": 0, "degraded": 1, "moving": 2, "up": 3}


@pytest.mark.parametrize("notes", [(), (note("command", 5, value="kim"),)])
def test_the_command_and_the_api_say_the_same_of_every_service(notes: tuple[Note, ...]) -> None:
    dossier = fire(notes)
    about = summary(dossier)
    entries = tuple(timeline(dossier, about))
    document = incident_document(dossier, about, entries)
    api = orjson.loads(orjson.dumps(document))
    command = orjson.loads(str(paper(dossier, about, "summary", "json", T0 + 9_000_000)))
    assert api["touched"], "a fire without an affected service compares nothing"
    assert {row["service"]: row["level"] for row in command["services"]} == {
        row["service"]: row["level"] for row in (*api["touched"], *api["steady"])
    }
    sources = {row["service"]: [c["source"] for c in row["changes"]] for row in command["services"]}
    assert sources == {
        row["service"]: [c["source"] for c in row["changes"]] for row in (*api["touched"], *api["steady"])
    }
    for name in ("incident", "title", "state", "commander", "still_down", "begun_by", "ended_by", "sites"):
        assert command[name] == api["incident"][name]
    assert api["entries"] == len(entries)
    assert api["plan"] == dossier.runs[0].spec.plan


def test_services_are_listed_once_and_the_worst_first() -> None:
    dossier = fire()
    course = incident_course(dossier, summary(dossier))
    listed = [one.service for one in (*course.touched, *course.steady)]
    assert sorted(listed) == sorted(fate.service for fate in summary(dossier).fates)
    ranks = [(RANK[one.level], one.tier) for one in course.touched]
    assert ranks == sorted(ranks)
    assert [one.service for one in course.steady] == sorted(one.service for one in course.steady)
    assert course.incident.services == len(course.touched)


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
