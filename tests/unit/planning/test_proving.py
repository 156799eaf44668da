"""A proof that is made beside its plan is the same as one that is made after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from evac.app.planner import plans
from evac.derive.planning_instance import derive
from evac.estate.examples import pangyo
from evac.model.errors import PlanError
from evac.model.instance import Instance
from evac.model.plan import Certificate
from evac.model.scenario import lose
from evac.planning.bound import bound
from evac.planning.plan import BOUND_WORK, plan_instance
from tests.unit.planning.instances import random_variant, worked_example

Result = TypeVar("Result")


def in_a_thread(work: Callable[[], Result], /) -> Callable[[], Result]:
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def wait() -> Result:
        thread.join()
        return found[0]

    return wait


@pytest.mark.parametrize("work", [0, 300])
@pytest.mark.parametrize("instance", [worked_example(), random_variant(3), random_variant(8)])
def test_beside_and_after_make_the_same_plan(instance: Instance, work: int) -> None:
    assert plan_instance(instance, work=work, beside=in_a_thread) == plan_instance(instance, work=work)


def test_a_proof_that_begins_before_the_objective_is_known_is_the_same() -> None:
    tight = 0
    # The example company lets nothing be done for some losses: heads alone prove these plans.
    company = derive(pangyo(servers=1_000), lose("pangyo"))
    for instance in (company, worked_example(), *(random_variant(seed) for seed in range(8))):
        objective = plan_instance(instance, work=300).objective
        known = bound(instance, work=BOUND_WORK, best_objective=objective)
        assert bound(instance, work=BOUND_WORK) == known
        tight += known.heads == objective
    assert 0 < tight < 10, "some are proved by heads alone, and not looked at further"


def test_where_nothing_lost_weighs_anything_nothing_is_searched() -> None:
    base = worked_example()
    weightless: dict[str, Any] = {
        name: getattr(base.services, name) * 0 for name in ("base_weight", "top_weight")
    }
    instance = replace(base, services=replace(base.services, **weightless))
    assert bound(instance, work=BOUND_WORK) == bound(instance, work=BOUND_WORK, best_objective=5)
    assert bound(instance, work=BOUND_WORK).certificate == Certificate()


def test_the_plan_of_a_large_estate_has_a_helper_that_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    estate = pangyo(servers=1_000, mended=True)
    assert len(estate.services) >= plans.LARGE
    before, seen = threading.active_count(), []

    def progress(share: float, words: str) -> None:
        seen.append(any(one.name.startswith("evac-proof") for one in threading.enumerate()))

    beside = plans.make_plan(estate, lose("pangyo"), budget_ms=0, progress=progress)
    assert all(seen)
    assert threading.active_count() == before
    monkeypatch.setattr(plans, "LARGE", 1_000_000)
    assert plans.make_plan(estate, lose("pangyo"), budget_ms=0).data == beside.data


def test_a_plan_that_cannot_be_made_ends_its_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(instance: Instance) -> None:
        raise PlanError("no-plan", "nothing can be planned")

    monkeypatch.setattr("evac.planning.evacuation.solve.lower", refuse)
    before = threading.active_count()
    with pytest.raises(PlanError):
        plans.make_plan(pangyo(servers=1_000, mended=True), lose("pangyo"), budget_ms=0)
    assert threading.active_count() == before
