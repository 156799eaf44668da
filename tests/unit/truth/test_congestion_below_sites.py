"""Losses below a site, and together with one: audit, plan and checker divide traffic by what is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evac.audit import audit
from evac.audit.impacts import crowding
from evac.audit.impacts.all_losses import impacts
from evac.audit.impacts.losses import losses
from evac.audit.rules import links_too_small
from evac.derive.congestion import congested, maybe_congested, screened
from evac.derive.domains import loss, lost_in, topology
from evac.derive.pools import without_lost
from evac.derive.serving import Serving
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.scenario import Scenario, lose
from evac.office.facts import loss_facts
from evac.office.reckoning import verdict_of
from evac.planning.plan import foresee, plan
from evac.verify import check
from tests.unit.truth.networked import networked
from tests.unit.truth.written import servers, written

HALLS = """
sites: {a: {ingress: 1 Gbit/s}, b: {ingress: LIMIT}, c: {ingress: 1 Gbit/s}}
halls: {a/h1: {}, a/h2: {}, c/h1: {}, c/h2: {}}
feeds: {a/f1: {}, a/f2: {}}
racks: {a/h1/r: {feeds: [a/f1]}, a/h2/r: {feeds: [a/f2]}, c/h1/r: {}, c/h2/r: {}}
classes: {k: {cpu: 4 cores, memory: 64 GiB}}
services:
  shop: {people: 9, start: 1 s, rto: 1 h, share: 1/4, sheddable: false, eligible_sites: SITES,
         demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: anycast, peak: 400 Mbit/s}}
