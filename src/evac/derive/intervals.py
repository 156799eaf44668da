"""Facts known only within bounds: the plan uses the worse end, the lower bound uses the better end.

An `Estate` holds the worse end of each such fact, and a sparse table `intervals`. Planner, audit and
simulation read the estate as it is. `bound_instance` derives the same scenario from the better ends: whatever
the truth within the intervals, no plan can cost less than what is proved for that instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from evac.derive.planning_instance import derive
from evac.model.estate import Estate, Interval
from evac.model.fleet import Fleet, IntColumn
from evac.model.instance import Instance, LostStore, PowerBudget
from evac.model.scenario import Policy, Scenario
from evac.model.units import RESOURCE_COUNT

Tree = dict[str | int, Any]


def interval_paths(estate: Estate) -> tuple[str, ...]:
    """Paths of the facts known only within bounds, sorted."""
    return tuple(sorted(interval.path for interval in estate.intervals))


def bound_instance(
    estate: Estate, scenario: Scenario, policy: Policy, tick_ms: int, planned: Instance
) -> Instance:
    """The instance for which a bound must be proved: `planned` itself if all facts are exact.

    Raises UnknownDomain.
    """
    chooses = any(need.any_of for service in estate.services for need in service.needs)
    chooses |= any(len(group) > 1 for group in estate.tool_groups(estate.tools))
    if not (estate.intervals or planned.estimated or chooses):
        return planned
    good = derive(good_ends(estate), scenario, policy, tick_ms, good=True)
    np.maximum(good.rows.capacity, _capacity_as_planned(good, planned), out=good.rows.capacity)
    return replace(good, power=_power(good, planned), stores=_stores(estate, good))


def good_ends(estate: Estate) -> Estate:
    """The estate with the better end of every interval. Unchanged: facts replaced since, and the time when
    plans start, because whatever is done by then is bounded from there on.
    """
    tree: Tree = {}
    for interval in estate.intervals:
        branch = tree
        for step in interval.where[:-1]:
            branch = branch.setdefault(step, {})
        branch[interval.where[-1]] = interval
    better: Estate = _better(estate, tree)
    return replace(
        better,
        fleet=_fleet(estate, better),
        intervals=(),
        detection_ms=estate.detection_ms,
        approval_ms=estate.approval_ms,
    )


def _better(thing: Any, tree: Tree | Interval) -> Any:
    if isinstance(tree, Interval):
        return tree.better if thing == tree.worse else thing
    if isinstance(thing, Mapping):
        found = {key: _better(value, tree[key]) if key in tree else value for key, value in thing.items()}
        return MappingProxyType(found)
    if isinstance(thing, tuple):
        return tuple(_better(item, tree[key]) if key in tree else item for key, item in _items(thing))
    changed = {str(key): _better(getattr(thing, str(key)), branch) for key, branch in tree.items()}
    return replace(thing, **changed)


def _items(entries: tuple[Any, ...]) -> list[tuple[str | int, Any]]:
    """Entries by id; those without one by their number."""
    return [(getattr(item, "id", row), item) for row, item in enumerate(entries)]


def _fleet(estate: Estate, better: Estate) -> Fleet:
    """Servers that take a value from their class follow it; a value in a table is exact."""
    fleet, capacity, watts = estate.fleet, estate.fleet.capacity, estate.fleet.watts
    for row, (bad, good) in enumerate(zip(estate.classes, better.classes, strict=True)):
        mine = fleet.server_class == row
        for resource in range(RESOURCE_COUNT):
            low, high = bad.capacity[resource], good.capacity[resource]
            if low is not None and high is not None and low != high:
                capacity = capacity.copy() if capacity is fleet.capacity else capacity
                same = mine & fleet.capacity_known[:, resource] & (fleet.capacity[:, resource] == low)
                capacity[same, resource] = high
        if bad.watts is not None and good.watts is not None and bad.watts != good.watts:
            watts = watts.copy() if watts is fleet.watts else watts
            watts[mine & fleet.watts_known & (fleet.watts == bad.watts)] = good.watts
    return replace(fleet, capacity=capacity, watts=watts)


def _capacity_as_planned(good: Instance, planned: Instance) -> IntColumn:
    """Capacity of each row in the planned instance, 0 if it has no such row.

    Rows that carry more than they have were raised to their load, which lighter replicas would not show. The
    free capacity of a pool is at least that in the plan, even if more replicas stay in it.
    """
    index = {name: row for row, name in enumerate(planned.row_names)}
    same = np.array([index.get(name, -1) for name in good.row_names], np.int64)
    if not len(planned.rows):
        return np.zeros_like(good.rows.capacity)
    had, free = planned.rows.capacity[same], (planned.rows.capacity - planned.rows.used)[same]
    free = np.where(good.rows.is_pool[:, None], good.rows.used + free, 0)
    return np.where(same[:, None] >= 0, np.maximum(had, free), 0)


def _power(good: Instance, planned: Instance) -> tuple[PowerBudget, ...]:
    """Budgets never below those of the plan, which were raised to what is on."""
    had = {budget.id: budget.watts for budget in planned.power}
    return tuple(replace(b, watts=max(b.watts, had.get(b.id, 0))) for b in good.power)


def _stores(estate: Estate, good: Instance) -> tuple[LostStore, ...]:
    """If several lost stores of a family could come back, a plan's choice depends on the truth: it is never
    faster than the quickest, and uses no limit unless all of them do.
    """
    family = {store.id: store.family for store in estate.stores}
    counts: dict[str, int] = {}
    for store in good.stores:
        counts[family[store.id]] = counts.get(family[store.id], 0) + 1
    return tuple(_unlimited(store) if counts[family[store.id]] > 1 else store for store in good.stores)


def _unlimited(store: LostStore) -> LostStore:
    return replace(store, fence_uses=(), candidates=tuple(replace(c, uses=()) for c in store.candidates))
