"""Data stays where it may be: plans go nowhere else, and the checker finds a lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.estate.codecs.estate_writer import write
from evac.estate.loading import check as check_estate
from evac.estate.loading import load
from evac.model.digest import estate_digest
from evac.model.estate import Estate, StoreMember
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify.check import check
from tests.kernels import fastest

FILE = """\
evac: 1
as_of: 2026-11-25
sites: {paris: {region: france}, lyon: {region: france}, berlin: {region: germany}}
pools:
  paris-k8s: {site: paris, cpu: 30 cores, memory: 400 GiB}
  lyon-k8s: {site: lyon, cpu: 30 cores, memory: 400 GiB}
  berlin-k8s: {site: berlin, cpu: 90 cores, memory: 900 GiB}
groups: {rhone: {kind: utility, members: [paris, lyon]}}
services:
  health: {RUNS, data_in: [france], needs: [{store: records}]}
  blog: {RUNS}
  local: {RUNS, tier: 0, people: 1 K, data_in: [paris]}
stores:
  records:
    engine: postgresql
    data_in: [france]
    rpo: 1 h
    fence: 1 s
    promote: 1 s
    members: [{at: paris, mode: primary}, {at: lyon, mode: async, lag: 5 s}, {at: berlin, mode: none}]
""".replace(
    "RUNS",
    "demand: {cpu: 10 cores, memory: 1 GiB}, replicas: {paris-k8s: 1}, start: 9 s, traffic: {kind: none}",
)


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    path = tmp_path_factory.mktemp("residency") / "estate.yaml"
    path.write_text(FILE)
    assert [d for d in check_estate(path).diagnostics if d.severity == "error"] == []
    return load(path)


@pytest.fixture(scope="module")
def lost(estate: Estate) -> Plan:
    with fastest():
        return plan(estate, lose("paris"))


def test_a_plan_starts_and_promotes_only_where_data_may_be(estate: Estate, lost: Plan) -> None:
    outcomes = {one.service: one.state for one in lost.outcomes}
    assert outcomes == {"health": "restored", "blog": "restored", "local": "unplaced"}
    placed = {step.target: step.servers for step in lost.steps if step.kind == "start"}
    assert placed["health"] == (("lyon-k8s", 1),)
    assert [one.candidate for one in lost.stores] == ["lyon"]
    assert check(estate, lost).violations == ()
    with fastest():
        both = plan(estate, lose("paris", "lyon"))
    assert {one.service: one.state for one in both.outcomes} == {
        "health": "unplaced",
        "blog": "restored",
        "local": "unplaced",
    }
    assert check(estate, both).violations == ()


def test_the_checker_finds_data_that_a_plan_brings_outside(estate: Estate, lost: Plan) -> None:
    """By its own walk: a derivation that forgets where data may be makes such a plan."""
    free = replace(
        estate,
        services=tuple(replace(one, data_in=None) for one in estate.services),
        stores=tuple(
            replace(one, data_in=None, members=(*one.members[:1], StoreMember("berlin", "async", 0)))
            for one in estate.stores
        ),
    )
    with fastest():
        made = plan(free, lose("paris", "lyon"))
    lie = replace(made, estate_digest=lost.estate_digest, scenario=lost.scenario)
    words = {
        (v.rule, v.subject.split("/")[0]) for v in check(estate, lie).violations if "may not be" in v.message
    }
    assert {rule for rule, _ in words} == {"F2", "F10"}
    assert ("F2", "records") in words


def test_the_audit_says_what_leaves_no_place(estate: Estate) -> None:
    found = [f for f in audit(estate).findings if f.rule == "residency-leaves-no-place"]
    assert {(f.subject, f.severity, f.domains) for f in found} == {
        ("local", "error", ("paris", "rhone")),
        ("health", "error", ("rhone",)),
        ("records", "error", ("rhone",)),
    }
    assert any("data of local must stay at paris" in f.message for f in found)
    together = replace(estate, stores=tuple(replace(one, data_in=("paris",)) for one in estate.stores))
    found = [f for f in audit(together).findings if f.rule == "residency-leaves-no-place"]
    assert {f.subject for f in found if "paris" in f.domains} == {"local", "records"}
    by_group = replace(estate, services=tuple(replace(one, data_in=("rhone",)) for one in estate.services))
    found = [f for f in audit(by_group).findings if f.rule == "residency-leaves-no-place"]
    assert {f.domains for f in found} == {("rhone",)}


def test_what_is_written_is_read_back_the_same(estate: Estate, tmp_path: Path) -> None:
    write(estate, tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.services[1].data_in == ("france",)
    assert {site.region for site in again.sites} == {"germany", "france"}
    assert estate_digest(again) == estate_digest(estate)
