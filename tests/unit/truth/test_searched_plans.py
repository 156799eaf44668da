"""The audit uses constructive plans: what a longer search may keep, it does not call shed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.random_estates import random_estate, strange_estate
from evac.audit import audit, headline
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import foresee, plan
from evac.verify import check
from evac.views.audit_view import open_words
from tests.unit.truth.written import written

ESTATE = """
name: shedding
sites: {a: {}, b: {}, c: {}}
pools:
  pa: {site: a, cpu: 8 cores, memory: 64 GiB}
  pb: {site: b, cpu: 8 cores, memory: 64 GiB}
  pc: {site: c, cpu: 1 core, memory: 64 GiB}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, sheddable: false,
         demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {tier: 2, people: 9, replicas: {pb: 1}, start: 60 s, sheddable: true,
         demand: {cpu: 6 cores, memory: 1 GiB}, traffic: {kind: none}}
  mail: {tier: 1, people: 9, replicas: {pc: 1}, start: 60 s, sheddable: false, DEMAND traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("seed", "made", "loss", "service", "work"),
    [(920011, random_estate, "s2", "x32", 400), (920791, strange_estate, "s3", "x7", 100)],
)
def test_what_a_search_keeps_is_not_called_shed(
    seed: int, made: Callable[[int], Estate], loss: str, service: str, work: int
) -> None:
    estate = made(seed)
    states = {one.service: one.state for one in foresee(estate, lose(loss)).outcomes}
    searched = {one.service: one.state for one in plan(estate, lose(loss), work=work).outcomes}
    report = audit(estate)
    assert (states[service], searched.get(service)) == ("shed", None)
    row = next(row for row in report.rows if row.domain == loss)
    fates = {one.service: one.fate for one in row.fates(report.services)}
    assert fates[service] == "not proved"
    assert not [name for name, fate in fates.items() if fate == "shed" and searched.get(name) != "shed"]


@pytest.mark.parametrize(
    ("demand", "fate"), [("demand: {cpu: 1 core, memory: 1 GiB},", "shed"), ("", "not proved")]
)
def test_a_shed_is_not_proved_where_amounts_are_unknown(tmp_path: Path, demand: str, fate: str) -> None:
    estate = written(tmp_path, ESTATE.replace("DEMAND", demand))
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert {one.service: one.state for one in made.outcomes} == {"shop": "restored", "wiki": "shed"}
    report = audit(estate)
    row = report.rows[0]
    assert {one.service: one.fate for one in row.fates(report.services)} == {"shop": "recovers", "wiki": fate}
    proved = fate == "shed"
    assert (row.verdict, row.shed, row.not_proved) == (
        "degraded" if proved else "unknown",
        proved,
        not proved,
    )
    told = "1 shed to free capacity" if proved else "1 not proved (evac plan ESTATE --lose a searches longer)"
    assert told in headline(report, row).text
    assert ("services are shed while some capacity or demand is unknown" in open_words(report)) != proved
