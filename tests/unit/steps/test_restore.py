"""A store that is restored from a backup: in the plan, in its file, in a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evac.derive.situation import estate_after
from evac.engine.runs.binding import bind
from evac.estate.codecs.plan import decode, encode
from evac.estate.loading import load
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Policy, lose
from evac.planning.plan import plan
from evac.verify import check
from evac.views.plan_charts import place_words, step_words

ESTATE = """evac: 1
name: data
sites: {north: {}, south: {}}
pools: {n: {site: north, cpu: 9 cores, memory: 9 GiB}, s: {site: south, cpu: 9 cores, memory: 9 GiB}}
services:
  web: {tier: 0, people: 9, replicas: {n: 1}, demand: {cpu: 1 cores, memory: 1 GiB}, start: 1 s,
        needs: [{store: db}]}
stores:
  db: {engine: postgresql, rpo: 10 s, fence: 1 s, promote: 1 s, members: [{at: north, mode: primary}],
       backups: [{at: south, size: 1 GiB, age: 1 h, restore: 1 Gbit/s}]}
"""


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    folder: Path = tmp_path_factory.mktemp("estate")
    (folder / "estate.yaml").write_text(ESTATE)
    return load(folder)


@pytest.fixture(scope="module")
def made(estate: Estate) -> Plan:
    return plan(estate, lose("north"), policy=Policy(waivers=("db",)))


def test_a_plan_says_that_it_restores_and_from_where(estate: Estate, made: Plan) -> None:
    (step,) = (step for step in made.steps if step.target == "db" and step.candidate)
    assert (step.id, step.kind, step.candidate) == ("restore:db", "restore", "south")
    (store,) = made.stores
    assert (store.candidate, store.restored, store.loss_ms) == ("south", True, 3_600_000)
    assert check(estate, made).violations == ()
    assert step_words(step) == "restore db at south from its backup"
    assert place_words(store, made) == "south, from the backup"


def test_what_waits_for_its_data_waits_for_the_restore(made: Plan) -> None:
    steps = {step.kind: step for step in made.steps}
    assert "restore:db" in steps["verify"].after
    assert "restore:db" not in steps["start"].after  # its data is needed to serve, not to start


def test_the_checker_refuses_a_promotion_of_a_backup(estate: Estate, made: Plan) -> None:
    data = encode(made).replace(b'"kind":"restore"', b'"kind":"promote"')
    assert {v.rule for v in check(estate, decode(data)).violations} >= {"F2"}


def test_its_file_reads_back_and_one_of_an_earlier_version_is_read_as_a_restore(made: Plan) -> None:
    data = encode(made)
    assert encode(decode(data)) == data
    old = json.loads(data.replace(b"restore:db", b"promote:db"))
    for step in old["steps"]:
        if step["kind"] == "restore":
            step |= {"kind": "promote", "candidate": "backup@south"}
    for store in old["stores"]:
        del store["restored"]
        store["candidate"] = "backup@south"
    read = decode(json.dumps(old).encode())
    assert read.stores == made.stores
    (step,) = (step for step in read.steps if step.kind == "restore")
    assert (step.id, step.candidate) == ("promote:db", "south"), "journals of its runs name the old id"


def test_a_plan_that_restores_nothing_does_not_speak_of_it(estate: Estate) -> None:
    assert b"restore" not in encode(plan(estate, lose("south")))


def test_a_person_restores_after_agreeing_to_the_loss(estate: Estate, made: Plan) -> None:
    found = bind(estate, made, RunPolicy(), run="r", incident="i", digest="d")
    (step,) = (step for step in found.spec.steps if step.kind == "restore")
    assert (step.manual, step.data_set, step.site) == (True, "db", "south")
    assert step.words == "restore the store from its backup: db at south"
    assert step.gate.startswith("restoring db may lose its newest writes, up to 3600 s")
    assert found.spec.envelope.stores == ("db",)


def test_the_next_plan_begins_with_the_members_that_were_there(estate: Estate, made: Plan) -> None:
    after = estate_after(estate, made)
    assert [(m.at, m.mode) for m in after.stores[0].members] == [("north", "primary")]
