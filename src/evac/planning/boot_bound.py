"""How early the last of a set of servers can be on, whatever the order: a bound that limits alone give.

A boot takes `p` ticks, cannot begin before `r` (its feed has power) and holds, for each limit, `u` units
during [start + o, start + o + h). Every schedule in which all boots are over by tick M has, for each limit of
capacity C and every set A of n boots:

- chain: M >= r + p for each of them.
- area: what A holds lies within [a, M - q), where a = min(r + o) and q = min(p - o - h) over A, so that
  C * (M - q - a) >= sum of u * h: M >= a + q + ceil(that / C). q is below 0 where a hold outlives its boot.
- count: at most N = floor(C / min u) of A are held at one tick, so in the order of start + o the k-th and the
  (k + N)-th are at least min h apart: M >= min(r + o) + min h * (ceil(n / N) - 1) + min(p - o).

Both are taken over the sets A = {r + o >= x, p - o - h >= y} for all x, y that occur; any set is true.

Tools: where the tools of boots are back at T at the earliest and people can boot without them, a boot before
T takes a pair of hands for at least m ticks, so at most H * ceil(T / m) boots begin before T, H = hands at
once. All others of A begin at T or later, and hold no less than A without that many of its largest boots.
Where people have no way, all begin at T or later. Boots by hand hold the same limits for at least as long.

Servers that only people can boot wait for no tool: they hold a pair of hands like any other limit, and are
left out of what is said of late tools.

Placement, power budgets and services are ignored: dropping a rule can only lower a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance

Ints = NDArray[np.int64]
UNLIMITED: Final = 2**40


@dataclass(frozen=True, slots=True)
class WaveBound:
    """tick: no order has all servers on before; limit: id of the limit that says so, empty for a chain."""

    tick: int
    limit: str


@dataclass(frozen=True, slots=True)
class Tools:
    """back: tick before which the tools of boots do not serve; by_hand: boots that people begin before."""

    back: int = 0
    by_hand: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Kinds:
    """Kinds that use one limit: ready, ticks, units, offset, hold and number of boots of each."""

    ready: Ints
    ticks: Ints
    units: Ints
    offset: Ints
    hold: Ints
    count: Ints
    by_hand: Ints

    def where(self, mask: NDArray[np.bool_]) -> _Kinds:
        return _Kinds(*(getattr(self, name)[mask] for name in _COLUMNS))


_COLUMNS: Final = ("ready", "ticks", "units", "offset", "hold", "count", "by_hand")


def wave_bound(instance: Instance, rows: Ints, tools: Tools = Tools()) -> WaveBound:
    """The bound for booting these rows of an instance, each by its kind. O(limits x kinds^2)."""
    counts = np.bincount(instance.rows.boot_kind[rows], minlength=len(instance.boot_kinds))
    kinds: list[int] = np.flatnonzero(counts).tolist()
    best = WaveBound(_chain(instance, kinds, counts, tools), "")
    lines: dict[int, list[tuple[int, ...]]] = {}
    for k in kinds:
        kind = instance.boot_kinds[k]
        for use in kind.uses:
            hold = kind.duration if use.hold == WHOLE else use.hold
            if use.units and hold:
                line = (
                    kind.ready_least,
                    kind.duration,
                    use.units,
                    use.offset,
                    hold,
                    int(counts[k]),
                    int(kind.by_hand),
                )
                lines.setdefault(use.limit, []).append(line)
    for limit in sorted(lines):
        capacity = instance.limits[limit].capacity
        tick = limit_bound(capacity, np.array(lines[limit], np.int64), tools)
        if tick > best.tick:
            best = WaveBound(tick, instance.limits[limit].id)
    return best


def _chain(instance: Instance, kinds: list[int], counts: Ints, tools: Tools) -> int:
    """The longest of ready + boot; with late tools, of those boots that people cannot begin before."""
    alone = max(
        (instance.boot_kinds[k].ready_least + instance.boot_kinds[k].duration for k in kinds), default=0
    )
    booted = [k for k in kinds if not (instance.boot_kinds[k].by_itself or instance.boot_kinds[k].by_hand)]
    left = int(sum(counts[k] for k in booted)) - tools.by_hand
    if left <= 0:
        return alone
    ordered = sorted(booted, key=lambda k: -instance.boot_kinds[k].duration)
    passed = 0
    for k in ordered:
        passed += int(counts[k])
        if passed > tools.by_hand:
            return max(alone, tools.back + instance.boot_kinds[k].duration)
    return alone


def limit_bound(capacity: int, lines: Ints, tools: Tools = Tools()) -> int:
    """The bound of one limit. lines: (K, 7) ready, ticks, units, offset, hold, count of each kind,
    and whether only people boot it."""
    kinds = _Kinds(*np.asarray(lines, np.int64).T)
    best = 0
    ahead, behind = kinds.ready + kinds.offset, kinds.ticks - kinds.offset - kinds.hold
    for early in np.unique(ahead).tolist():
        for late in np.unique(behind).tolist():
            chosen = kinds.where((ahead >= early) & (behind >= late))
            if len(chosen.count):
                best = max(
                    best, _of_set(capacity, chosen, 0, chosen.count), _of_late(capacity, chosen, tools)
                )
    return best


def _of_set(capacity: int, kinds: _Kinds, since: int, counts: Ints) -> int:
    """Area and count of at least `counts` boots out of some kinds, none of which begins before `since`."""
    ready = np.maximum(kinds.ready, since)
    slots = capacity // int(kinds.units.min())
    if slots == 0:
        return UNLIMITED
    area = int((kinds.units * kinds.hold * counts).sum())
    ahead, behind = int((ready + kinds.offset).min()), int((kinds.ticks - kinds.offset - kinds.hold).min())
    waves = -(-int(counts.sum()) // slots) - 1
    by_count = ahead + int(kinds.hold.min()) * waves + int((kinds.ticks - kinds.offset).min())
    return max(ahead + behind + -(-area // capacity), by_count)


def _of_late(capacity: int, kinds: _Kinds, tools: Tools) -> int:
    """The same for the boots that people cannot begin before the tools are back: those of least area stay."""
    if tools.back <= 0:
        return 0
    kinds = kinds.where(kinds.by_hand == 0)
    left = tools.by_hand
    counts = kinds.count.copy()
    for k in np.argsort(-(kinds.units * kinds.hold), kind="stable").tolist():
        taken = min(left, int(counts[k]))
        counts[k] -= taken
        left -= taken
    return _of_set(capacity, kinds, tools.back, counts) if counts.sum() else 0
