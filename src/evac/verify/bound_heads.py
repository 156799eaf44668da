"""Waves and heads: sections 3 and 4 of docs/explanation/bound.md.

A head is a tick before which a milestone cannot hold under any plan.
"""

from __future__ import annotations

from dataclasses import field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance, Use
from evac.model.records import dataclass
from evac.steps.registry import kind_of
from evac.verify.bound_capacity import NEVER, Capacity

Ints = NDArray[np.int64]
_PASSES = 64
_OF_SERVICES: Final[tuple[str, ...]] = ("start", "verify", "shift")


Pace = tuple[int, int]
"""(starts at most, in any so many ticks)."""


@dataclass(frozen=True, slots=True)
class Begins:
    """Starts of one milestone of a service, regardless of waits. wave: least ticks from the first to the
    last; capacity_at: as `ServiceCapacity.enough`; possible: whether they fit at all.
    """

    wave: int
    capacity_at: int
    possible: bool


@dataclass(slots=True, eq=False)
class _Facts:
    """Columns of the services as lists, because many passes read them one by one."""

    base_lost: list[bool]
    top_lost: list[bool]
    blocked: list[bool]
    shifts: list[bool]
    start: list[int]
    verify: list[int]
    ending: list[int]
    component: list[int]

    @classmethod
    def of(cls, instance: Instance) -> _Facts:
        s = instance.services
        return cls(
            s.base_lost.tolist(),
            s.top_lost.tolist(),
            s.blocked.tolist(),
            s.shift.astype(bool).tolist(),
            s.start.tolist(),
            s.verify.tolist(),
            (s.change + s.settle).tolist(),
            s.component.tolist(),
        )


@dataclass(slots=True, eq=False)
class Heads:
    """r of bases and tops (S) and of stores (D), cut to H; e and z of components; v of bases; f of stores.

    outside: lost services outside a component and lost stores that its members hard-need, where a loss
    affects any of them; first: those that they need to start; tails: A and B of section 5, of components they
    were asked for.
    """

    instance: Instance
    capacity: Capacity
    base: list[int]
    top: list[int]
    store: list[int]
    entry: dict[int, int] = field(default_factory=dict)
    startable: dict[int, int] = field(default_factory=dict)
    verified: list[int] = field(default_factory=list)
    fenced: list[int] = field(default_factory=list)
    members: dict[int, list[int]] = field(default_factory=dict)
    outside: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    first: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    tails: dict[int, tuple[int, int]] = field(default_factory=dict)
    _waits: dict[str, int] = field(default_factory=dict)
    _boot_wait: int = 0
    _paces: dict[tuple[tuple[int, ...], int], tuple[Pace, ...]] = field(default_factory=dict)
    _held: dict[tuple[int, int], list[tuple[Use, int]]] = field(default_factory=dict)
    _begins: dict[tuple[int, int], Begins | None] = field(default_factory=dict)

    def tools(self, kind: str) -> tuple[int, ...]:
        """Affected tools that a step of the kind must always wait for."""
        need = self.instance.tools.get(kind)
        return () if need is None or need.manual is not None else need.services

    def finish(self, kind: str, tick: int, length: int) -> int:
        need = self.instance.tools.get(kind)
        if need is None or not need.services:
            return tick + length
        with_tools = max(tick, self._waits[kind]) + length
        return with_tools if need.manual is None else min(with_tools, tick + max(length, need.manual))

    def begin(self, kind: str, tick: int) -> int:
        return max(tick, self._waits[kind]) if self.tools(kind) else tick

    def wait(self, powered: int, by_hand: bool) -> None:
        """How long steps wait for tools, by the present heads. powered: tick of the first power; by_hand:
        some servers boot by hand.
        """
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

    def waits_of_services(self) -> tuple[int, ...]:
        """All waits that a component depends on."""
        return self._boot_wait, *(self._waits.get(kind, 0) for kind in _OF_SERVICES)

    def begins(self, service: int, milestone: int) -> Begins | None:
        """None if nothing must start for it."""
        key = service, milestone
        if key not in self._begins:
            self._begins[key] = _begins(self, service, milestone)
        return self._begins[key]

    def enough(self, tick: int) -> int:
        """Tick of `ServiceCapacity.enough` with the wait for boots; NEVER cuts to H later."""
        return tick if tick in (0, NEVER) else self._boot_wait + tick


def heads_of(instance: Instance, capacity: Capacity) -> Heads:
    """Least fixed point from below, in at most sixty-four passes. Only tools need passes: components that
    contain or need a tool are recomputed if what they wait for has changed. All others are computed once,
    with the final tools: what is needed has the lower number.
    """
    count = len(instance.services)
    heads = Heads(
        instance, capacity, [0] * count, [0] * count, [0] * len(instance.stores), verified=[0] * count
    )
    facts = _Facts.of(instance)
    for service, component in enumerate(facts.component):
        heads.members.setdefault(component, []).append(service)
    lost = (instance.services.base_lost | instance.services.top_lost).tolist()
    touched = sorted(c for c, members in heads.members.items() if any(lost[member] for member in members))
    s = instance.services
    for component in touched:
        members = heads.members[component]
        heads.outside[component] = _outside(instance, members, s.hard, s.lost_stores)
        heads.first[component] = _outside(instance, members, s.hard_start, s.start_stores)
    powered, by_hand = instance.first_boot, instance.boots_by_hand
    behind = _behind_tools(heads, facts)
    again = [component for component in touched if component in behind]
    waited: tuple[int, ...] = ()
    for _ in range(_PASSES):
        known = (list(heads.base), list(heads.store))
        heads.wait(powered, by_hand)
        _stores(heads)
        same_waits = waited == (waited := heads.waits_of_services())
        for component in again:
            _component(heads, facts, component, same_waits)
        if known == (heads.base, heads.store):
            break
    for component in touched:
        if component not in behind:
            _component(heads, facts, component, False)
    for service, is_lost in enumerate(facts.top_lost):  # no head waits for a top
        if is_lost:
            heads.top[service] = _top(heads, facts, service)
    return heads


