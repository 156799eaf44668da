"""What surely fits first: services go where it is known that they fit, and only the others where it is not.

A plan that put a service on a pool whose capacity nobody knows, with enough known capacity left elsewhere,
could not be called proved.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evac.model.fleet import BoolColumn
from evac.model.instance import Instance
from evac.planning.assembly.draft import times_of
from evac.planning.evacuation.solve import solve


def sure_first(instance: Instance) -> Instance:
    """The same instance with less to choose from: what surely fits does not go where nobody knows."""
    if not instance.vague.rows:
        return instance
    closed = _closed(instance, np.ones(len(instance.rows), np.bool_))
    times, s = times_of(closed, solve(closed, 0)), instance.services
    back = (times.top_at < instance.horizon) & (times.top_gone >= instance.horizon)
    whole = (times.base_at < instance.horizon) & (times.base_gone >= instance.horizon)
    starts = np.array([s.base_starts(row) > 0 for row in range(len(s))], np.bool_)
    sure = back | (whole & starts)
    sure[list(instance.vague.demand)] = False
    touched = s.base_lost | s.top_lost
    if (sure | ~touched).all():
        return closed
    eligible = instance.eligible.copy()
    rows = instance.rows
    owned = [row for row in instance.vague.rows if rows.is_pool[row]]
    for row in owned:
        asked = s.demand[:, [resource for resource, _ in instance.vague.rows[row]]].any(axis=1)
        eligible[sure & asked, rows.pool[row]] = False
    bare = np.ones(len(rows), np.bool_)
    bare[owned] = False
    # Servers beside which nobody knows what is free are left to services that find no place without them.
    pools = np.zeros(eligible.shape[1], np.bool_)
    pools[rows.pool[bare]] = True
    needed = bool((eligible[touched & ~sure][:, pools]).any())
    return replace(instance if needed else _closed(instance, bare), eligible=eligible)


def _closed(instance: Instance, which: BoolColumn) -> Instance:
    """No capacity left on those of some rows where it is not known what is free."""
    capacity = instance.rows.capacity.copy()
    for row, missing in instance.vague.rows.items():
        for resource, _ in missing if which[row] else ():
            capacity[row, resource] = instance.rows.used[row, resource]
    return replace(instance, rows=replace(instance.rows, capacity=capacity))
