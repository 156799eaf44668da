"""Compiles every kernel of the planner once, on a tiny instance: run at set-up, so that no plan waits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.instance import BootKind, Instance, Limit, PoolInfo, PowerBudget, Present, Rows, Services, Use
from evac.model.units import RESOURCE_COUNT, UNBOUNDED


def tiny_instance() -> Instance:
    """Two services and two servers, one of them dark: enough to run every kernel."""
    return Instance(
        tick_ms=1_000,
        horizon=200,
        grace=0,
        tier_weights=(8, 4, 2, 1),
        site_names=("here",),
        services=_services(),
        rows=_rows(),
        row_names=("a", "b"),
        present=Present(_index(0), _index(0), _long(1)),
        pools=(PoolInfo("here:", 0, (Use(0, 1, 0, 5),), ()),),
        eligible=np.ones((2, 1), np.bool_),
        limits=(Limit("starts", 1, 5), Limit("boots", 1)),
        boot_kinds=(BootKind("server", 10, (Use(1, 1),)),),
        power=(PowerBudget("feed", 1_000, 0),),
        stores=(),
        tools={},
        unknown=(),
        notes=(),
    )


def _index(*values: int) -> IndexColumn:
    return np.array(values, np.int32)


def _long(*values: int) -> IntColumn:
    return np.array(values, np.int64)


def _flags(*values: bool) -> BoolColumn:
    return np.array(values, np.bool_)


def _rows() -> Rows:
    return Rows(
        fleet_row=_index(0, 1),
        site=_index(0, 0),
        rack=_index(0, 1),
        feed_group=_index(0, 0),
        pool=_index(0, 0),
        is_pool=_flags(False, False),
        dark=_flags(False, True),
        capacity=np.full((2, RESOURCE_COUNT), 4, np.int64),
        used=np.array([[3] * RESOURCE_COUNT, [0] * RESOURCE_COUNT], np.int64),
        watts=_long(0, 100),
        boot_kind=_index(-1, 0),
        power=np.array([[-1] * 4, [0, -1, -1, -1]], np.int32),
    )


def _services() -> Services:
    """A running, sheddable batch job on the server where the lost front must start."""
    none, unbounded = _flags(False, False), _long(UNBOUNDED, UNBOUNDED)
    return Services(
        id=("batch", "front"),
        tier=_long(3, 0),
        people=_long(1, 10),
        n=_long(1, 2),
        m=_long(1, 1),
        surviving=_long(1, 0),
        demand=np.full((2, RESOURCE_COUNT), 3, np.int64),
        start=_long(1, 1),
        verify=_long(1, 1),
        change=_long(1, 1),
        settle=_long(0, 0),
        shed=_long(1, 1),
        per_server=_long(1, 1),
        rack_cap=unbounded,
        feed_cap=unbounded,
        site_cap=unbounded,
        conflict=_index(-1, -1),
        sheddable=_flags(True, False),
        movable=none,
        base_lost=_flags(False, True),
        top_lost=_flags(False, True),
        shift=_flags(False, True),
        blocked=none,
        component=_index(0, 1),
        base_weight=_long(1, 40),
        top_weight=_long(0, 40),
        hard=((), ()),
        hard_start=((), ()),
        soft=((), ()),
        lost_stores=((), ()),
        start_stores=((), ()),
        shift_uses=((), ()),
    )


def warm() -> None:
    """Searches the tiny instance as small and large ones are searched, boots the rest, and prices the
    baseline.
    """
    from evac.planning.evacuation.legality import lack_time
    from evac.planning.evacuation.solve import bring_up_rest, level_by_level, solve, warm_large

    instance = tiny_instance()
    board = solve(instance, 24)
    lack_time(board, np.zeros(0, np.int64), np.zeros(0, np.int64))
    bring_up_rest(replace(instance, bring_up=_flags(False, True)), board)
    warm_large(instance)
    level_by_level(instance)


if __name__ == "__main__":
    warm()
