"""A restore waits for the services that restores need: catalogue, key store, repository server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.derive.planning_instance import derive
from evac.estate import load
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.planning.simulation.simulate import simulate
from evac.steps.kind import Uncertainty
from evac.verify import check

LOSS = lose("north")
FILE = """
evac: 2
name: restores
horizon: 2 h
sites: {north: {}, south: {}}
pools: {n: {site: north, cpu: 90 cores, memory: 90 GiB}, s: {site: south, cpu: CORES cores, memory: 90 GiB}}
services:
  shop: {tier: 0, people: 9000, replicas: {n: 1}, demand: {cpu: 4 cores, memory: 1 GiB}, start: 10 s,
         verify: 1 s, needs: [{store: db}]}
  catalogue: {tier: 3, people: 1, replicas: {PLACE: 1}, demand: {cpu: 4 cores, memory: 1 GiB}, start: 100 s,
              verify: 5 s, sheddable: true, needs: [NEEDS]}
  keys: {tier: 2, people: 1, replicas: {n: 1}, demand: {cpu: 1 cores, memory: 1 GiB}, start: 60 s,
         verify: 5 s, needs: [KEYS]}
stores:
  db: {engine: postgresql, rpo: 2 h, fence: 1 s, promote: 1 s, members: [{at: north, mode: primary}],
       backups: [{at: south, size: 1 GiB, age: 1 h, restore: 1 Gbit/s}],
       backup_policy: {restore_needs: [catalogue]}}
TOOLS
"""


def _estate(
    folder: Path, place: str = "n", needs: str = "", keys: str = "", cores: int = 90, tools: str = ""
) -> Estate:
    text = FILE.replace("PLACE", place).replace("NEEDS", needs).replace("KEYS", keys)
    (folder / "estate.yaml").write_text(text.replace("CORES", str(cores)).replace("TOOLS", tools))
    return load(folder)


def _states(made: Plan) -> dict[str, str]:
    return {one.service: one.state for one in made.outcomes}


@pytest.mark.parametrize("needs", ["", "keys"])
@pytest.mark.parametrize("work", [0, 20])
def test_it_begins_when_all_that_it_needs_serves(needs: str, work: int, tmp_path: Path) -> None:
    estate = _estate(tmp_path, needs=needs)
    made = plan(estate, LOSS, work=work)
    assert _states(made) == {"shop": "restored", "catalogue": "restored", "keys": "restored"}
    restore = next(step for step in made.steps if step.kind == "restore")
    assert restore.start_ms == 105_000
    assert "verify:catalogue:base" in restore.after
    assert not check(estate, made).violations
    assert made.bound <= made.objective


def test_a_plan_that_restores_too_early_is_refused(tmp_path: Path) -> None:
    estate = _estate(tmp_path)
    made = plan(estate, LOSS)
    steps = tuple(
        replace(step, start_ms=step.start_ms - 50_000, end_ms=step.end_ms - 50_000)
        if step.kind == "restore"
        else step
        for step in made.steps
    )
    found = {one.rule for one in check(estate, replace(made, steps=steps)).violations}
    assert "F12" in found
    waits = tuple(
        replace(step, after=tuple(name for name in step.after if "catalogue" not in name))
        if step.kind == "restore"
        else step
        for step in made.steps
    )
    assert "F5" in {one.rule for one in check(estate, replace(made, steps=waits)).violations}


@pytest.mark.parametrize(
    ("needs", "keys", "tools"),
    [("{store: db}", "", ""), ("keys", "{store: db}", ""), ("", "{store: db}", "tools: {deploy: keys}")],
)
def test_what_a_restore_needs_and_cannot_be_back_before_it_keeps_both_down(
    needs: str, keys: str, tools: str, tmp_path: Path
) -> None:
    estate = _estate(tmp_path, needs=needs, keys=keys, tools=tools)
    made = plan(estate, LOSS, work=5)
    assert _states(made)["shop"] == _states(made)["catalogue"] == "unplaced"
    shop = next(one for one in made.outcomes if one.service == "shop")
    assert shop.needs == "catalogue"
    assert not any(step.kind == "restore" for step in made.steps)
    assert not check(estate, made).violations
    row = next(row for row in audit(estate).rows if row.domain == "north")
    fates = {one.service: one.fate for one in row.fates(audit(estate).services)}
    assert fates["shop"] == fates["catalogue"] == "lost"


def test_what_a_restore_needs_is_not_shed_for_what_is_restored(tmp_path: Path) -> None:
    estate = _estate(tmp_path, place="s", cores=5)
    made = plan(estate, LOSS, work=5)
    assert _states(made)["shop"] == "unplaced"
    assert not any(step.kind == "shed" for step in made.steps)
    assert not check(estate, made).violations


def test_what_survives_and_is_needed_delays_nothing(tmp_path: Path) -> None:
    made = plan(_estate(tmp_path, place="s"), LOSS)
    assert next(step for step in made.steps if step.kind == "restore").start_ms == 1_000


def test_a_simulation_waits_too(tmp_path: Path) -> None:
    estate = _estate(tmp_path)
    made = plan(estate, LOSS)
    shop = next(one for one in made.outcomes if one.service == "shop")
    assert "start:catalogue:base:1" in shop.critical
    slow = {"start": Uncertainty(0, 0, 0, slow=3)}
    found = simulate(derive(estate, LOSS), made, trials=2, uncertainty=slow)
    median = next(one for one in found.services if one.service == "shop").recovery_ms[0]
    assert shop.recovery_ms is not None
    assert median == shop.recovery_ms + 200_000
