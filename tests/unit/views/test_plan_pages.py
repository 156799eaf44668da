"""A plan on the terminal and as a page."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from evac.estate import load
from evac.model.estate import Estate
from evac.model.plan import Plan, Sensitivity
from evac.model.reason import Reason
from evac.model.scenario import lose
from evac.planning.compiled import interpreted
from evac.planning.plan import plan as make_plan
from evac.planning.simulation.simulate import simulate
from evac.verify import check_instance
from evac.views.html_report import html_report, plan_context
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, cards
from evac.views.small_texts import simulate_text, verify_text
from evac.views.words import duration
from tests.unit.planning.instances import worked_example
from tests.unit.verify.worked_plan import worked_plan


@pytest.fixture(scope="module")
def estate(project_root: Path) -> Estate:
    return load(project_root / "tests" / "fixtures" / "estates" / "small")


@pytest.fixture(scope="module")
def plan(estate: Estate) -> Plan:
    made = worked_plan(worked_example())
    outcomes = tuple(
        replace(
            o,
            rto_ms=200_000,
            recovery_ms=None if o.state == "shed" else o.base_ms,
            why=Reason("needs", ("<script>x</script>",)),
        )
        for o in made.outcomes
    )
    return replace(made, scenario=lose(estate.sites[0].id), outcomes=outcomes)


class Page(HTMLParser):
    """Collects what must not be there, and the nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("href", "src") if name in found]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open and self.open.pop() != tag:
                pass


def test_the_screen_says_the_answer_first_and_fits(plan: Plan) -> None:
    text = plan_text(plan, "sha256:x", 100, False, "plan.json")
    assert text.splitlines()[0].startswith("Loss of ")
    assert "4 of 5 affected services come back" in text
    assert "evac verify plan.json" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_the_screen_says_what_changes_where_it_was_asked_for(plan: Plan) -> None:
    told = replace(plan, sensitivity=(Sensitivity("demand is 30 % higher", 120_000, 60_000),))
    assert ("if the assumptions are off") not in plan_text(
        replace(plan, sensitivity=()), "sha256:x", 100, False
    )
    (row,) = [r for r in plan_text(told, "sha256:x", 100, False).splitlines() if "30 % higher" in r]
    assert "2,000 user-minutes" in row
    assert "1,000 user-minutes" in row


def test_facts_within_bounds_are_named(plan: Plan) -> None:
    told = plan_text(replace(plan, intervals=("services/pay/start",)), "sha256:x", 100, False)
    assert "Known only within bounds" in told
    assert "services/pay/start" in told


def test_colour_only_repeats_words(plan: Plan) -> None:
    coloured = plan_text(plan, "sha256:x", 100, True)
    assert "\x1b[" in coloured
    assert "miss their RTO" in coloured


def test_the_page_is_whole_self_contained_and_safe(estate: Estate, plan: Plan) -> None:
    found = simulate(worked_example(), plan, trials=20)
    verdict = check_instance(worked_example(), plan)
    planned = Planned(plan, "sha256:x", verdict, found)
    text = html_report(estate, title="Loss", lead="lead", footer="end", planned=planned)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.scripts == 0
    assert "<script>" not in text
    assert len(page.ids) == len(set(page.ids))
    anchors = {link[1:] for link in page.links}
    assert all(link.startswith("#") for link in page.links)
    assert anchors <= set(page.ids)
    assert text == html_report(estate, title="Loss", lead="lead", footer="end", planned=planned)


def test_what_a_plan_names_never_becomes_markup(estate: Estate, plan: Plan) -> None:
    bad = '"><script>alert(1)</script><svg onload=x>&amp;'
    odd = replace(
        plan,
        outcomes=tuple(replace(o, service=bad + o.service, critical=()) for o in plan.outcomes),
        steps=tuple(replace(s, target=bad + s.target, pool=bad) for s in plan.steps),
        stores=tuple(replace(s, store=bad, candidate=bad, waiver=bad) for s in plan.stores),
        unknown=(bad,),
        waivers=(bad,),
    )
    chain = (odd.steps[0].id,)
    chained = replace(odd, outcomes=tuple(replace(o, critical=chain) for o in odd.outcomes))
    text = html_report(estate, title=bad, lead=bad, footer=bad, planned=Planned(chained, bad))
    page = Page()
    page.feed(text)
    assert page.scripts == 0
    assert page.open == []
    assert "<script" not in text
    assert "<svg onload" not in text


def test_every_chart_has_words(estate: Estate, plan: Plan) -> None:
    text = html_report(estate, title="t", lead="l", footer="f", planned=Planned(plan, "d"))
    charts = text.count('<svg role="img"')
    assert charts == text.count("</desc>") == text.count("<desc id=") >= 4
    assert text.count("<svg") == charts + text.count('aria-hidden="true"><path')


def test_verify_and_simulate_screens(plan: Plan) -> None:
    instance = worked_example()
    broken = replace(plan, objective=1)
    assert "is not valid" in verify_text(broken, "d", check_instance(instance, broken), 100, False)
    text = simulate_text(plan, simulate(instance, plan, trials=20), 100, False)
    assert "tier 0" in text
    assert "p99" in text


REBUILT: Final = """\
evac: 1
sites: {east: {}, west: {}}
pools: {west-k8s: {site: west, cpu: 30 cores, memory: 400 GiB}}
stores:
  orders: {members: [{at: east, mode: primary}, {at: west, mode: sync}], fence: 10 s, promote: 20 s, rpo: 0 s}
  index: {members: [{at: east, mode: primary}], rebuilt_from: orders, rebuild: 40 min}
services:
  search: {demand: {cpu: 1 core, memory: 1 GiB}, replicas: {east: 2}, start: 30 s, traffic: {kind: none},
    needs: [{store: index}]}
"""


def test_a_store_that_is_made_again_is_among_the_lost_ones(tmp_path: Path) -> None:
    path = tmp_path / "estate.yaml"
    path.write_text(REBUILT)
    estate = load(path)
    with interpreted():
        plan = make_plan(estate, lose("east"))
    page = plan_context(estate, Planned(plan, "d"))
    rows = {row["store"]: row for row in page["stores"]["open"]}
    assert sorted(rows) == ["index", "orders"]
    back = next(one for one in plan.outcomes if one.service == "search").recovery_ms
    assert (rows["index"]["candidate"], rows["index"]["back"]) == ("rebuilt from orders", duration(back))
    assert rows["index"]["loss"] == "none"
    card = next(card for card in cards(Planned(plan, "d")) if card.name == "stores that lose writes")
    assert card.more == "of 2 lost, all come back"
