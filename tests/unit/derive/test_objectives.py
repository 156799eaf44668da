"""Objectives by class of loss: which class a loss is, what is promised then, and who is measured by it."""

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.derive.domains import domains, topology
from evac.derive.objectives import loss_class, rto_of
from evac.estate import load
from evac.model.digest import estate_digest
from evac.model.objectives import LossClass, Objective, Objectives, rpo_for
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify import check
from evac.verify.check import _class_of

ESTATE = """\
evac: 1
name: ob
detection: 1 min
approval: 5 min
sites: {fra: {}, muc: {}, zrh: {}}
halls: {fra/h1: {}}
feeds: {fra/a: {}}
racks: {fra/h1/r1: {feeds: [fra/a]}}
groups:
  north: {kind: campus, members: [fra, muc]}
  cooling: {kind: cooling, members: [fra/h1/r1]}
  outer: {members: [cooling, zrh]}
providers: {stripe: {}}
classes: {c: {cpu: 64 cores, memory: 256 GiB}}
services:
  pay: {external: true, provider: stripe}
  shop:
    tier: 0
    people: 1 M
    rto: 1 h
    objectives: {site: {rto: 5 min}, region: {rto: 4 h}}
    demand: {cpu: 1 core, memory: 1 GiB}
    replicas: 2
    start: 60 s
    share: 1/2
    traffic: {kind: none}
    needs: [{store: orders}, {service: pay, hard: false}]
stores:
  orders:
    engine: postgresql
    rpo: 0 s
    objectives: {region: {rpo: 1 h}}
    fence: 10 s
    promote: 30 s
    members: [{at: fra, mode: primary}, {at: zrh, mode: async, lag: 5 s}]
"""
SERVERS = "server,site,rack,class,state\ns1,fra,fra/h1/r1,c,serving\ns2,muc,,c,serving\ns3,zrh,,c,serving\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("objectives")
    (path / "estate.yaml").write_text(ESTATE)
    (path / "servers.csv").write_text(SERVERS)
    (path / "replicas.csv").write_text("service,target,count\nshop,s1,1\nshop,s2,1\n")
    return path


@pytest.mark.parametrize(
    ("lost", "wanted"),
    [
        (("provider:stripe",), "software"),
        (("s1",), "server"),
        (("fra/h1/r1", "s2"), "rack"),
        (("fra/a",), "hall"),
        (("cooling",), "hall"),
        (("fra",), "site"),
        (("outer", "fra/h1"), "site"),
        (("north",), "region"),
        (("fra", "zrh"), "region"),
    ],
)
def test_the_most_that_is_lost_decides_the_class(
    folder: Path, lost: tuple[str, ...], wanted: LossClass
) -> None:
    estate = load(folder)
    assert loss_class(topology(estate), lost) == wanted
    assert _class_of(estate, lost) == wanted, "the checker finds it by itself"


@pytest.mark.parametrize("name", ["small", "two_sheds"])
def test_the_checker_finds_the_same_class_for_every_loss(name: str) -> None:
    estate = load(Path(__file__).parents[2] / "fixtures" / "estates" / name)
    top = topology(estate)
    for domain in domains(estate):
        assert _class_of(estate, (domain.id,)) == loss_class(top, (domain.id,)), domain.id


def test_plain_objectives_hold_where_no_other_is_stated(folder: Path) -> None:
    estate = load(folder)
    assert rto_of(estate, lose("fra"))["shop"] == 300_000
    assert rto_of(estate, Scenario("evacuate", ("fra",)))["shop"] == 300_000
    assert rto_of(estate, lose("north"))["shop"] == 4 * 3_600_000
    assert rto_of(estate, lose("fra/h1/r1")) == {"pay": None, "shop": 3_600_000}
    (orders,) = estate.stores
    assert (rpo_for(orders, "region"), rpo_for(orders, "site")) == (3_600_000, 0)


def test_a_plan_may_lose_what_the_class_allows_and_is_late_by_it(folder: Path) -> None:
    estate = load(folder)
    region = plan(estate, lose("north"))
    assert [(one.candidate, one.loss_ms, one.waiver) for one in region.stores] == [("zrh", 5_000, "")]
    assert region.outcomes[0].rto_ms == 4 * 3_600_000
    site = plan(estate, lose("fra"))
    assert [one.candidate for one in site.stores] == [""], "its rpo for one site is 0 s"
    assert check(estate, region).holds
    assert check(estate, site).holds


def test_the_checker_measures_by_its_own_class(folder: Path) -> None:
    estate = load(folder)
    made = plan(estate, lose("north"))
    late = replace(made, outcomes=tuple(replace(one, rto_ms=3_600_000) for one in made.outcomes))
    assert {"F19"} <= {one.rule for one in check(estate, late).violations}
    (orders,) = estate.stores
    strict = replace(estate, stores=(replace(orders, objectives=None),))
    moved = replace(made, estate_digest=estate_digest(strict))
    assert ("F2", "orders") in {(one.rule, one.subject) for one in check(strict, moved).violations}


def test_the_audit_counts_who_is_late_by_the_class_and_says_which(folder: Path) -> None:
    estate = load(folder)
    sync = replace(estate.stores[0].members[1], mode="sync", lag_ms=None)
    (orders,) = estate.stores
    estate = replace(estate, stores=(replace(orders, members=(orders.members[0], sync)),))
    report = audit(estate)
    rows = {row.domain: row.late for row in report.rows}
    assert (rows["fra"], rows["north"]) == (1, 0)
    late = [one.message for one in report.findings if one.rule == "recovery-above-rto"]
    assert len(late) == 1
    assert "its RTO for the loss of a site is 5 min (loss of fra" in late[0]


def test_the_audit_allows_the_loss_of_data_of_the_class(folder: Path) -> None:
    report = audit(load(folder))
    (found,) = [one for one in report.findings if one.rule == "data-loss-above-rpo"]
    assert "; its RPO allows no loss" in found.message
    assert "north" not in found.message


def test_a_promise_for_one_class_that_what_it_needs_does_not_make(folder: Path) -> None:
    estate = load(folder)
    pay, shop = estate.services
    login = replace(shop, id="login", needs=(), objectives=None)
    needs = (replace(shop.needs[1], target="login", hard=True),)
    report = audit(replace(estate, services=(login, pay, replace(shop, needs=needs))))
    (found,) = [one for one in report.findings if one.rule == "contradicting-objectives"]
    assert found.message.endswith("RTO 5 min for the loss of a site, but login has 1 h")


def test_estates_without_them_keep_their_digest(folder: Path) -> None:
    estate = load(folder)
    pay, shop = estate.services
    plain = replace(estate, services=(pay, replace(shop, objectives=None)))
    other = replace(shop, objectives=Objectives(site=Objective(rto_ms=300_000)))
    assert estate_digest(plain) != estate_digest(estate)
    assert estate_digest(replace(estate, services=(pay, other))) != estate_digest(estate)
