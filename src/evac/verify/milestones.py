"""When milestones hold, from the steps alone: rules F11, F13, F18, F19 read these times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.verify.reading import Reading

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Milestones:
    """Ticks, S each (H: never). base_at, top_at: from when a milestone holds; base_gone,
    top_gone: from when a shed ends it again; primary_at: D stores; members: component -> services.
    """

    base_at: Ints
    top_at: Ints
    base_gone: Ints
    top_gone: Ints
    primary_at: Ints
    members: dict[int, tuple[int, ...]]


def milestones(reading: Reading) -> Milestones:
    """base = end of shift, or of verify where no traffic moves; a cycle gets base together."""
    instance, s = reading.instance, reading.instance.services
    count, horizon = len(s), instance.horizon
    members: dict[int, list[int]] = {}
    for service in range(count):
        members.setdefault(int(s.component[service]), []).append(service)
    base = np.array([_base_end(reading, i) for i in range(count)], np.int64)
    for group in members.values():
        lost = [i for i in group if s.base_lost[i]]
        if len(lost) > 1:
            base[lost] = max(int(base[i]) for i in lost)
    base_gone, top_gone = _gone(reading)
    primary = np.full(len(instance.stores), horizon, np.int64)
    for store, timed in reading.promotes.items():
        primary[store] = timed.end
    top, top_gone = _top(reading, base, base_gone, top_gone)
    return Milestones(base, top, base_gone, top_gone, primary, {k: tuple(v) for k, v in members.items()})


def _base_end(reading: Reading, service: int) -> int:
    s, horizon = reading.instance.services, reading.instance.horizon
    if not s.base_lost[service]:
        return 0
    if s.shift[service]:
        shift = reading.shifts.get(service)
        return shift.end if shift is not None else horizon
    verify = reading.verifies.get((service, "base"))
    return verify.end if verify is not None else horizon


def _gone(reading: Reading) -> tuple[Ints, Ints]:
    """Shedding counts from its start: base ends when fewer than m are left, top when one goes."""
    s, horizon = reading.instance.services, reading.instance.horizon
    base = np.full(len(s), horizon, np.int64)
    top = base.copy()
    for service, steps in reading.sheds.items():
        left = int(s.surviving[service])
        for timed in sorted(steps, key=lambda t: t.start):
            left -= timed.step.count
            top[service] = min(top[service], timed.start)
            if left < s.m[service]:
                base[service] = min(base[service], timed.start)
    return base, top


def _top(reading: Reading, base: Ints, base_gone: Ints, shed_top: Ints) -> tuple[Ints, Ints]:
    s, horizon = reading.instance.services, reading.instance.horizon
    top = base.copy()
    gone = np.minimum(base_gone, shed_top)
    for service in range(len(s)):
        if s.top_lost[service] and s.top_starts(service) > 0:
            verify = reading.verifies.get((service, "top"))
            top[service] = max(int(top[service]), verify.end if verify is not None else horizon)
        for other in s.soft[service]:
            top[service] = max(top[service], base[other])
            gone[service] = min(gone[service], base_gone[other])
    return top, gone


def outages(reading: Reading, times: Milestones) -> tuple[Ints, Ints]:
    """(S,) ticks of [0, H) in which base and top do not hold; a lost one counts from the grace on."""
    instance = reading.instance
    horizon, grace = instance.horizon, instance.grace
    late_base = np.maximum(np.minimum(times.base_at, horizon) - grace, 0)
    late_top = np.maximum(np.minimum(times.top_at, horizon) - grace, 0)
    base = np.minimum(late_base + (horizon - times.base_gone), horizon)
    top = np.minimum(late_top + (horizon - np.minimum(times.top_gone, times.base_gone)), horizon)
    return base, top
