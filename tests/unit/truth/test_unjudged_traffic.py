"""All of a service of which it is unknown where it runs after a loss may arrive wherever it may run: what
shares a link or ingress with it is never known to meet its RTO where the sum is too much.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.impacts import crowding
from evac.audit.impacts.all_losses import impacts
from evac.audit.impacts.losses import losses
from evac.derive.congestion import maybe_congested
from evac.derive.domains import lost_in, topology
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import servers, written

SHARED = """
sites: {a: {ingress: 1 Gbit/s}, b: {ingress: LIMIT Mbit/s}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r: {}, a/h2/r: {}}
classes: {k: {cpu: 4 cores, memory: 64 GiB}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {people: 9, start: 1 s, rto: 1 h, share: 1/2, eligible_sites: [b],
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: anycast, peak: 100 Mbit/s}}
  big: {people: 9, start: 1 s, rto: 1 h, share: 1/2, eligible_sites: [a, b],
        demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: anycast, peak: 400 Mbit/s}}
"""
SERVERS = servers("a1,a,a/h1/r,k,serving,", "a2,a,a/h2/r,k,serving,", "b1,b,,k,serving,")
SHOP = "service,target,count\nshop,a1,1\nshop,b1,1\n"
BIG = {
    "in a pool of unknown servers": "big,pa,1\nbig,pb,1\n",
    "somewhere at the site": "big,a,1\nbig,pb,1\n",
}


def agreed(estate: Estate, lost: str) -> tuple[dict[str, bool | None], list[tuple[tuple[str, ...], int]]]:
    """Service -> whether a plan says that it meets its RTO; and what arrives where that may be too much.

    The checker agrees, refuses a plan that says that everything fits, and the audit names the same.
    """
    made = plan(estate, lose(lost))
    assert check(estate, made).violations == ()
    if made.congestion:
        clean = tuple(replace(one, congested=False) for one in made.outcomes)
        hides = check(estate, replace(made, congestion=(), outcomes=clean)).violations
        assert "F19" in {one.rule for one in hides}
    named = {one.at for one in made.congestion}
    top = topology(estate)
    assert named <= {one.at for one in maybe_congested(top, lost_in(top, lose(lost)))}
    report = audit(estate)
    found = {at for at, _ in report.impacts.crowding.at(report.impacts.losses.index[lost])}
    assert named <= found
    met = {one.service: one.meets_rto for one in made.outcomes}
    return met, [(one.at, one.arriving) for one in made.congestion]


@pytest.mark.parametrize("places", BIG.values(), ids=BIG)
@pytest.mark.parametrize("limit", [499, 500])
def test_a_neighbour_of_a_service_that_cannot_be_judged_is_unknown_where_both_are_too_much(
    tmp_path: Path, places: str, limit: int
) -> None:
    """If the replica of big at a is in the lost hall, 500 Mbit/s arrive at b."""
    text = SHARED.replace("LIMIT", str(limit))
    estate = written(tmp_path, text, servers=SERVERS, replicas=SHOP + places)
    met, arrives = agreed(estate, "a/h1")
    assert met["big"] is None
    too_small = limit < 500
    assert met["shop"] is (None if too_small else True)
    assert arrives == ([(("b",), 500)] if too_small else [])


def test_what_a_feed_that_may_trip_takes_arrives_elsewhere(tmp_path: Path) -> None:
    """If the loss of a/f1 overloads a/f2, what runs behind both is gone, and all of big arrives at b."""
    text = SHARED.replace("LIMIT", "499").replace("/h1/r: {}", "/h1/r: {feeds: [a/f1]}")
    text = text.replace("/h2/r: {}", "/h2/r: {feeds: [a/f1, a/f2]}")
    text += "feeds: {a/f1: {}, a/f2: {power_budget: 100 W}}\n"
    text = text.replace("memory: 64 GiB}}\npools", "memory: 64 GiB, watts: 150 W}}\npools")
    places = "big,a2,1\nbig,b1,1\n"
    estate = written(tmp_path, text, servers=SERVERS, replicas=SHOP + places)
    met, arrives = agreed(estate, "a/f1")
    assert met["shop"] is None
    assert (("b",), 500) in arrives


PARTLY = """
sites: {a: {ingress: 1 Gbit/s}, b: {ingress: 1 Gbit/s}, c: {ingress: LIMIT Mbit/s}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 80 cores, memory: 99 GiB}
  pc: {site: c, cpu: 80 cores, memory: 99 GiB}
services:
  shop: {people: 9, start: 1 s, rto: 1 h, replicas: {pa: 1, pc: 1}, share: 1/2, eligible_sites: [a, c],
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: anycast, peak: 100 Mbit/s}}
  big: {people: 9, start: 1 s, rto: 1 h, replicas: 10, sites: [SITES], demand: {cpu: 1 core, memory: 1 GiB},
        traffic: {kind: anycast, peak: 400 Mbit/s}}
"""


@pytest.mark.parametrize(("limit", "sites"), [(499, "b, c"), (500, "b, c"), (499, "a, b, c")])
def test_all_of_what_is_placed_in_part_may_arrive_where_the_rest_may_be(
    tmp_path: Path, limit: int, sites: str
) -> None:
    """One of ten replicas of big is placed, at b."""
    text = PARTLY.replace("LIMIT", str(limit)).replace("SITES", sites)
    estate = written(tmp_path, text, replicas="service,target,count\nbig,pb,1\n")
    met, arrives = agreed(estate, "a")
    assert met["shop"] is (None if limit < 500 else True)
    assert arrives == ([(("c",), 500)] if limit < 500 else [])


CALLED = """
sites: {a: {}, b: {}, c: {}}
pools: {pb: {site: b, cpu: 8 cores, memory: 64 GiB}, pc: {site: c, cpu: 8 cores, memory: 64 GiB}}
links: [{ends: [b, c], bandwidth: LIMIT Mbit/s}]
services:
  shop: {people: 9, start: 1 s, rto: 1 h, replicas: {pb: 2}, needs: [disk],
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: anycast, peak: 300 Mbit/s}}
  disk: {people: 0, start: 1 s, replicas: 4, sites: [a, b, c], demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
"""


@pytest.mark.parametrize("limit", [299, 300])
def test_all_calls_to_what_is_placed_in_part_may_cross_a_link(tmp_path: Path, limit: int) -> None:
    text = CALLED.replace("LIMIT", str(limit))
    estate = written(tmp_path, text, replicas="service,target,count\ndisk,pb,2\n")
    _, arrives = agreed(estate, "a")
    assert arrives == ([(("b", "c"), 300)] if limit < 300 else [])


@pytest.mark.parametrize("limit", [499, 500])
def test_the_bound_for_many_losses_counts_what_may_be_lost(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowding, "ADDED_MOST", 0)
    text = SHARED.replace("LIMIT", str(limit))
    places = BIG["in a pool of unknown servers"]
    top = topology(written(tmp_path, text, servers=SERVERS, replicas=SHOP + places))
    every = losses(top)
    bound = impacts(top, every).crowding
    number = every.index["a/h2"]
    assert (("b",), "bandwidth") in bound.at(number) or limit >= 500
    assert not bound.is_certain(number)
