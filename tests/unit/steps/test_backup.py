"""A fresh backup before an orderly move: in the plan, its bound and checker, and in a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers import manual
from evac.engine.runs.binding import bind
from evac.estate.codecs.plan import decode, encode
from evac.model.estate import Estate
from evac.model.plan import Plan, Step
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify import check
from evac.views.moves import write_outages
from tests.unit.truth.written import written

TEXT = """name: data
sites: {{north: {{}}, south: {{}}}}
pools: {{n: {{site: north, cpu: 9 cores, memory: 9 GiB}}, s: {{site: south, cpu: 9 cores, memory: 9 GiB}}}}
services:
  web: {{tier: 0, people: 9, replicas: {{n: 1}}, demand: {{cpu: 1 cores, memory: 1 GiB}}, start: 1 s,
        traffic: {{kind: none}}, needs: [{{store: db}}, {{store: log}}]}}
stores:
  db: {{engine: postgresql, rpo: 10 s, fence: 2 s, promote: 3 s{asked},
       members: [{{at: north, mode: primary}}, {{at: south, mode: async, lag: 1 s}}]}}
  log: {{engine: postgresql, rpo: 10 s, fence: 2 s, promote: 3 s,
        members: [{{at: north, mode: primary}}, {{at: south, mode: async, lag: 1 s}}]}}
"""
ASKED = ", backup_before_move: true"
EVACUATE = Scenario("evacuate", ("north",))
TIMED = f"{ASKED}, backup_time: 20 min"


def estate_of(folder: Path, asked: str) -> Estate:
    return written(folder, TEXT.format(asked=asked))


def kinds(made: Plan) -> dict[str, Step]:
    return {step.id: step for step in made.steps}


@pytest.mark.parametrize("scenario", [EVACUATE, Scenario("failback", ("north",))], ids=lambda one: one.kind)
def test_the_backup_comes_before_the_move_of_its_store_and_of_no_other(
    tmp_path: Path, scenario: Scenario
) -> None:
    estate = estate_of(tmp_path, TIMED)
    made = plan(estate, scenario)
    steps = kinds(made)
    backup, fence = steps["backup:db"], steps["fence:db"]
    assert (backup.start_ms, backup.end_ms, backup.manual) == (0, 1_200_000, True)
    assert fence.after == ("backup:db",)
    assert fence.start_ms >= backup.end_ms
    assert "backup:log" not in steps
    assert steps["fence:log"].start_ms == 0
    assert check(estate, made).violations == ()
    assert encode(decode(encode(made))) == encode(made)
    without = plan(estate_of(tmp_path / "without", ""), scenario)
    assert write_outages(made) == write_outages(without) != [], "writes go on while the backup is taken"
    later = [made.outcomes[0].base_ms, without.outcomes[0].base_ms]
    assert later == [1_200_000 + (later[1] or 0), later[1]]


def test_the_bound_counts_the_backup(tmp_path: Path) -> None:
    """With one way to do it, the bound is the plan, with and without a backup."""
    for folder, asked in (("a", ""), ("b", TIMED)):
        made = plan(estate_of(tmp_path / folder, asked), EVACUATE)
        assert made.bound == made.objective, asked


def test_a_loss_waits_for_no_backup(tmp_path: Path) -> None:
    with_one, without = (
        plan(estate_of(tmp_path / n, a), lose("north")) for n, a in (("a", TIMED), ("b", ""))
    )
    assert with_one.steps == without.steps


def test_a_backup_of_unknown_length_makes_the_recovery_unknown(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, ASKED)
    made = plan(estate, EVACUATE)
    assert "stores/db/backup_time" in made.unknown
    (web,) = made.outcomes
    assert web.recovery_ms is None
    assert "backup:db" in kinds(made)
    assert check(estate, made).violations == ()


def changed(made: Plan, name: str, **values: object) -> Plan:
    steps = tuple(replace(s, **values) if s.id == name else s for s in made.steps)  # type: ignore[arg-type]
    return replace(made, steps=steps)


def test_the_checker_misses_what_a_plan_leaves_out(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, TIMED)
    made = plan(estate, EVACUATE)
    without = replace(
        made, steps=tuple(s for s in changed(made, "fence:db", after=()).steps if s.kind != "backup")
    )
    early = changed(
        changed(made, "backup:db", start_ms=1_000, end_ms=1_201_000), "fence:db", start_ms=1_199_000
    )
    for wrong in (
        without,
        changed(made, "fence:db", after=()),
        changed(made, "backup:db", end_ms=600_000),
        changed(made, "backup:db", target="log"),
        early,
    ):
        rules = {one.rule for one in check(estate, wrong).violations}
        assert "F14" in rules, rules


def test_a_person_takes_it_in_a_run(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, TIMED)
    made = plan(estate, EVACUATE)
    found = bind(estate, made, RunPolicy(), run="r", incident="i", digest="d")
    (action,) = found.actions["backup:db"]
    assert (action.verb, action.driver) == ("attest", manual.DRIVER.name)
    assert "take a fresh backup of the store, and check it: db" in str(action.parameters["instructions"])
