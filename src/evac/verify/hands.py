"""What hands on the floor are still free for, beside all steps of a plan."""

from __future__ import annotations

from evac.model.steps import StepKind
from evac.verify.milestones import Milestones
from evac.verify.reading import Reading


class Hands:
    """Units of each limit of manual steps that are held, as changes by tick; `take` adds to them."""

    def __init__(self, reading: Reading) -> None:
        self._instance = reading.instance
        limits = {use.limit for need in self._instance.tools.values() for use in need.manual_uses}
        names = {self._instance.limits[limit].id: limit for limit in limits}
        self._changes: dict[int, dict[int, int]] = {limit: {} for limit in limits}
        for timed in reading.steps:
            for name, units in timed.step.uses:
                if name in names:
                    self._hold(names[name], timed.start, timed.end, units)

    def _hold(self, limit: int, start: int, end: int, units: int) -> None:
        changes = self._changes[limit]
        changes[start] = changes.get(start, 0) + units
        changes[end] = changes.get(end, 0) - units

    def take(self, times: Milestones, kind: StepKind, regular: int, since: int) -> int:
        """End of one step of a kind that begins at `since` or later, done as early as hands allow.

        With its tools back, or none needed, it takes its regular time and no hands.
        """
        need = self._instance.tools.get(kind)
        if need is None or all(times.base_at[tool] < self._instance.horizon for tool in need.services):
            return since + regular
        if need.manual is None:
            return self._instance.horizon + 1
        length, start, tried = max(regular, need.manual), since, -1
        while start != tried:
            tried = start
            for use in need.manual_uses:
                start = self._earliest(use.limit, use.units, length, start)
        for use in need.manual_uses:
            self._hold(use.limit, start, start + length, use.units)
        return start + length

    def _earliest(self, limit: int, units: int, length: int, since: int) -> int:
        """First tick from `since` on at which `units` are free for `length` ticks."""
        room = self._instance.limits[limit].capacity - units
        start, held, before = since, 0, -1
        for tick in sorted(self._changes[limit]):
            if before >= start + length:
                break
            if held > room and tick > start:
                start = tick
            held += self._changes[limit][tick]
            before = tick
        return start
