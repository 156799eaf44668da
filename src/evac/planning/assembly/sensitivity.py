"""How the answer changes when demand or weights are off by 30 per cent.

Each case prices the fixed plan at the changed numbers, and makes one constructive plan anew. With
more demand a start of the fixed plan that no longer fits never happens, nor does what needs it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from evac.derive.affected import ServiceGraph, hit_by_dependency
from evac.model.fleet import BoolColumn
from evac.model.instance import Instance, Rows, Services
from evac.model.plan import Sensitivity, Step
from evac.planning.assembly.milestones import Ints, outages, price, times_of
from evac.planning.evacuation.solve import solve
from evac.steps.registry import kind_of

CASES: Final = (
    ("demand is 30 % higher", 130, 100),
    ("demand is 30 % lower", 70, 100),
    ("tier 0 and 1 weigh 30 % more", 100, 130),
    ("tier 0 and 1 weigh 30 % less", 100, 70),
)


def sensitivities(
    instance: Instance, steps: tuple[Step, ...], base: Ints, top: Ints
) -> tuple[Sensitivity, ...]:
    """All cases; base, top: outages of the fixed plan in ticks."""
    found = []
    for words, demand, weight in CASES:
        changed = _changed(instance, demand, weight)
        board = solve(changed, 0)
        again = price(changed, *outages(changed, times_of(changed, board)))
        fixed_base, fixed_top = (base, top) if demand <= 100 else _with_less_room(changed, steps, base, top)
        found.append(Sensitivity(words, price(changed, fixed_base, fixed_top), again))
    return tuple(found)


def _changed(instance: Instance, demand: int, weight: int) -> Instance:
    """Demand rounded up, rows at least what stands on them; weights of the two highest tiers scaled."""
    s = instance.services
    high = s.tier <= 1
    scaled = -(-s.demand * demand // 100)
    services = replace(
        s,
        demand=scaled,
        base_weight=np.where(high, s.base_weight * weight // 100, s.base_weight),
        top_weight=np.where(high, s.top_weight * weight // 100, s.top_weight),
    )
    return replace(instance, services=services, rows=_rows(instance, services))


def _rows(instance: Instance, services: Services) -> Rows:
    present = instance.present
    used = np.zeros_like(instance.rows.used)
    np.add.at(used, present.row, services.demand[present.service] * present.count[:, None])
    return replace(instance.rows, used=used, capacity=np.maximum(instance.rows.capacity, used))


def _with_less_room(instance: Instance, steps: tuple[Step, ...], base: Ints, top: Ints) -> tuple[Ints, Ints]:
    """Outages when starts take their rows in planned order and those that do not fit never happen."""
    s, horizon = instance.services, instance.horizon
    rows = {name: n for n, name in enumerate(instance.row_names)}
    index = {name: n for n, name in enumerate(s.id)}
    free = instance.rows.capacity - instance.rows.used
    failed = {"base": np.zeros(len(s), np.bool_), "top": np.zeros(len(s), np.bool_)}
    for step in steps:
        sign = kind_of(step.kind).replicas
        if not sign:
            continue
        service = index[step.target]
        for name, count in step.servers:
            need = s.demand[service] * count
            if sign < 0:
                free[rows[name]] += need
            elif (free[rows[name]] >= need).all():
                free[rows[name]] -= need
            else:
                failed[step.milestone][service] = True
    down = _closure(instance, failed["base"])
    return np.where(down, horizon, base), np.where(down | failed["top"], horizon, top)


def _closure(instance: Instance, down: BoolColumn) -> BoolColumn:
    """Services that are down, or hard-depend on one that is."""
    s = instance.services
    graph = ServiceGraph(s.hard, s.soft, s.hard, tuple(() for _ in s.id), {}, {})
    return hit_by_dependency(graph, down)