"""
SERVERS = servers("a1,a,a/h1/r,k,serving,", "a2,a,a/h2/r,k,serving,", "b1,b,,k,serving,", "b2,b,,k,serving,")
PLACES = "service,target,count\nshop,a1,1\nshop,a2,1\nshop,b1,1\nshop,b2,1\n"
BELOW = ["a/h1", "a/h1/r", "a/f1", "a1"]


def halls(folder: Path, limit: str, sites: str = "[a, b]", more: str = "", places: str = "") -> Estate:
    """shop: two replicas in two halls of a, two at b, all four servers full. c: nothing, or two more."""
    text = HALLS.replace("LIMIT", limit).replace("SITES", sites)
    return written(folder, text, servers=SERVERS + more, replicas=PLACES + places)


def arriving(made: Plan) -> list[tuple[tuple[str, ...], int, int | None]]:
    return [(one.at, one.arriving, one.limit) for one in made.congestion]


@pytest.mark.parametrize("lost", BELOW)
@pytest.mark.parametrize("limit", [266, 300])
def test_what_half_of_a_site_served_arrives_elsewhere(tmp_path: Path, lost: str, limit: int) -> None:
    estate = halls(tmp_path, f"{limit} Mbit/s")
    made = plan(estate, lose(lost))
    too_small = limit < 267
    assert arriving(made) == ([(("b",), 267, 266)] if too_small else [])
    assert check(estate, made).violations == ()
    assert (verdict_of("d", made).congested == ("the ingress of b",)) is too_small
    hides = replace(
        made, congestion=(), outcomes=tuple(replace(one, congested=False) for one in made.outcomes)
    )
    assert ({one.rule for one in check(estate, hides).violations} == {"F19"}) is too_small
    foreseen = foresee(estate, lose(lost)).outcomes
    assert any(one.congested for one in foreseen) is too_small
    report = audit(estate, domains=(lost,))
    found = [one for one in report.findings if one.code == "EV122"]
    assert [(one.subject, one.domains) for one in found] == [("b: bandwidth", (lost,))] * too_small


def test_the_servers_of_a_pool_that_are_lost_serve_no_one(tmp_path: Path) -> None:
    text = HALLS.replace("LIMIT", "266 Mbit/s").replace("SITES", "[a, b]")
    text = text.replace("services:", "pools: {pa: {site: a, cpu: 8 cores, memory: 99 GiB}}\nservices:")
    table = SERVERS.replace("r,k,serving,\n", "r,k,serving,pa\n")
    places = "service,target,count\nshop,pa,2\nshop,b1,1\nshop,b2,1\n"
    estate = written(tmp_path, text, servers=table, replicas=places)
    made = plan(estate, lose("a/h1"))
    assert arriving(made) == [(("b",), 267, 266)]
    assert check(estate, made).violations == ()


@pytest.mark.parametrize("already", [False, True])
def test_a_hall_that_is_lost_with_a_site_serves_no_one(tmp_path: Path, already: bool) -> None:
    """c has two replicas in two halls; after a and c/h1, b and c/h2 serve: two thirds arrive at b."""
    table = "c1,c,c/h1/r,k,serving,\nc2,c,c/h2/r,k,serving,\n"
    places = "shop,c1,1\nshop,c2,1\n"
    estate = halls(tmp_path, "266 Mbit/s", "[a, b, c]", table, places)
    if already:
        estate = replace(estate, lost=("c/h1",))
    asked = lose("a") if already else lose("a", "c/h1")
    made = plan(estate, asked)
    assert arriving(made)[:1] == [(("b",), 267, 266)]
    assert check(estate, made).violations == ()
    with_hall = replace(made, congestion=())
    assert "F19" in {one.rule for one in check(estate, with_hall).violations}
    now = topology(without_lost(estate) if already else estate)
    assert "b" in {one.at[0] for one in maybe_congested(now, loss(now, asked.domains))}


def test_what_serves_after_a_plan_leaves_out_a_lost_hall(tmp_path: Path) -> None:
    estate = halls(tmp_path, "1 Gbit/s")
    for kind in ("lose", "evacuate"):
        made = plan(estate, Scenario(kind, ("a/h1",)))
        serving = Serving(topology(estate), made)
        assert serving.live == {("shop", "a"): 1, ("shop", "b"): 2}
        assert serving.leaving == ({} if kind == "lose" else {("shop", "a"): 1})


def test_a_loss_that_takes_nothing_moves_no_traffic(tmp_path: Path) -> None:
    estate = halls(tmp_path, "1 Mbit/s")
    assert plan(estate, lose("c/h1")).congestion == ()
    rows = {row.domain: row.verdict for row in audit(estate).rows}
    assert rows["c/h1"] == "ok"
    assert {rows["a"], rows["a/h1"]} <= {"degraded", "loss"}


QUIET = """
sites: {a: {ingress: 1 Gbit/s}, b: {ingress: B Mbit/s}, c: {ingress: C Mbit/s}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
services:
  shop: {people: 9, start: 1 s, replicas: {pb: 1, pc: 1}, share: 50 %, sheddable: SHED,
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: anycast, peak: 300 Mbit/s}}
"""


@pytest.mark.parametrize(
    ("b", "c", "shed", "places", "verdict"),
    [
        (150, 150, False, "pb: 1, pc: 1", "ok"),
        (149, 150, False, "pb: 1, pc: 1", "ok"),
        (150, 299, True, "pb: 1, pc: 1", "ok"),
        (149, 150, False, "pa: 1, pb: 1, pc: 1", "degraded"),
        (300, 199, False, "pa: 1, pb: 1, pc: 1", "degraded"),
    ],
)
def test_only_traffic_that_a_loss_moves_counts_for_it(
    tmp_path: Path, b: int, c: int, shed: bool, places: str, verdict: str
) -> None:
    """With a replica at a, its loss moves traffic to b and c; without one, it moves nothing."""
    text = QUIET.replace("B Mbit", f"{b} Mbit").replace("C Mbit", f"{c} Mbit").replace("50 %", "1/3")
    text = text.replace("SHED", str(shed).lower()).replace("pb: 1, pc: 1", places)
    report = audit(written(tmp_path, text))
    row = next(row for row in report.rows if row.domain == "a")
    assert (row.down, row.verdict, row.congested) == (0, verdict, verdict != "ok")
    why = loss_facts(report, row).because
    assert (why == "nothing stops") is (verdict == "ok")
    found = [one for one in report.findings if one.code == "EV122" and "a" in one.domains]
    assert bool(found) is (verdict != "ok")


LINKED = """
sites: {a: {}, b: {ingress: 1 Gbit/s}, c: {ingress: 1 Gbit/s}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
links: [{ends: [a, b], bandwidth: 1 Mbit/s}, {ends: [b, c], bandwidth: 1 Gbit/s}]
services:
  shop: {people: 9, start: 1 s, replicas: {pb: 1}, needs: [disk], demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: anycast, peak: 300 Mbit/s}}
  disk: {people: 0, start: 1 s, replicas: 1, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""


def test_no_link_to_a_site_that_is_already_lost_is_too_small(tmp_path: Path) -> None:
    estate = written(tmp_path, LINKED)
    before = [one.subject for one in audit(estate).findings if one.code == "EV122"]
    assert before == ["a - b"], "disk may run at a"
    now = replace(estate, lost=("a",))
    assert [one.subject for one in audit(now).findings if one.code == "EV122"] == []


def test_only_traffic_that_may_arrive_makes_all_ingress_too_small(tmp_path: Path) -> None:
    """gone runs at the lost site alone and may start nowhere else: its peak arrives nowhere."""
    text = QUIET.replace("B Mbit", "290 Mbit").replace("C Mbit", "290 Mbit").replace("SHED", "false")
    text += """
  gone: {people: 9, start: 1 s, replicas: {pa: 1}, eligible_sites: [a], demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: dns, peak: 500 Mbit/s}}
"""
    estate = written(tmp_path, text.replace("replicas: {pb: 1, pc: 1}", "replicas: {pa: 1, pc: 1}"))
    found = [one for one in audit(estate).findings if one.code == "EV122" and "a" in one.domains]
    assert {one.severity for one in found} == {"warning"}


@pytest.mark.parametrize("seed", range(40))
def test_every_loss_of_any_estate_has_one_answer(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a plan names, the audit says may be; what is certain, every plan that restores all names; the
    checker agrees; and the bound for many losses is never more optimistic than the sums.
    """
    estate = networked(tmp_path, seed)
    top = topology(estate)
    every = losses(top)
    monkeypatch.setattr(crowding, "ADDED_MOST", 0)
    found = impacts(top, every)
    bound, ground = found.crowding, found.ground
    hosts = ground.endpoints.marked(*ground.lost.shape)
    below = screened(top, ground.lost - ground.presence.off, hosts, ground.loose)
    assert len(below.at) == below.possible.shape[1]
    for number, members in enumerate(every.members):
        lost = lost_in(top, lose(*members))
        certain = {(one.at, one.measure) for one in congested(top, lost)}
        possible = {(one.at, one.measure) for one in maybe_congested(top, lost)}
        assert certain <= possible <= set(bound.at(number)), members
        assert certain or not bound.is_certain(number), members
        if not every.sites[number].any():
            assert possible <= {below.at[row] for row in np.flatnonzero(below.possible[number]).tolist()}
        if len(estate.services) > 8:
            continue
        made = plan(estate, lose(*members))
        assert [one for one in check(estate, made).violations if one.rule == "F19"] == [], members
        named = {(one.at, one.measure) for one in made.congestion}
        assert named <= possible, members
        if not any(o.state in ("unplaced", "shed", "degraded", "unknown") for o in made.outcomes):
            assert named or not certain, members


def test_a_loss_after_which_everything_fits_is_not_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An audit of thousands of racks asks for the words of each of them."""
    monkeypatch.setattr(crowding, "ADDED_MOST", 0)
    top = topology(halls(tmp_path, "1 Gbit/s"))
    every = losses(top)
    found = impacts(top, every).crowding
    number = every.index["a/h1"]
    assert found.at(number) == ()
    assert found.of(number) == crowding.After((), (), frozenset())
    assert not found.is_added(number)


TWO_HALLS = """
sites: {a: {ingress: 9 Gbit/s}, b: {ingress: LIMIT Mbit/s}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r: {}, a/h2/r: {}}
classes: {k: {cpu: 4 cores, memory: 64 GiB}}
services:
  shop: {people: 900, start: 1 s, share: 1/2, eligible_sites: [b], demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: anycast, peak: 400 Mbit/s}}
  bulk: {people: 1, start: 1 s, share: 1/2, eligible_sites: [b], demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: anycast, peak: 1000 Mbit/s}}
"""
IN_HALLS = servers("a1,a,a/h1/r,k,serving,", "a2,a,a/h2/r,k,serving,", "b1,b,,k,serving,")
TWO = "service,target,count\nshop,a1,1\nshop,b1,1\nbulk,a2,1\nbulk,b1,1\n"


@pytest.mark.parametrize("tried", [links_too_small.TRIED_MOST, 1, 0])
@pytest.mark.parametrize("limit", [700, 900, 1000, 1100, 1199])
def test_no_loss_is_left_out_because_the_worst_one_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, tried: int
) -> None:
    """After a/h1, 900 Mbit/s arrive at b; after a/h2, where bulk is, 1,200 Mbit/s."""
    monkeypatch.setattr(crowding, "ADDED_MOST", 0)
    monkeypatch.setattr(links_too_small, "TRIED_MOST", tried)
    estate = written(tmp_path, TWO_HALLS.replace("LIMIT", str(limit)), servers=IN_HALLS, replicas=TWO)
    report = audit(estate, domains=("a/h1", "a/h2"))
    (found,) = (one for one in report.findings if one.code == "EV122" and "a/h2" in one.domains)
    assert found.subject == "b: bandwidth"


def test_what_is_said_of_a_loss_does_not_follow_from_what_was_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowding, "ADDED_MOST", 0)
    top = topology(written(tmp_path, TWO_HALLS.replace("LIMIT", "1000"), servers=IN_HALLS, replicas=TWO))
    every = losses(top)
    found = impacts(top, every).crowding
    number = every.index["a/h1"]
    before = found.at(number), found.is_certain(number), found.is_added(number)
    assert before[0], "the bound is above the limit"
    assert found.of(number).possible == ()
    assert (found.at(number), found.is_certain(number), found.is_added(number)) == before
