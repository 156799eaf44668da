"""When milestones of a generation hold, and what they cost: ticks, exact integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Instance
from evac.planning.evacuation.board import SHEDS, Board

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