def _behind_tools(heads: Heads, facts: _Facts) -> set[int]:
    """Components of affected tools, and everything that these hard-need."""
    found: set[int] = set()
    queue = [facts.component[tool] for need in heads.instance.tools.values() for tool in need.services]
    while queue:
        component = queue.pop()
        if component not in found:
            found.add(component)
            services, _ = heads.outside.get(component, ((), ()))
            queue += [facts.component[service] for service in services]
    return found


def _outside(
    instance: Instance,
    members: list[int],
    services: tuple[tuple[int, ...], ...],
    lost_stores: tuple[tuple[int, ...], ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    s, inside = instance.services, set(members)
    needed = {other for member in members for other in services[member]} - inside
    stores = {store for member in members for store in lost_stores[member]}
    return tuple(sorted(other for other in needed if s.base_lost[other])), tuple(sorted(stores))


def _stores(heads: Heads) -> None:
    horizon = heads.instance.horizon
    heads.fenced = []
    for row, store in enumerate(heads.instance.stores):
        fenced = 0 if store.elects else heads.finish("fence", store.backup or 0, store.fence)
        ends = [
            heads.finish(c.kind, fenced, c.duration) if kind_of(c.kind).is_bounded else fenced + c.duration
            for c in store.allowed
        ]
        heads.fenced.append(fenced)
        heads.store[row] = min(min(ends, default=horizon), horizon)


def _component(heads: Heads, facts: _Facts, component: int, same_waits: bool) -> None:
    members, horizon = heads.members[component], heads.instance.horizon
    entry, startable = _all_there(heads, heads.outside[component]), _all_there(heads, heads.first[component])
    known = heads.entry.get(component), heads.startable.get(component)
    if same_waits and known == (entry, startable):
        return
    heads.entry[component], heads.startable[component] = entry, startable
    if not facts.base_lost[members[0]]:
        return
    done = max(entry, *(_started(heads, facts, member, startable) for member in members))
    last = 0
    for member in members:
        alone = member in heads.instance.services.alone
        verified = (
            done + facts.verify[member] if alone else heads.finish("verify", done, facts.verify[member])
        )
        heads.verified[member] = verified
        if facts.shifts[member]:
            verified = heads.finish("shift", verified, facts.ending[member])
        last = max(last, verified)
    if any(facts.blocked[m] or _impossible(heads, m, 0) for m in members):
        last = horizon
    for member in members:
        heads.base[member] = min(last, horizon)


def _all_there(heads: Heads, needed: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
    services, stores = needed
    return max([0, *(heads.base[other] for other in services), *(heads.store[store] for store in stores)])


def _begins(heads: Heads, service: int, milestone: int) -> Begins | None:
    s, capacity = heads.instance.services, heads.capacity
    if not capacity.starts[service, milestone]:
        return None
    count = int((s.n if milestone else s.m)[service] - capacity.away[service])
    found = capacity.services[service]
    starts = int(capacity.starts[service].sum() if milestone else capacity.starts[service, 0])
    return Begins(
        wave(heads, service, starts), found.enough[count] if count > 0 else 0, found.possible(count)
    )


def _impossible(heads: Heads, service: int, milestone: int) -> bool:
    begins = heads.begins(service, milestone)
    return begins is not None and not begins.possible


def _started(heads: Heads, facts: _Facts, service: int, entry: int) -> int:
    begins = heads.begins(service, 0)
    if begins is None:
        return entry
    ready = heads.begin("start", entry) + begins.wave
    return heads.finish("start", max(ready, heads.enough(begins.capacity_at)), facts.start[service])


def _top(heads: Heads, facts: _Facts, service: int) -> int:
    """Head of a service's top, if lost."""
    begins, horizon = heads.begins(service, 1), heads.instance.horizon
    if facts.blocked[service] or (begins is not None and not begins.possible):
        return horizon
    tick = 0
    if begins is not None:
        entry = heads.startable[facts.component[service]] if facts.base_lost[service] else 0
        ready = max(heads.begin("start", entry) + begins.wave, heads.enough(begins.capacity_at))
        tick = heads.finish(
            "verify", heads.finish("start", ready, facts.start[service]), facts.verify[service]
        )
    if facts.base_lost[service]:
        tick = max(tick, heads.base[service])
    for other in heads.instance.services.soft[service]:
        if facts.base_lost[other] and heads.base[other] > tick:
            tick = heads.base[other]
    return min(tick, horizon)


def start_uses(heads: Heads, service: int, pool: int) -> list[tuple[Use, int]]:
    """Uses of one start in a pool with their holds, except those of no units or no hold."""
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
    key = tuple(heads.capacity.services[service].pools), int(heads.instance.services.start[service])
    paces = heads._paces.get(key)
    if paces is None:
        paces = heads._paces[key] = _paces(heads, *key)
    return max((NEVER if slots == 0 else hold * (-(-count // slots) - 1) for slots, hold in paces), default=0)


def _paces(heads: Heads, pools: tuple[int, ...], start: int) -> tuple[Pace, ...]:
    """How fast starts of a given length can follow each other in some pools: by each limit shared by all, and
    by the tightest limit of each pool.
    """
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
