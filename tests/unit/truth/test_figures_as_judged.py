"""A figure for a whole loss says what it does not count: services that cannot be judged, unknown times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from evac.audit import audit
from evac.derive.planning_instance import derive
from evac.estate.codecs.plan import encode
from evac.model.estate import Estate
from evac.model.scenario import Policy, lose
from evac.planning.plan import plan
from evac.planning.simulation.simulate import simulate
from evac.verify import check
from evac.views.html_report import plan_context
from evac.views.json_out import PLAN_SCHEMA
from evac.views.plan_charts import chains
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, cards
from evac.views.small_texts import simulate_text, verify_text
from evac.web.pages.plan_view import _cards, _facts
from tests.unit.truth.written import servers, written

REST: Final = "demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}"
ESTATE: Final = f"""
name: j
sites: {{a: {{}}, b: {{}}}}
halls: {{a/h1: {{}}, a/h2: {{}}, b/h: {{}}}}
racks: {{a/h1/r: {{}}, a/h2/r: {{}}, b/h/r: {{}}}}
classes: {{c: {{cpu: 8 cores, memory: 8 GiB}}}}
services:
  shop: {{tier: 1, people: 20, START, {REST}}}
  vault: {{tier: 0, people: 10, replicas: {{PLACE: 1}}, start: 10 s, {REST}}}
