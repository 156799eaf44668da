"""Every recorded run replays, from every prefix, and leads where it led."""

from pathlib import Path

import pytest

from evac.run.decide import decide
from evac.run.state import apply, fingerprint, replay
from evac.run.view import RunView
from tests.journals.recording import from_file, led_to

JOURNALS = sorted(Path(__file__).parent.glob("*.jsonl"))


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_it_leads_where_it_led(path: Path) -> None:
    specs, events, expected = from_file(path)
    assert led_to(replay(specs[0], events, specs[1:])) == expected


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_deciding_on_the_way_changes_nothing(path: Path) -> None:
    """A view that was asked what to do after every event is the one that only listened."""
    specs, events, _ = from_file(path)
    asked, listened = RunView(specs[0], specs[1:]), RunView(specs[0], specs[1:])
    for event in events:
        apply(asked, event)
        decide(asked, event.at_ms)
        apply(listened, event)
        assert fingerprint(asked) == fingerprint(listened)


def test_there_are_some() -> None:
    assert len(JOURNALS) >= 8
