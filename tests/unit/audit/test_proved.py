"""What an estimate proves, and that it proves nothing that a plan denies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.contradictions import contradictions
from bench.random_estates import random_estate, strange_estate
from evac.audit import AuditReport, LossRow, audit, headline
from evac.audit.impacts import planned
from evac.model.scenario import lose
from evac.planning.plan import foresee
from evac.views.audit_view import audit_text
from tests.kernels import fastest
from tests.unit.truth.written import written

ESTATE = """
name: estimates
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 16 cores, memory: 64 GiB}, pb: {site: b, cpu: FREE cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 2}, start: 60 s, sheddable: false, rto: RTO,
         demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
  wiki: {tier: 2, people: 9, replicas: {pb: 1}, start: 60 s, sheddable: SHED,
         demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none}}
  door: {tier: 1, people: 9, replicas: {pb: 1}, start: 60 s, sheddable: false, NEEDS
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""


@pytest.fixture(autouse=True)
def _estimated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(planned, "PLANNED_MOST", 0)
    monkeypatch.setattr(planned, "PLACES_MOST", 0)
    monkeypatch.setattr(planned, "LARGE_MOST", 0)
    with fastest():
        yield


def estimated(
    folder: Path, free: int, shed: str = "true", needs: str = "", rto: str = "10 min"
) -> tuple[AuditReport, LossRow, dict[str, str]]:
    text = ESTATE.replace("FREE", str(free)).replace("SHED", shed).replace("NEEDS", needs).replace("RTO", rto)
    report = audit(written(folder, text))
    row = next(row for row in report.rows if row.domain == "a")
    assert row.method == "estimate"
    return report, row, {one.service: one.fate for one in row.fates(report.services)}


def test_what_has_a_place_whatever_else_is_started_comes_back(tmp_path: Path) -> None:
    report, row, fates = estimated(tmp_path, 13)
    assert fates == {"shop": "recovers"}
    assert (row.verdict, row.not_proved, row.untimed) == ("degraded", 0, 1)
    assert [one.recovery_ms for one in row.fates(report.services)] == [None]


def test_where_space_is_short_nothing_that_may_be_shed_is_called_safe(tmp_path: Path) -> None:
    report, row, fates = estimated(tmp_path, 12)
    assert fates == {"shop": "not proved", "wiki": "not proved"}
    assert (row.verdict, row.not_proved, row.recovered) == ("unknown", 2, 0)
    assert "2 not proved (evac plan ESTATE --lose a shows)" in headline(report, row).text
    assert "evac plan ESTATE --lose a" in audit_text(report, (), (), "estate", 100, False)


@pytest.mark.parametrize(("shed", "needs"), [("false", ""), ("true", "needs: [wiki],")])
def test_what_no_plan_may_stop_is_not_in_doubt(tmp_path: Path, shed: str, needs: str) -> None:
    _, row, fates = estimated(tmp_path, 12, shed, needs)
    assert fates == {"shop": "not proved"}
    assert row.verdict == "unknown"


def test_what_does_not_even_fit_alone_is_lost(tmp_path: Path) -> None:
    _, row, fates = estimated(tmp_path, 7)
    assert (fates["shop"], row.verdict) == ("lost", "loss")


def test_it_is_late_if_no_plan_can_be_in_time(tmp_path: Path) -> None:
    report, row, _ = estimated(tmp_path, 13, rto="30 s")
    assert row.late == 1
    assert any("at the earliest (estimate)" in finding.message for finding in report.findings)
    assert estimated(tmp_path / "in time", 13, rto="90 s")[1].late == 0


@pytest.mark.parametrize("seed", [9, 18, 40, 74, 81, 1354, 11168])
def test_no_plan_denies_what_an_estimate_says(seed: int) -> None:
    estate = random_estate(seed)
    assert list(contradictions(estate)) == []


def test_no_plan_denies_what_an_estimate_says_of_a_pool_that_is_off() -> None:
    """The only server of the pool with the replicas is dark, and may be in any rack."""
    assert list(contradictions(strange_estate(950043))) == []


@pytest.mark.parametrize("seed", [2, 74])
def test_no_plan_is_sooner_than_the_soonest_time(seed: int) -> None:
    estate = random_estate(seed)
    found = audit(estate).impacts
    for number, members in enumerate(found.losses.members):
        for outcome in foresee(estate, lose(*members)).outcomes:
            soonest = int(found.ready_ms[number, found.graph.index[outcome.service]])
            assert outcome.recovery_ms is None or not soonest or outcome.recovery_ms >= soonest
