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
from evac.derive.tripping import tripped
from evac.model.estate import Estate
from evac.model.scenario import lose
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


def test_the_audit_says_how_many_servers_state_no_power(tmp_path: Path) -> None:
    def told(watts: str, budget: str) -> list[str]:
        report = audit(estate_of(tmp_path / (watts[:1] + budget), watts, budget))
        return [
            f.message for f in report.findings if f.rule == "power-budget-exceeded" and f.subject != "a/f2"
        ]

    assert told(KNOWN, "HALL") == []
    of = "of 1,000 W is unknown: the power of 1 of"
    assert told("", "HALL") == [
        f"whether a/f1 carries more than its budget {of} 2 servers is not stated, and the others draw 400 W",
        f"whether b/h carries more than its budget {of} 1 server is not stated, and the others draw 0 W",
    ]


@pytest.mark.parametrize("seed", [4, 12, 23, 29])
def test_unknown_power_never_improves_a_verdict(seed: int) -> None:
    estate = strange_estate(seed)
    assert len(estate.fleet)
    hidden = replace(estate.fleet, watts_known=np.zeros(len(estate.fleet), np.bool_))
    vague = replace(estate, fleet=hidden)
    before, after = audit(estate).impacts, audit(vague).impacts
    bad = np.isin(before.fate, (LOST, NOT_PROVED, SHED, UNKNOWN))
    still = np.isin(after.fate, (LOST, NOT_PROVED, SHED, UNKNOWN))
    powered = [one.power_budget_watts for one in (*estate.feeds, *estate.halls, *estate.sites, *estate.racks)]
    assert not any(watts is not None for watts in powered) or (still | ~bad).all()
    assert list(contradictions(vague)) == []
