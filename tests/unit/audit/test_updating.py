"""An update after one change says what a new audit of the changed estate says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from fractions import Fraction
from functools import cache
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import RULES, AuditReport, audit, update
from evac.estate.examples import pangyo
from evac.model.diagnostic import Place
from evac.model.estate import Dependency, Estate, Expiring, Store, StoreMember, Traffic
from evac.model.fleet import ON_SERVER
from tests.unit.audit.estates import change

HOUR = 3_600_000


@cache
def before(mended: bool) -> AuditReport:
    return audit(pangyo(servers=1_000, mended=mended))


def _service(estate: Estate, pick: int, **facts: object) -> Estate:
    return change(estate, estate.services[pick % len(estate.services)].id, **facts)


def _needs(estate: Estate, pick: int, other: int, hard: bool) -> Estate:
    service = estate.services[pick % len(estate.services)]
    target = estate.services[other % len(estate.services)].id
    if target == service.id or target in {d.target for d in service.needs}:
        return estate
    return change(estate, service.id, needs=(*service.needs, Dependency(target, "service", hard)))


def _store(estate: Estate, pick: int, at: str) -> Estate:
    chosen = estate.stores[pick % len(estate.stores)]
    alone = replace(chosen, members=(StoreMember(at, "primary", 0),), backups=())
    return replace(estate, stores=tuple(alone if d is chosen else d for d in estate.stores))


def _more_stores(estate: Estate, pick: int) -> Estate:
    if f"added-{pick}" in {d.id for d in estate.stores}:
        return estate
    added = Store(f"added-{pick}", f"added-{pick}", "redis", (StoreMember("gasan/hall-2", "primary"),))
    more = replace(estate, stores=tuple(sorted((*estate.stores, added), key=lambda d: d.id)))
    service = more.services[pick % len(more.services)]
    return change(more, service.id, needs=(*service.needs, Dependency(added.id, "store")))


def _member(estate: Estate, pick: int, at: str) -> Estate:
    chosen = estate.stores[pick % len(estate.stores)]
    if at in {m.at for m in chosen.members}:
        return estate
    more = replace(chosen, members=(*chosen.members, StoreMember(at, "async", 1_000)))
    return replace(estate, stores=tuple(more if d is chosen else d for d in estate.stores))


def _one_more(estate: Estate, pick: int) -> Estate:
    count = estate.replicas.count.copy()
    count[pick % len(count)] += 1
    return replace(estate, replicas=replace(estate.replicas, count=count))


def _bindings(estate: Estate, keep: np.ndarray, **columns: np.ndarray) -> Estate:
    """Some bindings of an estate, in their order, with columns replaced."""
    names = ("service", "kind", "target", "count")
    table = {name: getattr(estate.replicas, name) for name in names} | columns
    return replace(estate, replicas=replace(estate.replicas, **{n: table[n][keep] for n in names}))


def _gone(estate: Estate, pick: int, count: int) -> Estate:
    """Some bindings less; a service may lose all it had."""
    keep = np.ones(len(estate.replicas), np.bool_)
    first = pick * 37 % len(keep)
    keep[first : first + 1 + count % 40] = False
    return _bindings(estate, keep)


def _moved(estate: Estate, pick: int, by: int) -> Estate:
    target = estate.replicas.target.copy()
    rows = np.flatnonzero(estate.replicas.service == estate.replicas.service[pick * 31 % len(target)])
    rows = rows[estate.replicas.kind[rows] == ON_SERVER]
    target[rows] = np.sort((target[rows] + by) % len(estate.fleet))
    return _bindings(estate, np.arange(len(target)), target=target)


def _states(estate: Estate, pick: int, state: int) -> Estate:
    """Many servers of one state: those that are used, and those that are not."""
    states = estate.fleet.state.copy()
    states[pick : pick + 30] = state % 4
    return replace(estate, fleet=replace(estate.fleet, state=states))


def _larger(estate: Estate, pick: int, amount: int) -> Estate:
    capacity = estate.fleet.capacity.copy()
    capacity[pick : pick + 9, amount % 2] += 1_000 * amount
    return replace(estate, fleet=replace(estate.fleet, capacity=capacity))


def _watts(estate: Estate, pick: int, watts: int) -> Estate:
    column = estate.fleet.watts.copy()
    column[pick : pick + 20] = watts
    return replace(estate, fleet=replace(estate.fleet, watts=column))


def _racked(estate: Estate, pick: int) -> Estate:
    state = estate.fleet.state.copy()
    state[pick % len(state)] = 3
    return replace(estate, fleet=replace(estate.fleet, state=state))


CHANGES: tuple[Callable[[Estate, int, int], Estate], ...] = (
    lambda e, i, j: _service(e, i, rto_ms=j % 9 * 600_000),
    lambda e, i, j: _service(e, i, rpo_ms=None),
    lambda e, i, j: _service(e, i, start_ms=j % 50 * 60_000),
    lambda e, i, j: _service(e, i, start_ms=None),
    lambda e, i, j: _service(e, i, traffic=Traffic("dns", ttl_ms=j % 5 * HOUR)),
    lambda e, i, j: _service(e, i, people=j * 1_000),
    lambda e, i, j: _service(e, i, tier=j % 4),
    lambda e, i, j: _service(e, i, needs=()),
    lambda e, i, j: _service(e, i, demand=(1_000 * (j % 40), 1_024, 1, 0)),
    lambda e, i, j: _needs(e, i, j, True),
    lambda e, i, j: _needs(e, i, j, False),
    lambda e, i, j: _store(e, i, ("pangyo", "anyang/hall-1", "gasan/hall-3")[j % 3]),
    lambda e, i, j: _more_stores(e, i),
    lambda e, i, j: _racked(e, i),
    lambda e, i, j: _member(e, i, ("pangyo", "anyang/hall-1", "gasan/hall-3", "bundang")[j % 4]),
    lambda e, i, j: _one_more(e, i),
    _gone,
    _moved,
    lambda e, i, j: _states(e, i % 900, j),
    lambda e, i, j: _larger(e, i % 900, j),
    lambda e, i, j: _watts(e, i % 900, j),
    lambda e, i, j: _service(e, i, share=Fraction(j % 10, 10)),
    lambda e, i, j: _service(e, i, sheddable=bool(j % 2)),
    lambda e, i, j: _service(e, i, spread=replace(e.services[0].spread, per_site=Fraction(1 + j % 3, 3))),
    lambda e, i, j: _service(e, i, eligible_sites=("gasan", "sejong")[: j % 3]),
    lambda e, i, j: _service(e, i, people=None, tier=None),
    lambda e, i, j: _service(e, i, warm_ms=j * 100, verify_ms=j),
    lambda e, i, j: replace(e, tier_weights=(9, 3, 1)),
    lambda e, i, j: replace(e, limits=replace(e.limits, hands_at_once=1 + j % 9, fences_at_once=1 + i % 5)),
    lambda e, i, j: replace(e, detection_ms=j * 1_000),
    lambda e, i, j: replace(e, approval_ms=j * 60_000),
    lambda e, i, j: replace(e, horizon_ms=(1 + j % 60) * HOUR // 20),
    lambda e, i, j: replace(e, tools=MappingProxyType({**e.tools, "deploy": (e.services[i % 99].id,)})),
    lambda e, i, j: replace(e, limits=replace(e.limits, manual_ms=MappingProxyType({}))),
    lambda e, i, j: replace(
        e, expiring=(Expiring("x", "key", date(2026, 1, 1 + j % 28), "anyang", ("evac",)),)
    ),
    lambda e, i, j: replace(e, rehearsals=()),
    lambda e, i, j: replace(e, links=()),
    lambda e, i, j: replace(e, as_of=date(2030, 1, 1)),
    lambda e, i, j: replace(e, places=MappingProxyType({"": Place("other.yaml", 3, 1)})),
    lambda e, i, j: replace(e, sites=tuple(replace(s, ingress_mbps=j) for s in e.sites)),
)


def _same_impacts(one: AuditReport, other: AuditReport) -> None:
    for name in ("ready_ms", "open", "fate", "down", "direct", "moved", "untimed"):
        assert np.array_equal(getattr(one.impacts, name), getattr(other.impacts, name)), name
    mine, its = one.impacts.capacity, other.impacts.capacity
    assert np.array_equal(mine.placed, its.placed)
    assert np.array_equal(mine.boots, its.boots)
    assert mine.short.keys() == its.short.keys()
    assert mine.boot_rank.keys() == its.boot_rank.keys()
    assert all(np.array_equal(rank, its.boot_rank[n]) for n, rank in mine.boot_rank.items())


def _same(one: AuditReport, other: AuditReport) -> None:
    assert one.findings == other.findings
    assert one.services == other.services
    assert len(one.rows) == len(other.rows)
    for left, right in zip(one.rows, other.rows, strict=True):
        for name in left.__slots__:
            mine, its = getattr(left, name), getattr(right, name)
            assert np.array_equal(mine, its) if isinstance(mine, np.ndarray) else mine == its, name
    assert sorted(map(repr, one.by_rule)) == sorted(map(repr, other.by_rule))
    _same_impacts(one, other)


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_every_kind_of_change(number: int) -> None:
    previous = before(number % 2 == 0)
    changed = CHANGES[number](previous.impacts.estate, 17 + number, 5)
    _same(update(previous, changed), audit(changed))


Changes = list[tuple[Callable[[Estate, int, int], Estate], int, int]]


def some(least: int, most: int) -> st.SearchStrategy[Changes]:
    """So many changes, and what each is done to."""
    one = st.tuples(st.sampled_from(CHANGES), st.integers(0, 999), st.integers(0, 999))
    return st.lists(one, min_size=least, max_size=most)


def one_by_one(mended: bool, changes: Changes) -> Iterator[AuditReport]:
    """The audit after each change, made of the one before."""
    report = before(mended)
    for apply, pick, other in changes:
        report = update(report, apply(report.impacts.estate, pick, other))
        yield report


@settings(max_examples=40)
@given(st.booleans(), some(1, 3))
def test_changes_one_after_another(mended: bool, changes: Changes) -> None:
    *_, report = one_by_one(mended, changes)
    _same(report, audit(report.impacts.estate))


@settings(max_examples=25)
@given(st.booleans(), some(2, 4))
def test_changes_of_several_kinds_at_once(mended: bool, changes: Changes) -> None:
    report = before(mended)
    estate = report.impacts.estate
    for apply, pick, other in changes:
        estate = apply(estate, pick, other)
    _same(update(report, estate), audit(estate))


def test_changes_of_the_same_estate_know_nothing_of_each_other() -> None:
    report = before(True)
    estate = report.impacts.estate
    later = replace(estate, detection_ms=estate.detection_ms + 600_000)
    more = _service(estate, 3, share=Fraction(1, 3))
    for changed in (later, more, estate):
        _same(update(report, changed), audit(changed))


def test_whether_a_service_may_be_shed_is_told_wherever_it_counts() -> None:
    report = before(False)
    slow = [s.id for s in report.impacts.estate.services if s.traffic.kind == "dns" and s.rto_ms]
    for name in slow[:3]:
        for sheddable in (True, False):
            report = update(report, change(report.impacts.estate, name, sheddable=sheddable))
            _same(report, audit(report.impacts.estate))


def test_findings_that_tell_no_time_are_kept_where_all_is_found_out_later() -> None:
    report = before(False)
    estate = report.impacts.estate
    again = update(report, replace(estate, detection_ms=estate.detection_ms + 1))
    kept = {
        rule.id for rule, one, other in zip(RULES, report.by_rule, again.by_rule, strict=True) if one is other
    }
    assert {"service-lost", "replicas-together", "hidden-single-site", "cold-start-cycle"} <= kept
    assert "recovery-above-rto" not in kept
    assert again.impacts.fate is report.impacts.fate


def test_what_an_estate_keeps_for_itself_is_not_handed_to_the_next() -> None:
    report = before(True)
    assert report.impacts.top.once("servers that boot", lambda: 7) == 7
    again = update(report, _states(report.impacts.estate, 0, 2))
    assert again.impacts.top.once("servers that boot", lambda: 6) == 6


def test_named_losses_stay_the_ones_that_are_tried() -> None:
    report = audit(before(False).impacts.estate, domains=("pangyo", "anyang/hall-1"))
    changed = _service(report.impacts.estate, 3, rto_ms=1)
    again = update(report, changed)
    assert [row.domain for row in again.rows] == ["pangyo", "anyang/hall-1"]
    _same(again, audit(changed, domains=("pangyo", "anyang/hall-1")))


def test_nothing_changed_costs_nothing_and_changes_nothing() -> None:
    report = before(True)
    assert update(report, report.impacts.estate).findings == report.findings


def test_only_what_goes_first_elsewhere_is_placed_again() -> None:
    report = before(False)
    impacts = report.impacts
    name = impacts.estate.services[int(np.argmax(impacts.lost.any(axis=0)))].id
    again = update(report, change(impacts.estate, name, people=0, tier=3))
    row = impacts.graph.index[name]
    kept = [n for n in impacts.capacity.short if not impacts.lost[n, row]]
    assert all(again.impacts.capacity.short[n] is impacts.capacity.short[n] for n in kept)


def test_first_fit_is_kept_where_the_same_asks_for_a_place_in_the_same_room() -> None:
    report = before(False)
    impacts = report.impacts
    row = int(np.argmax(impacts.lost.any(axis=0)))
    service, known = impacts.estate.services[row], impacts.capacity.fillings
    again = update(report, change(impacts.estate, service.id, share=service.share / 3))
    elsewhere = [n for n in known if not impacts.lost[n, row]]
    assert elsewhere
    assert all(again.impacts.capacity.fillings[n] is known[n] for n in elsewhere)
    assert all(again.impacts.capacity.short.get(n) is impacts.capacity.short.get(n) for n in elsewhere)
    shed = update(report, change(impacts.estate, service.id, sheddable=not service.sheddable))
    assert all(shed.impacts.capacity.fillings[n] is filling for n, filling in known.items())


def test_shapes_are_kept_where_nothing_else_is_used() -> None:
    report = before(False)
    estate, room = report.impacts.estate, report.impacts.capacity.supply.room
    service = estate.services[17]
    shared = update(report, change(estate, service.id, share=service.share / 3))
    assert shared.impacts.capacity.supply.room is room
    larger = update(report, _service(estate, 17, demand=(9_000, 4_096, 1, 0)))
    assert larger.impacts.capacity.supply.room is not room