"""
TABLES: Final = {
    "servers": servers("a1,a,a/h1/r,c,serving,", "a2,a,a/h2/r,c,serving,", "b1,b,b/h/r,c,serving,"),
    "replicas": "service,target,count\nshop,a1,1\n",
}
OPEN: Final = "1 service cannot be judged"
UNTIMED: Final = "no one knows when 1 service will be back"
LIMIT: Final = "as far as it can be judged"


def planned(folder: Path, place: str, start: str) -> tuple[Estate, Planned, str, str]:
    """A plan for the loss of a hall, and what its screens say: the plan, and its checks."""
    estate = written(folder, ESTATE.replace("PLACE", place).replace("START", start), **TABLES)
    made = plan(estate, lose("a/h1"))
    verdict = check(estate, made)
    assert verdict.holds
    found = simulate(derive(estate, made.scenario, made.policy, made.tick_ms), made, trials=10)
    checked = verify_text(made, "x", verdict, 400, False) + simulate_text(made, found, 400, False)
    return estate, Planned(made, "x", verdict, found), plan_text(made, "x", 400, False), checked


@pytest.mark.parametrize("place", ["a", "b"])
def test_a_figure_of_a_loss_that_cannot_be_judged_is_never_said_of_the_whole(
    tmp_path: Path, place: str
) -> None:
    _, whole, text, checked = planned(tmp_path, place, "start: 10 s")
    made, open_ones = whole.plan, place == "a"
    assert bool(made.unjudged) == open_ones
    outage, quality = (
        next(line for line in text.splitlines() if word in line) for word in ("user-minutes", "quality")
    )
    assert (OPEN in outage, LIMIT in quality) == (open_ones, open_ones)
    assert (LIMIT in checked, "may add to the weighted outage" in checked) == (open_ones, open_ones)
    by_name = {card.name: card for card in cards(whole)}
    gap = by_name["above the best possible, at most"]
    for card, words in ((by_name["outage"], OPEN), (gap, LIMIT)):
        assert (words in card.more, card.state == "unknown") == (open_ones, open_ones)
    assert any(OPEN in words for _, words in _facts(made, "x")) == open_ones
    proof = next(card for card in _cards(made, "x") if card.name == "Above the best possible")
    assert (LIMIT in proof.more, "no plan can do better" in proof.more) == (open_ones, False)
    assert proof.more.startswith("Proof partial: facts are unknown")


@pytest.mark.parametrize("start", ["start: 10 s", "sheddable: false"])
def test_an_outage_says_that_an_unknown_time_counts_as_zero(tmp_path: Path, start: str) -> None:
    known = start.startswith("start")
    _, whole, text, _ = planned(tmp_path, "b", start)
    made = whole.plan
    assert (UNTIMED in next(line for line in text.splitlines() if "outage" in line)) != known
    assert any(UNTIMED in words for _, words in _facts(made, "x")) != known
    assert any(UNTIMED in card.more for card in cards(whole)) != known


def test_the_page_of_a_plan_says_it_among_its_facts(tmp_path: Path) -> None:
    estate, whole, _, _ = planned(tmp_path, "a", "start: 10 s")
    assert OPEN in str(plan_context(estate, whole)["facts"])


def test_the_document_of_a_plan_says_what_its_amounts_count(tmp_path: Path) -> None:
    _, whole, _, _ = planned(tmp_path, "a", "start: 10 s")
    document = json.loads(encode(whole.plan))
    day_ms, weights = document["horizon_ms"], document["tier_weights"]
    assert document["worst"]["unweighted"] == document["unweighted"] + 10 * day_ms
    assert document["worst"]["objective"] == document["objective"] + 10 * day_ms * weights[0]
    assert document["proof"] == "partial"
    assert [one["service"] for one in document["services"] if one["state"] == "unknown"] == ["vault"]
    assert "a service with the state unknown may add to them" in PLAN_SCHEMA["description"]


def test_a_plan_that_costs_nothing_known_is_not_the_best_while_a_time_is_unknown(tmp_path: Path) -> None:
    _, whole, text, _ = planned(tmp_path, "b", "sheddable: false")
    assert whole.plan.objective == 0
    assert "quality     unknown: no one knows when 1 service will be back" in text
    proof = next(card for card in _cards(whole.plan, "x") if card.name == "Above the best possible")
    assert proof.value == "Unknown"


@pytest.mark.parametrize("start", ["start: 10 s", "sheddable: false"])
def test_nothing_is_proven_and_no_tier_is_back_while_a_time_is_unknown(tmp_path: Path, start: str) -> None:
    """shop and mill are lost with their hall; shop starts elsewhere in 10 s or in an unknown time."""
    known = start.startswith("start")
    text = ESTATE.replace("replicas: {PLACE: 1}, ", "").replace("START", start)
    text += f"  mill: {{tier: 1, people: 5, start: 10 s, {REST}}}\n"
    tables = {**TABLES, "replicas": "service,target,count\nshop,a1,1\nvault,b1,1\nmill,a1,1\n"}
    made = plan(written(tmp_path, text, **tables), lose("a/h1"))
    assert (made.proof == "full") == known
    proof = next(card for card in _cards(made, "x") if card.name == "Above the best possible")
    assert (proof.more == "Proven: no plan can do better", proof.value == "0 %") == (known, known)
    words = [chain.words for chain in chains(made)]
    assert words
    assert all("last of tier 1 to come back" in one for one in words) == known
    assert all("tier 1 is not back before" in one for one in words) != known


@pytest.mark.parametrize("memory", [", memory: 1 GiB", ""])
def test_an_outage_says_that_missing_replicas_may_add_to_it(tmp_path: Path, memory: str) -> None:
    """shop keeps half of its replicas; whether the rest fits elsewhere is unknown without their memory."""
    text = f"""
name: j
sites: {{a: {{}}, b: {{}}}}
pools: {{pa: {{site: a, cpu: 20 cores, memory: 99 GiB}}, pb: {{site: b, cpu: 20 cores, memory: 99 GiB}}}}
services:
  shop: {{tier: 0, people: 1000, rto: 1 h, share: 50 %, replicas: {{pa: 2, pb: 2}}, start: 60 s,
    demand: {{cpu: 1 core{memory}}}, traffic: {{kind: none}}}}
