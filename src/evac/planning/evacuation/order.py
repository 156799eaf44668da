"""Initial orders: closures by weight over work, tiers first, and level by level.

Weights are pushed down the dependency graph: an item is worth what it and all it still waits for is
worth, and costs the work of all of it (greedy closures; WSPT of Smith 1956 on closures).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Instance
from evac.model.records import dataclass
from evac.planning.compiled import allocating_kernel
from evac.planning.evacuation import board as b
from evac.planning.evacuation.board import Board, Ints

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Items to schedule. active: numbers of items with work, ascending; needs: per item the items it waits
    for, itself included; weight: cost until the item holds; work: ticks of the scarcest supplies; tier: per
    item.
    """

    active: Ints
    needs: list[Ints]
    weight: Ints
    work: Floats
    tier: Ints


def entries(board: Board, table: int, entry: int) -> Ints:
    """The values of one entry of a ragged table."""
    first, last = board.heap[board.base[table] + entry], board.heap[board.base[table] + entry + 1]
    return board.heap[first:last]


def items_of(board: Board, instance: Instance) -> Items:
    """The items of a board with their closures, weights and work."""
    components, services = board.components, board.service
    needs = _closures(board)
    weight = np.zeros(components + len(services), np.int64)
    tier = np.full(components + len(services), board.last_tier, np.int64)
    lost = services["base_lost"] > 0
    np.add.at(weight, services["component"][lost], services["base_weight"][lost])
    idle = lost & (services["top_starts"] == 0)
    np.add.at(weight, services["component"][idle], services["top_weight"][idle])
    np.minimum.at(tier, services["component"][lost], services["tier"][lost])
    weight[components:] = services["top_weight"]
    tier[components:] = services["tier"]
    active = [c for c in range(components) if len(entries(board, b.MEMBER, c))]
    active += [components + s for s in np.flatnonzero(services["top_starts"]).tolist()]
    for service in np.flatnonzero(services["top_starts"]).tolist():
        own = int(services["component"][service])
        needs.append(
            np.append(needs[own], components + service)
            if services[service]["base_lost"]
            else np.array([components + service], np.int64)
        )
    by_item = needs[:components] + [np.zeros(0, np.int64)] * len(services)
    for service, closure in zip(
        np.flatnonzero(services["top_starts"]).tolist(), needs[components:], strict=True
    ):
        by_item[components + service] = closure
    return Items(np.array(active, np.int64), by_item, weight, _work(board, instance), tier)


def _closures(board: Board) -> list[Ints]:
    """Per component everything it waits for, itself last; waits have lower numbers or are tools."""
    found, alone = [], np.arange(board.components)
    waits = [entries(board, b.WAIT, component).tolist() for component in range(board.components)]
    for component, some in enumerate(waits):
        if not some:
            found.append(alone[component : component + 1])
            continue
        seen = {component}
        stack = [component]
        while stack:
            for other in waits[stack.pop()]:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        found.append(np.array(sorted(seen), np.int64))
    return found


def _work(board: Board, instance: Instance) -> Floats:
    """Ticks of each scarce supply that an item takes, supplies weighted by their total load."""
    services = board.service
    starts = np.concatenate([np.zeros(board.components), services["top_starts"]]).astype(np.float64)
    np.add.at(starts, services["component"], services["base_starts"])
    shifts = np.zeros(len(starts))
    np.add.at(
        shifts, services["component"], np.where(services["shift"] > 0, _set_ticks(board, services), 0.0)
    )
    ticks = _start_ticks(board)
    start_ticks = np.concatenate([np.zeros(board.components), ticks])
    per_component = np.zeros(board.components)
    np.maximum.at(per_component, services["component"], ticks)
    start_ticks[: board.components] = per_component
    share = _boot_share(board)
    base_starts: Ints = services["base_starts"]
    top_starts: Ints = services["top_starts"]
    boots = np.concatenate([np.zeros(board.components), share * top_starts])
    np.add.at(boots, services["component"], share * base_starts)
    supplies = [starts * start_ticks, shifts, boots]
    busy = [float(load.sum()) for load in supplies]
    work = sum(load * total for load, total in zip(supplies, busy, strict=True)) / max(*busy, 1e-9)
    return np.asarray(work + 1e-3, np.float64)


