"""When one of two feeds is lost, the other carries both loads; nothing carries more than its budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import Finding, audit
from tests.unit.truth.written import written

ESTATE = """
name: feeds
sites: {a: {SITE}, b: {}}
halls: {a/h1: {HALL}}
feeds: {a/f1: {power_budget: FIRST}, a/f2: {power_budget: 2 kW}}
racks: {a/h1/r1: {feeds: [a/f1, a/f2]}, a/h1/r2: {feeds: [a/f1]}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, watts: 400 W}}
"""
SERVERS = "server,site,rack,class,state\n" + "".join(
    f"{name},a,a/h1/{rack},web,{state}\n"
    for name, rack, state in (
        ("s1", "r1", "serving"),
        ("s2", "r1", "serving"),
        ("s3", "r2", "serving"),
        ("s4", "r2", "dark"),
    )
)


def found(folder: Path, first: str = "2 kW", site: str = "", hall: str = "") -> list[Finding]:
    text = ESTATE.replace("FIRST", first).replace("SITE", site).replace("HALL", hall)
    report = audit(written(folder, text, servers=SERVERS))
    return [f for f in report.findings if f.rule == "power-budget-exceeded" and f.severity == "error"]


def test_enough_power_is_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path) == []


def test_the_other_feed_carries_both_loads(tmp_path: Path) -> None:
    (one,) = found(tmp_path, "1 kW")
    assert one.message == "a/f1 carries 1,200 W once a/f2 is lost, but its budget is 1,000 W"
    assert one.domains == ("a/f2",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first": "700 W"}, "a/f1 carries 800 W today, but its budget is 700 W"),
        ({"site": "power_budget: 1 kW"}, "a carries 1,200 W today, but its budget is 1,000 W"),
        ({"hall": "cooling: 1100 W"}, "a/h1 carries 1,200 W today, but its budget is 1,100 W"),
    ],
)
def test_a_load_over_its_budget_today_is_an_error(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    (one,) = found(tmp_path, **changed)
    assert (one.message, one.domains) == (message, ())
