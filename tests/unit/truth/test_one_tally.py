"""Audit, plan and page count alike: what goes down, what stays degraded, and what cannot be judged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.random_estates import random_document, random_estate
from evac.audit import audit
from evac.model.scenario import lose
from evac.office.reckoning import verdict_of, what_if_of
from evac.planning.plan import plan
from evac.views.plan_view import tally, verdict_words
from evac.web.pages.what_if_view import _heading, by_plan
from tests.unit.truth.networked import networked, networked_document


@pytest.mark.parametrize("seed", [s for s in range(60) if len(random_document(s)[0]["services"]) <= 4])
def test_each_loss_takes_down_as_many_in_the_audit_the_plan_and_the_page(seed: int) -> None:
    estate = random_estate(seed)
    report = audit(estate)
    for row in report.rows:
        made = plan(estate, lose(*row.members), work=0)
        told, found = verdict_of("", made), tally(made)
        if row.not_proved:
            continue
        assert (told.verdict, told.down, told.degraded + told.kept) == (row.verdict, row.down, row.degraded)
        assert (told.untimed, len(told.unknown)) == (row.untimed, row.unknown)
        late = (row.late, row.rto_missed, row.rto_unknown)
        assert (told.late, told.missed, told.rto_unknown) == late, (seed, row.domain)
        assert found.down + len(told.unknown) == found.known - found.stay + found.unknown
        answer = what_if_of(report, row.members)
        planned = by_plan(answer, "", made, None)
        assert _heading(answer) == _heading(planned)
        fates = [Counter(one.fate for one in given.services) for given in (answer, planned)]
        assert fates[0] == fates[1] | Counter()
        if found.degraded:
            assert "all " not in verdict_words(made)
            assert "All " not in _heading(planned)


@pytest.mark.parametrize("seed", [s for s in range(16) if len(networked_document(s)[0]["services"]) <= 4])
def test_what_a_plan_may_bring_back_late_the_audit_never_calls_in_time(tmp_path: Path, seed: int) -> None:
    """Links and ingress that are too small included: an estimate leaves at least as much open as a plan."""
    estate = networked(tmp_path, seed)
    for row in audit(estate).rows:
        told = verdict_of("", plan(estate, lose(*row.members), work=0))
        if row.not_proved:
            continue
        assert told.late + told.rto_unknown <= row.late + row.rto_unknown, row.domain
        assert told.late >= row.late, row.domain


@pytest.mark.parametrize("seed", [s for s in range(40) if len(networked_document(s)[0]["services"]) <= 4])
@pytest.mark.parametrize("stated", [0.8, 0.4])
def test_traffic_that_a_plan_calls_unknown_is_never_certain_in_the_audit(
    tmp_path: Path, seed: int, stated: float
) -> None:
    """Where a limit or a peak is not stated, both say unknown; where it is certain to be too much, both say
    degraded, unless the plan knows of something worse.
    """
    estate = networked(tmp_path, seed, stated)
    report = audit(estate)
    for number, row in enumerate(report.rows):
        made = plan(estate, lose(*row.members), work=0)
        told = verdict_of("", made)
        if row.not_proved or row.unknown or told.unknown or told.unplaced:
            continue
        if row.verdict == "degraded":
            assert told.verdict != "unknown", row.domain
        if report.impacts.crowding.is_certain(number):
            assert told.surely_congested, row.domain
        if told.surely_congested:
            assert row.congested, row.domain
            assert row.verdict != "ok", row.domain