def _set_ticks(board: Board, services: b.Table) -> Floats:
    """Ticks of the tightest limit that one shift of each service takes."""
    pairs = np.column_stack([services["shift_set"], services["shift_ticks"]])
    unique, of = np.unique(pairs, axis=0, return_inverse=True)
    found = np.array([_ticks_of(board, uses, ticks) for uses, ticks in unique.tolist()])
    return np.asarray(found[of.reshape(-1)], np.float64)


def _ticks_of(board: Board, uses: int, ticks: int) -> float:
    found = 0.0
    for line in entries(board, b.USES, uses).tolist():
        use = board.use[line]
        hold = int(use["hold"]) if use["hold"] >= 0 else ticks
        found = max(found, int(use["units"]) * hold / max(1, int(board.limit[int(use["limit"])]["cap"])))
    return found


def _start_ticks(board: Board) -> Floats:
    """Ticks one start of each service takes of its pools together, at least those of a shared limit."""
    services = board.service
    pools = [_ticks_of(board, int(p["start_set"]), 1) for p in board.pool]
    rate = np.array([1 / t if t > 0 else 1e9 for t in pools])
    total = np.maximum(board.eligible @ rate, 1e-9) if len(rate) else np.full(len(services), 1e9)
    return np.asarray(np.maximum(1 / total, _shared_ticks(board)), np.float64)


def _shared_ticks(board: Board) -> float:
    """Ticks one start takes of the limits that every pool shares."""
    sets = [
        {int(board.use[k]["limit"]): k for k in entries(board, b.USES, int(p["start_set"])).tolist()}
        for p in board.pool
    ]
    shared = set.intersection(*(set(s) for s in sets)) if sets else set()
    found = 0.0
    for limit in sorted(shared):
        use = board.use[sets[0][limit]]
        hold = max(1, int(use["hold"]))
        found = max(found, int(use["units"]) * hold / max(1, int(board.limit[limit]["cap"])))
    return found


def _boot_share(board: Board) -> Floats:
    """Boot ticks that one start of each service takes, if boots are spread evenly over starts."""
    services, rows = board.service, board.row
    dark = rows["dark"] > 0
    starts = services["base_starts"] + services["top_starts"]
    if not dark.any() or not starts.any():
        return np.zeros(len(services))
    wanted = (services["demand"] * starts[:, None]).sum(axis=0).astype(np.float64)
    capacity = rows["capacity"][~dark].sum(axis=0).astype(np.float64)
    short = max(0.0, float(np.max(1 - capacity / np.maximum(wanted, 1), where=wanted > 0, initial=0.0)))
    typical = np.maximum(rows["capacity"][dark].mean(axis=0), 1.0)
    share = (services["demand"] / typical).max(axis=1)
    return np.asarray(short * share * _ticks_of_boots(board) / int(dark.sum()), np.float64)


def _ticks_of_boots(board: Board) -> float:
    """Ticks it takes to boot every dark row, by the busiest limit."""
    load = np.zeros(len(board.limit))
    limit, units, hold = (board.use[name].tolist() for name in ("limit", "units", "hold"))
    dark = board.group[board.group["dark"] > 0]
    columns: list[Ints] = [dark[name] for name in ("boot_set", "boot_ticks", "first", "last")]
    for uses, ticks, first, last in zip(*(column.tolist() for column in columns), strict=True):
        for line in entries(board, b.USES, uses).tolist():
            load[limit[line]] += units[line] * (hold[line] if hold[line] >= 0 else ticks) * (last - first)
    return float((load / np.maximum(board.limit["cap"], 1)).max(initial=0.0))


@allocating_kernel
def _greedy(
    active: Ints, first: Ints, closure: Ints, user_first: Ints, user: Ints, weight: Ints, work: Floats
) -> Ints:
    """Repeatedly picks the closure with most open weight per open work; closures and users are ragged."""
    count = len(active)
    open_weight, open_work = np.zeros(count), np.zeros(count)
    for k in range(count):
        for j in range(first[k], first[k + 1]):
            open_weight[k] += weight[closure[j]]
            open_work[k] += work[closure[j]]
    done = np.zeros(count, np.bool_)
    order = np.empty(count, np.int64)
    filled = 0
    while filled < count:
        best, best_ratio = -1, -1.0
        for k in range(count):
            if not done[k]:
                # what was taken off again and again may end a hair below nothing
                ratio = max(open_weight[k], 0.0) / max(open_work[k], 1e-6)
                if ratio > best_ratio:
                    best, best_ratio = k, ratio
        for j in range(first[best], first[best + 1]):
            item = closure[j]
            if done[item]:
                continue
            done[item] = True
            order[filled] = item
            filled += 1
            for u in range(user_first[item], user_first[item + 1]):
                open_weight[user[u]] -= weight[item]
                open_work[user[u]] -= work[item]
    return order


