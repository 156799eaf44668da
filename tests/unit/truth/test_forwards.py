"""An evacuation or a way home takes time, and each primary that moves stops writes: a plan says so."""

from __future__ import annotations

from pathlib import Path

from evac.model.scenario import Scenario
from evac.planning.plan import plan
from evac.views.moves import write_outages
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, answer
from tests.unit.truth.written import written

ESTATE = """
name: forwards
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
stores:
  orders: {engine: postgresql, members: [{at: a, mode: primary}, {at: b, mode: sync}],
           fence: 20 s, promote: 30 s, rpo: 0 s}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, needs: [{store: orders}],
         demand: {cpu: 1 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


def test_an_evacuation_says_when_it_is_finished_and_how_long_writes_stop(tmp_path: Path) -> None:
    estate = written(tmp_path, ESTATE)
    made = plan(estate, Scenario("evacuate", ("a",), 3_600_000))
    assert write_outages(made) == [(50_000, "orders")]
    words, _ = answer(Planned(made, "sha256:0"))
    ends = max(step.end_ms for step in made.steps) // 1_000
    assert f"The work is finished {ends // 60} min" in words
    assert "Writes of store orders stop for 50 s while its primary moves." in words
    told = plan_text(made, "sha256:0", 120, False)
    assert "writes of store orders stop for 50 s" in told


def test_a_loss_has_no_write_outage_of_a_move(tmp_path: Path) -> None:
    made = plan(written(tmp_path, ESTATE), Scenario("lose", ("a",)))
    assert write_outages(made) == []
    assert "finished" not in answer(Planned(made, "sha256:0"))[0]
