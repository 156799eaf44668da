"""Lowers an instance to its board: every table filled once, linear in rows, replicas and edges."""

from __future__ import annotations

import contextlib
import itertools
import mmap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evac.derive.circles import doubted_with, never_planned, tools_of_base, unjudged_tool
from evac.derive.stores import freshness
from evac.model.errors import InvalidInput
from evac.model.instance import Candidate, Instance, LostStore, Use
from evac.model.objectives import accepts
from evac.model.units import RESOURCE_COUNT
from evac.planning.evacuation import board as b
from evac.planning.evacuation.board import Board, Ints, Table
from evac.steps.boot import Boot
from evac.steps.shed import Shed

CELLS_MAX: Final = 2_000_000_000
"""Limits times ticks: 8 GB."""


class _UseSets:
    """Numbered sets of uses; equal sets share a number and the empty one is 0."""

    def __init__(self) -> None:
        self._index: dict[tuple[Use, ...], int] = {(): 0}

    def number(self, uses: Sequence[Use]) -> int:
        kept = tuple(u for u in uses if u.units > 0)
        return self._index.setdefault(kept, len(self._index))

    def lines(self) -> list[list[int]]:
        """Line numbers of each set, in the order of `table`."""
        ends = np.cumsum([0, *(len(s) for s in self._index)]).tolist()
        return [list(range(a, z)) for a, z in itertools.pairwise(ends)]

    def table(self) -> Table:
        lines = [(u.limit, u.units, u.offset, u.hold) for s in self._index for u in s]
        return np.array(lines, b.USE_TYPE).reshape(len(lines))


class _Heap:
    """Ragged and plain tables, one after the other."""

    def __init__(self) -> None:
        self._parts: dict[int, Ints] = {}

    def ragged(self, table: int, lists: Iterable[Iterable[int]]) -> None:
        rows = [list(r) for r in lists]
        pointer = np.cumsum([len(rows) + 1, *(len(r) for r in rows)])
        self._parts[table] = np.r_[pointer, [v for r in rows for v in r]].astype(np.int64)

    def flat(self, table: int, ends: Ints, values: Ints) -> None:
        """A ragged table already laid out: entry i owns values[ends[i] : ends[i + 1]]."""
        self._parts[table] = np.r_[ends + len(ends), values].astype(np.int64)

    def plain(self, table: int, values: Iterable[int] | Ints) -> None:
        self._parts[table] = np.array(values if isinstance(values, np.ndarray) else list(values), np.int64)

    def build(self) -> tuple[Ints, Ints]:
        """Heap and bases; pointers of ragged tables become places in the heap."""
        base = np.zeros(len(self._parts), np.int64)
        at = 0
        for table in sorted(self._parts):
            base[table] = at
            part = self._parts[table]
            if table <= b.DOUBTED_WITH:
                part[: int(part[0])] += at
            at += len(part)
        return np.concatenate([self._parts[t] for t in sorted(self._parts)]), base


def _check_memory(limits: int, width: int) -> None:
    """Limits are laid out tick by tick. Raises InvalidInput if that would exhaust memory."""
    if limits * width > CELLS_MAX:
        days = CELLS_MAX // limits // 86_400
        raise InvalidInput(
            "horizon-too-long",
            f"{limits:,} limits over {width:,} ticks are more than evac can schedule",
            f"set a horizon of at most {days} d" if days else "set a shorter horizon",
        )


