"""The checker finds by itself which replicas wait on the lost servers of a pool."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from evac.app.accepting import must_hold
from evac.derive.domains import domains, topology
from evac.derive.pools import PoolShare, replicas_running
from evac.derive.situation import of
from evac.model.errors import UnsafePlan
from evac.model.estate import Estate
from evac.model.observation import Observation, UnitsSeen
from evac.model.scenario import lose
from evac.model.situation import Effects, LostNow, Moved
from evac.planning.plan import plan
from evac.verify.waiting import check_waiting
from tests.kernels import fastest
from tests.unit.truth.test_pool_in_part import POOLS, SERVERS, estate_of
from tests.unit.truth.test_pools import random_pools
from tests.unit.truth.written import written

Patch = pytest.MonkeyPatch
HALL = Observation(20, effects=Effects((LostNow("a/h1", "lost", 5),)))


def story(estate: Estate, seed: int) -> Observation:
    """Losses, runs that knew of some of them or of none, and what drivers are set to run."""
    rng = random.Random(seed)
    below = [one.id for one in domains(estate) if one.kind in ("hall", "rack", "site")]
    names = [service.id for service in estate.services]
    places = [pool.id for pool in estate.pools]
    places += estate.fleet.server_names(np.arange(len(estate.fleet), dtype=np.int32))
    runs = []
    for number in range(1, rng.randint(1, 4)):
        placed = {
            name: tuple(sorted((at, rng.randint(1, 5)) for at in rng.sample(places, rng.randint(1, 3))))
            for name in rng.sample(names, rng.randint(1, 2))
        }
        began = rng.randint(0, 90)
        known = {one: rng.randint(0, 90) for one in rng.sample(below, rng.randint(0, 1))}
        numbered = number if rng.random() < 0.5 else 0
        runs.append(Moved(f"r{number}", "lose", (), began, began, "ok", placed, since=known, number=numbered))
    marks = [run.run for run in runs] + ["", "other"]
    lost = tuple(
        LostNow(one, rng.choice(("lost", "evacuated", "evacuating")), rng.randint(0, 90), rng.choice(marks))
        for one in sorted(rng.sample(below, rng.randint(1, 3)))
    )
    units = [
        UnitsSeen(rng.choice(names), rng.choice("ab"), rng.randint(0, 9), "kubernetes")
        for _ in range(rng.choice((0, 0, 1, 2)))
    ]
    known_once = {(one.service, one.site): one for one in units}
    return Observation(99, units=tuple(known_once.values()), effects=Effects(lost, tuple(runs)))


@pytest.mark.parametrize("seed", range(20))
def test_planner_and_checker_agree_on_what_waits(seed: int) -> None:
    estate = random_pools(seed)
    for turn in range(10):
        seen = story(estate, 1_000 * seed + turn)
        assert check_waiting(estate, seen, of(estate, seen).estate) == [], turn


def none_waits(patch: Patch) -> None:
    patch.setattr("evac.derive.situation.waiting_in_pools", lambda *args: {})


def rounded_in_our_favour(patch: Patch) -> None:
    patch.setattr("evac.derive.waiting.math.ceil", int)


def every_run_knew(patch: Patch) -> None:
    patch.setattr("evac.derive.waiting._knew", lambda *args: True)


def nothing_is_taken(patch: Patch) -> None:
    patch.setattr(PoolShare, "worst", property(lambda self: Fraction(0)))


@pytest.mark.parametrize("plant", [none_waits, rounded_in_our_favour, every_run_knew, nothing_is_taken])
def test_a_wrong_derivation_of_what_waits_is_found(
    plant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """Wherever it gives another estate, and nowhere else."""
    stories = [(estate, story(estate, seed)) for seed in range(40) for estate in (random_pools(seed),)]
    right = [of(estate, seen).estate.replicas for estate, seen in stories]
    plant(monkeypatch)
    differ = 0
    for (estate, seen), was in zip(stories, right, strict=True):
        now = of(estate, seen).estate
        differs = not now.replicas.same(was)
        differ += differs
        assert bool(check_waiting(estate, seen, now)) == differs
    assert differ


def test_no_run_begins_from_an_estate_that_counts_what_waits_as_running(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    estate = estate_of(tmp_path)
    with fastest():
        now = of(estate, HALL).estate
        must_hold(now, plan(now, lose("b")), (estate, HALL))
        none_waits(monkeypatch)
        wrong = of(estate, HALL).estate
        made = plan(wrong, lose("b"))
        must_hold(wrong, made)
        with pytest.raises(UnsafePlan, match="2 replicas run in pa and 2 wait"):
            must_hold(wrong, made, (estate, HALL))


def test_a_driver_that_runs_replicas_where_the_files_have_none_does_not_say_that_they_run(
    tmp_path: Path,
) -> None:
    """The checker found that none of these waited in the half of the pool that was lost."""
    wiki = "  wiki: {replicas: {pb: 1}, start: 30 s, traffic: {kind: none}, demand: {cpu: 1 core}}\n"
    estate = written(tmp_path, POOLS.replace("CORES", "2 cores") + wiki, servers=SERVERS)
    seen = replace(HALL, units=(UnitsSeen("wiki", "a", 4, "kubernetes"),))
    now = of(estate, seen).estate
    assert check_waiting(estate, seen, now) == []
    wiki_row = [service.id for service in now.services].index("wiki")
    running = replicas_running(topology(now))
    assert int(running.count[running.service == wiki_row].sum()) == 1 + 2
