"""Whether time is left, beside all steps of a plan, to bring back a service that is down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Use
from evac.model.steps import StepKind
from evac.verify.limits import holdings
from evac.verify.made_room import NEVER, Ready
from evac.verify.milestones import Milestones
from evac.verify.order import dependencies_ready
from evac.verify.reading import Reading

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Action:
    """What one unit action would hold, from `start` to `end`, in ticks."""

    start: int
    end: int
    uses: tuple[Use, ...]


class Slots:
    """Units of each limit that are held, tick by tick, by the steps of a plan; `take` adds to them."""

    def __init__(self, reading: Reading) -> None:
        self._instance = reading.instance
        self._holdings = holdings(reading)
        self._held: dict[int, Ints] = {}

    def look(
        self, times: Milestones, kind: StepKind, uses: tuple[Use, ...], regular: int, since: int
    ) -> Action | None:
        """One action of a kind from `since` on, as early as limits allow, with its tools or by hand,
        whichever ends first; None where it would end after the horizon."""
        found = None
        for ready, length, held in self._ways(times, kind, uses, regular, since):
            start = self._earliest(held, length, ready)
            if start + length <= self._instance.horizon and (found is None or start + length < found.end):
                found = Action(start, start + length, held)
        return found

    def take(self, action: Action, count: int = 1) -> int:
        """Hold what up to `count` such actions hold, all at one tick; how many there is room for."""
        length = action.end - action.start
        taken = min([count, *(self._room(use, length, action.start) for use in action.uses)])
        for use in action.uses:
            begin, stop = _hold(use, length, action.start)
            self._column(use.limit)[begin:stop] += taken * use.units
        return taken

    def _ways(
        self, times: Milestones, kind: StepKind, uses: tuple[Use, ...], regular: int, since: int
    ) -> list[tuple[int, int, tuple[Use, ...]]]:
        """(first tick, ticks, uses) with tools and by hand."""
        need = self._instance.tools.get(kind)
        tools = 0 if need is None else max((int(times.base_at[tool]) for tool in need.services), default=0)
        found = [(max(since, tools), regular, uses)] if tools < self._instance.horizon else []
        if tools and need is not None and need.manual is not None:
            found.append((since, max(regular, need.manual), uses + need.manual_uses))
        return found

    def _earliest(self, uses: Sequence[Use], length: int, since: int) -> int:
        """First tick from `since` on at which one action fits; beyond H where there is none."""
        at, tried = since, -1
        while at != tried and at <= self._instance.horizon:
            tried = at
            for use in uses:
                begin, stop = _hold(use, length, at)
                room = self._instance.limits[use.limit].capacity - use.units
                clash = np.flatnonzero(self._column(use.limit)[begin:stop] > room)
                if len(clash):
                    at += int(clash[-1]) + 1
        return at

    def _room(self, use: Use, length: int, at: int) -> int:
        begin, stop = _hold(use, length, at)
        busiest = int(self._column(use.limit)[begin:stop].max(initial=0))
        return (self._instance.limits[use.limit].capacity - busiest) // use.units if use.units else 2**40

    def _column(self, limit: int) -> Ints:
        """(ticks,) units of a limit that are held."""
        if limit not in self._held:
            _, begin, end, units = self._holdings[self._holdings[:, 0] == limit].T
            change = np.zeros(max(self._instance.horizon, int(end.max(initial=0))) + 2, np.int64)
            np.add.at(change, begin, units)
            np.add.at(change, end, -units)
            self._held[limit] = np.cumsum(change)
        return self._held[limit]


def _hold(use: Use, length: int, start: int) -> tuple[int, int]:
    begin = start + use.offset
    return begin, begin + (length if use.hold == WHOLE else use.hold)


def _pools_ready(slots: Slots, reading: Reading, times: Milestones, rows: Ready) -> dict[int, int]:
    """Pool -> first tick at which a server of it is on and a shed, where it takes one, could be over."""
    found: dict[int, int] = {}
    ends: dict[tuple[int, int], int] = {}
    columns = (column.tolist() for column in (rows.pool, rows.on, rows.done, rows.due))
    for pool, on, done, due in zip(*columns, strict=True):
        at = done
        if due < done:
            if (pool, due) not in ends:
                uses = reading.instance.pools[pool].shed_uses
                shed = slots.look(times, "shed", uses, due, 0)
                ends[pool, due] = NEVER if shed is None else shed.end
            at = min(done, ends[pool, due])
        found[pool] = min(found.get(pool, NEVER), max(on, at))
    return found


def time_left(reading: Reading, times: Milestones, service: int, missing: int, ready_rows: Ready) -> bool:
    """Whether a service that lacks `missing` replicas could still be back before the horizon, room put aside.

    ready_rows: the rows it would fit on. Where a shed has to make the room, nothing starts before one could
    be over. The starts, then the verify and the shift, are put after what the service waits for, each as
    early as tools, hands and limits allow beside all other steps.
    """
    instance, s = reading.instance, reading.instance.services
    members = times.members[int(s.component[service])]
    ready, _ = dependencies_ready(reading, times, service)
    ready = max([ready, *(instance.attests.get(member, 0) for member in members)])
    slots, last = Slots(reading), ready
    pools = _pools_ready(slots, reading, times, ready_rows)
    while missing > 0:
        starts = (
            slots.look(times, "start", instance.pools[pool].start_uses, int(s.start[service]), max(ready, on))
            for pool, on in sorted(pools.items())
        )
        first = min((start for start in starts if start is not None), key=lambda a: a.end, default=None)
        if first is None:
            return False
        missing, last = missing - slots.take(first, missing), max(last, first.end)
    rest: list[tuple[StepKind, tuple[Use, ...], int]] = [("verify", (), int(s.verify[service]))]
    if s.shift[service]:
        rest.append(("shift", s.shift_uses[service], int(s.change[service] + s.settle[service])))
    for kind, uses, regular in rest:
        step = slots.look(times, kind, uses, regular, last)
        if step is None:
            return False
        slots.take(step)
        last = step.end
    return last < instance.horizon
