"""Waves and heads: sections 3 and 4 of docs/explanation/bound.md.

A head is a tick before which a milestone cannot hold, whatever a plan does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance, Use
from evac.model.steps import StepKind
from evac.verify.bound_room import NEVER, Room

Ints = NDArray[np.int64]
_PASSES = 64


Pace = tuple[int, int]
"""(starts at most, in any so many ticks)."""


@dataclass(slots=True, eq=False)
class Heads:
    """r of bases and tops (S) and of stores (D), cut to H; e of components; v of bases; f of stores.

    outside: lost services outside a component and lost stores that its members hard-need, where a loss
    touches any of them; tails: A and B of section 5, of components they were asked for.
    """

    instance: Instance
    room: Room
    base: list[int]
    top: list[int]
    store: list[int]
    entry: dict[int, int] = field(default_factory=dict)
    verified: list[int] = field(default_factory=list)
    fenced: list[int] = field(default_factory=list)
    members: dict[int, list[int]] = field(default_factory=dict)
    outside: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    tails: dict[int, tuple[int, int]] = field(default_factory=dict)
    _waits: dict[StepKind, int] = field(default_factory=dict)
    _boot_wait: int = 0
    _paces: dict[tuple[tuple[int, ...], int], tuple[Pace, ...]] = field(default_factory=dict)
    _held: dict[tuple[int, int], list[tuple[Use, int]]] = field(default_factory=dict)

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

    def wait(self, powered: int, by_hand: bool) -> None:
        """How long tools keep steps waiting, by the heads as they are. powered: tick of the first power;
        by_hand: some servers boot by hand."""
        self._waits = {
            k: max((self.base[t] for t in n.services), default=0) for k, n in self.instance.tools.items()
        }
        need = self.instance.tools.get("boot")
        self._boot_wait = powered
        if need is None or not need.services or by_hand:
            return
        until = self._waits["boot"]
        if need.manual is not None:
            longest = max((k.duration for k in self.instance.boot_kinds), default=0)
            until = min(until, max(0, need.manual - longest))
        self._boot_wait = max(powered, until)

    def boot_wait(self) -> int:
        return self._boot_wait

    def enough(self, service: int, count: int) -> int:
        """Tick at which `count` replicas fit, boots included; NEVER cuts to H later."""
        if count <= 0:
            return 0
        tick = self.room.services[service].enough[count]
        return tick if tick in (0, NEVER) else self._boot_wait + tick


def heads_of(instance: Instance, room: Room) -> Heads:
    """Least fixed point from below, in at most sixty-four passes; a pass looks again only at components that
    wait for something that has changed."""
    count = len(instance.services)
    heads = Heads(instance, room, [0] * count, [0] * count, [0] * len(instance.stores), verified=[0] * count)
    for service, component in enumerate(instance.services.component.tolist()):
        heads.members.setdefault(component, []).append(service)
    lost = (instance.services.base_lost | instance.services.top_lost).tolist()
    touched = sorted(c for c, members in heads.members.items() if any(lost[member] for member in members))
    heads.outside = {component: _outside(instance, heads.members[component]) for component in touched}
    powered, by_hand = instance.first_boot, instance.boots_by_hand
    before = None
    for _ in range(_PASSES):
        known = (list(heads.base), list(heads.top), list(heads.store))
        waited = heads._waits, heads._boot_wait
        heads.wait(powered, by_hand)
        _stores(heads)
        same_waits = before is not None and waited == (heads._waits, heads._boot_wait)
        for component in touched:
            _component(heads, component, same_waits)
        for service in np.flatnonzero(instance.services.top_lost).tolist():
            heads.top[service] = _top(heads, service)
        before = known
        if before == (heads.base, heads.top, heads.store):
            break
    return heads


def _outside(instance: Instance, members: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    s, inside = instance.services, set(members)
    needed = {other for member in members for other in s.hard[member]} - inside
    stores = {store for member in members for store in s.lost_stores[member]}
    return tuple(sorted(other for other in needed if s.base_lost[other])), tuple(sorted(stores))


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


def _component(heads: Heads, component: int, same_waits: bool) -> None:
    s, members = heads.instance.services, heads.members[component]
    services, stores = heads.outside[component]
    entry = max([0, *(heads.base[other] for other in services), *(heads.store[store] for store in stores)])
    if same_waits and heads.entry[component] == entry:
        return
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
    return _held(heads, pool, int(heads.instance.services.start[service]))


def _held(heads: Heads, pool: int, length: int) -> list[tuple[Use, int]]:
    found = heads._held.get((pool, length))
    if found is None:
        uses = heads.instance.pools[pool].start_uses
        holds = [(u, length if u.hold == WHOLE else u.hold) for u in uses]
        found = heads._held[pool, length] = [(u, hold) for u, hold in holds if u.units and hold]
    return found


def wave(heads: Heads, service: int, count: int) -> int:
    """Least ticks between the first and the last of `count` starts."""
    if count <= 0:
        return 0
    key = tuple(heads.room.services[service].pools), int(heads.instance.services.start[service])
    paces = heads._paces.get(key)
    if paces is None:
        paces = heads._paces[key] = _paces(heads, *key)
    return max((NEVER if slots == 0 else hold * (-(-count // slots) - 1) for slots, hold in paces), default=0)


def _paces(heads: Heads, pools: tuple[int, ...], start: int) -> tuple[Pace, ...]:
    """How fast starts of a length can follow each other in some pools: by each limit that all of them share,
    and by one limit a pool, the tightest."""
    by_pool = [_held(heads, p, start) for p in pools]
    if not by_pool or not all(by_pool):
        return ()
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
    return (*found, (sum(chosen.values()), min(holds)))
