"""A simulation says no more than its plan: what no one knows stays unknown, and each objective counts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.derive.planning_instance import derive
from evac.model.plan import Plan
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.planning.simulation.simulate import Simulation, simulate
from evac.steps.kind import Uncertainty
from evac.views import plan_view, words
from evac.views.html_report import simulation_context
from evac.views.plan_text import plan_text
from evac.views.small_texts import odds_words, simulate_text
from evac.web.pages.plan_view import _cards
from tests.unit.truth.written import written

ESTATE = """
name: press
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 8 GiB}, pb: {site: b, cpu: 8 cores, memory: 8 GiB}}
services:
"""
SERVICE = (
    "  NAME: {tier: TIER, people: 10, replicas: {pa: 1}, demand: {cpu: 1 core, memory: 1 GiB}, verify: 0 s,"
    " traffic: {kind: none}, MORE}\n"
)


def played(folder: Path, services: list[tuple[bool, bool, bool, int]]) -> tuple[Plan, Simulation]:
    """The loss of the only site of some services. services: whether it is stated how
    long each starts, whether it has an objective, whether it may start at the other site, and its tier.
    """
    text = ESTATE
    for number, (timed, stated, moves, tier) in enumerate(services):
        more = [f"start: {10 + number} s"] if timed else []
        more += ["rto: 1 h"] if stated else []
        more += ["needs: []"] if moves else ["eligible_sites: [a]"]
        one = SERVICE.replace("NAME", f"x{number}").replace("TIER", str(tier))
        text += one.replace("MORE", ", ".join(more))
    estate = written(folder, text)
    made = plan(estate, lose("a"), work=0)
    return made, simulate(derive(estate, made.scenario, made.policy, made.tick_ms), made, trials=2)


SERVICES = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([True, True, False]), st.integers(0, 1)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15, deadline=None)
@given(SERVICES)
def test_a_simulation_knows_a_time_exactly_where_its_plan_does(
    services: list[tuple[bool, bool, bool, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made, found = played(Path(folder), services)
    outcomes = {one.service: one for one in made.outcomes}
    for one in found.services:
        unknown = outcomes[one.service].recovery_ms is None
        assert bool(one.untimed) is unknown
        if unknown:
            assert one.planned_ms is one.meets_rto_permille is None
            assert set(one.recovery_ms) == {None}
    for tier in found.tiers:
        unknown = any(one.untimed for one in found.services if one.tier == tier.tier)
        assert bool(tier.untimed) is unknown
        if unknown:
            assert {tier.planned_ms, *tier.last_ms} == {None}
    stated = sum(has_objective for _, has_objective, _, _ in services)
    assert f" of {stated} service" in odds_words(made, found) or not stated


def test_screen_and_report_say_that_a_time_is_unknown_and_why(tmp_path: Path) -> None:
    made, found = played(tmp_path, [(False, True, True, 0), (True, True, True, 1), (True, True, False, 1)])
    for text in (simulate_text(made, found, 100, False), str(simulation_context(made, found))):
        told = " ".join(text.split())
        assert "it is unknown when x0 is back: the estate does not state start of x0" in told
        assert "1 of 3 services meet their RTO" in told
        assert "(1 unknown, 1 not restored by this plan)" in told
        assert "not within the horizon" not in told


@pytest.mark.parametrize("resource", ["cpu: 1 core", "memory: 1 GiB"])
def test_a_simulation_does_not_time_what_its_plan_cannot_judge(tmp_path: Path, resource: str) -> None:
    """Of one service nobody knows how much it takes, so nobody knows whether it and what needs it fit."""
    text = ESTATE + "".join(
        SERVICE.replace("NAME", name)
        .replace("TIER", str(tier))
        .replace("MORE", f"start: 10 s, rto: 1 h, {more}")
        for tier, (name, more) in enumerate(
            [("plain", "needs: []"), ("vague", "needs: []"), ("user", "needs: [vague]")]
        )
    )
    whole = "cpu: 1 core, memory: 1 GiB"
    first, rest = text.split("  vague:")
    estate = written(tmp_path, f"{first}  vague:{rest.replace(whole, resource, 1)}")
    made = plan(estate, lose("a"), work=0)
    assert {outcome.service: outcome.state for outcome in made.outcomes}["vague"] == "unknown"
    forecast = simulate(derive(estate, made.scenario, made.policy, made.tick_ms), made, trials=2)
    planned = {outcome.service: outcome.recovery_ms for outcome in made.outcomes}
    for one in forecast.services:
        assert (set(one.recovery_ms) == {None}) == (planned[one.service] is None) == bool(one.untimed)
    assert all(tier.untimed for tier in forecast.tiers if tier.tier in (1, 2))


MOVES = """
name: press
detection: 1 min
approval: 5 min
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 8 GiB}, pb: {site: b, cpu: 8 cores, memory: 8 GiB}}
services:
  quick: {tier: 0, people: 10, rto: 5 min, replicas: {pa: 1}, demand: {cpu: 1 core, memory: 1 GiB},
    start: 30 s, traffic: {kind: none}}
  slow: {tier: 1, people: 10, rto: 5 min, replicas: {pa: 1}, demand: {cpu: 1 core, memory: 1 GiB},
    start: 12 min, traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    "scenario",
    [
        lose("a"),
        Scenario("restore", ("a",)),
        Scenario("failback", ("a",)),
        Scenario("evacuate", ("a",), deadline_ms=600_000),
        Scenario("evacuate", ("a",), deadline_ms=3_600_000),
    ],
    ids=str,
)
def test_where_nothing_varies_a_simulation_counts_times_as_its_plan_does(
    tmp_path: Path, scenario: Scenario
) -> None:
    """A service that moves in time is never down, so no detection and no approval count against it."""
    estate = written(tmp_path, MOVES, lead="")
    made = plan(estate, scenario, work=0)
    exact = {step.kind: Uncertainty(0.0, 0.0, 0.0) for step in made.steps}
    instance = derive(estate, made.scenario, made.policy, made.tick_ms)
    found = simulate(instance, made, trials=2, uncertainty=exact)
    planned = {outcome.service: outcome for outcome in made.outcomes}
    assert {one.service for one in found.services} == {"quick", "slow"}
    for one in found.services:
        assert set(one.recovery_ms) == {planned[one.service].recovery_ms}
        assert one.meets_rto_permille == (1_000 if planned[one.service].meets_rto else 0)
    assert words.since(scenario.kind) in simulate_text(made, found, 100, False)


