"""A fixed plan played many times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evac.model.errors import InvalidInput
from evac.model.instance import Instance
from evac.model.plan import Plan
from evac.planning.simulation.simulate import DEFAULTS, Uncertainty, _failures, parse_faults, simulate, warm
from tests.unit.planning.instances import worked_example
from tests.unit.verify.worked_plan import worked_plan

CERTAIN = {kind: Uncertainty(0.0, 0.0, 0.0, 1.0) for kind in DEFAULTS}


@pytest.fixture(scope="module")
def instance() -> Instance:
    return worked_example()


@pytest.fixture(scope="module")
def plan(instance: Instance) -> Plan:
    return worked_plan(instance)


def test_without_uncertainty_a_trial_is_the_plan(instance: Instance, plan: Plan) -> None:
    found = simulate(instance, plan, trials=2, uncertainty=CERTAIN)
    assert set(found.objective) == {plan.objective}
    by_service = {row.service: row.recovery_ms[0] for row in found.services}
    assert by_service == {"identity": 150_000, "pay": 290_000, "messenger": 250_000, "search": 130_000}


def test_what_was_compiled_at_set_up_is_what_a_plan_needs(instance: Instance, plan: Plan) -> None:
    from evac.planning.simulation.kernel import play_all

    warm()
    compiled = list(play_all.compiled.signatures)
    simulate(instance, plan, trials=2)
    assert compiled == play_all.compiled.signatures
    assert len(compiled) == 1


def test_the_same_seed_gives_the_same_answer(instance: Instance, plan: Plan) -> None:
    assert simulate(instance, plan, trials=70, seed=5) == simulate(instance, plan, trials=70, seed=5)
    assert simulate(instance, plan, trials=70, seed=5) != simulate(instance, plan, trials=70, seed=6)


def test_percentiles_rise_and_delays_cost(instance: Instance, plan: Plan) -> None:
    found = simulate(instance, plan, trials=300, seed=1)
    assert list(found.objective) == sorted(found.objective)
    slow = simulate(instance, plan, trials=300, seed=1, uncertainty=parse_faults(["start:slow=3"]))
    assert slow.objective[0] > found.objective[0]


def test_a_step_that_always_fails_is_never_back(instance: Instance, plan: Plan) -> None:
    broken = CERTAIN | {"shift": replace(CERTAIN["shift"], fail=0.99)}
    found = simulate(instance, plan, trials=40, uncertainty=broken)
    assert all(row.recovery_ms[-1] is None for row in found.services)


def test_odds_to_meet_an_objective(instance: Instance, plan: Plan) -> None:
    outcomes = tuple(replace(o, rto_ms=200_000) for o in plan.outcomes)
    found = simulate(instance, replace(plan, outcomes=outcomes), trials=20, uncertainty=CERTAIN)
    met = {row.service: row.meets_rto_permille for row in found.services}
    assert met == {"identity": 1000, "pay": 0, "messenger": 0, "search": 1000}


def test_detection_and_approval_count_against_the_objective(instance: Instance, plan: Plan) -> None:
    late = replace(plan, detection_ms=60_000, approval_ms=5_000)
    found = simulate(instance, late, trials=2, uncertainty=CERTAIN)
    assert {row.recovery_ms[0] for row in found.services if row.service == "search"} == {195_000}


def test_limits_hold_back_what_is_drawn_early(instance: Instance, plan: Plan) -> None:
    found = simulate(instance, plan, trials=100, seed=2)
    assert {"starts", "dns"} & {row.name for row in found.critical if row.kind == "limit"}


@pytest.mark.parametrize(
    "spec", ["boot", "boot:fail=1", "teleport:fail=0.1", "boot:fail=nan", "start:slow=-1"]
)
def test_a_fault_that_cannot_be_read_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_faults([spec])
    assert spec in caught.value.message


def test_trials_are_bounded(instance: Instance, plan: Plan) -> None:
    with pytest.raises(InvalidInput):
        simulate(instance, plan, trials=0)


def test_only_what_failed_of_a_batch_is_tried_again() -> None:
    luck = np.linspace(0.001, 0.999, 999)
    batch = _failures(luck, np.full(999, 0.01), np.full(999, 300.0))
    assert batch.max() <= 3
    assert (batch >= 1).mean() == pytest.approx(1 - 0.99**300, abs=0.01)
    one = _failures(luck, np.full(999, 0.2), np.ones(999))
    assert (one >= 1).mean() == pytest.approx(0.2, abs=0.01)
    assert not _failures(luck, np.zeros(999), np.ones(999)).any()
