"""Steps of a cold start other than boots (power, attestations, copies that follow again), and its wave of
boots.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import WHOLE, Instance, LeftOff
from evac.model.plan import Wave
from evac.model.reason import OffReason
from evac.model.records import dataclass
from evac.model.step_id import member_step, power_step, target_step
from evac.planning.assembly.draft import Draft
from evac.planning.evacuation.board import NEVER, Board
from evac.steps.registry import kind_of

BY_ITSELF = "by_itself"
"""Boot parameter of a server that comes on with its power: only observe it."""


def power_steps(draft: Draft) -> None:
    """What is energised, in the order and at the ticks given by the estate."""
    steps = draft.instance.power_steps
    for step in steps:
        draft.add(
            "power",
            step.target,
            power_step(step.target),
            step.start,
            step.end,
            manual=step.manual,
            after=tuple(power_step(steps[number].target) for number in step.after),
        )


def boot_fields(draft: Draft, row: int) -> dict[str, object]:
    """Which power step a boot waits for, and whether it happens by itself."""
    instance = draft.instance
    fields: dict[str, object] = {}
    if len(instance.powered_by) and instance.powered_by[row] >= 0:
        fields["after"] = (power_step(instance.power_steps[int(instance.powered_by[row])].target),)
    if instance.boot_kinds[int(instance.rows.boot_kind[row])].by_itself:
        fields["parameters"] = {BY_ITSELF: True}
        fields["precheck"] = "its rack has power"
    return fields


def attest_steps(draft: Draft) -> None:
    """One for each service that a person must free before it starts."""
    for service, ticks in sorted(draft.instance.attests.items()):
        name = draft.instance.services.id[service]
        if ticks <= draft.instance.horizon:
            draft.add("attest", name, target_step("attest", name), 0, ticks, manual=True)


def reprotect_steps(draft: Draft) -> None:
    """Copies that are behind, once their primary is there and they have power."""
    instance = draft.instance
    powered = max((step.end for step in instance.power_steps), default=0)
    for copy in instance.reprotects:
        after: tuple[str, ...] = ()
        since = powered
        if copy.lost >= 0:
            entry = draft.board.store[copy.lost]
            if not 0 <= entry["primary_at"] < NEVER:
                continue
            chosen = instance.stores[copy.lost].candidates[int(entry["candidate"])]
            if not kind_of(chosen.kind).restores and chosen.id == copy.member:
                continue
            after = (draft.promote_of[copy.lost],)
            since = max(since, int(entry["primary_at"]))
        if since + copy.ticks <= instance.horizon:
            draft.add(
                "reprotect",
                copy.store,
                member_step("reprotect", copy.store, copy.member),
                since,
                since + copy.ticks,
                candidate=copy.member,
                manual=True,
                after=after,
            )


def left_off(instance: Instance, board: Board) -> tuple[LeftOff, ...]:
    """Servers of the domain that stay off: those that are no rows, and those without a possible boot."""
    rows = instance.brought_up
    still = rows[board.row["on_at"][rows] < 0]
    found: dict[tuple[str, OffReason], list[str]] = {}
    for row in still.tolist():
        site = instance.site_names[int(instance.rows.site[row])]
        found.setdefault((site, _why(instance, board, row)), []).append(instance.row_names[row])
    more = [LeftOff(site, why, tuple(sorted(names))) for (site, why), names in found.items()]
    return tuple(sorted((*instance.left_off, *more), key=lambda x: (x.domain, x.reason)))


def _why(instance: Instance, board: Board, row: int) -> OffReason:
    watts = int(instance.rows.watts[row])
    for number in instance.rows.power[row].tolist():
        if number >= 0 and int(board.budget[number]["left"]) < watts:
            return OffReason("not-enough-power", instance.power[number].id)
    return OffReason("late")


def wave_of(instance: Instance, board: Board, better: Instance, boot_tools: int) -> Wave | None:
    """When the last server of the domain is on, and the earliest possible in any order; None: no domain.

    The bound is proved for `better`: facts known within bounds at their better ends.
    """
    rows = instance.brought_up.astype(np.int64)
    on = board.row["on_at"][rows]
    rows = rows[on >= 0]
    if not len(rows):
        return None
    bound = wave_bound(better, rows_in(better, instance, rows), tools_of(better, boot_tools))
    tick = instance.tick_ms
    return Wave(len(rows), int(on.max()) * tick, min(bound.tick, int(on.max())) * tick, bound.limit)


def rows_in(better: Instance, instance: Instance, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same servers in the better-ends instance; missing ones only lower a bound."""
    if better is instance:
        return rows
    index = {name: row for row, name in enumerate(better.row_names)}
    found = [index.get(instance.row_names[row], -1) for row in rows.tolist()]
    return np.array([row for row in found if row >= 0 and better.rows.dark[row]], np.int64)