STAYS = """
name: press
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 8 GiB}, pb: {site: b, cpu: 8 cores, memory: 8 GiB}}
services:
  site: {tier: 0, people: 10, rto: 5 min, replicas: {pa: 1, pb: 1}, share: 50 %, start: 10 s,
    demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  cms: {tier: 1, people: 10, rto: 5 min, replicas: {pa: 1}, start: 10 s, needs: [{store: media}],
    demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  shop: {tier: 1, people: 10, rto: 5 min, replicas: {pa: 1}, start: 10 s, needs: [{store: orders}],
    demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
stores:
  orders: {members: [{at: a, mode: primary}, {at: b, mode: async, lag: 5 s}], fence: 10 s, promote: 20 s,
    rpo: unlimited}
  media: {members: [{at: a, mode: primary}, {at: b, mode: async}], fence: 10 s, promote: 20 s, rpo: unlimited}
"""


def test_a_service_that_stays_up_meets_its_objective_and_an_unknown_is_in_no_sum(tmp_path: Path) -> None:
    """site never goes down; of media nobody knows how far its copy is behind."""
    estate = written(tmp_path, STAYS)
    made = plan(estate, lose("a"), work=0)
    assert {o.service: o.meets_rto for o in made.outcomes} == {"site": True, "shop": True, "cms": None}
    found = simulate(derive(estate, made.scenario, made.policy, made.tick_ms), made, trials=20)
    assert odds_words(made, found).startswith("2 of 3 services meet their RTO")
    assert "Data lost: 2 stores, at most 5 s of writes, an unknown amount in media" in plan_text(
        made, "x", 200, False
    )
    report = {card.name: card for card in plan_view.cards(plan_view.Planned(made, "x"))}
    assert report["last one back after"].value == "not known"
    page = {card.name: card for card in _cards(made, "x")}
    assert page["Last one back after"].value == "Unknown"
    assert (page["Within objective"].value, page["Within objective"].more[-9:]) == ("2 of 3", "1 unknown")
