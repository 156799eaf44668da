"""A proof that is made beside its plan is the same as one that is made after it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from evac.estate.example import pangyo
from evac.model.derive import derive
from evac.model.instance import Instance
from evac.model.scenario import lose
from evac.planning import proving
from evac.planning.bound import bound
from evac.planning.plan import plan_instance
from evac.testing.instances import random_variant, worked_example


@pytest.mark.parametrize("work", [0, 300])
@pytest.mark.parametrize("instance", [worked_example(), random_variant(3), random_variant(8)])
def test_beside_and_after_make_the_same_plan(
    instance: Instance, work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = plan_instance(instance, work=work)
    monkeypatch.setattr(proving, "LARGE", 0)
    assert plan_instance(instance, work=work) == after


def test_a_large_instance_has_a_helper_that_is_gone_afterwards() -> None:
    instance = derive(pangyo(servers=1_000, mended=True), lose("pangyo"))
    assert len(instance.services) >= proving.LARGE
    before = threading.active_count()
    with proving.beside(instance) as prove:
        assert threading.active_count() == before + 1
        best = 1 << 60
        assert prove(best)() == bound(instance, work=proving.WORK, best_objective=best)
        assert prove(0)().bound == bound(instance, work=proving.WORK, best_objective=0).bound
    assert threading.active_count() == before


def test_where_nothing_lost_weighs_anything_nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "LARGE", 0)
    base = worked_example()
    services = replace(
        base.services, base_weight=base.services.base_weight * 0, top_weight=base.services.top_weight * 0
    )
    instance = replace(base, services=services)
    with proving.beside(instance) as prove:
        assert prove(5)() == bound(instance, work=proving.WORK, best_objective=5)


def test_a_plan_that_cannot_be_made_ends_its_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "LARGE", 0)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), proving.beside(worked_example()):
        raise ZeroDivisionError
    assert threading.active_count() == before
