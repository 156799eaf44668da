"""What a run that was cut short leaves: users, surplus replicas and copies, in the plans that come next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.derive.situation import moved, of, promised, situation_after
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.model.scenario import Scenario, lose
from evac.model.situation import Effects, LostNow, Moved
from evac.planning.plan import plan
from evac.verify import check
from evac.views.situation_view import next_of
from tests.unit.truth.written import servers, written

AWAY = Scenario("evacuate", ("a",), 3_600_000)
HOME = Scenario("failback", ("a",))
TWO_SITES = """
name: two
sites: {a: {}, b: {}, c: {}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 8 cores, memory: 64 GiB}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1, pb: 1}, share: 50 %, start: 5 s, verify: 1 s, shed_time: 1 s,
         demand: {cpu: 1 core, memory: 1 GiB}, needs: [{store: orders}],
         traffic: {kind: dns, ttl: 1 s, change: 1 s, settle: 1 s}}
stores:
  orders:
    engine: postgresql
    rpo: 1 h
    promote: 1 s
    fence: 1 s
    members: [{at: a, mode: primary}, {at: b, mode: sync, lag: 0 s}]
    backups: [{at: a, age: 10 min, size: 1 GiB, restore: 1 Gbit/s}]
"""


def _now(files: Estate, *runs: Moved, lost: tuple[LostNow, ...] = ()) -> Estate:
    return of(files, Observation(at_ms=10, effects=Effects(lost, runs))).estate


def _cut(before: Estate, made: Plan, *without: str, run: str = "cut") -> Moved:
    done = [one for one in promised(before, made) if one.step.kind not in without]
    return moved(before, made.scenario, done, run=run, ended_ms=9, phase="cancelled")


def _shifts(made: Plan) -> list[str]:
    return [step.target for step in made.steps if step.kind == "shift"]


@pytest.mark.parametrize("with_store", [True, False])
def test_users_that_a_cut_evacuation_sent_away_are_sent_home_by_the_failback(
    tmp_path: Path, with_store: bool
) -> None:
    """Nothing of the service is missing at home. A copy of its store must follow first."""
    text = TWO_SITES
    if not with_store:
        text = text.partition("stores:")[0].replace("needs: [{store: orders}],", "")
    files = written(tmp_path, text)
    away = plan(files, AWAY)
    assert _shifts(away) == ["shop"]
    runs = [_cut(files, away, "stop")]
    if with_store:
        before = _now(files, *runs)
        back = plan(before, Scenario("restore", ("a",)))
        runs.append(moved(before, back.scenario, promised(before, back), run="back", ended_ms=10))
    found = of(files, Observation(at_ms=10, effects=Effects((), tuple(runs))))
    assert found.estate.sent_away == ("shop",)
    assert dict(found.estate.traffic) == {"shop": ("b",)}
    assert next_of(found, "ESTATE") == "evac plan ESTATE --failback a"
    home = plan(found.estate, HOME)
    assert check(found.estate, home).violations == ()
    assert _shifts(home) == ["shop"]
    assert with_store or not [step for step in home.steps if step.kind == "start"]
    after = situation_after(found.estate, home)
    assert (after.estate.sent_away, dict(after.estate.traffic)) == ((), {"shop": ("a",)})
    runs.append(moved(found.estate, HOME, promised(found.estate, home), run="home", ended_ms=11))
    assert not of(files, Observation(12, effects=Effects((), tuple(runs)))).services


def test_a_failback_to_where_users_are_sent_already_shifts_nothing(tmp_path: Path) -> None:
    files = written(tmp_path, TWO_SITES)
    now = _now(files, _cut(files, plan(files, AWAY), "stop"))
    assert _shifts(plan(now, Scenario("failback", ("b",)))) == []
    assert estate_digest(now) != estate_digest(replace(now, sent_away=()))


def test_users_that_no_run_sent_away_stay_where_drivers_see_them(tmp_path: Path) -> None:
    """A service may run at two sites and serve at one: that is not to be undone."""
    files = written(tmp_path, TWO_SITES)
    made = plan(files, AWAY)
    left = replace(_cut(files, made, "stop"), scenario="failback")
    now = _now(files, left)
    assert (now.sent_away, dict(now.traffic)) == ((), {"shop": ("b",)})
    assert _shifts(plan(now, HOME)) == []


SURPLUS = """
name: surplus
sites: {a: {}, b: {}, c: {}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, boot: 1 min, boot_odds: 100 %}}
services:
  shop: {tier: 0, people: 9, start: 5 s, shed_time: 1 s, share: 50 %,
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""


def _surplus(folder: Path) -> Estate:
    rows = [f"{site}{k},{site},,web,serving," for site in "abc" for k in range(4)]
    table = "service,target,count\nshop,a0,1\nshop,a1,1\n"
    return written(folder, SURPLUS, servers=servers(*rows), replicas=table)


def _starts(made: Plan) -> int:
    return sum(n for step in made.steps if step.kind == "start" for _, n in step.servers)


@pytest.mark.parametrize(("first", "second", "starts"), [("a", "b", 2), ("b", "a", 2), ("a", "c", 0)])
def test_surplus_that_a_loss_took_is_not_wanted_in_the_next_one(
    tmp_path: Path, first: str, second: str, starts: int
) -> None:
    """A move was cut before its stop: four replicas run, two are declared. Then one site after the other is
    lost: two are enough each time, and a restore starts none.
    """
    files = _surplus(tmp_path)
    cut = _cut(files, plan(files, AWAY), "stop")
    before = _now(files, cut)
    assert before.surplus == ("shop",)
    made = plan(before, lose(first))
    assert _starts(made) == 0, "two are left"
    lost = (LostNow(first, "lost"),)
    gone = moved(before, made.scenario, promised(before, made), run="fire", ended_ms=11)
    now = _now(files, cut, gone, lost=lost)
    made = plan(now, lose(second))
    assert check(now, made).violations == ()
    assert _starts(made) == starts
    restored = plan(now, Scenario("restore", (first,)))
    assert check(now, restored).violations == ()
    assert _starts(restored) == 0


def test_what_more_replicas_ran_than_are_declared_is_restored_as_it_ran(tmp_path: Path) -> None:
    """Someone scaled it: that is theirs."""
    files = _surplus(tmp_path)
    scaled = Moved("r", "restore", ("a",), 0, 1, "succeeded", {"shop": (("a0", 5),)}, {}, {}, {}, {})
    now = replace(_now(files, scaled), surplus=())
    assert _starts(plan(now, lose("a"))) == 5


@pytest.mark.parametrize("backup", ["a", "b", ""])
def test_a_home_copy_that_follows_no_primary_is_named_and_no_backup_replaces_the_living_primary(
    tmp_path: Path, backup: str
) -> None:
    """The primary elsewhere has everything; nothing is lost, and a restore makes the copy follow."""
    text = TWO_SITES.replace("backups: [{at: a", f"backups: [{{at: {backup}")
    text = text if backup else "\n".join(x for x in TWO_SITES.splitlines() if "backups:" not in x)
    files = written(tmp_path, text)
    fire = plan(files, lose("a"))
    gone = moved(files, fire.scenario, promised(files, fire), run="fire", ended_ms=9)
    now = _now(files, gone)
    (store,) = now.stores
    assert {one.at: one.mode for one in store.members} == {"a": "none", "b": "primary"}
    home = plan(now, HOME)
    assert check(now, home).violations == ()
    assert not [step for step in home.steps if step.kind in ("promote", "restore", "fence")]
    (shop,) = (one for one in home.outcomes if one.service == "shop")
    assert shop.why is not None
    assert shop.why.words == "store orders has no copy or backup that can take over"
    found = of(files, Observation(10, effects=Effects((), (gone,))))
    assert next_of(found, "ESTATE") == "evac plan ESTATE --restore a"


@pytest.mark.parametrize(("lost", "restored"), [((), []), (("b",), ["c"])])
def test_a_backup_takes_the_place_of_a_primary_that_is_lost_elsewhere(
    tmp_path: Path, lost: tuple[str, ...], restored: list[str]
) -> None:
    files = written(tmp_path, TWO_SITES.replace("backups: [{at: a", "backups: [{at: c"))
    fire = plan(files, lose("a"))
    gone = moved(files, fire.scenario, promised(files, fire), run="fire", ended_ms=9)
    now = _now(files, gone, lost=tuple(LostNow(name, "lost") for name in lost))
    home = plan(now, HOME)
    assert check(now, home).violations == ()
    assert [step.candidate for step in home.steps if step.target == "orders" and step.candidate] == restored