def lower(instance: Instance) -> Board:
    """The board of an instance, not reset yet."""
    sets, heap = _UseSets(), _Heap()
    service = _services(instance, sets)
    rows = _rows(instance, heap)
    store = _stores(instance, sets, heap)
    pool = _pools(instance, sets)
    group = _groups(instance, sets, heap, rows)
    present = _present(instance, service, heap)
    _graph(instance, heap)
    _tools(instance, sets, heap)
    outset = _outset(instance, sets)
    heap.ragged(b.USES, sets.lines())
    use = sets.table()
    values, base = heap.build()
    group["first"] += base[b.GROUP_ROW]
    group["last"] += base[b.GROUP_ROW]
    spare = int((use["offset"] + np.maximum(use["hold"], 0)).max(initial=0)) + 2
    _check_memory(len(instance.limits), instance.horizon + spare)
    limits, width = len(instance.limits), instance.horizon + spare
    scratch = _scratch(service, rows, present, group, pool, store, limits, len(outset), width)
    _releases(instance, scratch["item"])
    resources = 1 + max(np.flatnonzero(service["demand"].any(axis=0)).tolist(), default=0)
    return Board(
        tick_ms=instance.tick_ms,
        horizon=instance.horizon,
        grace=instance.grace,
        width=instance.horizon + spare,
        last_tier=int(instance.services.tier.max(initial=0)),
        components=_components(instance),
        vague=int(bool(instance.vague or instance.unjudged)),
        service=service,
        row=rows,
        group=group,
        pool=pool,
        store=store,
        present=present,
        limit=_limits(instance, use),
        use=use,
        budget=_budgets(instance),
        outset=outset,
        eligible=np.ascontiguousarray(instance.eligible, np.bool_),
        heap=values,
        base=base,
        need=np.zeros(resources, np.int64),
        least=_least(service, (service["base_starts"] + service["top_starts"]) > 0, resources),
        least_mover=_least(service, service["movable"] > 0, resources),
        **scratch,
    )


def _components(instance: Instance) -> int:
    return int(instance.services.component.max(initial=-1)) + 1


def _size(values: Ints) -> int:
    return int(values.max(initial=-1)) + 1


