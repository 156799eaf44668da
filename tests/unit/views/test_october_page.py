"""The page of the October story: the published hours beside ours, and every assumption with its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evac.views.october_page import Assumption, Chapter, October, Wave, october_page, october_text

HOUR = 3_600_000


@pytest.fixture
def story() -> October:
    chapters = (
        Chapter("The fire", 0, HOUR, "gone", ("32,000 servers go dark.",), "from the estate", 0),
        Chapter(
            "Cold start", 17 * HOUR, 20 * HOUR, "boot", ("<b>31,300</b> are up.",), "real requests", 90_000
        ),
    )
    wave = Wave(
        32_000, 31_300, 400, 700, 0, 0, 17 * HOUR, 20 * HOUR, 2 * HOUR, ((17 * HOUR, 0), (20 * HOUR, 31_300))
    )
    return October(
        90_000,
        32_000,
        1_182,
        47_000_000,
        chapters,
        ((0, 1_182), (HOUR, 2), (20 * HOUR, 0)),
        wave,
        HOUR,
        20 * HOUR,
        22 * HOUR,
        (),
        (Assumption("boot of a server", "5 min", "assumed: no figure published"),),
    )


def test_the_published_hours_stand_beside_ours(story: October) -> None:
    page, text = october_page(story, "evac"), october_text(story)
    for words in ("127 h 30 min", "20 h", "about 10 h"):
        assert words in page
        assert words in text
    assert "6 times as long" in page


def test_every_assumption_is_named_with_its_source(story: October) -> None:
    page = october_page(story, "evac")
    assert "boot of a server" in page
    assert "assumed: no figure published" in page


def test_words_from_an_estate_are_shown_and_never_run(story: October) -> None:
    assert "<b>31,300</b>" not in october_page(story, "evac")


def test_what_is_not_back_is_said_first(story: October) -> None:
    page = october_page(replace(story, last_ms=None, missing=("pay-ledger",)), "evac")
    assert "1 service did not come back within this simulation." in page
    assert "pay-ledger" in page


def test_what_a_machine_that_is_late_does_to_the_wave_is_said_where_time_ran_faster(story: October) -> None:
    fast = replace(story, wave=replace(story.wave, speed=400))
    words = "silent controller, or because this machine was busy, counts as 6 min 40 s."
    assert words in october_page(fast, "evac")
    assert words in october_text(fast)
    assert "Time ran" not in october_page(story, "evac")


def test_a_tripped_feed_is_not_called_a_success(story: October) -> None:
    page = october_page(replace(story, wave=replace(story.wave, trips=1)), "evac")
    assert 'class="verdict warning"' in page
    assert 'class="verdict ok"' not in page


def test_the_same_story_gives_the_same_bytes(story: October) -> None:
    assert october_page(story, "evac") == october_page(story, "evac")
