"""Which verdicts are in doubt, because they depend on an unknown amount: derived from the steps of a plan."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from evac.derive.circles import doubtful_tools, tools_of_base, unjudged_tool
from evac.model.step_id import MOVED
from evac.verify.reading import Reading

Bools = NDArray[np.bool_]


def _left(reading: Reading, service: int) -> int:
    """Survivors that are not shed."""
    shed = sum(timed.step.count for timed in reading.sheds.get(service, ()))
    return int(reading.instance.services.surviving[service]) - shed


def _unsure_starts(reading: Reading, doubtful: set[int]) -> set[tuple[int, str]]:
    """(service, milestone) of starts that may not fit. doubtful: rows on which none is certain to.

    What must move away may not be able to, and then its row has no capacity for what starts there.
    """
    s, vague, found = reading.instance.services, reading.instance.vague, set[tuple[int, str]]()
    rows_of = {key: {row for one in steps for row, _ in one.rows} for key, steps in reading.starts.items()}
    wave = {
        key
        for key, rows in rows_of.items()
        if key[0] in vague.demand
        or rows & doubtful
        or any(s.demand[key[0]][resource] > 0 for row in rows for resource, _ in vague.rows.get(row, ()))
    }
    while wave:
        found |= wave
        stay = {service for service, milestone in wave if milestone == MOVED and s.movable[service]}
        held = {row for n in stay for one in reading.sheds.get(n, ()) for row, _ in one.rows}
        wave = {key for key, rows in rows_of.items() if rows & held} - found
    return found


def in_doubt(reading: Reading) -> tuple[Bools, Bools]:
    """(S,) services whose base may not hold, and services whose remaining replicas may not fit, or that
    softly need one whose base may not hold.
    """
    instance, s = reading.instance, reading.instance.services
    vague, size = instance.vague, len(s)
    marks = {"base": np.zeros(size, np.bool_), "top": np.zeros(size, np.bool_)}
    if not (vague or instance.unjudged):
        return marks["base"], marks["top"]
    crowded = {
        row
        for (service, _), steps in reading.starts.items()
        if service in vague.demand
        for step in steps
        for row, _ in step.rows
    }
    by_tool = set(reading.boots) if unjudged_tool(instance, "boot") else set[int]()
    if unjudged_tool(instance, "shed"):
        by_tool |= {row for steps in reading.sheds.values() for step in steps for row, _ in step.rows}
    unsure = _unsure_starts(reading, crowded | by_tool)
    for service, milestone in unsure:
        kind = (
            ("base" if _left(reading, service) < s.m[service] else "top") if milestone == MOVED else milestone
        )
        marks[kind][service] = True
    base = marks["base"]
    waits = defaultdict(set)
    for service in np.flatnonzero(s.base_lost).tolist():
        tools = {*tools_of_base(s, instance.tools, service), *doubtful_tools(s, instance.tools, service)}
        for other in tools.union(s.hard[service]):
            waits[other].add(service)
    base[list(instance.unjudged)] = True
    work = np.flatnonzero(base).tolist()
    while work:
        for user in waits[work.pop()]:
            if not base[user]:
                base[user] = True
                work.append(user)
    for service, others in enumerate(s.soft):
        marks["top"][service] |= any(base[other] or other in instance.unjudged for other in others)
    return base, marks["top"]