def _scratch(
    service: Table,
    rows: Table,
    present: Table,
    group: Table,
    pool: Table,
    store: Table,
    limits: int,
    outset: int,
    width: int,
) -> dict[str, Any]:
    """Logs and scratch at their maximum lengths. Tick columns use memory only where touched."""
    starts = int(service["base_starts"].sum() + service["top_starts"].sum())
    may_leave = service["sheddable"] + service["movable"]
    again = int(present["count"][may_leave[present["service"]] > 0].sum())
    sheds = 2 * starts + len(present) + 16
    held = starts + again + sheds + int(rows["dark"].sum()) + 4 * len(service) + 2 * len(store) + 16 + outset
    places = max(_size(rows["rack"]), _size(rows["feed"]), _size(rows["site"]), 1)
    components = _size(service["component"])
    return {
        "item": np.zeros(2 * (components + len(service) + len(store)) + 8, b.ITEM_TYPE),
        "held": np.zeros(held, b.HELD_TYPE),
        "busy": np.zeros(2 * b.BUSY_PLACES, b.BUSY_TYPE),
        "started": np.zeros(starts + again + 1, b.STARTED_TYPE),
        "shed": np.zeros(sheds, b.SHED_TYPE),
        "block": np.zeros(len(rows) // b.BLOCK + 1, b.BLOCK_TYPE),
        "pinned": np.zeros(starts + again + 1, np.int64),
        "refused": np.zeros(len(rows), np.int64),
        "source": np.zeros(len(group) + len(pool) + 2, b.SOURCE_TYPE),
        "place": np.zeros(places, b.PLACE_TYPE),
        "size": np.zeros(b.SIZES, np.int64),
        "mark": np.zeros(b.SIZES, np.int64),
        "used": _sparse(max(1, limits), width),
        "full": np.zeros((max(1, limits), width // b.STRETCH + 1), np.int32),
    }


def _sparse(rows: int, width: int) -> NDArray[np.int32]:
    """(rows, width) zeros of which only touched pages use memory. numpy asks for huge pages, so that a few
    ticks of every row would take and clear everything: 209 MiB at 90,000 servers.
    """
    size = rows * width * np.dtype(np.int32).itemsize
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that knows no huge pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.int32).reshape(rows, width)


def _limits(instance: Instance, use: Table) -> Table:
    table = np.zeros(max(1, len(instance.limits)), b.LIMIT_TYPE)
    table["cap"][: len(instance.limits)] = [limit.capacity for limit in instance.limits]
    table["least"] = 2**40
    np.minimum.at(table["least"], use["limit"], use["units"])
    return table


def _budgets(instance: Instance) -> Table:
    table = np.zeros(len(instance.power) + 1, b.BUDGET_TYPE)
    table["capacity"][:-1] = [p.watts - p.on_watts for p in instance.power]
    return table


def _outset(instance: Instance, sets: _UseSets) -> Table:
    """What power steps hold, at the ticks given by the estate."""
    lines = [(sets.number(s.uses), s.end - s.start, s.start) for s in instance.power_steps]
    return np.array(lines, b.OUTSET_TYPE).reshape(len(lines))


def _releases(instance: Instance, item: Table) -> None:
    """A component does not start before a person has freed each member that needs it, and its starts end
    while what it needs to start still runs elsewhere.
    """
    for service, ticks in instance.attests.items():
        own = int(instance.services.component[service])
        item["release"][own] = max(int(item["release"][own]), ticks)
    for service, ticks in instance.start_by.items():
        item["start_by"][int(instance.services.component[service])] = ticks


def _least(service: Table, counted: NDArray[np.bool_], width: int) -> Ints:
    """Least need of each resource among the services that count: less capacity is useless."""
    found = service["demand"][counted, :width]
    return found.min(axis=0) if len(found) else np.zeros(width, np.int64)


def _services(instance: Instance, sets: _UseSets) -> Table:
    s = instance.services
    count = len(s)
    table = np.zeros(count, b.SERVICE_TYPE)
    for name in (
        "start",
        "verify",
        "shed",
        "per_server",
        "rack_cap",
        "feed_cap",
        "site_cap",
        "conflict",
        "tier",
        "shift",
        "base_lost",
        "top_lost",
        "surviving",
        "base_weight",
        "top_weight",
        "component",
        "sheddable",
        "movable",
        "demand",
    ):
        table[name] = getattr(s, name)
    table["blocked"] = never_planned(instance)
    table["serves"] = s.m
    table["base_grace"], table["top_grace"] = instance.base_since, instance.top_since
    table["alone"][list(s.alone)] = 1
    table["unsure"][list(instance.vague.demand)] = 1
    table["unjudged"][list(instance.unjudged)] = 1
    table["base_starts"] = [s.base_starts(k) if s.base_lost[k] else 0 for k in range(count)]
    table["top_starts"] = [s.top_starts(k) if s.top_lost[k] else 0 for k in range(count)]
    table["shift_ticks"] = s.change + s.settle
    table["shift_set"] = [sets.number(uses) for uses in s.shift_uses]
    return table


def component_waits(instance: Instance) -> list[list[int]]:
    """Per restorable component: components it waits for, including those of tools without a manual way."""
    s = instance.services
    waits: list[set[int]] = [set() for _ in range(_components(instance))]
    for service in np.flatnonzero(s.base_lost & ~never_planned(instance)).tolist():
        own = int(s.component[service])
        waits[own] |= {int(s.component[j]) for j in s.hard[service] if s.base_lost[j]}
        waits[own] |= {int(s.component[j]) for j in tools_of_base(s, instance.tools, service)}
        waits[own] |= {c for d in s.lost_stores[service] for c in _restore_waits(instance, d)}
    return [sorted(w - {c}) for c, w in enumerate(waits)]


def _restore_waits(instance: Instance, store: int) -> list[int]:
    """Components that a restore of a store waits for."""
    return sorted({int(instance.services.component[j]) for j in instance.stores[store].needs})


def _ahead_waits(instance: Instance) -> list[list[int]]:
    """Per component, the waits needed to start, and tools without a manual way."""
    s = instance.services
    waits: list[set[int]] = [set() for _ in range(_components(instance))]
    for service in np.flatnonzero(s.base_lost & ~never_planned(instance)).tolist():
        needed = {*s.hard_start[service], *tools_of_base(s, instance.tools, service)}
        waits[int(s.component[service])] |= {int(s.component[j]) for j in needed if s.base_lost[j]}
        of_stores = (c for d in s.start_stores[service] for c in _restore_waits(instance, d))
        waits[int(s.component[service])].update(of_stores)
    return [sorted(w - {c}) for c, w in enumerate(waits)]


def _graph(instance: Instance, heap: _Heap) -> None:
    s = instance.services
    members: list[list[int]] = [[] for _ in range(_components(instance))]
    stores: list[set[int]] = [set() for _ in members]
    running: list[set[int]] = [set() for _ in members]
    first: list[set[int]] = [set() for _ in members]
    first_stores: list[set[int]] = [set() for _ in members]
    users: list[list[int]] = [[] for _ in range(len(s))]
    for service in range(len(s)):
        if s.base_lost[service]:
            own = int(s.component[service])
            members[own].append(service)
            stores[int(s.component[service])] |= set(s.lost_stores[service])
            first[own] |= {int(s.component[j]) for j in s.hard_start[service] if s.base_lost[j]}
            first_stores[own] |= set(s.start_stores[service])
        running[int(s.component[service])] |= {j for j in s.hard[service] if not s.base_lost[j]}
        for other in s.hard[service]:
            users[other].append(service)
    conflicts: list[list[int]] = [[] for _ in range(int(s.conflict.max(initial=-1)) + 1)]
    for service, group in enumerate(s.conflict.tolist()):
        if group >= 0:
            conflicts[group].append(service)
    heap.ragged(b.MEMBER, members)
    heap.ragged(b.WAIT, component_waits(instance))
    heap.ragged(b.NEED_STORE, [sorted(x) for x in stores])
    heap.ragged(b.NEED_UP, [sorted(x) for x in running])
    heap.ragged(b.START_WAIT, [sorted(x - {c}) for c, x in enumerate(first)])
    heap.ragged(b.AHEAD_WAIT, _ahead_waits(instance))
    heap.ragged(b.STORE_WAIT, [_restore_waits(instance, d) for d in range(len(instance.stores))])
    heap.ragged(b.START_STORE, [sorted(x) for x in first_stores])
    heap.ragged(b.SOFT, s.soft)
    heap.ragged(b.HARD_USER, users)
    heap.ragged(b.DOUBTED_WITH, doubted_with(instance))
    heap.ragged(b.CONFLICT, conflicts)


def _candidates(instance: Instance, store: int) -> list[int]:
    """Allowed candidates of a store: freshest first, then the quickest, then by id."""
    options = instance.stores[store].candidates

    def key(k: int) -> tuple[object, ...]:
        option = options[k]
        return (*freshness(option), option.duration, option.kind, option.id)

    return sorted((k for k, option in enumerate(options) if option.allowed), key=key)


def _stores(instance: Instance, sets: _UseSets, heap: _Heap) -> Table:
    table = np.zeros(len(instance.stores), b.STORE_TYPE)
    columns: list[tuple[int, ...]] = []
    for d, store in enumerate(instance.stores):
        chosen = _candidates(instance, d)
        table[d]["backup"] = store.backup or 0
        table[d]["fence"], table[d]["fence_set"] = store.fence, sets.number(store.fence_uses)
        table[d]["elects"], table[d]["is_fenced"] = int(store.elects), int(store.is_fenced)
        table[d]["first_candidate"], table[d]["last_candidate"] = len(columns), len(columns) + len(chosen)
        for k in chosen:
            option = store.candidates[k]
            held = (k, option.duration, sets.number(option.uses))
            columns.append((*held, *_when_cut(store, option)))
    lines = np.array(columns, np.int64).reshape(len(columns), 7)
    for column in range(7):
        heap.plain(b.CANDIDATE + column, lines[:, column])
    table["turn"] = sorted(range(len(table)), key=lambda d: _most_urgent(instance.stores[d]))
    return table


def _when_cut(store: LostStore, option: Candidate) -> tuple[int, int, int, int]:
    """What a candidate loses by when writes stop, see `board.CANDIDATE_SENT` and the tables after it."""
    if option.cut is None:
        loss_ms = b.UNKNOWN_LOSS if option.loss_ms is None else min(option.loss_ms, b.UNKNOWN_LOSS - 1)
        return -b.NEVER, 2 * loss_ms + (not option.confirms), -1 if option.waived else b.NEVER, b.NEVER
    last_ms = store.usable_until_ms(option)
    until_ms = b.NEVER if last_ms is None else last_ms
    whole = accepts(store.limit_ms, option.cut.lag_ms)
    free_ms = b.NEVER if whole else option.cut.sent_ms + (store.limit_ms or 0)
    return option.cut.sent_ms, option.cut.lag_ms, free_ms if store.waivable else b.NEVER, until_ms


def _most_urgent(store: LostStore) -> tuple[int, int]:
    """Sort key: first the store whose old primary must stop taking writes soonest, for a copy to take over or
    else for one to lose nothing.
    """
    cut = [way for way in store.allowed if way.cut is not None]
    if not cut or len(cut) < len(store.allowed):
        return b.NEVER, b.NEVER
    until = [store.usable_until_ms(way) for way in cut]
    last_ms = max(b.NEVER if ms is None else ms for ms in until)
    return last_ms, max(way.cut.sent_ms for way in cut if way.cut is not None)


def _tools(instance: Instance, sets: _UseSets, heap: _Heap) -> None:
    needs = [instance.tools.get(kind) for kind in b.KINDS]
    heap.ragged(b.TOOL, [() if n is None else n.services for n in needs])
    heap.plain(b.MANUAL_TICKS, [-1 if n is None or n.manual is None else n.manual for n in needs])
    heap.plain(b.MANUAL_SET, [0 if n is None else sets.number(n.manual_uses) for n in needs])


def _rows(instance: Instance, heap: _Heap) -> Table:
    rows = instance.rows
    table = np.zeros(len(rows), b.ROW_TYPE)
    for name in ("site", "rack", "pool", "is_pool", "dark", "watts"):
        table[name] = getattr(rows, name)
    table["rises"][instance.brought_up] = 1
    alike, number = np.unique(rows.power, axis=0, return_inverse=True)
    table["budgets"] = number.reshape(len(rows))
    heap.ragged(b.BUDGETS, [[n for n in line if n >= 0] for line in alike.tolist()])
    table["feed"] = rows.feed_group
    table["capacity"] = rows.capacity - rows.used
    return table


def _pools(instance: Instance, sets: _UseSets) -> Table:
    rows = instance.rows
    table = np.zeros(len(instance.pools), b.POOL_TYPE)
    table["start_set"] = [sets.number(p.start_uses) for p in instance.pools]
    table["shed_set"] = [sets.number(p.shed_uses) for p in instance.pools]
    table["site"] = [p.site for p in instance.pools]
    dark = (
        np.bincount(rows.pool[rows.dark], minlength=len(table))
        if len(rows)
        else np.zeros(len(table), np.int64)
    )
    table["last_dark"] = np.cumsum(dark)
    table["first_dark"] = table["last_dark"] - dark
    return table


def _groups(instance: Instance, sets: _UseSets, heap: _Heap, table_of_rows: Table) -> Table:
    """Rows by (pool, boot kind, unknown amounts); within a dark group, one row of each rack in turn, for
    spread.
    """
    rows = instance.rows
    count = len(rows)
    kind = np.where(rows.dark, rows.boot_kind, -1).astype(np.int64)
    vague = np.zeros(count, np.int64)
    for row, missing in instance.vague.rows.items():
        vague[row] = sum(1 << resource for resource in {resource for resource, _ in missing})
    alike = rows.pool.astype(np.int64) * (len(instance.boot_kinds) + 1) + kind + 1
    key = (alike << RESOURCE_COUNT) + vague
    order = np.lexsort((np.arange(count), _rank_in_rack(rows.rack, key), key))
    ordered = key[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][:count])
    heap.plain(b.GROUP_ROW, order)
    table = np.zeros(len(first), b.GROUP_TYPE)
    table["first"], table["last"] = first, np.r_[first[1:], count][: len(first)]
    table["pool"], table["vague"] = rows.pool[order[first]], vague[order[first]]
    for kind_of, bit in ((Boot, b.BOOT_UNSURE), (Shed, b.SHED_UNSURE)):
        table["unsure"] |= bit if unjudged_tool(instance, kind_of.name) else 0
    table_of_rows["place"][order] = np.arange(count)
    table_of_rows["group"][order] = np.cumsum(np.r_[True, ordered[1:] != ordered[:-1]][:count]) - 1
    visited = set(rows.boot_kind[instance.brought_up].tolist())
    for line, boot in zip(table, kind[order[first]].tolist(), strict=True):
        if boot >= 0:
            option = instance.boot_kinds[boot]
            line["dark"], line["boot_set"], line["boot_ticks"] = 1, sets.number(option.uses), option.duration
            line["ready"], line["by_itself"] = option.ready, int(option.by_itself)
            line["by_hand"] = int(option.by_hand) * (b.BY_HAND if boot in visited else b.BY_HAND_LAST)
    return table


def _rank_in_rack(rack: NDArray[np.int32], key: Ints) -> Ints:
    """Position of each row among the rows of its rack and group: 0 for the first of each rack."""
    count = len(rack)
    order = np.lexsort((np.arange(count), rack, key))
    new = np.r_[True, (rack[order][1:] != rack[order][:-1]) | (key[order][1:] != key[order][:-1])][:count]
    start = np.maximum.accumulate(np.where(new, np.arange(count), 0)) if count else np.zeros(0, np.int64)
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count) - start
    return rank


