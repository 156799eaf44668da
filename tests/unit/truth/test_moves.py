"""What may move makes way without an outage: plan, audit and estimate agree, and the next plan knows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.impacts import planned
from evac.derive.planning_instance import derive
from evac.derive.situation import Done, estate_after, moved, of
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.observation import MemberSeen, Observation, UnitsSeen
from evac.model.plan import Plan
from evac.model.scenario import Scenario, lose
from evac.model.situation import Effects, LostNow, Silent
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import servers, written

POOLS = """
name: moves
sites: {a: {}, b: {}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 6 cores, memory: 64 GiB}
  pc: {site: b, cpu: 2 cores, memory: 64 GiB}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, sheddable: false,
         demand: {cpu: 6 cores, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {tier: 1, people: 9, replicas: {pb: 1}, start: 40 s, shed_time: 20 s, sheddable: false, MOVABLE
         demand: {cpu: 2 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


def pools(folder: Path, more: str = "movable: true,") -> Estate:
    return written(folder, POOLS.replace("MOVABLE", more))


def fates(estate: Estate) -> dict[str, tuple[str, int | None]]:
    names = tuple(service.id for service in estate.services)
    row = next(row for row in audit(estate).rows if row.domain == "a")
    return {one.service: (one.fate, one.recovery_ms) for one in row.fates(names)}


HALF = """
name: half
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 2, pb: 2}, share: 50 %, START sheddable: false,
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize("start", ["", "start: 0 s,", "start: 5 s,"])
def test_what_loses_replicas_is_not_called_unaffected_however_fast_they_start(
    tmp_path: Path, start: str
) -> None:
    estate = written(tmp_path, HALF.replace("START", start))
    assert [step.id for step in plan(estate, lose("a")).steps if step.kind == "start"] == ["start:shop:top:1"]
    assert fates(estate) == {"shop": ("degraded", None)}


def test_the_plan_moves_it_and_the_audit_says_so(tmp_path: Path) -> None:
    estate = pools(tmp_path)
    made = plan(estate, lose("a"))
    assert check(estate, made).violations == ()
    states = {one.service: (one.state, one.top_outage_ms, one.recovery_ms) for one in made.outcomes}
    assert states["wiki"] == ("restored", 0, 0)
    # Started and verified elsewhere after 40 s, stopped after 60 s; then shop starts.
    assert states["shop"][0] == "restored"
    assert states["shop"][2] == 120_000
    assert fates(estate) == {"shop": ("recovers", 120_000)}


@pytest.mark.parametrize("more", ["", "movable: false,", "movable: unknown,"])
def test_it_stays_where_nobody_says_that_it_may_move(tmp_path: Path, more: str) -> None:
    estate = pools(tmp_path, more)
    made = plan(estate, lose("a"))
    assert {one.service: one.state for one in made.outcomes} == {"shop": "unplaced"}
    assert fates(estate)["shop"] == ("lost", None)
    told = plan(pools(tmp_path / "may move"), lose("a"))
    assert {one.rule for one in check(estate, told).violations} >= {"F1", "F16"}


def test_what_is_not_known_or_touched_does_not_move(tmp_path: Path) -> None:
    estate = pools(tmp_path)
    shop, wiki = estate.services
    for changed in (
        replace(wiki, single_run=True),
        replace(wiki, start_ms=None),
        replace(wiki, demand=(None, *wiki.demand[1:])),
        replace(wiki, sheddable=True),
    ):
        other = replace(estate, services=(shop, changed))
        assert not derive(other, lose("a")).services.movable.any()
    assert derive(estate, lose("a")).services.movable.tolist() == [False, True]
    assert not derive(estate, lose("b")).services.movable.any()
    assert not derive(estate, Scenario("restore", ("a",))).services.movable.any()


UNSURE = """  vv: {tier: 0, people: 9, replicas: {pa: 1}, start: 10 s, sheddable: false,
       demand: {memory: 3 GiB}, traffic: {kind: none}}
"""


def test_nothing_moves_beside_what_demands_nobody_knows_how_much(tmp_path: Path) -> None:
    """`vv` starts in pc. If wiki moved there as well and did not fit, shop could not start either."""
    text = POOLS.replace("MOVABLE", "movable: true,").replace("6 cores, memory: 64", "6 cores, memory: 5")
    text = text.replace("{cpu: 2 cores, memory: 1 GiB}", "{cpu: 2 cores, memory: 4 GiB}")
    made = plan(written(tmp_path / "known", text), lose("a"))
    assert {one.service: one.state for one in made.outcomes} == {"shop": "restored", "wiki": "restored"}
    estate = written(tmp_path / "unsure", text + UNSURE)
    made = plan(estate, lose("a"))
    assert {one.service: one.state for one in made.outcomes} == {"shop": "unplaced", "vv": "unknown"}
    assert check(estate, made).violations == ()


def test_the_estimate_does_not_call_lost_what_a_move_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
        monkeypatch.setattr(planned, name, 0)
    assert fates(pools(tmp_path))["shop"] == ("not proved", None)
    severity = {}
    for name in ("true", "false"):
        found = audit(pools(tmp_path / name, f"movable: {name},")).findings
        severity[name] = next(one.severity for one in found if one.rule == "capacity-short")
    assert severity == {"true": "warning", "false": "error"}


def test_the_estate_after_the_run_has_it_where_it_moved(tmp_path: Path) -> None:
    estate = pools(tmp_path)
    made = plan(estate, lose("a"))
    left = moved(estate, made.scenario, [Done(step, step.end_ms) for step in made.steps], run="r", ended_ms=9)
    assert dict(left.placed["wiki"]) == {"pc": 1}
    now = of(estate, Observation(at_ms=10, effects=Effects((), (left,)))).estate
    names = {row: pool.id for row, pool in enumerate(now.pools)}
    rows = now.replicas.service == [one.id for one in now.services].index("wiki")
    assert [names[int(row)] for row in now.replicas.target[rows]] == ["pc"]


def _cut(estate: Estate, made: Plan, kind: str) -> Estate:
    """The estate after a run of a plan that ended before its first step of a kind."""
    end = min(step.start_ms for step in made.steps if step.kind == kind)
    done = [Done(step, step.end_ms) for step in made.steps if step.end_ms <= end and step.kind != kind]
    left = moved(estate, made.scenario, done, run="r", ended_ms=9)
    return of(estate, Observation(at_ms=10, effects=Effects((), (left,)))).estate


@pytest.mark.parametrize("lost", [(), ("b",)])
def test_a_failback_stops_what_a_cut_move_left_twice(tmp_path: Path, lost: tuple[str, ...]) -> None:
    """Not where home is lost: then the new replica is all that is left of it."""
    estate = pools(tmp_path)
    now = _cut(estate, plan(estate, lose("a")), "shed")
    assert now.surplus == ("wiki",)
    now = replace(now, lost=lost)
    made = plan(now, Scenario("failback", ("a",)))
    stops = [(step.target, step.servers) for step in made.steps if step.kind == "stop"]
    assert stops == ([] if lost else [("wiki", (("pc", 1),))])
    assert check(now, made).violations == ()
    after = estate_after(now, made)
    assert after.surplus == (("wiki",) if lost else ())


@pytest.mark.parametrize("why", ["evacuating", "silent", "no store", "seen"])
def test_a_failback_elsewhere_stops_nothing_if_home_may_not_run(tmp_path: Path, why: str) -> None:
    """The files alone do not show that home serves, if it is being left or nothing there answers."""
    estate = pools(tmp_path)
    made = plan(estate, lose("a"))
    end = min(step.start_ms for step in made.steps if step.kind == "shed")
    done = [Done(step, step.end_ms) for step in made.steps if step.end_ms <= end and step.kind != "shed"]
    left = moved(estate, made.scenario, done, run="r", ended_ms=9)
    lost = (LostNow("b", "evacuating"),) if why in ("evacuating", "seen") else ()
    seen = Observation(
        at_ms=10,
        effects=Effects(lost, (left,)),
        silent=(Silent("db", "b", "b"),) if why == "silent" else (),
        members=(MemberSeen("db", "b", "unreachable"),) if why == "no store" else (),
        units=(UnitsSeen("wiki", "b", 2, "k8s"),) if why == "seen" else (),
    )
    assert (seen.facts == replace(seen, silent=()).facts) == (why != "silent")
    now = of(estate, seen).estate
    assert (now.surplus, now.unsure) == (("wiki",), () if why == "seen" else ("wiki",))
    home = plan(now, Scenario("failback", ("a",)))
    assert [step.target for step in home.steps if step.kind == "stop"] == ["wiki"] * (why == "seen")
    assert check(now, home).violations == ()
    assert estate_after(now, home).unsure == now.unsure
    assert estate_digest(now) != estate_digest(replace(now, unsure=("blog",)))


HALLS = POOLS.replace(
    "sites: {a: {}, b: {}}", "sites: {a: {}, b: {}}\nhalls: {a/h1: {}, a/h2: {}}\nracks: {a/h1/r1: {}}"
)
HALLS = HALLS.replace("MOVABLE", "movable: true, needs: [{store: db}],")
HALLS += (
    "stores: {db: {engine: postgresql, members: [{at: MEMBER, mode: primary}], promote: 10 s, fence: 10 s}}\n"
)


@pytest.mark.parametrize("member", ["a", "b"])
def test_what_a_loss_may_or_may_not_touch_does_not_move(tmp_path: Path, member: str) -> None:
    """The store that wiki needs is somewhere in a: perhaps in the lost hall, perhaps in the other one."""
    table = servers("n1,a,a/h1/r1,,serving,pa")
    estate = written(tmp_path, HALLS.replace("MEMBER", member), servers=table)
    instance, made = derive(estate, lose("a/h1")), plan(estate, lose("a/h1"))
    states = {one.service: one.state for one in made.outcomes}
    wiki = [service.id for service in estate.services].index("wiki")
    assert check(estate, made).violations == ()
    assert bool(instance.unjudged) == (member == "a")
    assert instance.services.movable[wiki] == (member == "b")
    if member == "a":
        assert states == {"shop": "unplaced", "wiki": "unknown"}
        assert not any(step.target == "wiki" for step in made.steps)
    else:
        assert states == {"shop": "restored", "wiki": "restored"}


BESIDE = """
  odd: {tier: 2, people: 9, replicas: {pa: 1}, start: 10 s, sheddable: false,
        demand: {DEMAND memory: 60 GiB}, traffic: {kind: none}}
"""


@pytest.mark.parametrize("demand", ["", "cpu: 0 cores,"])
def test_what_starts_where_something_may_be_unable_to_leave_is_not_called_restored(
    tmp_path: Path, demand: str
) -> None:
    """wiki could leave pb for pc, but odd starts there, and no one knows how many cores it takes."""
    text = POOLS.replace("MOVABLE", "movable: true,").replace(
        "pb: {site: b, cpu: 6 cores, memory: 64", "pb: {site: b, cpu: 6 cores, memory: 50"
    )
    estate = written(tmp_path, text.rstrip() + BESIDE.replace("DEMAND", demand))
    made = plan(estate, lose("a"))
    assert check(estate, made).violations == ()
    places = {
        name
        for step in made.steps
        if step.target in ("wiki", "odd") and step.kind == "start"
        for name, _ in step.servers
    }
    assert places == {"pc"}
    states = {one.service: one.state for one in made.outcomes}
    if demand:
        assert set(states.values()) == {"restored"}
    else:
        assert (states["shop"], states["odd"]) == ("unplaced", "unknown")
        assert not any(step.target == "wiki" for step in made.steps)
    told = replace(
        made,
        outcomes=tuple(replace(o, state="restored") if o.service == "shop" else o for o in made.outcomes),
    )
    assert (check(estate, told).violations == ()) == bool(demand)
