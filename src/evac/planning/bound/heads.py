"""Heads: ticks before which no milestone can hold, whatever the plan (section 4, rule R1).

Found in passes over all milestones until nothing changes, compiled.
"""

# Tables are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Final, NamedTuple, TypeVar

import numpy as np

from evac.model.fleet import BoolColumn, IntColumn
from evac.model.instance import WHOLE, Instance, Use
from evac.model.records import dataclass
from evac.planning.bound.capacity import AT_ONCE, NEVER, Capacity, Needs
from evac.planning.compiled import fill, inner, kernel
from evac.steps.boot import Boot
from evac.steps.fence import Fence
from evac.steps.promote import Promote
from evac.steps.registry import kind_of, planned_in_order
from evac.steps.shift import Shift
from evac.steps.start import Start
from evac.steps.verify import Verify

_PASSES = 64

Entry = TypeVar("Entry")


@dataclass(slots=True, eq=False)
class Heads:
    """Earliest ticks, cut to the horizon.

    base, top, store: heads of milestones (0 for running ones). begin (S): when the first start of
    a service can begin; verified (S): when its base is verified; shifting (S): when its traffic can
    begin to move; fenced: when a store is. tail (S): ticks from the last start's end to base, of its
    component. base_wave, top_wave (S). boot_wait: tick of the first possible boot. components:
    members of each, what is needed first.
    """

    base: list[int]
    top: list[int]
    store: list[int]
    begin: list[int]
    verified: list[int]
    shifting: list[int]
    fenced: list[int]
    tail: list[int]
    base_wave: list[int]
    top_wave: list[int]
    components: list[list[int]]
    pools: list[tuple[int, ...]]
    boot_wait: int = 0
    waits: dict[str, int] = field(default_factory=dict)


def needs_tools(instance: Instance, kind: str) -> bool:
    need = instance.tools.get(kind)
    return need is not None and bool(need.services)


def by_hand(instance: Instance, kind: str) -> bool:
    """Whether people may do steps of this kind because its tools are lost."""
    need = instance.tools.get(kind)
    return need is not None and bool(need.services) and need.manual is not None


def heads_of(instance: Instance, needs: Needs, capacity: Capacity) -> Heads:
    """Passes over the components until no head changes; every pass gives valid heads."""
    count = len(instance.services)
    members: dict[int, list[int]] = {}
    for s, component in enumerate(instance.services.component.tolist()):
        members.setdefault(component, []).append(s)
    heads = Heads(
        [0] * count,
        [0] * count,
        [0] * len(instance.stores),
        [0] * count,
        [0] * count,
        [0] * count,
        [0] * len(instance.stores),
        [0] * count,
        [0] * count,
        [0] * count,
        [members[c] for c in sorted(members)],
        pools_of(capacity),
    )
    _set_waves_and_tails(instance, needs, heads)
    tables = _tables(instance, needs, capacity, heads)
    longest = max((b.duration for b in instance.boot_kinds), default=0)
    heads.boot_wait = int(
        run_passes(tables, instance.horizon, instance.first_boot, instance.boots_by_hand, longest, _PASSES)
    )
    for name in ("base", "top", "store", "begin", "verified", "shifting", "fenced"):
        setattr(heads, name, getattr(tables, name).tolist())
    kinds = [kind for kind, need in instance.tools.items() if need.services]
    heads.waits = dict(zip(kinds, tables.waits.tolist(), strict=True))
    return heads


def pools_of(capacity: Capacity) -> list[tuple[int, ...]]:
    """For each service the pools where any of it fits."""
    return [tuple(p for p, n in enumerate(row) if n > 0) for row in capacity.per_pool.tolist()]


