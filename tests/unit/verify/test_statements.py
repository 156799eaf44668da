"""What a plan tells people beside its steps: every figure that was altered by hand is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evac.estate import load
from evac.model.instance import Instance
from evac.model.plan import Plan
from evac.verify.check import check_header, check_instance
from tests.unit.planning.instances import worked_example
from tests.unit.verify.worked_plan import worked_plan


@pytest.fixture(scope="module")
def instance() -> Instance:
    return worked_example()


def outcome(plan: Plan, service: str, **fields: object) -> Plan:
    rows = (replace(o, **fields) if o.service == service else o for o in plan.outcomes)  # type: ignore[arg-type]
    return replace(plan, outcomes=tuple(rows))


def store(plan: Plan, **fields: object) -> Plan:
    return replace(plan, stores=(replace(plan.stores[0], **fields),))  # type: ignore[arg-type]


def step(plan: Plan, name: str, **fields: object) -> Plan:
    rows = (replace(s, **fields) if s.id == name else s for s in plan.steps)  # type: ignore[arg-type]
    return replace(plan, steps=tuple(rows))


CHAIN = ("verify:pay:base", "shift:pay")
TOLD: list[tuple[str, str, str, Callable[[Plan], Plan]]] = [
    ("F19", "pay", "fewer people", lambda p: outcome(p, "pay", people=1)),
    ("F19", "pay", "another tier", lambda p: outcome(p, "pay", tier=3)),
    ("F19", "pay", "full too early", lambda p: outcome(p, "pay", top_ms=1_000)),
    ("F19", "pay", "back too early", lambda p: outcome(p, "pay", recovery_ms=1_000)),
    ("F19", "ads", "back though shed", lambda p: outcome(p, "ads", recovery_ms=0)),
    ("F19", "pay", "a chain of strangers", lambda p: outcome(p, "pay", critical=("x",))),
    ("F19", "pay", "a chain backwards", lambda p: outcome(p, "pay", critical=CHAIN[::-1])),
    ("F19", "accounts", "loses less", lambda p: store(p, loss_ms=None)),
    ("F19", "accounts", "there too early", lambda p: store(p, primary_ms=0)),
    ("F19", "accounts", "another copy", lambda p: store(p, candidate="anyang")),
    ("F19", "accounts", "not told of", lambda p: replace(p, stores=())),
    ("F1", "x", "a store nobody has", lambda p: store(p, store="x")),
    ("F1", "worked", "a store twice", lambda p: replace(p, stores=p.stores * 2)),
    ("F19", "worked", "fewer people in all", lambda p: replace(p, unweighted=p.unweighted - 1)),
    ("F20", "worked", "more that could be helped", lambda p: replace(p, heads=p.heads - 1)),
    ("F15", "boot:a2", "no tools", lambda p: step(p, "boot:a2", tools=())),
    ("F3", "boot:a2", "a deadline too short", lambda p: step(p, "boot:a2", deadline_ms=119_999)),
    ("F1", "boot:a2", "beyond all clocks", lambda p: step(p, "boot:a2", start_ms=10**33, end_ms=10**33)),
    ("F3", "boot:a2", "a count that nobody counts", lambda p: step(p, "boot:a2", count=2**70)),
]


@pytest.mark.parametrize(("rule", "subject", "words", "change"), TOLD, ids=[row[2] for row in TOLD])
def test_what_was_altered_is_named(
    instance: Instance, rule: str, subject: str, words: str, change: Callable[[Plan], Plan]
) -> None:
    found = check_instance(instance, change(worked_plan(instance))).violations
    assert (rule, subject) in {(violation.rule, violation.subject) for violation in found}


def test_a_chain_in_order_is_one(instance: Instance) -> None:
    assert check_instance(instance, outcome(worked_plan(instance), "pay", critical=CHAIN)).holds


ESTATE = """\
evac: 1
name: worked
detection: 60 s
approval: 2 min
sites: {a: {}}
services: {pay: {rto: 5 min}, ads: {}, identity: {}, messenger: {}, search: {}}
"""


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda p: p, set()),
        (lambda p: replace(p, detection_ms=0), {"F1"}),
        (lambda p: replace(p, approval_ms=0), {"F1"}),
        (lambda p: replace(p, attest=("services/pay/start",)), {"F1"}),
        (lambda p: outcome(p, "pay", rto_ms=None), {"F19"}),
        (lambda p: outcome(p, "ads", rto_ms=300_000), {"F19"}),
    ],
)
def test_the_header_is_that_of_the_estate(
    instance: Instance, tmp_path: Path, change: Callable[[Plan], Plan], rules: set[str]
) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    plan = replace(worked_plan(instance), detection_ms=60_000, approval_ms=120_000)
    found = check_header(load(tmp_path), change(outcome(plan, "pay", rto_ms=300_000)))
    assert {violation.rule for violation in found} == rules
