"""What surely fits: where all of it does, nothing is put where nobody knows.

A plan that put a service on a pool whose capacity nobody knows, with enough known capacity left elsewhere,
could not be called proved.
"""

from __future__ import annotations

from dataclasses import replace

from evac.model.instance import Instance
from evac.planning.assembly.draft import times_of
from evac.planning.evacuation.solve import solve


def sure_first(instance: Instance) -> Instance:
    """The same instance without capacity that nobody knows, where everything comes back without it."""
    if not instance.vague.rows:
        return instance
    closed, s = _closed(instance), instance.services
    times = times_of(closed, solve(closed, 0))
    back = (times.top_at < instance.horizon) & (times.top_gone >= instance.horizon)
    stays = (times.base_gone >= instance.horizon) & (times.top_gone >= instance.horizon)
    return closed if ((back | ~(s.base_lost | s.top_lost)) & stays).all() else instance


def _closed(instance: Instance) -> Instance:
    """No capacity is left where it is not known what is free."""
    capacity = instance.rows.capacity.copy()
    for row, missing in instance.vague.rows.items():
        for resource, _ in missing:
            capacity[row, resource] = instance.rows.used[row, resource]
    return replace(instance, rows=replace(instance.rows, capacity=capacity))