def outside(
    instance: Instance, members: list[int], to_start: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lost services and stores outside a component that its members need to serve, or only to start."""
    services = instance.services
    hard, lost = services.hard, services.lost_stores
    if to_start:
        hard, lost = services.hard_start, services.start_stores
    needed = {j for s in members for j in hard[s]} - set(members)
    stores = {d for s in members for d in lost[s]}
    return tuple(sorted(j for j in needed if services.base_lost[j])), tuple(sorted(stores))


def _set_waves_and_tails(instance: Instance, needs: Needs, heads: Heads) -> None:
    services, waves = instance.services, Waves(instance)
    for s in range(len(services)):
        base, both = int(needs.base_starts[s]), int(needs.base_starts[s] + needs.top_starts[s])
        start = int(services.start[s])
        heads.base_wave[s] = waves.wave(heads.pools[s], start, base)
        heads.top_wave[s] = waves.wave(heads.pools[s], start, both)
    for members in heads.components:
        longest = max(after_start(instance, s) for s in members)
        for s in members:
            heads.tail[s] = longest


def after_start(instance: Instance, s: int) -> int:
    """Ticks of verify, change and settle of one service."""
    services = instance.services
    shift = int(services.change[s] + services.settle[s]) if services.shift[s] else 0
    return int(services.verify[s]) + shift


def _tables(instance: Instance, needs: Needs, capacity: Capacity, heads: Heads) -> Tables:
    """Input of the passes. Kinds of steps whose tools are lost come in the order of the instance."""
    s, stores = instance.services, instance.stores
    around = [outside(instance, members) for members in heads.components]
    first = [outside(instance, members, to_start=True) for members in heads.components]
    kinds = [kind for kind, need in instance.tools.items() if need.services]
    tools = [instance.tools[kind] for kind in kinds]
    found = {name: np.zeros(len(s), np.int64) for name in ("base", "top", "begin", "verified", "shifting")}
    option_first, options = _ragged([store.allowed for store in stores])
    return Tables(
        *_columns(heads.components),
        *_columns([services for services, _ in around]),
        *_columns([lost for _, lost in around]),
        *_columns([services for services, _ in first]),
        *_columns([lost for _, lost in first]),
        *_columns(s.soft),
        option_first,
        _column(c.duration for c in options),
        np.array([kind_of(c.kind).is_bounded for c in options], np.bool_),
        *_columns([need.services for need in tools]),
        manual=_column(-1 if need.manual is None else need.manual for need in tools),
        place=_column(kinds.index(kind) if kind in kinds else -1 for kind in KINDS),
        backup=_column(store.backup or 0 for store in stores),
        fence=_column(store.fence for store in stores),
        elects=np.array([store.elects for store in stores], np.bool_),
        base_lost=s.base_lost,
        alone=np.isin(np.arange(len(s)), list(s.alone)),
        blocked=s.blocked,
        shifts=s.shift,
        start=s.start,
        verify=s.verify,
        shift=s.change + s.settle,
        base_starts=needs.base_starts,
        top_starts=needs.top_starts,
        base_total=needs.base_total,
        both_total=needs.base_total + needs.top_total,
        fits=capacity.per_site.sum(axis=1),
        base_wave=_column(heads.base_wave),
        top_wave=_column(heads.top_wave),
        base_tick=capacity.base_tick,
        top_tick=capacity.top_tick,
        top_lost=np.flatnonzero(s.top_lost),
        **found,
        store=np.zeros(len(stores), np.int64),
        fenced=np.zeros(len(stores), np.int64),
        entered=np.full(len(heads.components), -1, np.int64),
        startable=np.full(len(heads.components), -1, np.int64),
        waits=np.zeros(len(kinds), np.int64),
    )


def _column(values: Iterable[int]) -> IntColumn:
    return np.array(list(values), np.int64)


def _ragged(lists: Iterable[Sequence[Entry]]) -> tuple[IntColumn, list[Entry]]:
    """Where each list begins among the entries of all, and these."""
    rows = list(lists)
    ends = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    return ends, [entry for row in rows for entry in row]


def _columns(lists: Iterable[Sequence[int]]) -> tuple[IntColumn, IntColumn]:
    first, entries = _ragged(lists)
    return first, _column(entries)


FENCE: Final = Fence.bound_code
PROMOTE: Final = Promote.bound_code
START: Final = Start.bound_code
VERIFY: Final = Verify.bound_code
SHIFT: Final = Shift.bound_code
BOOT: Final = Boot.bound_code
KINDS: Final = planned_in_order(lambda kind: kind.bound_code)
"""Kinds of steps that heads use, in the order of their codes."""


class Tables(NamedTuple):
    """What passes read, and below the blank line what they find. Ragged tables: entry i
    owns values[first[i] : first[i + 1]].

    member: services of each component; outside, outside_store: what a component needs outside of itself, and
    of that first, first_store: what it needs to start;
    soft: of each service; option: ways back of each store, promote 1 where it is promoted. tool: of each
    kind that has any, manual: ticks people take, -1 if they cannot; place: number of each of KINDS among
    these, -1 for none. top: services with a lost top; totals: replicas that base, and base with top, need.
    entered, startable: when all that each component needs was there, and what it needs to start, in the last
    pass.
    """

    member_first: IntColumn
    member: IntColumn
    outside_first: IntColumn
    outside: IntColumn
    outside_store_first: IntColumn
    outside_store: IntColumn
    first_first: IntColumn
    first: IntColumn
    first_store_first: IntColumn
    first_store: IntColumn
    soft_first: IntColumn
    soft: IntColumn
    option_first: IntColumn
    option_ticks: IntColumn
    option_promotes: BoolColumn
    tool_first: IntColumn
    tool: IntColumn
    manual: IntColumn
    place: IntColumn
    backup: IntColumn
    fence: IntColumn
    elects: BoolColumn
    base_lost: BoolColumn
    alone: BoolColumn
    blocked: BoolColumn
    shifts: BoolColumn
    start: IntColumn
    verify: IntColumn
    shift: IntColumn
    base_starts: IntColumn
    top_starts: IntColumn
    base_total: IntColumn
    both_total: IntColumn
    fits: IntColumn
    base_wave: IntColumn
    top_wave: IntColumn
    base_tick: IntColumn
    top_tick: IntColumn
    top_lost: IntColumn

    base: IntColumn
    top: IntColumn
    store: IntColumn
    begin: IntColumn
    verified: IntColumn
    shifting: IntColumn
    fenced: IntColumn
    entered: IntColumn
    startable: IntColumn
    waits: IntColumn


@kernel
def run_passes(t: Tables, horizon: int, first_boot: int, by_hand: bool, longest: int, most: int) -> int:
    """Passes until no head changes, at most `most`; returns the tick of the first possible boot.

    first_boot: tick before which no server can boot; by_hand: no tool is waited for; longest: of boots.
    """
    boot_wait = 0
    for _ in range(most):
        wait = _waits(t, first_boot, by_hand, longest)
        anew = wait < 0
        wait = -1 - wait if anew else wait
        if anew or wait != boot_wait:
            fill(t.entered, -1)
        boot_wait = wait
        changed = _stores(t, horizon)
        changed |= _components(t, horizon, boot_wait)
        changed |= _tops(t, horizon, boot_wait)
        if not changed:
            break
    return boot_wait


@inner
def _waits(t: Tables, first_boot: int, by_hand: bool, longest: int) -> int:
    """Updates when the tools of each kind serve. Returns the tick of the first possible boot, or -1 - tick if
    a wait for tools changed.
    """
    changed = False
    for k in range(len(t.waits)):
        at = 0
        for j in range(t.tool_first[k], t.tool_first[k + 1]):
            at = max(at, t.base[t.tool[j]])
        changed |= at != t.waits[k]
        t.waits[k] = at
    found, kind = first_boot, t.place[BOOT]
    if kind >= 0 and not by_hand:
        wait = t.waits[kind]
        if t.manual[kind] >= 0:
            wait = min(wait, max(0, t.manual[kind] - longest))
        found = max(wait, first_boot)
    return -1 - found if changed else found


@inner
def _finish(t: Tables, step: int, tick: int, duration: int) -> int:
    """When a step that could begin at a tick ends, with its tools or by hand."""
    kind = t.place[step]
    if kind < 0:
        return tick + duration
    waiting = max(tick, t.waits[kind]) + duration
    if t.manual[kind] < 0:
        return waiting
    return min(waiting, tick + max(duration, t.manual[kind]))


@inner
def _begin(t: Tables, step: int, tick: int) -> int:
    """When a step can begin that could at a tick, were its tools there."""
    kind = t.place[step]
    return max(tick, t.waits[kind]) if kind >= 0 and t.manual[kind] < 0 else tick


@inner
def _stores(t: Tables, horizon: int) -> bool:
    changed = False
    for d in range(len(t.store)):
        fenced = 0 if t.elects[d] else _finish(t, FENCE, t.backup[d], t.fence[d])
        t.fenced[d] = fenced
        end = NEVER
        for k in range(t.option_first[d], t.option_first[d + 1]):
            ticks = t.option_ticks[k]
            end = min(end, _finish(t, PROMOTE, fenced, ticks) if t.option_promotes[k] else fenced + ticks)
        end = min(horizon, end)
        changed |= end != t.store[d]
        t.store[d] = end
    return changed


@inner
def _components(t: Tables, horizon: int, boot_wait: int) -> bool:
    """Passes over components for which anything changed since the previous pass."""
    changed = False
    for number in range(len(t.entered)):
        entry = 0
        for k in range(t.outside_first[number], t.outside_first[number + 1]):
            entry = max(entry, t.base[t.outside[k]])
        for k in range(t.outside_store_first[number], t.outside_store_first[number + 1]):
            entry = max(entry, t.store[t.outside_store[k]])
        startable = 0
        for k in range(t.first_first[number], t.first_first[number + 1]):
            startable = max(startable, t.base[t.first[k]])
        for k in range(t.first_store_first[number], t.first_store_first[number + 1]):
            startable = max(startable, t.store[t.first_store[k]])
        if entry == t.entered[number] and startable == t.startable[number]:
            continue
        t.entered[number], t.startable[number] = entry, startable
        first, last = t.member_first[number], t.member_first[number + 1]
        if t.base_lost[t.member[first]]:
            head = _component(t, first, last, entry, startable, horizon, boot_wait)
            for k in range(first, last):
                changed |= t.base[t.member[k]] != head
                t.base[t.member[k]] = head
    return changed


@inner
def _component(
    t: Tables, first: int, last: int, entry: int, startable: int, horizon: int, boot_wait: int
) -> int:
    done, never, end = entry, False, 0
    for k in range(first, last):
        s = t.member[k]
        t.begin[s] = _begin(t, START, startable)
        if t.base_starts[s] > 0:
            done = max(done, _started(t, s, t.base_wave[s], t.base_tick[s], boot_wait))
            never |= t.fits[s] < t.base_total[s]
        never |= t.blocked[s]
    for k in range(first, last):
        end = max(end, _served(t, t.member[k], done))
    return horizon if never else min(horizon, end)


@inner
def _started(t: Tables, s: int, wave: int, capacity_tick: int, boot_wait: int) -> int:
    """When the last of some starts of a service can end."""
    capacity = 0 if capacity_tick == AT_ONCE else min(NEVER, capacity_tick + boot_wait)
    return _finish(t, START, max(t.begin[s] + wave, capacity), t.start[s])


@inner
def _served(t: Tables, s: int, done: int) -> int:
    t.verified[s] = done + t.verify[s] if t.alone[s] else _finish(t, VERIFY, done, t.verify[s])
    if not t.shifts[s]:
        return t.verified[s]
    t.shifting[s] = _begin(t, SHIFT, t.verified[s])
    return _finish(t, SHIFT, t.verified[s], t.shift[s])


@inner
def _tops(t: Tables, horizon: int, boot_wait: int) -> bool:
    changed = False
    for k in range(len(t.top_lost)):
        s = t.top_lost[k]
        head = min(horizon, _top(t, s, horizon, boot_wait))
        changed |= head != t.top[s]
        t.top[s] = head
    return changed


@inner
def _top(t: Tables, s: int, horizon: int, boot_wait: int) -> int:
    if t.blocked[s]:
        return horizon
    head = t.base[s]
    for k in range(t.soft_first[s], t.soft_first[s + 1]):
        head = max(head, t.base[t.soft[k]])
    if t.top_starts[s] > 0:
        if not t.base_lost[s]:
            t.begin[s] = _begin(t, START, 0)
        if t.fits[s] < t.both_total[s]:
            return horizon
        started = _started(t, s, t.top_wave[s], t.top_tick[s], boot_wait)
        head = max(head, _finish(t, VERIFY, started, t.verify[s]))
    return head


def hold_of(use: Use, duration: int) -> int:
    """Ticks a use lasts in a step of a duration."""
    return duration if use.hold == WHOLE else use.hold


@dataclass(slots=True, eq=False)
class Waves:
    """Waves by (pools, ticks of a start), each combination computed once."""

    instance: Instance
    _paces: dict[tuple[tuple[int, ...], int], tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def wave(self, pools: tuple[int, ...], start: int, count: int) -> int:
        """Least ticks from the first to the last of `count` starts."""
        if count <= 0 or not pools:
            return 0
        longest = 0
        for batch, hold in self.paces(pools, start):
            if batch == 0:
                return NEVER
            longest = max(longest, hold * (-(-count // batch) - 1))
        return longest

    def paces(self, pools: tuple[int, ...], start: int) -> tuple[tuple[int, int], ...]:
        """(starts at most in any `hold` ticks, hold) of each limit or combination."""
        key = (pools, start)
        if key not in self._paces:
            uses = [
                [u for u in self.instance.pools[p].start_uses if u.units > 0 and hold_of(u, start) > 0]
                for p in pools
            ]
            self._paces[key] = (*self._shared(uses, start), *self._chosen(uses, start))
        return self._paces[key]

    def _shared(self, uses: list[list[Use]], start: int) -> Iterable[tuple[int, int]]:
        """Limits that a start in each pool holds."""
        common = set.intersection(*({u.limit for u in some} for some in uses))
        for limit in sorted(common):
            held = [u for some in uses for u in some if u.limit == limit]
            batch = self.instance.limits[limit].capacity // min(u.units for u in held)
            yield batch, min(hold_of(u, start) for u in held)

    def _chosen(self, uses: list[list[Use]], start: int) -> Iterable[tuple[int, int]]:
        """One limit per pool, the tightest: together they bound the rate."""
        if not all(uses):
            return
        limits = self.instance.limits
        batches: dict[int, int] = {}
        holds = []
        for some in uses:
            use = min(some, key=lambda u: (limits[u.limit].capacity // u.units, u.limit))
            batch = limits[use.limit].capacity // use.units
            batches[use.limit] = max(batches.get(use.limit, 0), batch)
            holds.append(hold_of(use, start))
        yield sum(batches.values()), min(holds)
