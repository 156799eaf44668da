"""The compiled passes over components that heads are found by (section 4, rule R1). Integers throughout."""

# Tables are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final, NamedTuple

from evac.model.fleet import BoolColumn, IntColumn
from evac.planning.bound.room import AT_ONCE, NEVER
from evac.planning.compiled import fill, inner, kernel

FENCE, PROMOTE, START, VERIFY, SHIFT, BOOT = range(6)
KINDS: Final = ("fence", "promote", "start", "verify", "shift", "boot")
"""Kinds of steps that heads ask for, in the order of their codes."""


class Tables(NamedTuple):
    """What passes read, and below the blank line what they find. Ragged tables: entry i
    owns values[first[i] : first[i + 1]].

    member: services of each component; outside, outside_store: what a component needs outside of itself;
    soft: of each service; option: ways back of each store, promote 1 where it is promoted. tool: of each
    kind that has any, manual: ticks people take, -1 where they cannot; place: number of each of KINDS among
    these, -1 for none. top: services with a lost top; totals: replicas that base, and base with top, need.
    entered: when all that each component needs was there, in the last pass.
    """

    member_first: IntColumn
    member: IntColumn
    outside_first: IntColumn
    outside: IntColumn
    outside_store_first: IntColumn
    outside_store: IntColumn
    soft_first: IntColumn
    soft: IntColumn
    option_first: IntColumn
    option_ticks: IntColumn
    option_promotes: BoolColumn
    tool_first: IntColumn
    tool: IntColumn
    manual: IntColumn
    place: IntColumn
    fence: IntColumn
    base_lost: BoolColumn
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
    waits: IntColumn


@kernel
def run_passes(t: Tables, horizon: int, first_boot: int, by_hand: bool, longest: int, most: int) -> int:
    """Passes until no head changes, at most `most`; the tick of the first possible boot.

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
    """Brings up to date when the tools of each kind serve. The tick of the first possible boot; less than 0,
    -1 - tick, where a wait for tools changed.
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
        fenced = _finish(t, FENCE, 0, t.fence[d])
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
    """Over components for which anything changed since the pass before."""
    changed = False
    for number in range(len(t.entered)):
        entry = 0
        for k in range(t.outside_first[number], t.outside_first[number + 1]):
            entry = max(entry, t.base[t.outside[k]])
        for k in range(t.outside_store_first[number], t.outside_store_first[number + 1]):
            entry = max(entry, t.store[t.outside_store[k]])
        if entry == t.entered[number]:
            continue
        t.entered[number] = entry
        first, last = t.member_first[number], t.member_first[number + 1]
        if t.base_lost[t.member[first]]:
            head = _component(t, first, last, entry, horizon, boot_wait)
            for k in range(first, last):
                changed |= t.base[t.member[k]] != head
                t.base[t.member[k]] = head
    return changed


@inner
def _component(t: Tables, first: int, last: int, entry: int, horizon: int, boot_wait: int) -> int:
    done, never, end = entry, False, 0
    for k in range(first, last):
        s = t.member[k]
        t.begin[s] = _begin(t, START, entry)
        if t.base_starts[s] > 0:
            done = max(done, _started(t, s, t.base_wave[s], t.base_tick[s], boot_wait))
            never |= t.fits[s] < t.base_total[s]
        never |= t.blocked[s]
    for k in range(first, last):
        end = max(end, _served(t, t.member[k], done))
    return horizon if never else min(horizon, end)


@inner
def _started(t: Tables, s: int, wave: int, room_tick: int, boot_wait: int) -> int:
    """When the last of some starts of a service can end."""
    room = 0 if room_tick == AT_ONCE else min(NEVER, room_tick + boot_wait)
    return _finish(t, START, max(t.begin[s] + wave, room), t.start[s])


@inner
def _served(t: Tables, s: int, done: int) -> int:
    t.verified[s] = _finish(t, VERIFY, done, t.verify[s])
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
