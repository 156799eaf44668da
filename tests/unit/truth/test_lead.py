"""Detection and approval are part of every time of return; where nobody states them they are assumed, and
that is said once.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evac.audit import audit
from evac.audit.impacts.all_losses import impacts
from evac.audit.impacts.losses import losses
from evac.audit.impacts.stores import NEVER
from evac.derive.domains import topology
from evac.derive.planning_instance import derive
from evac.estate import check as check_estate
from evac.estate.codecs.plan import decode, encode
from evac.model.estate import Estate, Lead
from evac.model.plan import FROM_LOSS_MS, Plan
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.planning.simulation.simulate import simulate
from evac.steps.kind import Uncertainty
from evac.steps.registry import PLANNED
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


ALONE = """
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
stores:
  votes: {engine: etcd, quorum: true, automatic: true, elect: TAKES ms, rpo: 0 s,
          members: [{at: a, mode: primary}, {at: b, mode: sync}, {at: c, mode: sync}]}
  waits: {engine: postgresql, sync_timeout: TAKES ms, members: [{at: b, mode: primary}, {at: a, mode: sync}]}
services:
  one: {tier: 0, people: 9, replicas: {pb: 1}, start: 60 s, verify: CHECK ms, needs: [{store: STORE}],
        demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  two: {tier: 0, people: 9, replicas: {pb: 1}, start: 60 s, verify: CHECK ms, needs: [one],
        demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
  zoo: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, verify: CHECK ms, needs: [two],
        demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
"""


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["votes", "waits"]),
    st.integers(1, 900),
    st.integers(0, 60),
    st.integers(0, 120),
    st.integers(0, 600),
    st.sampled_from(["", "one", "two", "zoo"]),
)
@example("waits", 600, 20, 66, 180, "one")
@example("votes", 60, 20, 66, 180, "zoo")
def test_what_happens_by_itself_begins_with_the_loss(
    store: str, takes_s: int, check_s: int, detection_s: int, approval_s: int, tool: str
) -> None:
    """Nobody and no tool is waited for: audit, plan, checker and simulation count it from the loss, all else
    from the release of the plan, with the tools of its steps. A plan that claims it sooner is refused.
    """
    takes, check_ms, lead = takes_s * 1_000, check_s * 1_000, (detection_s + approval_s) * 1_000
    text = ALONE.replace("STORE", store).replace("TAKES", str(takes)).replace("CHECK", str(check_ms))
    with tempfile.TemporaryDirectory() as folder:
        lead_words = f"detection: {detection_s} s\napproval: {approval_s} s\n"
        estate = written(Path(folder), text + f"tools: {{monitoring: {tool}}}\n" * bool(tool), lead_words)
    made, scenario = plan(estate, lose("a")), lose("a")
    assert check(estate, made).holds
    released = max(0, takes - lead) + 2 * check_ms
    watched = lead + max(60_000, released) + check_ms
    expected = [takes + check_ms, takes + 2 * check_ms, None if tool == "zoo" else watched]
    assert [outcome.recovery_ms for outcome in made.outcomes] == expected
    assert all(outcome.goes_down for outcome in made.outcomes)
    assert [made.back_ms(one) for one in made.stores if one.store == store] == [takes]
    certain = {kind.name: Uncertainty(0.0, 0.0, 0.0) for kind in PLANNED.values()}
    forecast = simulate(derive(estate, scenario), made, trials=2, uncertainty=certain)
    assert {one.service: set(one.recovery_ms) for one in forecast.services} == {
        outcome.service: {outcome.recovery_ms} for outcome in made.outcomes if outcome.recovery_ms is not None
    }
    waits = [min(lead, takes + check_ms), min(lead, takes + 2 * check_ms), lead]
    assert made.unweighted_before == 9 * sum(waits)
    top = topology(estate)
    soonest = impacts(top, losses(top, ("a",))).ready_ms[0].tolist()
    assert soonest[:2] == expected[:2]
    assert soonest[2] == NEVER if tool == "zoo" else lead + 60_000 <= soonest[2] <= watched
    _refuses_what_is_too_soon(estate, made)


def _refuses_what_is_too_soon(estate: Estate, made: Plan) -> None:
    fewer = replace(made, unweighted_before=(made.unweighted_before or 0) - 1)
    assert "F19" in {violation.rule for violation in check(estate, fewer).violations}
    assert check(estate, replace(made, unweighted_before=None)).holds
    first, *others = made.outcomes
    sooner = replace(made, outcomes=(replace(first, recovery_ms=(first.recovery_ms or 0) - 1_000), *others))
    assert "F19" in {violation.rule for violation in check(estate, sooner).violations}
    for step in made.steps:
        if FROM_LOSS_MS in step.parameters:
            lies = [replace(step, parameters={FROM_LOSS_MS: 0}), replace(step, parameters={})]
            lies += [replace(step, end_ms=step.end_ms - 1_000)] if step.end_ms else []
            for lie in lies:
                steps = tuple(lie if one is step else one for one in made.steps)
                assert "F3" in {one.rule for one in check(estate, replace(made, steps=steps)).violations}


@pytest.mark.parametrize(
    ("made_next_to", "verified_next_to"), [("hold", None), (None, "hold"), ("act", "hold")]
)
def test_a_plan_of_another_policy_is_refused_by_its_name(
    tmp_path: Path, made_next_to: str | None, verified_next_to: str | None
) -> None:
    """What a policy asks of people is in every time of a plan, and in no digest."""
    estates = []
    for name, mode in (("made", made_next_to), ("verified", verified_next_to)):
        (tmp_path / name).mkdir()
        if mode is not None:
            (tmp_path / name / "policy.yaml").write_text(f"mode: {mode}\n")
        estates.append(written(tmp_path / name, POOLS, AT_ONCE))
    made = plan(estates[0], lose("a"))
    assert check(estates[0], made).holds
    (violation,) = check(estates[1], made).violations
    assert "policy.yaml" in violation.message


def test_nobody_is_asked_before_a_person_lets_commits_go(tmp_path: Path) -> None:
    """A store that waits for ever is let go by a person: after detection, and two approvals."""
    text = ALONE.replace("STORE", "waits").replace("sync_timeout: TAKES ms", "sync_timeout: never")
    estate = written(tmp_path, text.replace("TAKES", "1").replace("CHECK", "0"), "")
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert made.outcomes[0].recovery_ms == estate.lead.ms + estate.lead.approval_ms
    assert all(FROM_LOSS_MS not in step.parameters for step in made.steps if step.target == "waits")
