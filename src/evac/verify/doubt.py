"""Services whose verdict depends on an unknown amount, derived from the steps."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from evac.derive.circles import tools_of_base
from evac.verify.reading import Reading

Bools = NDArray[np.bool_]


def in_doubt(reading: Reading) -> tuple[Bools, Bools]:
    """(S,) services whose base may not hold, and services whose remaining replicas may not fit."""
    instance, s = reading.instance, reading.instance.services
    vague, size = instance.vague, len(s)
    marks = {"base": np.zeros(size, np.bool_), "top": np.zeros(size, np.bool_)}
    if not vague:
        return marks["base"], marks["top"]
    crowded = {
        row
        for (service, _), steps in reading.starts.items()
        if service in vague.demand
        for step in steps
        for row, _ in step.rows
    }
    for (service, milestone), steps in reading.starts.items():
        rows = {row for step in steps for row, _ in step.rows}
        needs = s.demand[service]
        marks[milestone][service] |= (
            service in vague.demand
            or not crowded.isdisjoint(rows)
            or any(needs[resource] > 0 for row in rows for resource, _ in vague.rows.get(row, ()))
        )
    base = marks["base"]
    waits = defaultdict(set)
    for service in np.flatnonzero(s.base_lost).tolist():
        for other in (*s.hard[service], *tools_of_base(s, instance.tools, service)):
            waits[other].add(service)
    work = np.flatnonzero(base).tolist()
    while work:
        for user in waits[work.pop()]:
            if not base[user]:
                base[user] = True
                work.append(user)
    return base, marks["top"]
