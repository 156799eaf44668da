"""Plans of wild instances, with cycles, tools, hands, racks across sites and survivors, keep every rule."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from bench.wild_instances import wild_draft, wild_instance
from evac.model.instance import Instance
from evac.model.reason import Reason
from evac.planning.assembly.capacity import why_no_capacity
from evac.planning.plan import plan_instance
from evac.verify import check_instance
from tests.unit.planning.instances import build

NEEDED = (373, 1_711, 2_595, 2_806, 4_043, 4_184, 4_283, 4_697, 5_521, 5_604)
"""Where a service once took the capacity of what it needs itself."""
TOO_LATE = (540,)
"""Where a shed would free capacity that comes too late."""
ACROSS = (1_001, 1_439, 1_847, 2_458, 2_472, 4_293, 4_849)
"""Where racks or feeds lie in more than one site."""
STANDS_ON = (5_042, 5_120, 5_321)
"""Where what a service waits for, or what cannot be shed without a lost tool, holds the capacity."""

TWO_SPREADS = (112,)
"""Where the rows that are first in their rack are not the ones that are best for the feeds."""
IN_TURNS = (7_443,)
"""Where two replicas on one server must be stopped by one pair of hands."""


@pytest.mark.parametrize("seed", [*NEEDED, *TOO_LATE, *ACROSS, *STANDS_ON, *TWO_SPREADS, *IN_TURNS])
def test_no_plan_breaks_a_rule(seed: int) -> None:
    instance = wild_instance(seed)
    for work in (0, 30):
        assert not check_instance(instance, plan_instance(instance, work=work)).violations


def _fits_somewhere(instance: Instance, service: int) -> bool:
    """Whether the missing replicas of a service fit beside what may never be stopped, by trying all ways."""
    s, rows, present = instance.services, instance.rows, instance.present
    here, free = np.zeros(len(rows), np.int64), rows.capacity.copy()
    for other, row, count in zip(present.service, present.row, present.count, strict=True):
        here[row] += count * (other == service)
        free[row] -= s.demand[other] * count * (not s.sheddable[other])
    missing = int(s.m[service] - s.surviving[service])
    most = np.where(rows.is_pool, missing, np.maximum(s.per_server[service] - here, 0))
    most[~instance.eligible[service, rows.pool] | (rows.dark & (rows.boot_kind < 0))] = 0
    for amount, left in zip(s.demand[service], np.maximum(free, 0).T, strict=True):
        most = np.minimum(most, left // amount) if amount else most
    for put in product(*(range(int(n) + 1) for n in most)):
        if sum(put) == missing and all(
            not np.any(np.array(put)[there]) or (here + np.array(put))[there].sum() <= cap
            for cap, column, counts in (
                (s.rack_cap[service], rows.rack, ~rows.is_pool & (rows.rack >= 0)),
                (s.feed_cap[service], rows.feed_group, ~rows.is_pool & (rows.feed_group >= 0)),
                (s.site_cap[service], rows.site, rows.site >= 0),
            )
            for place in np.unique(column[counts])
            for there in (counts & (column == place),)
        ):
            return True
    return False


def test_no_capacity_is_said_only_where_no_way_to_place_the_service_exists() -> None:
    said = Counter[bool]()
    for seed in range(100, 190):
        instance = wild_instance(seed)
        plan = plan_instance(instance, work=0)
        for service in np.flatnonzero(instance.services.m > instance.services.surviving).tolist():
            if instance.services.hard[service]:  # what it needs itself may have to stay
                continue
            name, fits = instance.services.id[service], _fits_somewhere(instance, service)
            if why_no_capacity(instance, service) is not None:
                said[fits] += 1
            lie = tuple(
                replace(o, why=Reason("no-capacity")) if o.service == name else o for o in plan.outcomes
            )
            if fits:
                found = check_instance(instance, replace(plan, outcomes=lie)).violations
                assert ("F1", name) in {(one.rule, one.subject) for one in found}
    assert said[False]
    assert not said[True]


def test_sheds_that_cannot_go_at_once_go_one_after_the_other() -> None:
    plan = plan_instance(wild_instance(IN_TURNS[0]), work=0)
    sheds = sorted((step.start_ms, step.end_ms, step.count) for step in plan.steps if step.kind == "shed")
    assert sum(count for _, _, count in sheds) == 2
    assert [count for _, _, count in sheds] == [1, 1]
    assert sheds[0][1] <= sheds[1][0]


def _on_one_server(seed: int) -> Instance:
    """A wild instance of which one server is left, as of an estate with one self-scheduling pool."""
    draft = wild_draft(seed)
    left = next(server for server in draft.servers if not server.dark)
    services = tuple(
        replace(one, running=tuple(name for name in one.running if name == left.id)) for one in draft.services
    )
    return build(replace(draft, servers=(left,), services=services, tools={}))


def _said(value: Any) -> Any:
    """All that an instance says, with the bytes of its columns."""
    if is_dataclass(value):
        return {field.name: _said(getattr(value, field.name)) for field in fields(value)}
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


@pytest.mark.parametrize("seed", [0, 2, 3, 5])
def test_neither_planner_nor_checker_changes_the_instance_that_others_use_too(seed: int) -> None:
    for instance in (_on_one_server(seed), wild_instance(STANDS_ON[0])):
        before = pickle.dumps(_said(instance))
        for work in (0, 30):
            plan = plan_instance(instance, work=work)
            assert pickle.dumps(_said(instance)) == before
            check_instance(instance, plan)
            assert pickle.dumps(_said(instance)) == before
