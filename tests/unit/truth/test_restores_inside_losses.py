"""What is lost with more than one domain comes back with all of them, and no plan promises it earlier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.app.planner.plans import Question, scenario_of
from evac.derive.domains import can_be_lost, stays_lost, topology
from evac.derive.situation import of, situation_after
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.scenario import lose
from evac.model.situation import Effects, LostNow
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import servers, written

TEXT = """
name: inside
sites: {a: {}, b: {}}
halls: {a/h: {}}
feeds: {a/f: {}}
racks: {a/h/r: {feeds: [a/f]}, a/h/q: {}}
groups: {spine: {kind: spine, members: [a/h/r, a/h/q]}}
classes: {c: {cpu: 8 cores, memory: 64 GiB, boot: 60 s}}
services:
  shop: {tier: 0, people: 9, start: 60 s,
         demand: {cpu: 1 cores, memory: 1 GiB}, traffic: {kind: none}}
"""
TABLE = servers("a1,a,a/h/r,c,serving,", "a2,a,a/h/q,c,serving,", "b1,b,,c,serving,")


def after(folder: Path, *lost: str) -> Estate:
    marks = tuple(LostNow(one, "lost", 1) for one in sorted(lost))
    table = "service,target,count\nshop,a1,1\n"
    estate = written(folder, TEXT, servers=TABLE, replicas=table)
    return of(estate, Observation(2, effects=Effects(marks))).estate


@pytest.mark.parametrize(
    ("lost", "restored", "around"),
    [
        (("a", "a/h/r"), ("a/h/r",), "a"),
        (("a/h", "a/h/r"), ("a/h/r",), "a/h"),
        (("a/f", "a/h/r"), ("a/h/r",), "a/f"),
        (("spine", "a/h/q"), ("a/h/q",), "spine"),
        (("spine", "a/h/q"), ("spine",), "a/h/q"),
        (("spine", "a/h/q"), ("spine", "a/h/q"), ""),
        (("a", "a/h/r"), ("a",), ""),
        (("a", "a/h/r"), ("a", "a/h/r"), ""),
        (("a/h/q", "a/h/r"), ("a/h/r",), ""),
        (("a", "b"), ("a",), ""),
        (("b1", "b"), ("b",), "b1"),
        ((), ("a/h/r",), ""),
    ],
)
def test_a_restore_inside_what_stays_lost_is_refused(
    lost: tuple[str, ...], restored: tuple[str, ...], around: str, tmp_path: Path
) -> None:
    now = after(tmp_path, *lost)
    if not around:
        assert scenario_of(now, Question(restore=restored)).domains == tuple(sorted(restored))
        return
    with pytest.raises(InvalidInput) as error:
        scenario_of(now, Question(restore=restored))
    assert error.value.code == "plan-still-lost"
    assert f"{restored[0]} is still lost with {around}," in error.value.message
    assert f"--restore {around}" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("lost", "refused"),
    [(("a/h",), True), (("a/h/q", "b"), True), (("a/f",), True), (("b",), False), ((), False)],
)
def test_a_failback_to_a_site_that_is_lost_in_part_is_refused(
    lost: tuple[str, ...], refused: bool, tmp_path: Path
) -> None:
    now = after(tmp_path, *lost)
    if not refused:
        assert scenario_of(now, Question(failback=("a",))).kind == "failback"
        return
    with pytest.raises(InvalidInput) as error:
        scenario_of(now, Question(failback=("a",)))
    assert error.value.code == "plan-still-lost"
    assert f"a is still lost with {lost[0]}," in error.value.message


def test_a_rack_with_one_of_two_feeds_keeps_no_one_from_home(tmp_path: Path) -> None:
    text = TEXT.replace("feeds: {a/f: {}}", "feeds: {a/f: {}, a/g: {}}").replace("[a/f]", "[a/f, a/g]")
    table = "service,target,count\nshop,a1,1\n"
    estate = written(tmp_path, text, servers=TABLE, replicas=table)
    now = of(estate, Observation(2, effects=Effects((LostNow("a/f", "lost", 1),)))).estate
    assert scenario_of(now, Question(failback=("a",))).domains == ("a",)


def test_a_restored_site_takes_the_marks_inside_it_along(tmp_path: Path) -> None:
    """The next plan begins with what the run leaves: with the site, its racks are no longer lost."""
    now = after(tmp_path, "a", "a/h/r", "b")
    assert stays_lost(now.lost, ("a",)) == ("b",)
    only = replace(now, lost=("a", "a/h/r"))
    made = plan(only, scenario_of(only, Question(restore=("a",))))
    later = situation_after(only, made).estate
    assert later.lost == ()
    assert can_be_lost(topology(later), "a/h/r")


def test_a_site_comes_back_while_the_only_primary_is_lost_elsewhere(tmp_path: Path) -> None:
    """a burns, its database moves to b, b burns, a comes back: the copy in a has no one to follow."""
    text = """
name: twice
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pc: {site: c, cpu: 9 cores, memory: 9 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, needs: [{store: orders}],
         demand: {cpu: 1 cores, memory: 1 GiB}, traffic: {kind: none}}
stores:
  orders: {engine: postgresql, rpo: 0 s, promote: 5 s, fence: 5 s,
           members: [{at: a, mode: primary}, {at: b, mode: sync}]}
"""
    now = written(tmp_path, text)
    for site in "ab":
        now = situation_after(now, plan(now, lose(site))).estate
    assert now.lost == ("a", "b")
    made = plan(now, scenario_of(now, Question(restore=("a",))))
    assert check(now, made).violations == ()
    assert [(one.store, one.candidate, one.primary_ms) for one in made.stores] == [("orders", "", None)]
    assert not [one for one in made.steps if one.kind == "reprotect"]
