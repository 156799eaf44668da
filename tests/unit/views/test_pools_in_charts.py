"""The chart of capacity counts of a pool what may be used of it, and what of it a loss in part takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.app.planner.plans import make_plan
from evac.model.scenario import Scenario
from evac.views import plan_view
from tests.unit.truth.written import written

ESTATE = """
sites: {a: {}, b: {}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r: {}, a/h2/r: {}}
classes: {std: {cpu: 8 cores, memory: 32 GiB}}
pools:
  pa: {site: a, cpu: 40 cores, memory: 160 GiB, quota: 50 %}
  pb: {site: b, cpu: 40 cores, memory: 160 GiB}
services:
  shop: {tier: 0, people: 10, start: 5 s, demand: {cpu: 1 core, memory: 1 GiB}, replicas: {pa: 4}}
"""
SERVERS = "server,site,rack,class,state,pool\n" + "".join(
    f"a{n},a,a/h{1 if n < 2 else 2}/r,std,serving,pa\n" for n in range(5)
)


@pytest.mark.parametrize(("lost", "gone"), [("a/h1", 8_000), ("a/h2", 12_000), ("a", 20_000), ("b", 0)])
def test_quota_and_partial_losses_count(tmp_path: Path, lost: str, gone: int) -> None:
    estate = written(tmp_path, ESTATE, servers=SERVERS)
    plan = make_plan(estate, Scenario("lose", (lost,)), budget_ms=0).plan
    rows = plan_view.capacity(estate, plan, plan_view.standing(estate, plan))
    (cpu,) = (row for row in rows if (row.site, row.resource) == ("a", "cpu"))
    assert (cpu.whole, cpu.after.gone) == (20_000, gone)
