"""The sample of October 2022 follows its published numbers and its named assumptions."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import yaml

from evac.app.credit import case
from evac.credit.windows import Window
from evac.estate.codecs.credit_rules import load_rules
from evac.estate.codecs.credit_tables import load_windows
from evac.model.errors import InvalidInput

OUTAGES = Path(__file__).parents[4] / "shared" / "data" / "outages" / "outages.yaml"


def lengths(windows: tuple[Window, ...]) -> dict[str, int]:
    return {window.service: (window.to_ms - window.from_ms) // 60_000 for window in windows}


def test_the_sample_has_the_shares_that_are_named(tmp_path: Path) -> None:
    case.write(tmp_path / "october", 47_000)
    rows = pl.read_parquet(tmp_path / "october" / "accounts.parquet")
    counts = dict(rows.group_by("service").len().rows())
    assert counts == {"talk": 47_000, "melon": 4_700, "talk-business": 8}
    assert rows.filter(pl.col("channel") == "app-store").height == 470
    assert [rule.id for rule in load_rules(tmp_path / "october" / "rules.yaml").rules] == [
        "three-days",
        "reported-losses",
        "emoticons",
    ]
    assert lengths(load_windows(tmp_path / "october" / "windows.csv"))["talk-business"] == 127 * 60 + 33


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="is not empty"):
        case.write(tmp_path)


@pytest.mark.data
def test_the_windows_are_those_of_the_published_timeline(tmp_path: Path) -> None:
    if not OUTAGES.exists():
        pytest.skip("the published timelines are not in ../shared/data/outages")
    cases = yaml.safe_load(OUTAGES.read_text(encoding="utf-8"))
    (told,) = [case for case in cases if case["id"] == "kakao-2022-10-15"]
    case.write(tmp_path / "october", 1_000)
    found = lengths(load_windows(tmp_path / "october" / "windows.csv"))
    hours, _, minutes = told["outage_total"].removeprefix("PT").removesuffix("M").partition("H")
    assert found["talk-business"] == int(hours) * 60 + int(minutes)
    assert any("messages send and arrive again" in event["what"] for event in told["events"])
    assert found["talk"] == 9 * 60 + 58
