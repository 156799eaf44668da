"""An instance in two parts, and without what a loss does not touch: whoever reads it plans the same."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from bench.wild_instances import wild_instance
from evac import estate as estates
from evac.derive.basis import OF_TOUCHED, basis_of, no_rows, only_touched, read_by_rows, rows_said
from evac.derive.domains import loss, topology
from evac.derive.planning_instance import derive, limits_in
from evac.derive.rows import rows_of
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.model.units import TICK_MS
from evac.planning.plan import plan_instance
from evac.verify.check import check_instance
from tests.unit.model.estates import two_sites
from tests.unit.planning.instances import random_variant
from tests.web.rooms import ESTATE


def _said(estate: Estate, *lost: str, apart: bool) -> tuple[str, str]:
    """Digests of the rows of a loss, of the whole estate or of what rows read of it."""
    top = topology(estate)
    tables = topology(read_by_rows(estate)) if apart else top
    found = rows_of(tables, loss(tables, lost), lose(*lost), limits_in(top), TICK_MS)
    said = rows_said(found, "")
    return said.core, said.capacity


@pytest.mark.parametrize("lost", ["north", "south", "hill", "river-utility"])
def test_rows_are_the_same_of_the_part_of_an_estate_that_they_read(lost: str) -> None:
    estate = estates.load(ESTATE)
    assert _said(estate, lost, apart=True) == _said(estate, lost, apart=False)


def test_rows_of_other_demand_or_of_other_sites_are_others() -> None:
    estate = two_sites()
    pay = next(s for s in estate.services if s.id == "pay")
    for changed in (replace(pay, demand=(9, *pay.demand[1:])), replace(pay, eligible_sites=("a",))):
        other = replace(estate, services=tuple(changed if s.id == "pay" else s for s in estate.services))
        assert _said(other, "a", apart=True) != _said(estate, "a", apart=True)


@pytest.mark.parametrize("seed", range(24))
def test_what_a_loss_does_not_touch_changes_no_plan(seed: int) -> None:
    instance = wild_instance(seed) if seed % 2 else random_variant(seed)
    bare = only_touched(instance)
    plan = plan_instance(bare)
    assert plan == plan_instance(instance)
    assert check_instance(instance, plan) == check_instance(bare, plan)
    assert check_instance(instance, plan).holds


def test_a_service_that_a_loss_does_not_touch_says_no_ticks_and_others_say_theirs() -> None:
    instance = derive(two_sites(), lose("a"))
    bare, s = only_touched(instance).services, instance.services
    pay, identity = s.id.index("pay"), s.id.index("identity")
    for name in OF_TOUCHED:
        assert getattr(bare, name)[identity] == 0
        assert getattr(bare, name)[pay] == getattr(s, name)[pay]
    same = {field.name for field in fields(s)} - {*OF_TOUCHED, "shift_uses"}
    for name in same:
        mine, own = getattr(bare, name), getattr(s, name)
        assert np.array_equal(mine, own) if isinstance(own, np.ndarray) else mine == own


def test_any_fact_of_a_service_but_the_ticks_of_an_untouched_one_makes_another_whole() -> None:
    top = topology(two_sites())
    instance = derive(top.estate, lose("a"), top=top, rows=no_rows(top))
    rows = rows_said(rows_of(top, loss(top, ("a",)), lose("a"), limits_in(top), TICK_MS), "")
    bare = only_touched(instance)
    whole = basis_of(bare, rows).whole
    identity = bare.services.id.index("identity")
    for field in fields(bare.services):
        values = getattr(bare.services, field.name)
        if not isinstance(values, np.ndarray):
            continue
        other = values.copy()
        other[identity] = ~other[identity] if other.dtype == np.bool_ else other[identity] + 1
        columns: dict[str, Any] = {field.name: other}
        changed = replace(bare, services=replace(bare.services, **columns))
        assert basis_of(changed, rows).whole != whole, field.name
        silent = field.name in OF_TOUCHED
        assert (basis_of(only_touched(changed), rows).whole == whole) == silent, field.name
    assert basis_of(bare, replace(rows, capacity="other")).whole != whole
    assert basis_of(bare, rows, ("version",)).whole != whole
    assert basis_of(bare, rows, (), ("estate",)).whole != whole
