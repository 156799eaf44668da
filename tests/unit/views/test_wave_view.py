"""Cold starts on a terminal and on a page: the same numbers as in the plan, and charts that reach them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.scenario import Scenario
from evac.planning.plan import plan
from evac.verify import check
from evac.views.html_report import html_report
from evac.views.plan_charts import wave_context
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned
from tests.unit.planning.dark import dark_site


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> tuple[Estate, Plan]:
    estate = dark_site(tmp_path_factory.mktemp("dark"), SHOP="purges: true")
    return estate, plan(estate, Scenario("restore", ("a",), None, (("a", 3_000),)))


def test_the_terminal_says_when_what_and_why(company: tuple[Estate, Plan]) -> None:
    made = company[1]
    text = plan_text(made, "sha256:0", 100, False)
    assert made.wave is not None
    assert f"all {made.wave.servers} on after" in text
    assert "no order" in text
    assert "power now   a 3,000 W" in text
    assert re.search(r"a +\d+ +the power of a is not enough +a\d", text)
    assert re.search(r"by \d+ min +1 +shop", text)


def test_the_charts_end_where_the_plan_does(company: tuple[Estate, Plan]) -> None:
    estate, made = company
    found = wave_context(estate, made)
    assert found is not None
    assert [hall["hall"] for hall in found["halls"]] == ["a/h1", "a/h2"]
    assert sum(int(hall["words"].split()[0]) for hall in found["halls"]) == made.wave.servers  # type: ignore[union-attr]
    (power,) = found["power"]
    drawn, budget = re.findall(r"([\d,]+) W", power["words"])
    assert int(drawn.replace(",", "")) <= int(budget.replace(",", "")) == 2_970
    assert sum(int(row["count"]) for row in found["off"]) == 16 - made.wave.servers  # type: ignore[union-attr]


def test_the_chart_of_power_says_how_many_servers_state_no_watts(company: tuple[Estate, Plan]) -> None:
    estate, made = company
    known = estate.fleet.watts_known.copy()
    booted = [step.target for step in made.steps if step.kind == "boot"]
    known[np.isin(estate.fleet.name, [name.encode() for name in booted[:3]])] = False
    said = []
    for one in (estate, replace(estate, fleet=replace(estate.fleet, watts_known=known))):
        found = wave_context(one, made)
        assert found is not None
        said.append("state no watts" in found["power"][0]["words"])
    assert said == [False, True]
    assert f" 3 of {len(booted)} servers state no watts and count as 0 W." in found["power"][0]["words"]


def test_the_page_has_the_section_and_other_plans_do_not(company: tuple[Estate, Plan]) -> None:
    estate, made = company
    pages = [
        html_report(
            estate, title="t", lead="l", footer="f", planned=Planned(one, "sha256:0", check(estate, one))
        )
        for one in (made, plan(estate, Scenario("lose", ("a",))))
    ]
    assert ['id="wave"' in page for page in pages] == [True, False]
    assert "power up feeds and racks (4)" in pages[0]


def test_a_plan_without_servers_has_no_charts(tmp_path: Path) -> None:
    estate = dark_site(tmp_path, POLICY="on", FEED="inrush_budget: 700 W")
    found = wave_context(estate, plan(estate, Scenario("restore", ("a",))))
    assert found is not None
    assert (found["halls"], found["power"], len(found["off"])) == ([], [], 4)
