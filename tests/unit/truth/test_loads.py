"""What is on today is within the budgets that the files declare, or `evac check` says where not."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.estate import check
from tests.unit.truth.written import servers, written

ESTATE = """
name: loads
sites: {a: {SITE}, b: {}}
halls: {a/h: {HALL}}
feeds:
  a/f: {FEED}
  a/g: {}
racks: {a/h/r: {feeds: [a/f, a/g], RACK}}
classes: {c: {cpu: 8 cores, memory: 64 GiB, watts: 400 W}}
services: {shop: {tier: 0, people: 9, replicas: {a: 1}}}
"""
ROWS = servers("v1,,a/h/r,c,serving,", "v2,,a/h/r,c,spare,", "v3,,a/h/r,c,dark,")


@pytest.mark.parametrize(
    ("where", "key", "watts", "line"),
    [
        ("SITE", "power_budget", 800, 4),
        ("HALL", "power_budget", 800, 5),
        ("HALL", "cooling", 800, 5),
        ("FEED", "power_budget", 400, 7),
        ("RACK", "power_budget", 800, 9),
    ],
)
def test_a_budget_that_is_exceeded_today_is_an_error_at_its_place(
    tmp_path: Path, where: str, key: str, watts: int, line: int
) -> None:
    for allowed in (watts, watts - 1):
        text = ESTATE.replace(where, f"{key}: {allowed} W")
        for other in ("SITE", "HALL", "FEED", "RACK"):
            text = text.replace(f", {other}", "").replace(other, "")
        estate = written(tmp_path / str(allowed), text, servers=ROWS)
        assert estate.name == "loads"
        errors = [d for d in check(tmp_path / str(allowed)).diagnostics if d.severity == "error"]
        assert len(errors) == (allowed < watts)
    assert f"carries {watts:,} W today" in errors[0].message
    assert (errors[0].code, errors[0].place.file, errors[0].place.line) == (
        "load-above-budget",
        "estate.yaml",
        line,
    )
    assert errors[0].place.column > 1