def closure_order(items: Items, chosen: Ints | None = None) -> Ints:
    """Greedy closure order of the chosen items (all active ones if None), with what they wait for."""
    if chosen is None:
        chosen = items.active
    wanted = sorted({int(j) for k in chosen.tolist() for j in items.needs[k].tolist()})
    place = {item: row for row, item in enumerate(wanted)}
    closures = [[place[int(j)] for j in items.needs[item] if int(j) in place] for item in wanted]
    users: list[list[int]] = [[] for _ in wanted]
    for row, closure in enumerate(closures):
        for other in closure:
            users[other].append(row)
    first, values = _flat(closures)
    user_first, user = _flat(users)
    if not wanted:
        return np.zeros(0, np.int64)
    active = np.array(wanted, np.int64)
    order = _greedy(active, first, values, user_first, user, items.weight[active], items.work[active])
    return np.asarray(active[order], np.int64)


def _flat(lists: list[list[int]]) -> tuple[Ints, Ints]:
    first = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(x) for x in lists], out=first[1:])
    return first, np.array([v for x in lists for v in x], np.int64)


def tier_order(board: Board, items: Items) -> Ints:
    """Bases tier by tier, each in closure order, then tops: capacity goes to high tiers first."""
    bases = items.active[items.active < board.components]
    tops = items.active[items.active >= board.components]
    parts = [closure_order(items, bases[items.tier[bases] == tier]) for tier in range(board.last_tier + 1)]
    ratio = items.weight[tops] / items.work[tops]
    parts.append(tops[np.lexsort((tops, -ratio))])
    joined = np.concatenate(parts)
    _, first = np.unique(joined, return_index=True)
    return np.asarray(joined[np.sort(first)], np.int64)


def large_first(board: Board, items: Items, order: Ints) -> Ints:
    """An order with all bases before all tops, both by tier, and in a tier those first whose replicas are the
    largest part of a typical row: small ones fit into what those leave.
    """
    typical = np.maximum(board.row["capacity"].mean(axis=0), 1) if len(board.row) else 1
    own = (board.service["demand"] / typical).max(axis=1)
    size = np.concatenate([np.zeros(board.components), own])
    np.maximum.at(size, board.service["component"], own * (board.service["base_lost"] > 0))
    place = np.arange(len(order))
    return order[np.lexsort((place, -size[order], items.tier[order], order >= board.components))]


def lost_tools(board: Board, items: Items) -> Ints:
    """Bases of lost tools that people can do without, ascending."""
    tools: set[int] = set()
    for kind in range(len(b.KINDS)):
        if board.heap[board.base[b.MANUAL_TICKS] + kind] >= 0:
            tools |= {int(board.service[s]["component"]) for s in entries(board, b.TOOL, kind).tolist()}
    return np.array(sorted(tools & set(items.active.tolist())), np.int64)


def level_order(board: Board, items: Items, names: tuple[str, ...]) -> Ints:
    """Dependency level by level, ties by id: what runbooks do. Sets the level of every item."""
    levels = np.zeros(board.components, np.int64)
    for component in range(board.components):
        waits = [w for w in entries(board, b.WAIT, component).tolist() if w < component]
        levels[component] = 1 + max((int(levels[w]) for w in waits), default=0)
    first_name = [""] * board.components
    for service in np.flatnonzero(board.service["base_lost"]).tolist()[::-1]:
        first_name[int(board.service[service]["component"])] = names[service]
    keys = []
    for item in items.active.tolist():
        top = item >= board.components
        own = int(board.service[item - board.components]["component"]) if top else item
        name = names[item - board.components] if top else first_name[own]
        board.item["level"][item] = levels[own]
        keys.append((int(levels[own]), name, item))
    return np.array([item for _, _, item in sorted(keys)], np.int64)
