"""What just fits is found without a search too: audits of the smallest estates say what their plans do."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import written

WEAK_FEED = """
name: weak feed
sites: {a: {}, b: {}}
halls: {b/h: {}}
feeds: {b/f: {power_budget: 900 W, boots_at_once: 1}}
racks: {b/h/r: {feeds: [b/f]}}
classes: {c: {cpu: 8 cores, memory: 32 GiB, boot: 300 s, boot_odds: 100 %, watts: 400 W}}
pools: {pb: {site: b, cpu: 12 cores, memory: 64 GiB}}
services:
  base: {tier: 1, people: 100, replicas: {a: 3}, start: 60 s, demand: {cpu: 2 cores, memory: 1 GiB},
         rto: 10 min, sheddable: false, traffic: {kind: none}}
  shop: {tier: 0, people: 900, replicas: {a: 2}, start: 30 s, demand: {cpu: 8 cores, memory: 1 GiB},
         sheddable: true, needs: [base], traffic: {kind: none}}
  wiki: {tier: 0, people: 100, replicas: {a: 1}, start: 60 s, demand: {cpu: 8 cores, memory: 1 GiB},
         rto: 10 min, sheddable: true, traffic: {kind: none}}
"""
SPARES = """server,site,rack,class,state,bmc
b0,b,b/h/r,c,dark,yes
b1,b,b/h/r,c,spare,yes
b2,b,b/h/r,c,spare,yes
b3,b,b/h/r,c,dark,yes
b4,b,b/h/r,c,spare,yes
"""
"""What `base` needs fits into the pool; spread over the spares, it leaves none for `shop`."""

TWO_SIZES = """
name: two sizes
sites: {a: {}, b: {}}
halls: {b/h: {}}
feeds: {b/f: {power_budget: 1200 W, boots_at_once: 1}}
racks: {b/h/r: {feeds: [b/f]}}
classes:
  c: {cpu: 8 cores, memory: 32 GiB, boot: 300 s, boot_odds: 100 %, watts: 400 W}
  d: {cpu: 16 cores, memory: 32 GiB, boot: 300 s, boot_odds: 100 %, watts: 700 W}
services:
  shop: {tier: 1, people: 100, replicas: {a: 2}, start: 60 s, demand: {cpu: 4 cores, memory: 1 GiB},
         share: 50 %, rto: 10 min, sheddable: true, traffic: {kind: none}}
  wiki: {tier: 0, people: 1000, replicas: {a: 1}, start: 60 s, demand: {cpu: 8 cores, memory: 1 GiB},
         rto: 10 min, sheddable: true, traffic: {kind: none}}
"""
HALF_KNOWN = """server,site,rack,class,state,bmc
b0,b,b/h/r,d,serving,yes
b1,b,b/h/r,d,spare,yes
b2,b,b/h/r,d,dark,yes
b3,b,b/h/r,c,spare,yes
b4,b,b/h/r,d,dark,yes
b5,b,b/h/r,c,serving,yes
"""
"""What runs on the servers that serve is not known: with `wiki` on b3, `shop` needs one of them."""


def estate_of(folder: Path, text: str, servers: str) -> Estate:
    (folder / "servers.csv").write_text(servers, "utf-8")
    return written(folder, text)


@pytest.mark.parametrize(("text", "servers"), [(WEAK_FEED, SPARES), (TWO_SIZES, HALF_KNOWN)])
def test_the_audit_of_a_crowded_estate_says_what_its_plan_does(
    tmp_path: Path, text: str, servers: str
) -> None:
    """It gave up on `shop`, or left it degraded, where every plan with a search restored all of it."""
    estate = estate_of(tmp_path, text, servers)
    searched = plan(estate, lose("a"), work=120)
    assert check(estate, searched).holds
    assert {one.state for one in searched.outcomes} == {"restored"}
    found = audit(estate).impacts
    number = found.losses.index["a"]
    assert {FATES[int(fate)] for fate in found.fate[number]} == {"recovers"}
    told = {one.service: one.recovery_ms for one in searched.outcomes}
    ready = dict(zip((s.id for s in estate.services), found.ready_ms[number].tolist(), strict=True))
    assert ready == told
