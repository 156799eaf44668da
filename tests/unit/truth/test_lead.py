"""Detection and approval are part of every time of return; where nobody states them they are assumed, and
that is said once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evac.audit import audit
from evac.estate import check as check_estate
from evac.estate.codecs.plan import decode, encode
from evac.model.estate import Lead
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify import check
from evac.views.audit_view import audit_json, audit_text
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, answer
from tests.unit.truth.written import AT_ONCE, written

POOLS = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, rto: 5 min, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
  wiki: {tier: 1, people: 9, replicas: {pa: 1}, start: 60 s, demand: {cpu: 1 core, memory: 1 GiB},
         traffic: {kind: none}}
"""
BOTH = "etection 1 min and approval 5 min assumed: the estate does not state them"
ONE = "etection 1 min assumed: the estate does not state it"


@pytest.mark.parametrize(
    ("lead", "recovery_ms", "words"),
    [
        ("", 420_000, BOTH),
        ("approval: 30 s\n", 150_000, ONE),
        ("detection: 10 s\napproval: 0 s\n", 70_000, ""),
        (AT_ONCE, 60_000, ""),
    ],
)
def test_times_that_nobody_states_are_assumed_and_said_once(
    tmp_path: Path, lead: str, recovery_ms: int, words: str
) -> None:
    estate = written(tmp_path, POOLS, lead)
    made, report = plan(estate, lose("a")), audit(estate)
    assert check(estate, made).holds
    row = next(row for row in report.rows if row.domain == "a")
    told = [one.recovery_ms for one in row.fates(report.services)]
    assert told == [outcome.recovery_ms for outcome in made.outcomes] == [recovery_ms] * 2
    assert made.outcomes[0].meets_rto is (recovery_ms <= 300_000)
    audited = audit_text(report, report.findings, (), "estate", 200, colour=False)
    for text in (answer(Planned(made, ""))[0], plan_text(made, "", 200, colour=False), audited):
        assert text.count("assumed") == bool(words)
        assert words in text
    assert json.loads(audit_json(report, ()))["assumed"] == list(estate.lead.assumed)
    assert decode(encode(made)).lead == estate.lead


def test_what_begins_when_people_want_assumes_nothing(tmp_path: Path) -> None:
    made = plan(written(tmp_path, POOLS, ""), Scenario("evacuate", ("a",)))
    assert "assumed" not in answer(Planned(made, ""))[0]


def test_a_plan_that_hides_what_it_assumes_is_refused(tmp_path: Path) -> None:
    estate = written(tmp_path, POOLS, "")
    made = plan(estate, lose("a"))
    assert made.lead == estate.lead == Lead(60_000, 300_000, ("detection", "approval"))
    for lie in (replace(made, assumed=()), replace(made, approval_ms=0), replace(made, detection_ms=0)):
        assert "F1" in {violation.rule for violation in check(estate, lie).violations}


@pytest.mark.parametrize(
    ("policy", "stated", "approval_ms"),
    [
        (None, "0 s", 0),
        ("mode: act\n", "0 s", 0),
        ("mode: hold\n", "0 s", 300_000),
        ("mode: advise\n", "0 s", 300_000),
        ("", "0 s", 300_000),
        ("mode: [\n", "0 s", 300_000),
        ("mode: hold\n", "20 s", 20_000),
    ],
)
def test_nobody_approves_in_no_time(
    tmp_path: Path, policy: str | None, stated: str, approval_ms: int
) -> None:
    """What a policy asks of people is a part of every time of return, in audit and plan alike."""
    if policy is not None:
        (tmp_path / "policy.yaml").write_text(policy)
    estate = written(tmp_path, POOLS, f"detection: 0 s\napproval: {stated}\n")
    made, report = plan(estate, lose("a")), audit(estate)
    assert check(estate, made).holds
    row = next(row for row in report.rows if row.domain == "a")
    told = [one.recovery_ms for one in row.fates(report.services)]
    assert told == [outcome.recovery_ms for outcome in made.outcomes] == [60_000 + approval_ms] * 2
    believed = approval_ms == 0 or stated != "0 s"
    codes = [one.code for one in check_estate(tmp_path).diagnostics]
    assert ("approval-not-believed" in codes) is not believed