def _present(instance: Instance, service: Table, heap: _Heap) -> Table:
    s, present = instance.services, instance.present
    table = np.zeros(len(present.service), b.PRESENT_TYPE)
    table["service"], table["row"], table["count"] = present.service, present.row, present.count
    ends = np.searchsorted(present.service, np.arange(len(s) + 1))
    service["first_present"], service["last_present"] = ends[:-1], ends[1:]
    rank = _victim_rank(instance)
    for name, may_leave in ((b.ON_ROW, s.sheddable), (b.MOVERS, s.movable)):
        entries = np.flatnonzero(may_leave[present.service])
        order = entries[np.lexsort((rank[present.service[entries]], present.row[entries]))]
        ends = np.searchsorted(present.row[order], np.arange(len(instance.rows) + 1))
        heap.flat(name, ends, order)
    heap.ragged(b.MOVER_ROWS, [np.unique(present.row[s.movable[present.service]]).tolist()])
    standing = np.bincount(present.service, minlength=len(s))[: len(s)] > 0
    victims = np.flatnonzero(s.loose & standing)
    heap.ragged(b.VICTIMS, [victims[np.argsort(rank[victims])].tolist()])
    return table


def _victim_rank(instance: Instance) -> Ints:
    """Shedding order of services: lowest tier first, then least weight for the capacity they hold."""
    s = instance.services
    total = np.maximum(instance.rows.capacity.sum(axis=0), 1).astype(np.float64)
    capacity = (s.demand / total).max(axis=1, initial=0.0) * np.maximum(s.surviving, 1) + 1e-12
    density = (s.base_weight + s.top_weight) / capacity
    rank = np.empty(len(s), np.int64)
    rank[np.lexsort((np.arange(len(s)), density, -s.tier))] = np.arange(len(s))
    return rank
