"""An instance in two parts: rows, which take long to work out and which few changes of an estate touch, and
the rest. Whoever keeps many plans of one estate tells by them what a change touches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from evac.derive.power import POWER_COLUMNS
from evac.derive.rows import RowSet, demand_of
from evac.model.domain import Topology
from evac.model.estate import Estate, Service
from evac.model.instance import Instance, Present, Rows
from evac.model.units import RESOURCE_COUNT

OF_TOUCHED: Final = ("start", "verify", "change", "settle")
"""Ticks of a service that no step takes unless it is touched. What is shed takes its own."""


def read_by_rows(estate: Estate) -> Estate:
    """The estate with all that rows are made of and nothing else: of services what one replica takes and
    where it may run, and no stores. Rows of both are the same.
    """
    services = tuple(
        Service(s.id, demand=s.demand, eligible_sites=s.eligible_sites, eligible_classes=s.eligible_classes)
        for s in estate.services
    )
    return replace(estate, services=services, stores=())


def no_rows(top: Topology) -> RowSet:
    """What stands for the rows of an instance of which only the rest is asked."""
    index, flags, amounts = np.zeros(0, np.int32), np.zeros(0, np.bool_), np.zeros(0, np.int64)
    room, power = np.zeros((0, RESOURCE_COUNT), np.int64), np.zeros((0, POWER_COLUMNS), np.int32)
    rows = Rows(index, index, index, index, index, flags, flags, room, room, amounts, index, power)
    eligible = np.zeros((len(top.estate.services), 0), np.bool_)
    return RowSet(rows, (), Present(index, index, amounts), (), eligible, (), (), demand_of(top), ())


def only_touched(instance: Instance) -> Instance:
    """The same instance but for how long services take to start, to be verified and to be given their traffic
    that the loss does not touch, nor any other of their component: it says nothing of that. Plans, bounds and
    the checker's words are the same.
    """
    s = instance.services
    touched = np.zeros(int(s.component.max(initial=-1)) + 1, np.bool_)
    touched[s.component[s.base_lost | s.top_lost]] = True
    mine = touched[s.component]
    ticks: dict[str, Any] = {name: np.where(mine, getattr(s, name), 0) for name in OF_TOUCHED}
    uses = tuple(own if here else () for own, here in zip(s.shift_uses, mine.tolist(), strict=True))
    return replace(instance, services=replace(s, **ticks, shift_uses=uses))
