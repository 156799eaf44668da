"""The passes over components that heads are found by, without a compiler: what the compiled ones must
find.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from evac.model.instance import Instance
from evac.planning.bound.capacity import AT_ONCE, NEVER, Capacity, Needs
from evac.planning.bound.heads import Heads, by_hand, needs_tools, outside

PASSES = 64


def plain_passes(instance: Instance, needs: Needs, capacity: Capacity, heads: Heads) -> Heads:
    """Heads with waves, tails and pools set, and everything else found anew."""
    one = PlainPasses(instance, needs, capacity, heads)
    for _ in range(PASSES):
        before = (list(heads.base), list(heads.top), list(heads.store))
        one.run()
        if before == (heads.base, heads.top, heads.store):
            break
    return heads


@dataclass(slots=True, eq=False)
class PlainPasses:
    """Passes, one after the other, component by component. outside: services and stores that each component
    needs outside of itself, first: to start; fits (S): replicas that fit at all; entered: when all that each
    component needs was there, and what it needs to start, last time.
    """

    instance: Instance
    needs: Needs
    capacity: Capacity
    heads: Heads
    outside: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    fits: list[int] = field(default_factory=list)
    first: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    entered: list[tuple[int, int] | None] = field(default_factory=list)
    first_boot: int = 0
    boots_by_hand: bool = False
    top_lost: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        instance, services = self.instance, self.instance.services
        self.outside = [outside(instance, members) for members in self.heads.components]
        self.fits = self.capacity.per_site.sum(axis=1).tolist()
        self.first = [outside(instance, members, to_start=True) for members in self.heads.components]
        self.entered = [None] * len(self.heads.components)
        self.first_boot, self.boots_by_hand = instance.first_boot, instance.boots_by_hand
        self.top_lost = np.flatnonzero(services.top_lost).tolist()

    def run(self) -> None:
        """One pass with the waits that the pass before left: over components for which anything changed."""
        heads, horizon = self.heads, self.instance.horizon
        before = heads.waits, heads.boot_wait
        heads.waits = {
            kind: max(heads.base[t] for t in need.services)
            for kind, need in self.instance.tools.items()
            if need.services
        }
        heads.boot_wait = self._boot_wait()
        for d in range(len(self.instance.stores)):
            heads.store[d] = min(horizon, self._store(d))
        if before != (heads.waits, heads.boot_wait):
            self.entered = [None] * len(heads.components)
        for number, members in enumerate(heads.components):
            entry, startable = self._there(*self.outside[number]), self._there(*self.first[number])
            if (entry, startable) != self.entered[number]:
                self.entered[number] = entry, startable
                if self.instance.services.base_lost[members[0]]:
                    self._component(members, entry, startable)
        for s in self.top_lost:
            heads.top[s] = min(horizon, self._top(s))

    def _there(self, services: tuple[int, ...], stores: tuple[int, ...]) -> int:
        heads = self.heads
        return max([0, *(heads.base[j] for j in services), *(heads.store[d] for d in stores)])

    def _finish(self, kind: str, tick: int, duration: int) -> int:
        need = self.instance.tools.get(kind)
        if need is None or not need.services:
            return tick + duration
        waiting = max(tick, self.heads.waits[kind]) + duration
        return waiting if need.manual is None else min(waiting, tick + max(duration, need.manual))

    def _begin(self, kind: str, tick: int) -> int:
        if needs_tools(self.instance, kind) and not by_hand(self.instance, kind):
            return max(tick, self.heads.waits[kind])
        return tick

    def _boot_wait(self) -> int:
        need = self.instance.tools.get("boot")
        if need is None or not need.services or self.boots_by_hand:
            return self.first_boot
        wait = self.heads.waits["boot"]
        if need.manual is not None:
            longest = max((b.duration for b in self.instance.boot_kinds), default=0)
            wait = min(wait, max(0, need.manual - longest))
        return max(wait, self.first_boot)

    def _store(self, d: int) -> int:
        store = self.instance.stores[d]
        fenced = 0 if store.elects else self._finish("fence", 0, store.fence)
        self.heads.fenced[d] = fenced
        ends = [
            self._finish("promote", fenced, c.duration) if c.kind == "promote" else fenced + c.duration
            for c in store.allowed
        ]
        return min(ends, default=NEVER)

    def _tick(self, tick: int) -> int:
        """A tick of section 2 in ticks of the plan."""
        return 0 if tick == AT_ONCE else min(NEVER, tick + self.heads.boot_wait)

    def _impossible(self, s: int, count: int) -> bool:
        return self.fits[s] < count

    def _component(self, members: list[int], earliest: int, startable: int) -> None:
        services, heads = self.instance.services, self.heads
        done, never = earliest, False
        for s in members:
            heads.begin[s] = self._begin("start", startable)
            if self.needs.base_starts[s] > 0:
                done = max(done, self._started(s, heads.base_wave[s], int(self.capacity.base_tick[s])))
                never = never or self._impossible(s, int(self.needs.base_total[s]))
            never = never or bool(services.blocked[s])
        ends = [self._served(s, done) for s in members]
        head = self.instance.horizon if never else min(self.instance.horizon, max(ends))
        for s in members:
            heads.base[s] = head

    def _started(self, s: int, wave: int, capacity_tick: int) -> int:
        """When the last of some starts of a service can end."""
        last = max(self.heads.begin[s] + wave, self._tick(capacity_tick))
        return self._finish("start", last, int(self.instance.services.start[s]))

    def _served(self, s: int, done: int) -> int:
        services = self.instance.services
        self.heads.verified[s] = self._finish("verify", done, int(services.verify[s]))
        if not services.shift[s]:
            return self.heads.verified[s]
        self.heads.shifting[s] = self._begin("shift", self.heads.verified[s])
        return self._finish("shift", self.heads.verified[s], int(services.change[s] + services.settle[s]))

    def _top(self, s: int) -> int:
        services, heads = self.instance.services, self.heads
        if services.blocked[s]:
            return self.instance.horizon
        head = max([heads.base[j] for j in services.soft[s]], default=0)
        head = max(head, heads.base[s])
        if self.needs.top_starts[s] > 0:
            if not services.base_lost[s]:
                heads.begin[s] = self._begin("start", 0)
            total = int(self.needs.base_total[s] + self.needs.top_total[s])
            if self._impossible(s, total):
                return self.instance.horizon
            started = self._started(s, heads.top_wave[s], int(self.capacity.top_tick[s]))
            head = max(head, self._finish("verify", started, int(services.verify[s])))
        return head
