"""Windows: what is refused, what a correction does, and how long a service was down in a cycle."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from evac.credit.windows import Correction, Hours, Window, Windows, Zone, cycle_of, merged, spans_of
from evac.estate.codecs.credit_tables import load_windows
from evac.model.errors import EstateError, InvalidInput

HOUR = 3_600_000


def problems(path: Path) -> list[str]:
    with pytest.raises(EstateError) as caught:
        load_windows(path)
    return [f"{d.place} {d.code}" for d in caught.value.diagnostics]


def test_windows_of_a_csv_file_have_times_sites_and_a_place(tmp_path: Path) -> None:
    path = tmp_path / "windows.csv"
    path.write_text(
        "id,service,from,to,site,kind,users\n"
        "a,talk,2022-10-15T15:33:00+09:00,2022-10-16T01:31:00+09:00,,,100 %\n"
        "b,map,2022-10-15T06:33:00Z,2022-10-15T12:00:00Z,pangyo,maintenance,45.5 %\n"
    )
    first, second = load_windows(path)
    assert (first.id, first.service, first.to_ms - first.from_ms) == ("a", "talk", 9 * HOUR + 58 * 60_000)
    assert first.from_ms == second.from_ms
    assert (second.site, second.kind, second.users_permille) == ("pangyo", "maintenance", 455)
    assert str(second.place) == "windows.csv:3:1"


def test_windows_of_json_may_have_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    path.write_text(
        '{"windows": [\n'
        '  {"service": "talk", "from": "2022-10-15T06:33:00Z", "to": "2022-10-15T07:33:00Z"}\n'
        "]}"
    )
    (found,) = load_windows(path)
    assert (found.id, found.site, found.kind, str(found.place)) == ("w1", "", "outage", "windows.json:2:3")


def test_reversed_empty_and_overlapping_windows_are_refused_at_their_line(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text(
        "id,service,from,to\n"
        "a,talk,2022-10-15T06:00:00Z,2022-10-15T05:00:00Z\n"
        "b,map,2022-10-15T06:00:00Z,2022-10-15T06:00:00Z\n"
        "c,pay,2022-10-15T06:00:00Z,2022-10-15T08:00:00Z\n"
        "d,pay,2022-10-15T07:00:00Z,2022-10-15T09:00:00Z\n"
        "d,tv,2022-10-15T07:00:00Z,2022-10-15T09:00:00Z\n"
    )
    assert problems(path) == [
        "w.csv:2:1 window-reversed",
        "w.csv:3:1 window-empty",
        "w.csv:5:1 window-overlap",
        "w.csv:6:1 window-twice",
    ]


@pytest.mark.parametrize(
    ("site", "begins", "refused"),
    [
        ("fra", "07", True),
        ("", "07", True),
        ("ham", "07", False),
        ("fra", "08", False),
        ("fra", "05", True),
    ],
)
def test_a_minute_is_an_outage_or_maintenance(tmp_path: Path, site: str, begins: str, refused: bool) -> None:
    path = tmp_path / "w.csv"
    path.write_text(
        "id,service,site,kind,from,to\n"
        "out,pay,fra,outage,2022-10-15T06:00:00Z,2022-10-15T08:00:00Z\n"
        f"work,pay,{site},maintenance,2022-10-15T{begins}:00:00Z,2022-10-15T09:00:00Z\n"
        "other,tv,fra,force_majeure,2022-10-15T06:00:00Z,2022-10-15T09:00:00Z\n"
    )
    wanted = f"w.csv:{2 if begins == '05' else 3}:1 window-overlap"
    assert (problems(path) if refused else load_windows(path) and []) == [wanted] * refused


def test_every_bad_cell_is_listed_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text(
        "service,from,to,kind\n"
        "talk,2022-10-15T06:00:00,2022-10-15T07:00:00Z,outage\n"
        "talk,yesterday,2022-10-15T07:00:00Z,outage\n"
        ",2022-10-15T06:00:00Z,2022-10-15T07:00:00Z,outage\n"
        "talk,2022-10-15T06:00:00Z,2022-10-15T07:00:00Z,fire\n"
        "talk,2022-10-15T06:00:00Z\n"
    )
    assert problems(path) == [
        "w.csv:2:6 not-a-moment",
        "w.csv:3:6 not-a-moment",
        "w.csv:4:1 value-missing",
        "w.csv:5:48 not-a-choice",
        "w.csv:6:1 row-length",
    ]


def test_columns_that_are_missing_or_unknown_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("service,start,to\ntalk,2022-10-15T06:00:00Z,2022-10-15T07:00:00Z\n")
    assert problems(path) == ["w.csv:1:1 column-missing", "w.csv:1:1 column-unknown"]


def test_a_file_without_a_window_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("service,from,to\n")
    assert problems(path) == ["w.csv value-missing"]


TALK = Windows((Window("a", "talk", 0, 2 * HOUR), Window("b", "talk", 5 * HOUR, 6 * HOUR)))


def test_a_correction_makes_the_next_version_and_keeps_the_first() -> None:
    made = TALK.corrected(Correction("a", "kim", "logs show 01:00", 9, to_ms=HOUR))
    assert (TALK.version, made.version) == (1, 2)
    assert [(w.id, w.to_ms) for w in made.now] == [("a", HOUR), ("b", 6 * HOUR)]
    assert made.recorded == TALK.recorded
    assert made.digest != TALK.digest
    gone = made.corrected(Correction("b", "kim", "a test", 9, removed=True))
    assert [w.id for w in gone.now] == ["a"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Correction("a", "kim", "", 9, to_ms=HOUR), "correction-unsigned"),
        (Correction("a", " ", "logs", 9, to_ms=HOUR), "correction-unsigned"),
        (Correction("c", "kim", "logs", 9, to_ms=HOUR), "window-unknown"),
        (Correction("a", "kim", "logs", 9, to_ms=2 * HOUR), "correction-empty"),
        (Correction("a", "kim", "logs", 9, to_ms=5 * HOUR + 1), "window-overlap"),
        (Correction("a", "kim", "logs", 9, from_ms=3 * HOUR), "window-reversed"),
    ],
)
def test_a_correction_that_does_not_hold_together_is_refused(change: Correction, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        TALK.corrected(change)
    assert caught.value.code == code


def test_a_cycle_is_a_month_in_the_zone_of_the_rules() -> None:
    cycle = cycle_of("2022-10", Zone(9 * 60))
    assert cycle.length_ms == 744 * HOUR
    assert cycle.from_ms == 1_664_550_000_000
    assert cycle_of("2024-02", Zone()).length_ms == 696 * HOUR
    for name in ("2022-13", "2022", "22-10", "2022-1", "", "２022-10"):
        with pytest.raises(InvalidInput, match="not a billing cycle"):
            cycle_of(name, Zone())


def test_windows_of_other_sites_and_of_excluded_kinds_do_not_count() -> None:
    windows = [
        Window("a", "talk", 0, 10),
        Window("b", "talk", 10, 20, site="pangyo"),
        Window("c", "talk", 15, 30, kind="maintenance"),
        Window("d", "map", 0, 99),
    ]
    assert spans_of(windows, "talk", "pangyo", ["maintenance"], None, Zone()) == [(0, 20)]
    assert spans_of(windows, "talk", "anyang", ["maintenance"], None, Zone()) == [(0, 10)]
    assert spans_of(windows, "talk", "anyang", [], None, Zone()) == [(0, 10), (15, 30)]
    assert merged([(3, 5), (0, 3), (9, 9)]) == [(0, 5), (9, 9)]


def local(zone: Zone, moment: str) -> int:
    day, _, clock = moment.partition(" ")
    hour, _, minute = clock.partition(":")
    return zone.at_ms(date.fromisoformat(day), int(hour) * 60 + int(minute))


def test_a_month_in_which_clocks_change_is_an_hour_longer_or_shorter() -> None:
    berlin = Zone(name="Europe/Berlin")
    assert cycle_of("2026-10", berlin).length_ms == (31 * 24 + 1) * HOUR
    assert cycle_of("2026-03", berlin).length_ms == (31 * 24 - 1) * HOUR
    assert cycle_of("2026-10", Zone(60)).length_ms == 31 * 24 * HOUR


def test_only_the_parts_within_hours_count_and_each_day_is_an_outage_of_its_own() -> None:
    berlin = Zone(name="Europe/Berlin")
    hours = Hours(9 * 60, 18 * 60, days=(0, 1, 2, 3, 4))
    begin, end = local(berlin, "2026-10-23 16:00"), local(berlin, "2026-10-26 10:30")  # Friday to Monday
    spans = spans_of([Window("w", "talk", begin, end)], "talk", "", [], hours, berlin)
    assert [b - a for a, b in spans] == [2 * HOUR, 3 * HOUR // 2]
    assert spans[1][0] == local(berlin, "2026-10-26 09:00")


def test_hours_over_midnight_belong_to_the_day_on_which_they_begin() -> None:
    night = Hours(22 * 60, 6 * 60, days=(5,))
    begin, end = local(Zone(), "2026-11-28 00:00"), local(Zone(), "2026-11-30 00:00")  # Saturday and Sunday
    (span,) = spans_of([Window("w", "talk", begin, end)], "talk", "", [], night, Zone())
    assert span == (local(Zone(), "2026-11-28 22:00"), local(Zone(), "2026-11-29 06:00"))


def test_an_hour_that_is_there_twice_is_counted_once_and_a_skipped_one_not_at_all() -> None:
    berlin = Zone(name="Europe/Berlin")
    night = Hours(2 * 60, 3 * 60)
    for day, length in (("2026-10-25", HOUR), ("2026-03-29", 0), ("2026-03-30", HOUR)):
        begin, end = local(berlin, f"{day} 00:00"), local(berlin, f"{day} 12:00")
        spans = spans_of([Window("w", "talk", begin, end)], "talk", "", [], night, berlin)
        assert sum(b - a for a, b in spans) == length, day
