"""Waves and heads: sections 3 and 4 of docs/explanation/bound.md.

A head is a tick before which a milestone cannot hold, whatever a plan does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance, Use
from evac.model.steps import StepKind
from evac.verify.bound_room import NEVER, Room, ServiceRoom

Ints = NDArray[np.int64]
_PASSES = 64


@dataclass(slots=True, eq=False)
class Heads:
    """r of bases and tops (S) and of stores (D), cut to H; e of components; v of bases; f of stores."""

    instance: Instance
    room: Room
    base: list[int]
    top: list[int]
    store: list[int]
    entry: dict[int, int] = field(default_factory=dict)
    verified: list[int] = field(default_factory=list)
    fenced: list[int] = field(default_factory=list)
    members: dict[int, list[int]] = field(default_factory=dict)
    _waits: dict[StepKind, int] = field(default_factory=dict)

    def tools(self, kind: StepKind) -> tuple[int, ...]:
        """Affected tools that a step of the kind must wait for whatever it does."""
        need = self.instance.tools.get(kind)
        return () if need is None or need.manual is not None else need.services

    def finish(self, kind: StepKind, tick: int, length: int) -> int:
        need = self.instance.tools.get(kind)
        if need is None or not need.services:
            return tick + length
        with_tools = max(tick, self._waits[kind]) + length
        return with_tools if need.manual is None else min(with_tools, tick + max(length, need.manual))

    def begin(self, kind: StepKind, tick: int) -> int:
        return max(tick, self._waits[kind]) if self.tools(kind) else tick

    def boot_wait(self) -> int:
        need = self.instance.tools.get("boot")
        powered = self.instance.first_boot
        if need is None or not need.services or self.instance.boots_by_hand:
            return powered
        if need.manual is None:
            return max(powered, self._waits["boot"])
        longest = max((k.duration for k in self.instance.boot_kinds), default=0)
        return max(powered, min(self._waits["boot"], max(0, need.manual - longest)))

    def enough(self, service: int, count: int) -> int:
        """Tick at which `count` replicas fit, boots included; NEVER cuts to H later."""
        if count <= 0:
            return 0
        tick = self.room.services[service].enough[count]
        return tick if tick in (0, NEVER) else self.boot_wait() + tick


def heads_of(instance: Instance, room: Room) -> Heads:
    """Least fixed point from below, in at most sixteen passes."""
    count = len(instance.services)
    heads = Heads(instance, room, [0] * count, [0] * count, [0] * len(instance.stores))
    for service in range(count):
        heads.members.setdefault(int(instance.services.component[service]), []).append(service)
    for _ in range(_PASSES):
        before = (list(heads.base), list(heads.top), list(heads.store))
        heads._waits = {
            k: max((heads.base[t] for t in n.services), default=0) for k, n in instance.tools.items()
        }
        _stores(heads)
        heads.verified = [0] * count
        for component in sorted(heads.members):
            _component(heads, component)
        for service in range(count):
            heads.top[service] = _top(heads, service)
        if before == (heads.base, heads.top, heads.store):
            break
    return heads


def _stores(heads: Heads) -> None:
    horizon = heads.instance.horizon
    heads.fenced = []
    for row, store in enumerate(heads.instance.stores):
        fenced = heads.finish("fence", 0, store.fence)
        ends = [
            heads.finish("promote", fenced, c.duration) if c.kind == "promote" else fenced + c.duration
            for c in store.allowed
        ]
        heads.fenced.append(fenced)
        heads.store[row] = min(min(ends, default=horizon), horizon)


def _component(heads: Heads, component: int) -> None:
    s, members = heads.instance.services, heads.members[component]
    entry = 0
    for member in members:
        for other in s.hard[member]:
            if s.component[other] != component and s.base_lost[other]:
                entry = max(entry, heads.base[other])
        entry = max([entry, *(heads.store[d] for d in s.lost_stores[member])])
    heads.entry[component] = entry
    if not s.base_lost[members[0]]:
        return
    done = max(_started(heads, member, entry) for member in members)
    last = 0
    for member in members:
        verified = heads.finish("verify", done, int(s.verify[member]))
        heads.verified[member] = verified
        if s.shift[member]:
            verified = heads.finish("shift", verified, int(s.change[member] + s.settle[member]))
        last = max(last, verified)
    if any(s.blocked[m] or _impossible(heads, m, 0) for m in members):
        last = heads.instance.horizon
    for member in members:
        heads.base[member] = min(last, heads.instance.horizon)


def _impossible(heads: Heads, service: int, milestone: int) -> bool:
    s, room = heads.instance.services, heads.room
    if not room.starts[service, milestone]:
        return False
    count = int((s.n if milestone else s.m)[service] - room.away[service])
    return not room.services[service].possible(count)


def _started(heads: Heads, service: int, entry: int) -> int:
    s, room = heads.instance.services, heads.room
    starts = int(room.starts[service, 0])
    if not starts:
        return entry
    ready = heads.begin("start", entry) + wave(heads, service, starts)
    room_at = heads.enough(service, int(s.m[service] - room.away[service]))
    return heads.finish("start", max(ready, room_at), int(s.start[service]))


def _top(heads: Heads, service: int) -> int:
    s, room, horizon = heads.instance.services, heads.room, heads.instance.horizon
    if not s.top_lost[service]:
        return 0
    if s.blocked[service] or _impossible(heads, service, 1):
        return horizon
    tick = 0
    if room.starts[service, 1]:
        entry = heads.entry[int(s.component[service])] if s.base_lost[service] else 0
        ready = heads.begin("start", entry) + wave(heads, service, int(room.starts[service].sum()))
        ready = max(ready, heads.enough(service, int(s.n[service] - room.away[service])))
        tick = heads.finish(
            "verify", heads.finish("start", ready, int(s.start[service])), int(s.verify[service])
        )
    if s.base_lost[service]:
        tick = max(tick, heads.base[service])
    tick = max([tick, *(heads.base[o] for o in s.soft[service] if s.base_lost[o])])
    return min(tick, horizon)


def start_uses(heads: Heads, service: int, pool: int) -> list[tuple[Use, int]]:
    """Uses of one start in a pool with their holds; those of no units or no hold are left out."""
    length = int(heads.instance.services.start[service])
    found = [(u, length if u.hold == WHOLE else u.hold) for u in heads.instance.pools[pool].start_uses]
    return [(u, hold) for u, hold in found if u.units and hold]


def wave(heads: Heads, service: int, count: int) -> int:
    """Least ticks between the first and the last of `count` starts."""
    if count <= 0:
        return 0
    room: ServiceRoom = heads.room.services[service]
    by_pool = [start_uses(heads, service, p) for p in room.pools]
    if not by_pool or not all(by_pool):
        return 0
    limits = heads.instance.limits
    found = []
    for limit in sorted(set.intersection(*({u.limit for u, _ in uses} for uses in by_pool))):
        pairs = [(u.units, h) for uses in by_pool for u, h in uses if u.limit == limit]
        found.append((limits[limit].capacity // min(u for u, _ in pairs), min(h for _, h in pairs)))
    chosen: dict[int, int] = {}
    holds = []
    for uses in by_pool:
        use, hold = min(
            uses, key=lambda pair: (limits[pair[0].limit].capacity // pair[0].units, pair[0].limit)
        )
        slots = limits[use.limit].capacity // use.units
        chosen[use.limit] = max(chosen.get(use.limit, 0), slots)
        holds.append(hold)
    found.append((sum(chosen.values()), min(holds)))
    return max(NEVER if slots == 0 else hold * (-(-count // slots) - 1) for slots, hold in found)
