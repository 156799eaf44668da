"""When milestones of a generation hold, what they cost, and how that changes with demand and weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.derive.affected import ServiceGraph, hit_by_dependency
from evac.model.instance import Instance
from evac.model.plan import Sensitivity, Step
from evac.planning.evacuation.board import SHEDS, Board
from evac.steps.registry import kind_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Ticks, S each, H where it never happens: base and top hold from `*_at` until `*_gone`."""

    base_at: Ints
    top_at: Ints
    base_gone: Ints
    top_gone: Ints


def times_of(instance: Instance, board: Board) -> Times:
    """Base from the board; top after own base, own verify and soft needs; a shed ends both."""
    s, horizon = instance.services, instance.horizon
    base = np.minimum(board.service["base_at"], horizon)
    base_gone, top_gone = _gone(instance, board)
    top = base.copy()
    own = np.where(board.service["top_own"] < 0, horizon, np.minimum(board.service["top_own"], horizon))
    for service in range(len(s)):
        if s.top_lost[service] and s.top_starts(service):
            top[service] = max(top[service], own[service])
        for other in s.soft[service]:
            top[service] = max(top[service], base[other])
            top_gone[service] = min(top_gone[service], base_gone[other])
    return Times(base, top, base_gone, np.minimum(top_gone, base_gone))


def _gone(instance: Instance, board: Board) -> tuple[Ints, Ints]:
    s, horizon = instance.services, instance.horizon
    base = np.full(len(s), horizon, np.int64)
    top = base.copy()
    left = s.surviving.copy()
    log = board.shed[: board.size[SHEDS]]
    victim = board.present["service"][log["entry"]]
    order = np.lexsort((victim, log["at"]))
    columns = (victim[order].tolist(), log["at"][order].tolist(), log["count"][order].tolist())
    for service, at, count in zip(*columns, strict=True):
        left[service] -= count
        top[service] = min(top[service], at)
        if left[service] < s.m[service]:
            base[service] = min(base[service], at)
    return base, top


def outages(instance: Instance, times: Times) -> tuple[Ints, Ints]:
    """(S,) ticks without base and without top; a lost milestone counts from the grace on."""
    horizon, grace = instance.horizon, instance.grace
    base = np.maximum(times.base_at - grace, 0) + horizon - times.base_gone
    top = np.maximum(times.top_at - grace, 0) + horizon - times.top_gone
    return np.minimum(base, horizon), np.minimum(top, horizon)


def price(instance: Instance, base: Ints, top: Ints, weighted: bool = True) -> int:
    """Z of outages, or the same with weight 1 for everybody.

    Of a tier that weighs nothing an instance does not hold who is without service: to count its people,
    give an instance of other weights.
    """
    s = instance.services
    base_weight, top_weight = s.base_weight.astype(object), s.top_weight.astype(object)
    if not weighted:
        tier = np.maximum(1, np.array(instance.tier_weights, np.int64))[s.tier]
        base_weight, top_weight = base_weight // tier, top_weight // tier
    return int((base_weight * base + top_weight * top).sum())


CASES: Final = (
    ("demand is 30 % higher", 130, 100),
    ("demand is 30 % lower", 70, 100),
    ("tier 0 and 1 weigh 30 % more", 100, 130),
    ("tier 0 and 1 weigh 30 % less", 100, 70),
)


def sensitivities(
    instance: Instance, steps: tuple[Step, ...], base: Ints, top: Ints
) -> tuple[Sensitivity, ...]:
    """What the objective becomes when demand or weights are off by 30 per cent: of the fixed plan, whose
    outages are `base` and `top` in ticks, and of a new constructive plan. With more demand a start of the
    fixed plan that no longer fits never happens, nor does what needs it.
    """
    from evac.planning.evacuation.solve import solve

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
    present = instance.present
    used = np.zeros_like(instance.rows.used)
    np.add.at(used, present.row, services.demand[present.service] * present.count[:, None])
    rows = replace(instance.rows, used=used, capacity=np.maximum(instance.rows.capacity, used))
    return replace(instance, services=services, rows=rows)


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
    graph = ServiceGraph(s.hard, s.soft, s.hard, tuple(() for _ in s.id), {}, {})
    down = hit_by_dependency(graph, failed["base"])
    return np.where(down, horizon, base), np.where(down | failed["top"], horizon, top)
