"""An evacuation has a plan that holds, however little time is left until its deadline."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from evac.estate import load
from evac.model.scenario import Policy, Scenario
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import written


@pytest.mark.parametrize("seed", range(12))
def test_evacuations_with_waived_stores_are_accepted(seed: int, project_root: Path) -> None:
    """Stores that are waived, times that stops take and the deadline are drawn."""
    draw = random.Random(seed)
    estate = load(project_root / "tests" / "fixtures" / "estates" / "small")
    services = tuple(replace(one, shed_ms=draw.choice((0, 3_000, 40_000))) for one in estate.services)
    estate = replace(estate, services=services)
    waived = tuple(sorted(store.id for store in estate.stores if draw.random() < 0.7))
    deadline_ms = (None, 0, 1, 10_000, 60_000, 3_600_000)[seed % 6]
    scenario = Scenario("evacuate", (draw.choice(("north", "south")),), deadline_ms)
    made = plan(estate, scenario, policy=Policy(waivers=waived))
    assert check(estate, made).violations == ()


TOOLS = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: CORES cores, memory: 9 GiB}}
tools: {deploy: deploy}
limits: {manual: {start: 20 s}}
services:
  deploy: {tier: 0, people: 1, replicas: {pa: 1}, start: 9 s, demand: {cpu: 1 core, memory: 1 GiB},
           shed_time: 4 s, traffic: {kind: none}}
  shop: {tier: 1, people: 1, replicas: {pa: 1}, start: 9 s, demand: {cpu: 1 core, memory: 1 GiB},
         shed_time: 6 s, traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("deadline_ms", "deploy_ms", "shop_ms"),
    [(0, 20_000, 20_000), (5_000, 1_000, 20_000), (6_000, 2_000, 0), (60_000, 20_000, 20_000)],
)
def test_what_stops_too_slowly_waits_for_its_tools(
    tmp_path: Path, deadline_ms: int, deploy_ms: int, shop_ms: int
) -> None:
    """A longer stop than the site still runs waits until its tools serve elsewhere."""
    estate = written(tmp_path, TOOLS.replace("CORES", "9"))
    made = plan(estate, Scenario("evacuate", ("a",), deadline_ms))
    assert check(estate, made).violations == ()
    begins = {step.target: step.start_ms for step in made.steps if step.kind == "stop"}
    assert begins == {"deploy": deploy_ms, "shop": shop_ms}


def test_what_no_tool_can_stop_any_more_has_no_step(tmp_path: Path) -> None:
    """Elsewhere is no room for the tools, and the site is dark before they can stop the shop."""
    estate = written(tmp_path, TOOLS.replace("CORES", "0"))
    made = plan(estate, Scenario("evacuate", ("a",), 5_000))
    assert check(estate, made).violations == ()
    assert [step.target for step in made.steps if step.kind == "stop"] == ["deploy"]