"""
    estate = written(tmp_path, text)
    made = plan(estate, lose("a"))
    whole = Planned(made, "x", check(estate, made), None)
    said = plan_text(made, "x", 400, False)
    words = "the missing replicas of 1 degraded service cannot be judged"
    assert (words in said) == (not memory)
    quality = next(line for line in said.splitlines() if "quality" in line)
    assert (LIMIT in quality) == (not memory)
    outage = next(card for card in cards(whole) if card.name == "outage")
    assert (words in outage.more, outage.state == "unknown") == (not memory, not memory)
    gap = next(card for card in cards(whole) if card.name.startswith("above the best possible"))
    assert (gap.state == "unknown") == (not memory)


HALF: Final = """
name: j
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 20 cores, memory: 99 GiB}, pb: {site: b, cpu: 20 cores, memory: 99 GiB}}
services:
  shop: {tier: TIER, people: 1000, share: 50 %, replicas: {pa: 2, pb: 2}, start: 60 s,
    demand: {cpu: 1 core MEMORY}, traffic: {kind: none}, NEEDS}
  base: {tier: 1, people: 70, replicas: {pa: LOST, pb: 1}, demand: {cpu: 1 core MEMORY},
    traffic: {kind: none}}
"""


@pytest.mark.parametrize(("tier", "lost"), [(0, 1), (2, 1), (0, 0)])
@pytest.mark.parametrize("needs", ["needs: []", "needs: [base]", "needs: [{service: base, hard: false}]"])
@pytest.mark.parametrize("shape", ["", "start: 10 s"])
def test_the_range_of_an_outage_holds_whatever_the_unknown_fact_is(
    tmp_path: Path, tier: int, lost: int, needs: str, shape: str
) -> None:
    """The upper end is reached: with a demand that fits nowhere, nothing that is missing comes back."""
    text = HALF.replace("TIER", str(tier)).replace("LOST", str(lost)).replace("NEEDS", needs)
    text = text.replace("base: {tier: 1,", f"base: {{tier: 1, {shape + ',' if shape else ''}")
    unknown_start = not shape and lost > 0

    def whole(memory: str) -> tuple[int, int]:
        folder = tmp_path / f"of-{memory[-6:].strip()}"
        estate = written(folder, text.replace("MEMORY", memory), lead="detection: 1 min\napproval: 5 min\n")
        made = plan(estate, lose("a"))
        assert check(estate, made).holds
        assert made.unweighted_before is not None
        least = made.unweighted * made.tick_ms + made.unweighted_before
        if made.worst is None:
            return least, least
        assert not check(estate, replace(made, worst=replace(made.worst, unweighted=0))).holds
        return least, made.worst.unweighted + made.worst.unweighted_before

    least, most = whole("")
    seen = [whole(f", memory: {size} GiB") for size in (1, 45, 200)]
    assert all(least <= low <= high <= most for low, high in seen)
    assert least < most
    assert (seen[-1] == (most, most)) or unknown_start


@pytest.mark.parametrize("memory", [", memory: 1 GiB", ""])
def test_the_audit_names_the_demand_without_which_missing_replicas_cannot_be_judged(
    tmp_path: Path, memory: str
) -> None:
    text = HALF.replace("TIER", "0").replace("LOST", "0").replace("NEEDS", "needs: []")
    found = audit(written(tmp_path, text.replace("MEMORY", memory)))
    demands = [one for one in found.findings if one.subject == "services/*/demand"]
    assert bool(demands) != bool(memory)
    assert all("2 services" in one.message and "shop" in one.message for one in demands)


def test_users_of_tiers_without_weight_are_counted_again(tmp_path: Path) -> None:
    """The checker finds every figure of users, whatever a tier weighs."""
    text = HALF.replace("TIER", "0").replace("LOST", "1").replace("NEEDS", "needs: [base]")
    estate = written(tmp_path, text.replace("MEMORY", ""), lead="detection: 1 min\napproval: 5 min\n")
    for weights in ((0, 1, 1), (1, 0, 1), (0, 0, 0)):
        made = plan(estate, lose("a"), policy=Policy(tier_weights=weights))
        assert made.worst is not None
        assert check(estate, made).holds
        wrong = (
            replace(made, unweighted=made.unweighted + 1),
            replace(made, unweighted_before=0),
            replace(made, worst=replace(made.worst, unweighted=made.worst.unweighted - 1)),
            replace(made, worst=replace(made.worst, unweighted_before=0)),
        )
        for one in wrong:
            assert {(v.rule, v.subject) for v in check(estate, one).violations} == {("F19", made.name)}
