"""What a loss takes from a part of a pool does not run for the next loss: not before a plan, not after one
that placed only some of it, and not in the estate that a standby plan starts from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from evac.audit import audit
from evac.derive.domains import domains, loss, lost_with, topology
from evac.derive.homing import way_home
from evac.derive.planning_instance import derive
from evac.derive.pools import replicas_lost, replicas_running, without_lost
from evac.derive.situation import Done, moved, of, promised, situation_after
from evac.derive.waiting import on_lost_servers
from evac.model.estate import Estate
from evac.model.observation import Observation, UnitsSeen
from evac.model.plan import Outcome, Plan
from evac.model.scenario import Scenario, lose
from evac.model.situation import DomainState, Effects, LostNow, Moved
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.test_pools import random_pools
from tests.unit.truth.test_second_loss import METHODS, after, by, fates, seen
from tests.unit.truth.written import servers, written

POOLS: Final = """
name: n
sites: {a: {}, b: {}, z: {}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r: {}, a/h2/r: {}}
classes: {node: {cpu: 4 cores, memory: 64 GiB}}
pools: {pa: {site: a}, pb: {site: b, cpu: 16 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 900, replicas: {pa: 4, pb: 4}, share: 75 %, start: 30 s, eligible_sites: [a, b],
         traffic: {kind: none}, demand: {cpu: CORES, memory: 1 GiB}}
"""
SERVERS: Final = servers(
    *(f"n{k},a,a/h{k % 2 + 1}/r,node,serving,pa" for k in range(4)),
)


def estate_of(folder: Path, cores: str = "2 cores") -> Estate:
    return written(folder, POOLS.replace("CORES", cores), servers=SERVERS)


def shop(made: Plan) -> Outcome:
    (found,) = made.outcomes
    return found


def running(now: Estate) -> int:
    return int(replicas_running(topology(now)).count.sum())


@pytest.mark.parametrize("method", METHODS)
def test_the_half_that_a_hall_took_is_no_survivor_of_the_next_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Two are enough of eight. The loss of a hall of `a` leaves five, and then that of `b` leaves one."""
    by(method, monkeypatch)
    text = POOLS.replace("CORES", "2 cores").replace("75 %", "25 %").replace("{pa: 4,", "{pa: 3,")
    estate = written(tmp_path, text.replace("pb: 4}", "pb: 5}"), servers=SERVERS)
    assert fates(audit(estate), "b")["shop"] != "lost"
    assert not shop(plan(estate, lose("b"))).goes_down, "three are left"
    now = after(estate, "a/h1")
    assert running(now) == 6
    made = plan(now, lose("b"))
    assert check(now, made).holds
    assert shop(made).goes_down, "one is left"
    report = audit(now)
    row = next(row for row in report.rows if row.domain == "b")
    assert (row.method, row.down) == (method, 1)
    assert fates(report, "z") == {"shop": "unaffected"}


def test_a_loss_of_the_room_for_what_is_missing_is_felt(tmp_path: Path) -> None:
    """Nothing of the service runs there, but what an earlier loss took can come back nowhere else."""
    text = POOLS.replace("CORES", "4 cores").replace("75 %", "25 %").replace("[a, b]", "[a, b, z]")
    text = text.replace(
        "64 GiB}}\nservices", "64 GiB}, pz: {site: z, cpu: 8 cores, memory: 64 GiB}}\nservices"
    )
    now = after(written(tmp_path, text, servers=SERVERS), "a/h1")
    assert shop(plan(now, lose("a/h1"))).state == "restored", "at z"
    assert shop(plan(now, lose("z"))).state == "degraded"
    assert fates(audit(now), "z") == {"shop": "degraded"}


def test_a_driver_that_is_set_to_run_them_does_not_say_that_they_run(tmp_path: Path) -> None:
    estate = estate_of(tmp_path)
    for count, runs in ((4, 6), (2, 5), (6, 7)):
        units = (UnitsSeen("shop", "a", count, "kubernetes", at_ms=5),)
        found = of(estate, replace(seen("a/h1"), units=units)).estate
        assert running(found) == runs


def ran(estate: Estate, made: Plan, done: list[Done], number: int = 1) -> Moved:
    return moved(
        estate, made.scenario, done, run=f"r{number}", began_ms=number * 10, ended_ms=number * 10 + 5
    )


def test_what_a_run_did_not_place_again_still_waits(tmp_path: Path) -> None:
    """Only one of two starts again; the other waits in the hall until it is restored."""
    estate = estate_of(tmp_path, "4 cores")
    made = plan(estate, lose("a/h1"))
    starts = [one for one in promised(estate, made) if one.step.kind == "start"]
    lost = (LostNow("a/h1", "lost", 5, "r1"),)
    for done in (starts, starts[:0]):
        after_run = ran(estate, made, done)
        now = of(estate, Observation(20, effects=Effects(lost, (after_run,)))).estate
        placed = sum(one.step.count for one in done)
        assert running(now) == 6 + placed
        assert int(now.replicas.count.sum()) == 8
        back = of(estate, Observation(20, effects=Effects((), (after_run,)))).estate
        assert running(back) == 8


def test_a_run_after_the_loss_knows_and_one_before_it_does_not(tmp_path: Path) -> None:
    estate = estate_of(tmp_path)
    made = plan(estate, lose("a/h1"))
    first = ran(estate, made, promised(estate, made))
    assert sum(dict(first.placed["shop"]).values()) == 8
    for since, runs in ((5, 8), (50, 8 - (dict(first.placed["shop"])["pa"] + 1) // 2)):
        lost = (LostNow("a/h1", "lost", since),)
        assert running(of(estate, Observation(99, effects=Effects(lost, (first,)))).estate) == runs


def test_a_restore_of_the_hall_brings_them_back(tmp_path: Path) -> None:
    estate = estate_of(tmp_path)
    now = after(estate, "a/h1")
    made = plan(now, Scenario("restore", ("a/h1",)))
    assert check(now, made).holds
    assert sum(step.count for step in made.steps if step.kind == "start") == 2
    assert running(situation_after(now, made).estate) == 8


def test_a_rack_that_loses_its_second_feed_after_a_run_is_lost(tmp_path: Path) -> None:
    """The run knew of the first feed, which took nothing, and not of the second."""
    text = POOLS.replace("CORES", "2 cores").replace(
        "racks: {a/h1/r: {}", "racks: {a/h1/r: {feeds: [a/f1, a/f2]}"
    )
    estate = written(tmp_path, f"feeds: {{a/f1: {{}}, a/f2: {{}}}}\n{text}", servers=SERVERS)
    before = Moved("r1", "lose", ("a/f1",), 10, 15, "succeeded", {"shop": (("pa", 4), ("pb", 4))}, number=1)
    first, second = LostNow("a/f1", "lost", 5), LostNow("a/f2", "lost", 20)
    for lost, runs in (((first,), 8), ((first, second), 6)):
        for ended in ((), (before,)):
            assert running(of(estate, Observation(99, effects=Effects(lost, ended))).estate) == runs


@pytest.mark.parametrize(("number", "runs"), [(1, 6), (3, 8), (0, 8)])
def test_a_run_that_ended_before_the_mark_did_not_know_of_it(tmp_path: Path, number: int, runs: int) -> None:
    """The clock of its leader was hours ahead. Without numbers, only clocks can tell."""
    estate = estate_of(tmp_path)
    placed = {"shop": (("pa", 4), ("pb", 4))}
    early = Moved("r0", "lose", ("z",), 9_000, 9_005, "succeeded", placed, number=number)
    marker = Moved("r1", "lose", ("a/h1",), 20, 25, "failed", number=2)
    effects = Effects((LostNow("a/h1", "lost", 22, "r1"),), (early, marker))
    assert running(of(estate, Observation(99, effects=effects)).estate) == runs


def test_what_a_restore_did_not_start_does_not_run(tmp_path: Path) -> None:
    """Its servers are on again, but the starts were skipped."""
    estate = estate_of(tmp_path)
    now = after(estate, "a/h1")
    made = plan(now, Scenario("restore", ("a/h1",)))
    done = [one for one in promised(now, made) if one.step.kind != "start"]
    back = moved(
        now, made.scenario, done, run="r2", began_ms=50, ended_ms=60, phase="succeeded_with_exceptions"
    )
    restored = of(estate, Observation(99, effects=Effects((), (back,)))).estate
    assert running(restored) == 6
    assert shop(plan(restored, lose("b"))).goes_down, "two are left, and six are needed"


def test_an_evacuated_half_is_no_part_of_the_pool_for_the_next_loss(tmp_path: Path) -> None:
    """Two replicas of `pa` left the hall, and two stay in the other. No later loss takes one of these."""
    now = of(estate_of(tmp_path), seen("a/h1", state="evacuated")).estate
    top = topology(now)
    assert int(replicas_lost(top, lost_with(top, ["z"])).sum()) == 2, "those that left"
    made = plan(now, lose("z"))
    assert check(now, made).holds
    assert not shop(made).goes_down
    assert sum(step.count for step in made.steps if step.kind == "start") == 2
    assert int(without_lost(now).replicas.count.sum()) == 6
    assert fates(audit(now), "b") == {"shop": "lost"}, "only two fit in what is left of `pa`"


@pytest.mark.parametrize("seed", range(12))
def test_what_was_evacuated_is_as_little_in_a_pool_as_what_is_lost(seed: int) -> None:
    """Its servers are on, and nothing of the pool runs there: every later loss takes and leaves the same."""
    estate = random_pools(seed)
    halls = [one.id for one in domains(estate) if one.kind == "hall"]
    for first in halls:
        burnt, left = (of(estate, seen(first, state=state)).estate for state in ("lost", "evacuated"))
        assert burnt.replicas.same(left.replicas)
        assert without_lost(burnt).pools == without_lost(left).pools
        for second in (one.id for one in domains(estate) if one.id != first):
            taken = [replicas_lost(top, lost_with(top, [second])) for top in map(topology, (burnt, left))]
            assert taken[0].tolist() == taken[1].tolist(), (first, second)
            found = [derive(now, lose(second)) for now in (burnt, left)]
            of_pools = [
                {name: one.rows.capacity[row].tolist() for row, name in enumerate(one.row_names)}
                for one in found
            ]
            assert [of_pools[0].get(pool.id) for pool in estate.pools] == [
                of_pools[1].get(pool.id) for pool in estate.pools
            ]


@pytest.mark.parametrize("state", ["lost", "evacuated"])
def test_a_second_loss_of_a_pool_leaves_its_replicas_waiting_where_they_ran(
    tmp_path: Path, state: DomainState
) -> None:
    now = of(estate_of(tmp_path), seen("a/h1", state=state)).estate
    top = topology(now)
    assert on_lost_servers(top, lost_with(top, ["n1"]))("pa", 3) == {"n1": 3}


@pytest.mark.parametrize("state", ["lost", "evacuated"])
def test_a_part_of_a_pool_at_home_is_that_part_whether_it_is_left_or_not(
    tmp_path: Path, state: DomainState
) -> None:
    """What belongs there is missing there, also while the hall is lost or left."""
    now = of(estate_of(tmp_path), seen("a/h1", state=state)).estate
    top = topology(now)
    assert way_home(top, loss(top, ["a/h1"])).missing.tolist() == [2]


def test_many_replicas_wait_evenly_without_a_row_for_each(tmp_path: Path) -> None:
    top = topology(estate_of(tmp_path))
    waits = on_lost_servers(top, loss(top, ["a/h1"]))
    assert waits("pa", 1) == {"n0": 1}
    assert waits("pa", 5) == {"n0": 3, "n2": 2}
    assert sum(waits("pa", 2**40).values()) == 2**40