def tools_of(instance: Instance, back: int) -> Tools:
    """How many boots people can begin before the boot tools are back."""
    need = instance.tools.get("boot")
    if need is None or not need.services or back <= 0:
        return Tools()
    if need.manual is None:
        return Tools(back, 0)
    hands = min((instance.limits[u.limit].capacity // u.units for u in need.manual_uses), default=UNLIMITED)
    return Tools(back, min(UNLIMITED, hands * -(-back // max(1, need.manual))))


Ints = NDArray[np.int64]
UNLIMITED: Final = 2**40


@dataclass(frozen=True, slots=True)
class WaveBound:
    """tick: no order has all servers on before it; limit: id of the limit that determines it, empty for a
    chain.
    """

    tick: int
    limit: str


@dataclass(frozen=True, slots=True)
class Tools:
    """back: tick before which boot tools do not serve; by_hand: boots that people begin before."""

    back: int = 0
    by_hand: int = 0


NO_TOOLS = Tools()


@dataclass(frozen=True, slots=True, eq=False)
class _Kinds:
    """Boot kinds that use one limit: ready, ticks, units, offset, hold and number of boots of each."""

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


def wave_bound(instance: Instance, rows: Ints, tools: Tools = NO_TOOLS) -> WaveBound:
    """How early the last of these rows can be on, whatever the order: a bound that limits alone give.

    A boot takes `p` ticks, cannot begin before `r` (its feed has power) and holds, for each limit, `u` units
    during [start + o, start + o + h). If all boots are over by tick M, then for each limit of capacity C and
    every set A of n boots:

    - chain: M >= r + p for each of them.
    - area: what A holds lies within [a, M - q), where a = min(r + o) and q = min(p - o - h) over A, so that
      C * (M - q - a) >= sum of u * h: M >= a + q + ceil(that / C). q is below 0 if a hold outlives its boot.
    - count: at most N = floor(C / min u) of A are held at one tick, so in the order of start + o the k-th and
      the (k + N)-th are at least min h apart: M >= min(r + o) + min h * (ceil(n / N) - 1) + min(p - o).

    Both are taken over the sets A = {r + o >= x, p - o - h >= y} for all x, y that occur; any set is true.

    Tools: if the tools of boots are back at T at the earliest and people can boot without them, a boot before
    T takes a pair of hands for at least m ticks, so at most H * ceil(T / m) boots begin before T, H = hands
    at once. All others of A begin at T or later, and hold no less than A without that many of its largest
    boots. If people have no way, all begin at T or later. Boots by hand hold the same limits for at least as
    long. Servers that only people can boot wait for no tool: they hold a pair of hands like any other limit,
    and are left out of what is said of late tools.

    Placement, power budgets and services are ignored: dropping a rule can only lower a lower bound.
    O(limits x kinds^2).
    """
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
    """The longest ready + boot; with late tools, among the boots that people cannot begin before."""
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


def limit_bound(capacity: int, lines: Ints, tools: Tools = NO_TOOLS) -> int:
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
    """Area and count bound of at least `counts` boots of some kinds, none of which begins before `since`."""
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
    """The same for boots that people cannot begin before the tools are back: those with the least area
    remain.
    """
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
