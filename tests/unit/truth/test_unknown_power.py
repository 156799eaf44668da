"""A server of unknown power does not draw nothing: next to it, nobody knows what a budget still carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.contradictions import contradictions
from bench.random_estates import strange_estate
from evac.audit import audit
from evac.audit.impacts import planned
from evac.audit.impacts.all_losses import FATES, LOST, NOT_PROVED, SHED, UNKNOWN
from evac.derive.domains import loss, topology
from evac.derive.limits import stated_budgets
from evac.derive.tripping import tripped
from evac.model.estate import Estate
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import written

ESTATE = """
name: power
sites: {a: {}, b: {SITE}}
halls: {a/h: {}, b/h: {HALL}}
feeds: {a/f1: {power_budget: 1 kW}, a/f2: {power_budget: 1 kW}, b/f: {FEED}}
racks: {a/h/r1: {feeds: [a/f1, a/f2]}, a/h/r2: {feeds: [a/f1]}, b/h/r: {feeds: [b/f], RACK}}
classes: {new: {cpu: 8 cores, memory: 32 GiB, WATTS boot: 3 min, boot_odds: 100 %},
          old: {cpu: 8 cores, memory: 32 GiB, watts: 400 W, boot: 3 min, boot_odds: 100 %}}
services:
  shop: {people: 9, start: 1 s, demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""
SERVERS = """server,site,rack,class,state,bmc
s1,a,a/h/r1,new,serving,yes
s2,a,a/h/r2,old,serving,yes
s3,b,b/h/r,old,dark,yes
s4,b,b/h/r,new,LIT,yes
"""
KNOWN = "watts: 400 W,"
BUDGETS = {
    "SITE": "power_budget: 1 kW",
    "HALL": "cooling: 1 kW",
    "FEED": "power_budget: 1 kW",
    "RACK": "1 kW",
}


def estate_of(folder: Path, watts: str, budget: str = "", lit: str = "serving") -> Estate:
    text = ESTATE.replace("WATTS", watts)
    for place, stated in BUDGETS.items():
        stated = stated if place == budget else ""
        text = text.replace(place, f"power_budget: {stated}" if stated == "1 kW" else stated)
    table = SERVERS.replace("LIT", lit)
    return written(
        folder, text.replace(", }", "}"), servers=table, replicas=f"service,target,count\n{PLACED}"
    )


PLACED = "shop,s1,1\n"


def answers(estate: Estate, loss_: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, str]:
    """State in the plan, fate in a planned audit and in an estimate."""
    made = plan(estate, lose(loss_))
    assert check(estate, made).holds
    state = {one.service: one.state for one in made.outcomes}.get("shop", "unaffected")
    fates = []
    for limits in ((), ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST")):
        with monkeypatch.context() as patch:
            for name in limits:
                patch.setattr(planned, name, 0)
            impacts = audit(estate).impacts
        fates.append(FATES[int(impacts.fate[impacts.losses.index[loss_], 0])])
    return state, *fates


@pytest.mark.parametrize(("watts", "answer"), [(KNOWN, "unaffected"), ("", "unknown")])
def test_nobody_knows_what_one_feed_carries_for_another(
    tmp_path: Path, watts: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answers(estate_of(tmp_path, watts), "a/f2", monkeypatch) == (answer,) * 3


def test_a_feed_that_takes_no_more_than_before_trips_for_no_loss(tmp_path: Path) -> None:
    top = topology(estate_of(tmp_path, "", "FEED"))
    assert tripped(top, loss(top, ("b/f",))) is None
    assert tripped(top, loss(top, ("a",))) is None


@pytest.mark.parametrize(
    ("budget", "path", "words"),
    [
        ("SITE", "sites/b/load", "whether site b carries a load above its budget"),
        ("HALL", "halls/b/h/load", "whether hall b/h carries a load above its budget"),
        ("FEED", "feeds/b/f/load", "whether feed b/f carries a load above its budget"),
        ("RACK", "racks/b/h/r/load", "whether rack b/h/r carries a load above its budget"),
    ],
)
def test_nobody_knows_whether_a_budget_powers_one_more_server(
    tmp_path: Path, budget: str, path: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s4 takes nothing: it is spare only in name, and full."""
    text = "old", "dark"
    known, hidden = (
        written(
            tmp_path / name,
            _text(watts, budget),
            servers=SERVERS.replace("s4,b,b/h/r,new,LIT", "s4,b,b/h/r,full,serving"),
            replicas=f"service,target,count\n{PLACED}",
        )
        for name, watts in zip(text, (KNOWN, ""), strict=True)
    )
    assert answers(known, "a", monkeypatch)[:2] == ("restored", "recovers")
    state, fate, estimate = answers(hidden, "a", monkeypatch)
    assert (state, fate) == ("unknown", "unknown")
    assert estimate in ("unknown", "not proved")
    made = plan(hidden, lose("a"))
    assert path in made.unknown
    assert made.outcomes[0].reason == f"cannot be judged: {words}"


def _text(watts: str, budget: str) -> str:
    text = ESTATE.replace("WATTS", KNOWN)
    for place, stated in BUDGETS.items():
        stated = stated if place == budget else ""
        text = text.replace(place, f"power_budget: {stated}" if stated == "1 kW" else stated)
    full = f"full: {{cpu: 1 core, memory: 1 MiB, {watts} boot: 3 min, boot_odds: 100 %}}, new:"
    return text.replace(", }", "}").replace("new:", full, 1)


TWO = """
name: two
sites: {a: {}, b: {power_budget: 1 kW}}
racks: {b/r: {}}
classes: {new: {cpu: 4 cores, memory: 32 GiB, WATTS boot: 3 min, boot_odds: 100 %},
          old: {cpu: 4 cores, memory: 32 GiB, watts: 400 W, boot: 3 min, boot_odds: 100 %},
          run: {cpu: 16 cores, memory: 64 GiB, watts: 400 W, boot: 3 min, boot_odds: 100 %}}
services:
  shop: {people: 9, start: 1 s, demand: {cpu: 3 cores, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {people: 9, start: 1 s, demand: {cpu: 3 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize(("watts", "state"), [(KNOWN, "restored"), ("", "unknown")])
def test_a_server_of_unknown_power_that_the_same_plan_boots_counts(
    tmp_path: Path, watts: str, state: str
) -> None:
    table = "server,site,rack,class,state,bmc\ns1,a,,run,serving,yes\n"
    table += "s3,b,b/r,old,dark,yes\ns4,b,b/r,new,dark,yes\n"
    estate = written(
        tmp_path,
        TWO.replace("WATTS", watts),
        servers=table,
        replicas="service,target,count\nshop,s1,1\nwiki,s1,1\n",
    )
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert {step.target for step in made.steps if step.kind == "boot"} == {"s3", "s4"}
    assert [one.state for one in made.outcomes] == [state] * 2
    said = [f.message for f in audit(estate).findings if f.rule == "power-budget-exceeded"]
    asked = "what b can still carry is unknown: 1 of 2 servers state no watts"
    assert said == ([] if watts else [asked])


LOOSE = """
name: loose
sites: {a: {}, b: {SITE}}
halls: {b/h: {HALL}}
feeds: {b/f: {FEED}}
racks: {b/h/r: {feeds: [b/f], RACK}, b/x: {}}
POOLS
classes: {old: {cpu: 8 cores, memory: 32 GiB, watts: 400 W, boot: 3 min, boot_odds: 100 %},
          dim: {cpu: 1 core, memory: 1 MiB, watts: 1 W, boot: 3 min}}
services:
  shop: {people: 9, start: 1 s, demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("budget", "rack", "pools", "why"),
    [
        ("SITE", "b/h/r", "", ""),
        ("SITE", "", "", ""),
        ("SITE", "b/h/r", "pools: {p: {site: b, cpu: 1 core, memory: 1 GiB}}", "the servers of 1 pool"),
        ("HALL", "b/h/r", "", ""),
        ("HALL", "", "", "1 server may be in"),
        ("HALL", "b/x", "", "1 server may be in"),
        ("HALL", "b/h/r", "pools: {p: {site: b, cpu: 1 core, memory: 1 GiB}}", "the servers of 1 pool"),
        ("FEED", "b/h/r", "", ""),
        ("FEED", "", "", "1 server may be in"),
        ("FEED", "b/x", "", "1 server may be in"),
        ("RACK", "b/h/r", "", ""),
        ("RACK", "", "", "1 server may be in"),
        ("RACK", "b/x", "", ""),
    ],
)
@pytest.mark.parametrize("moved", ["s3", "s4"])
def test_power_that_is_placed_behind_no_budget_counts(
    tmp_path: Path, budget: str, rack: str, pools: str, why: str, moved: str
) -> None:
    """Either the server that runs or the one to be booted has no rack, or one without a hall and feeds."""
    text = LOOSE.replace("POOLS", pools)
    for place, stated in BUDGETS.items():
        stated = stated if place == budget else ""
        text = text.replace(place, f"power_budget: {stated}" if stated == "1 kW" else stated)
    at = {"s3": "b/h/r", "s4": "b/h/r", moved: rack}
    estate = written(
        tmp_path,
        text.replace(", }", "}"),
        servers="server,site,rack,class,state,bmc\ns1,a,,old,serving,yes\n"
        f"s3,b,{at['s3']},old,dark,yes\ns4,b,{at['s4']},dim,serving,yes\n",
        replicas=f"service,target,count\n{PLACED}",
    )
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert [one.state for one in made.outcomes] == ["unknown" if why else "restored"]
    said = [f.message for f in audit(estate).findings if f.rule == "power-budget-exceeded"]
    assert [why in message for message in said] == ([True] if why else [])


def test_a_feed_may_carry_servers_without_a_rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = estate_of(tmp_path, KNOWN)
    assert answers(known, "a/f2", monkeypatch) == ("unaffected",) * 3
    fleet = known.fleet
    rack = fleet.rack.copy()
    rack[1] = -1
    loose = replace(known, fleet=replace(fleet, rack=rack))
    assert answers(loose, "a/f2", monkeypatch)[0] == "unknown"
    top = topology(loose)
    found = tripped(top, loss(top, ("a/f2",)))
    assert found is not None
    assert found.feeds == ("a/f1",)


def test_the_audit_says_once_for_a_site_how_many_servers_state_no_power(tmp_path: Path) -> None:
    def told(watts: str, budget: str, lit: str = "serving") -> list[tuple[str, str]]:
        report = audit(estate_of(tmp_path / (watts[:1] + budget + lit), watts, budget, lit))
        return [(f.subject, f.message) for f in report.findings if f.rule == "power-budget-exceeded"]

    assert told(KNOWN, "HALL") == []
    feeds = ("a", "what a/f1, a/f2 can still carry is unknown: 1 of 2 servers state no watts")
    hall = ("b", "what b/h can still carry is unknown: 1 of 2 servers state no watts")
    assert told("", "HALL") == told("", "HALL", "dark") == [feeds, hall]


@pytest.mark.parametrize("seed", [4, 12, 23, 29])
@pytest.mark.parametrize("draw", range(3))
def test_unknown_power_never_improves_a_verdict(seed: int, draw: int) -> None:
    """The power of every server, or of a random half of them, is unknown."""
    estate = strange_estate(seed)
    assert len(estate.fleet)
    random = np.random.default_rng(draw)
    left = (random.random(len(estate.fleet)) < 0.5) & (draw > 0)
    vague = replace(estate, fleet=replace(estate.fleet, watts_known=estate.fleet.watts_known & left))
    before, after = audit(estate).impacts, audit(vague).impacts
    bad = np.isin(before.fate, (LOST, NOT_PROVED, SHED, UNKNOWN))
    still = np.isin(after.fate, (LOST, NOT_PROVED, SHED, UNKNOWN))
    assert not stated_budgets(topology(estate)) or (still | ~bad).all()
    assert list(contradictions(vague)) == []


@pytest.mark.parametrize(("watts", "state"), [(KNOWN, "restored"), ("", "unknown")])
def test_a_failback_boots_next_to_unknown_power_only_with_a_doubt(
    tmp_path: Path, watts: str, state: str
) -> None:
    now = estate_of(tmp_path, watts, "FEED", "dark")
    target = now.fleet.server_names(np.arange(4, dtype=np.int32)).index("s3")
    home = replace(now.replicas, target=np.full(1, target, np.int32))
    made = plan(replace(now, home=home), Scenario("failback", ("b",)))
    assert check(replace(now, home=home), made).holds
    assert [step.target for step in made.steps if step.kind == "boot"]
    assert [one.state for one in made.outcomes] == [state]
